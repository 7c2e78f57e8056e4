"""The CPU cores of this process: how many there are, and how many threads may use them."""

import os

import torch


def num_cpus() -> int:
    """Returns the CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Lets PyTorch use this many threads; more threads than cores make training several times slower."""
    torch.set_num_threads(count)
