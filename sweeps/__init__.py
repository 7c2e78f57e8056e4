"""Samples many training configurations and records what each cost and scored; knows nothing of plots."""
