"""The worker processes of one run, as `torch.distributed` joins them; a run without it is a single worker."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy.typing as npt
import torch
import torch.distributed as dist

_T = TypeVar("_T")


def num_workers() -> int:
    """Returns the number of processes that train together, 1 or more."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Returns this process's number among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def from_first(value: _T) -> _T:
    """Returns the first worker's value in all of them; all must call it."""
    if num_workers() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def add_up(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> None:
    """Replaces arrays, in place, by their sums over all workers; all must call it.

    Args:
        arrays: Of any shapes, each of the same shape everywhere.
        device: What the workers' backend exchanges: a GPU with nccl, else the CPU.
    """
    if num_workers() == 1:
        return
    for array in arrays:
        tensor = torch.from_numpy(array).to(device)
        dist.all_reduce(tensor)
        array[...] = tensor.cpu().numpy()


def largest(value: int, device: torch.device) -> int:
    """Returns the largest of all workers' values; all must call it."""
    if num_workers() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)
