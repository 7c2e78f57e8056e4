"""What a sweep leaves behind: its manifest and its records, as they are read back.

`records.jsonl` is the only truth about a sweep: one row for each (trial, attempt, report), appended by the driver alone
(`sweeps.journal`), never rewritten.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from qa_train.errors import DataError
from qa_train.storage import Pathlike, read_json, write_json

MANIFEST = "manifest.json"
RECORDS = "records.jsonl"
TRIALS, TRIAL_CONFIG = "trials", "config.json"
"""The directory of the trials' own directories, and the file in each that says what it trains."""

Value: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Value]
"""Column values by name."""

Status: TypeAlias = Literal["running", "completed", "stopped_early", "failed", "interrupted"]

ENDED = ("completed", "stopped_early", "failed")
"""Status of a trial that is not gone on with."""


@dataclass(frozen=True)
class Manifest:
    """What a sweep was asked to do, with what, and on which data; written once, before the first trial.

    Attributes:
        sweep_id: Unique name of the sweep, part of each trial's name in joined tables.
        name: The configuration's name.
        note: Free text of the user.
        created: Local time with its offset, ISO 8601.
        config: The resolved configuration as plain values; `config["train"]` is what `qa_train train` takes.
        metric: The column that ranks finished models, such as `dev.f1`.
        mode: `max` or `min`.
        precision: What `precision: auto` was resolved to.
        device: The kind of device that trials hold, such as `cpu-core` or a GPU's name.
        devices_per_trial: Devices that each trial holds.
        data: For each set (`train`, `dev`, `test.<name>`) its `path`, `sha256`, and number of `questions`.
        baselines: Dev scores (0 to 100) of models that learned nothing, such as `untrained.f1`.
        versions: Library versions by name.
        commit: Commit of this project, if it runs from a checkout.
        prices: Dollars per device-hour by kind of device, with date and source.
        num_trials: Trials at most, finalists too; None in sweeps of older versions.
        ended: When all of it was done, in the form of `created`; None until then.
        resumed: When the sweep was gone on with, in the form of `created`; `config` is the last one's.
        models: SHA-256 by name of the pretrained models in local directories; empty in sweeps of older versions.
    """

    sweep_id: str
    name: str
    note: str
    created: str
    config: dict[str, Any]
    metric: str
    mode: str
    precision: str
    device: str
    devices_per_trial: int
    data: dict[str, dict[str, Any]]
    baselines: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    prices: dict[str, Any] = field(default_factory=dict)
    num_trials: int | None = None
    ended: str | None = None
    resumed: list[str] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialName:
    """What a trial's id says of it.

    Attributes:
        number: Of its configuration in the sweep, from 0.
        seed: Its `train.seed`, where that is not the sweep's own.
        is_final: Whether it is a finalist: a configuration that is trained again after the search.
    """

    number: int
    seed: int | None = None
    is_final: bool = False

    def __str__(self) -> str:
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return f"{'final-' if self.is_final else ''}{self.number:05d}{seed}"

    @classmethod
    def parse(cls, trial_id: str) -> "TrialName":
        """Reads an id such as `00003`, `00003-seed1` or `final-00003-seed1`.

        Raises:
            DataError: If it is none.
        """
        found = _TRIAL_NAME.fullmatch(trial_id)
        if not found:
            raise DataError(f"expected a trial id such as 00003, 00003-seed1 or final-00003-seed1, found {trial_id!r}")
        final, number, seed = found.groups()
        return cls(int(number), None if seed is None else int(seed), bool(final))


_TRIAL_NAME = re.compile(r"(final-)?(\d+)(?:-seed(\d+))?")


def model_name(budget_epochs: Value, num_epochs: Value) -> str:
    """Returns the name of a finished model's directory in its trial's: that of a trial's last budget is `model`."""
    return "model" if budget_epochs == num_epochs else f"model_{budget_epochs}"


def score(row: Mapping[str, Any], metric: str, mode: str) -> float:
    """Returns a row's value such that larger is better; minus infinity where it has none.

    Args:
        row: Of the records.
        metric: The column that ranks, such as `dev.f1`.
        mode: `max` or `min`.
    """
    value = row.get(metric)
    if not isinstance(value, int | float) or math.isnan(value):
        return -math.inf
    return -value if mode == "min" else float(value)


def write_manifest(directory: Pathlike, manifest: Manifest) -> None:
    """Writes the manifest of a sweep directory.

    Raises:
        DataError: If it cannot be written.
    """
    write_json(Path(directory) / MANIFEST, asdict(manifest))


def read_manifest(directory: Pathlike) -> Manifest:
    """Reads the manifest of a sweep directory.

    Raises:
        DataError: If the directory or its manifest does not exist, or the manifest lacks what a manifest has.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory}: expected a sweep directory, found {_kind(directory)}")
    if not (directory / MANIFEST).is_file():
        raise DataError(f"{directory}: expected a sweep directory, found no {MANIFEST} in it")
    content = read_json(directory / MANIFEST)
    try:
        return Manifest(**content)
    except TypeError as error:
        raise DataError(f"{directory / MANIFEST}: expected the manifest of a sweep: {error}") from error


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "nothing there"


def read_records(directory: Pathlike) -> list[Row]:
    """Reads the rows of a sweep, running or not, in the order in which they were written.

    A last line without its line end is one that is being written, or was when the driver died: it is left out. A sweep
    without a records file has no rows yet.

    Raises:
        DataError: If another line is not a JSON object; file and line are named.
    """
    return read_rows(Path(directory) / RECORDS)


def read_rows(path: Path) -> list[Row]:
    """Reads a file with a JSON object in each line; see `read_records`.

    Raises:
        DataError: If it cannot be read, or a whole line is not a JSON object; file and line are named.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return list(_parse_lines(path, content[: content.rfind(b"\n") + 1]))


def _parse_lines(path: Path, content: bytes) -> Iterator[Row]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object, found {line[:40]!r}")
        yield row
