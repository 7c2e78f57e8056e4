"""Opens trained models to answer questions with them, alone or together."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import nn

from qa_train.answering import DTYPES, Member
from qa_train.config import WINDOW_ARGUMENTS, ModelConfig, build_config
from qa_train.errors import CheckpointError, ConfigError
from qa_train.model import load_model, load_tokenizer
from qa_train.precision import Precision, resolve_precision
from qa_train.storage import read_json
from qa_train.training import TRAINING_RECORD, check_window
from qa_train.workers import from_first, rank


def open_members(
    models: Sequence[str | Path],
    device: str = "auto",
    precision: Literal["auto"] | Precision = "auto",
    *,
    max_seq_length: int | None = None,
    doc_stride: int | None = None,
    single_window: bool | None = False,
    time_precision: bool = False,
    source: str = "Predictor",
) -> tuple[Member, ...]:
    """Opens models and their tokenizers.

    Args:
        models: Directories of trained models, or names on the Hub; one or more.
        device: As `torch.device` takes it; `auto` is the GPU if there is one, else the CPU.
        precision: Of matrix products, the same for all; `auto` is on a GPU what it trains in (`resolve_precision`), on
            a CPU fp32.
        max_seq_length: Tokens in a window, 16 to 8192; by default those a model was trained with (`training.json` in
            its directory), else 384.
        doc_stride: Tokens that two windows share, at most half a window; by default as in training, else 128.
        single_window: Whether to read the first window of a context alone; None: as in training, else False.
        time_precision: Whether `auto` takes bf16 on a CPU that is faster in it; the first model is timed.
        source: Opens the messages of a `ConfigError`.

    Raises:
        CheckpointError: If a model cannot be opened, or has no question-answering head yet, so that its answers
            would be random; or if a `training.json` does not say what it should.
        ConfigError: If the device is not there, the precision unknown, or the windows are impossible.
    """
    found = _find_device(device, source)
    if precision not in ("auto", *DTYPES):
        raise ConfigError([f"precision: expected auto, {', '.join(DTYPES)}, found {precision!r}"], source)
    given = {"max_seq_length": max_seq_length, "doc_stride": doc_stride, "single_window": single_window}
    members = [_open(str(name), given, found, source) for name in models]
    if precision == "auto" and found.type != "cuda" and not time_precision:
        precision = "fp32"
    # Measured in each of several workers, it could differ.
    model, length = members[0].model, members[0].windows.max_seq_length
    resolved = from_first(resolve_precision(precision, model, found, length) if rank() == 0 else "fp32")
    return tuple(replace(member, precision=resolved) for member in members)


def _open(name: str, given: dict[str, Any], device: torch.device, source: str) -> Member:
    """Opens one model; its precision is not resolved yet."""
    values = _saved_windows(Path(name)) | {key: value for key, value in given.items() if value is not None}
    windows = build_config(ModelConfig, {"name": name, **values}, source)
    tokenizer = load_tokenizer(name)
    model = load_model(name, require_head=True)
    check_window(model, windows, "max_seq_length", source)
    nn.Module.to(model, device)
    return Member(name, model, tokenizer, windows, device, precision="fp32")


def _saved_windows(directory: Path) -> dict[str, Any]:
    """Returns the window arguments that a model was trained with, if its directory has a record of that."""
    path = Path(os.path.expanduser(directory), TRAINING_RECORD)
    if not path.is_file():
        return {}
    record = read_json(path)
    try:
        return {name: record["config"]["model"][name] for name in WINDOW_ARGUMENTS}
    except (KeyError, TypeError):
        raise CheckpointError(
            f"{path}: expected config.model.max_seq_length, doc_stride and single_window, as `train` writes them, "
            "found none; remove the file if it is not this project's"
        ) from None


def _find_device(device: str, source: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = shorten(str(error), 100, placeholder=" …")
        raise ConfigError(
            [f"device: expected auto or one that is here, found {device!r} ({reason})"], source
        ) from error
    return found
