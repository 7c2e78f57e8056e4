"""Sweep directories as typed pandas tables: one row per report, per finished model, per trial.

The columns are those of `records.jsonl`, with `sweep` (the sweep id) in front. Columns that every report needs exist
even where no row has them, filled with missing values, so that a sweep that died early can be read like any other.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from qa_train.errors import DataError
from sweeps.records import Manifest, Row, Value, read_manifest, read_records

Key: TypeAlias = tuple[str, str, int, int]
KEY = ("sweep", "trial_id", "attempt", "report")
"""The columns that name a row: their values are a `Key`."""

Paths: TypeAlias = str | Path | Sequence[str | Path]

_INTEGERS = ("attempt", "report")
_TEXTS = ("sweep", "trial_id", "status")
_NUMBERS = (
    "epochs_trained",
    "budget_epochs",
    "dev.f1",
    "dev.exact_match",
    "train_loss",
    "eval_loss",
    "cost.device_s",
    "cost.tokens",
    "cost.tflop",
    "cost.peak_memory_bytes",
)
_NUMBER_PREFIXES = ("dev.", "test.", "cost.")


@dataclass(frozen=True)
class Sweeps:
    """One or several sweeps that can be ranked together.

    Attributes:
        manifests: By sweep id, in the order in which the directories were given.
        rows: The records as they were written, by (sweep, trial_id, attempt, report).
        reports: [num_reports, num_columns] one row per (sweep, trial, attempt, report), in that order.
        models: [num_models, num_columns] the rows of `reports` whose model is a finished one.
        trials: [num_trials, num_columns] the last row of each trial, whose `status` is the trial's.
    """

    manifests: dict[str, Manifest]
    rows: dict[Key, Row]
    reports: pd.DataFrame
    models: pd.DataFrame
    trials: pd.DataFrame

    @property
    def metric(self) -> str:
        """The column that ranks, such as `dev.f1`: the same in all the sweeps."""
        return next(iter(self.manifests.values())).metric

    @property
    def mode(self) -> str:
        """`max` or `min`: the same in all the sweeps."""
        return next(iter(self.manifests.values())).mode

    def row_of(self, model: pd.Series) -> Row:
        """Returns the record, as it was written, of a row of one of the tables."""
        sweep, trial_id, attempt, report = (model[column] for column in KEY)
        return self.rows[str(sweep), str(trial_id), int(attempt), int(report)]


def load_sweeps(directories: Paths) -> Sweeps:
    """Reads one or several sweep directories, finished or not.

    Raises:
        DataError: If none is given, one is given twice, a file is missing or broken (with its line), a value has the
            wrong type, or the sweeps rank by different metrics or were scored on different data.
    """
    paths = [Path(directories)] if isinstance(directories, str | Path) else [Path(path) for path in directories]
    if not paths:
        raise DataError("no sweep directory was given")
    manifests: dict[str, Manifest] = {}
    rows: dict[Key, Row] = {}
    for path in paths:
        manifest = read_manifest(path)
        _check_manifest(path, manifest)
        if manifest.sweep_id in manifests:
            raise DataError(f"{path}: sweep {manifest.sweep_id!r} was given twice; name each sweep once")
        manifests[manifest.sweep_id] = manifest
        _check_comparable(path, manifest, next(iter(manifests.values())))
        rows |= _rows_by_key(path, manifest.sweep_id)
    reports = _to_table(rows)
    # A trial that was started again may finish the same model twice: the later one is the one on disk.
    finished = reports[reports["budget_epochs"].notna()]
    models = finished.drop_duplicates(["sweep", "trial_id", "seed", "budget_epochs"], keep="last")
    trials = reports.drop_duplicates(["sweep", "trial_id"], keep="last")
    return Sweeps(manifests, rows, reports, models.reset_index(drop=True), trials.reset_index(drop=True))


def load_models(directories: Paths) -> pd.DataFrame:
    """One row per finished model; see `load_sweeps`."""
    return load_sweeps(directories).models


def columns_of(table: pd.DataFrame, prefix: str, suffix: str = "") -> list[str]:
    """Returns the names of a table's columns that begin and end so, such as `test.` and `.f1`, in their order."""
    return [name for name in map(str, table.columns) if name.startswith(prefix) and name.endswith(suffix)]


