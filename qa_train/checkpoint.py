"""Checkpoints of a training run: complete or absent, and nothing in them is unpickled."""

import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qa_train.errors import CheckpointError, DataError
from qa_train.storage import read_json, write_json

_PREFIX, _PARTIAL = "checkpoint-", ".partial"
_WEIGHTS, _TENSORS, _PROGRESS = "model.safetensors", "state.pt", "progress.json"


def save_checkpoint(
    directory: Path,
    step: int,
    weights: Mapping[str, torch.Tensor],
    tensors: Mapping[str, Any],
    progress: Mapping[str, Any],
    *,
    keep: int | None = None,
) -> Path:
    """Writes a checkpoint beside its place, renames it into it, then removes the older ones.

    Args:
        directory: Holds the checkpoints of one run.
        step: Optimizer steps taken; part of the name.
        weights: The model's state.
        tensors: The optimizer's and scaler's states and the random states: tensors, numbers, lists and dicts of them.
        progress: Where the run stands, as JSON.
        keep: Step of an older one that stays, because the run will go back to it.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: If it cannot be written; the older checkpoints are then still there.
    """
    final = checkpoint_path(directory, step)
    partial = final.with_name(f"{final.name}{_PARTIAL}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        unshared = {name: tensor.detach().contiguous().clone() for name, tensor in weights.items()}
        save_file(unshared, partial / _WEIGHTS)
        with open(partial / _TENSORS, "wb") as file:  # given a path, PyTorch would not say that the disk is full
            torch.save(dict(tensors), file)
        write_json(partial / _PROGRESS, dict(progress))
        for name in (_WEIGHTS, _TENSORS):
            _sync(partial / name)
        if final.exists():  # the same step again, by a run that lost its report; the contents are equal
            shutil.rmtree(final)
        partial.rename(final)
        _sync(directory)
    except (OSError, RuntimeError, SafetensorError, DataError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        # PyTorch's writer, broken off by a full disk, raises something of its own while it closes the file.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(f"{final}: the checkpoint cannot be written: {reason}") from error
    kept = {final} if keep is None else {final, checkpoint_path(directory, keep)}
    for other in _checkpoints(directory):
        if other not in kept:
            shutil.rmtree(other, ignore_errors=True)
    return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_path(directory: Path, step: int) -> Path:
    """Returns where the checkpoint lies that a run made after so many steps."""
    return directory / f"{_PREFIX}{step:08d}"


def _checkpoints(directory: Path) -> list[Path]:
    """Returns the complete checkpoints, oldest first."""
    return sorted(path for path in directory.glob(f"{_PREFIX}*") if path.suffix != _PARTIAL)


def latest_checkpoint(directory: Path) -> Path | None:
    """Returns the newest complete checkpoint of a run, or None."""
    return next(reversed(_checkpoints(directory)), None)


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Reads a checkpoint onto the CPU.

    Returns:
        (weights, tensors, progress) as `save_checkpoint` took them.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    weights = _read(path / _WEIGHTS, load_file)
    tensors = _read(path / _TENSORS, partial(torch.load, map_location="cpu", weights_only=True))
    return weights, tensors, read_progress(path)


def copy_to_cpu(values: Any) -> Any:
    """Returns a copy on the CPU of what a checkpoint holds: tensors, numbers, text, lists and dicts of them."""
    if isinstance(values, torch.Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, Mapping):
        return {key: copy_to_cpu(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(map(copy_to_cpu, values))
    return values


def _read(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    try:
        values = read(path)
        if isinstance(values, dict):
            return values
        reason = f"expected a dict, found {type(values).__name__}"
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused, it is damaged or holds more than tensors and numbers") from error
    # Damaged files make PyTorch's reader raise nearly anything, KeyError and UnicodeDecodeError included.
    except Exception as error:
        reason = shorten(str(error) or type(error).__name__, 200, placeholder=" …")
    raise CheckpointError(f"{path}: the checkpoint cannot be read: {reason}; remove {path.parent} to start afresh")


def read_progress(path: Path) -> dict[str, Any]:
    """Returns where the run of a checkpoint stands.

    Raises:
        CheckpointError: If it cannot be read.
    """
    return _read(path / _PROGRESS, read_json)


def remove_checkpoints(directory: Path) -> None:
    """Removes all checkpoints of a run, half-written ones too."""
    for path in directory.glob(f"{_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
