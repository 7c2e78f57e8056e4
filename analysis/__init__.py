"""Reads sweep records and says what the compute bought; never imports torch or ray."""