def _check_manifest(path: Path, manifest: Manifest) -> None:
    """Refuses a manifest whose parts that are read here have another form."""
    parts = {"config": manifest.config, "data": manifest.data, "baselines": manifest.baselines}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise DataError(f"{path}: expected its manifest to hold a mapping {name}, found {part!r}")
    if not isinstance(manifest.config.get("train"), dict):
        raise DataError(f"{path}: expected its manifest to hold a mapping config.train, found none")


def _check_comparable(path: Path, manifest: Manifest, first: Manifest) -> None:
    """Refuses sweeps whose scores cannot stand in one table."""
    if (manifest.metric, manifest.mode) != (first.metric, first.mode):
        raise DataError(
            f"{path}: ranks by {manifest.metric} ({manifest.mode}), but sweep {first.sweep_id!r} ranks by "
            f"{first.metric} ({first.mode}); report them one by one"
        )
    if (found := _dev_questions(manifest)) != (expected := _dev_questions(first)):
        raise DataError(
            f"{path}: was scored on other dev questions than sweep {first.sweep_id!r} "
            f"({_differences(found, expected)}), so their scores cannot be compared; report them one by one"
        )


def _dev_questions(manifest: Manifest) -> dict[str, Any]:
    """What decides which questions dev holds: all but where its file lies."""
    entry = dict(manifest.data.get("dev") or {})
    entry.pop("path", None)
    if entry.get("split"):  # then the file's checksum does not tell which of its articles were split off
        train = manifest.config["train"]
        data = train.get("data")
        entry |= {
            "seed": train.get("seed"),
            "dev_fraction": data.get("dev_fraction") if isinstance(data, dict) else None,
        }
    return entry


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    keys = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    return ", ".join(f"{key} {str(found.get(key))[:12]} and {str(expected.get(key))[:12]}" for key in keys)


def _rows_by_key(path: Path, sweep_id: str) -> dict[Key, Row]:
    rows: dict[Key, Row] = {}
    for row in read_records(path):
        _check_row(path, row)
        rows[sweep_id, str(row["trial_id"]), int(row["attempt"] or 0), int(row["report"] or 0)] = row
    return rows


def _check_row(path: Path, row: Row) -> None:
    """Raises DataError if a value has no place in a table, or a column computed with holds another type."""
    where = f"{path}: trial {row.get('trial_id')!r}, attempt {row.get('attempt')!r}, report {row.get('report')!r}"
    if not isinstance(row.get("trial_id"), str):
        raise DataError(f"{where}: trial_id must be a text")
    for column in _INTEGERS:
        if not isinstance(row.get(column), int) or isinstance(row[column], bool):
            raise DataError(f"{where}: {column} must be an integer, but is {row.get(column)!r}")
    for column, value in row.items():
        if _is_number_column(column) and not (value is None or _is_number(value)):
            raise DataError(f"{where}: {column} must be a number or null, but is {value!r}")
        if not (value is None or isinstance(value, str | int | float)):
            raise DataError(f"{where}: {column} must be a single value, but is {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number_column(column: str) -> bool:
    return column in _NUMBERS or column.startswith(_NUMBER_PREFIXES)


def _to_table(rows: dict[Key, Row]) -> pd.DataFrame:
    """The rows with typed columns, sorted by key."""
    seen = dict.fromkeys(column for row in rows.values() for column in row)
    columns = dict.fromkeys((*KEY, "status", "seed", *_NUMBERS, *seen))
    ordered: list[Row] = [{**rows[key], "sweep": key[0]} for key in sorted(rows)]
    return pd.DataFrame({column: _to_column(column, [row.get(column) for row in ordered]) for column in columns})


def _to_column(column: str, values: list[Value]) -> pd.Series:
    if column in _INTEGERS:
        return pd.Series(values, dtype="int64")
    if column in _TEXTS:
        return pd.Series([None if value is None else str(value) for value in values], dtype="str")
    known = [value for value in values if value is not None]
    # A learning rate of 1.0 beside others that are whole stays a real number, which `convert_dtypes` would not keep.
    has_floats = any(isinstance(value, float) for value in known) and all(map(_is_number, known))
    if has_floats or _is_number_column(column):
        return pd.Series([_finite(value) for value in values], dtype="float64")
    return pd.Series(values, dtype="object").convert_dtypes()


def _finite(value: Any) -> float:
    """A number that is missing, infinite or too large for a float is NaN: no score or cost is meant by it."""
    return math.nan if value is None or abs(value) > sys.float_info.max else float(value)
