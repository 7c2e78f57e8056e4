"""Starts sweeps on machines other than this one."""
