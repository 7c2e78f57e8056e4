"""Sweep directories as typed pandas tables: one row per report, per finished model, per trial.

The columns are those of `records.jsonl`, with `sweep` (the sweep id) in front, and `cost.usd` where a price is known.
Columns that every report needs exist even where no row has them, filled with missing values, so that a sweep that died
early can be read like any other.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa

from analysis.cache import cached_table
from analysis.rows import INTEGERS, concat, read_table
from qa_train.errors import DataError
from sweeps.pricing import Price, parse_prices
from sweeps.records import RECORDS, TRIALS, Manifest, Row, read_manifest
from sweeps.sweep_store import local_copy

KEY = ("sweep", "trial_id", "attempt", "report")
"""The columns that name a row."""

Paths: TypeAlias = str | Path | Sequence[str | Path]

_QUESTION_FILES = (f"{TRIALS}/*/scores_*.parquet", f"{TRIALS}/*/predictions_*.json")
_MODEL = ["sweep", "trial_id", "seed", "budget_epochs"]
_PANDAS_TYPES = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


@dataclass(frozen=True)
class Sweeps:
    """One or several sweeps that can be ranked together.

    Attributes:
        manifests: By sweep id, in the order in which the directories were given.
        directories: Of each sweep, by its id.
        reports: [num_reports, num_columns] one row per (sweep, trial, attempt, report), in that order, as recorded.
        models: [num_models, num_columns] the finished models, each once. Their `cost.*` are each model's own: its
            `model_cost.*` where a trial finishes several, with the trial's cost so far as `trial_cost.*`; else the
            trial's. A row that repeats a trial of these tables (`reused_from`) is merged into that trial's.
        trials: [num_trials, num_columns] the last row of each trial, whose `status` is the trial's.
        finished: [num_finished, num_columns + 1] the rows that `models` was merged from, copies after the others, each
            with `model`, the index label of its model there.
    """

    manifests: dict[str, Manifest]
    directories: dict[str, Path]
    reports: pd.DataFrame
    models: pd.DataFrame
    trials: pd.DataFrame
    finished: pd.DataFrame

    @property
    def metric(self) -> str:
        """The column that ranks, such as `dev.f1`: the same in all the sweeps."""
        return next(iter(self.manifests.values())).metric

    @property
    def mode(self) -> str:
        """`max` or `min`: the same in all the sweeps."""
        return next(iter(self.manifests.values())).mode

    def models_of(self, sweep_id: str) -> pd.DataFrame:
        """Returns the models that one sweep has, copies of others' included, under its own names.

        Returns:
            [num_models_of_sweep, num_columns] with the index labels of `models`.
        """
        own = self.finished[self.finished["sweep"] == sweep_id]
        return own.groupby("model", sort=False).first().sort_values(list(KEY))

    def row_of(self, model: pd.Series) -> Row:
        """Returns the record, as it was written, of a row of one of the tables.

        Raises:
            DataError: If the sweep's records cannot be read again, or no longer hold it.
        """
        path = self.directories[str(model["sweep"])] / RECORDS
        expected = {name: _plain(model[name]) for name in KEY[1:]}
        # Parsing every line would take seconds in a large sweep, finding the few that hold the id does not.
        spellings = [json.dumps(expected["trial_id"], ensure_ascii=escaped).encode() for escaped in (True, False)]
        found: Row | None = None
        try:
            with open(path, "rb") as file:
                for line in file:
                    if line.endswith(b"\n") and any(spelling in line for spelling in spellings):
                        row = json.loads(line)
                        found = row if expected.items() <= row.items() else found
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read again: {error}") from error
        if found is None:
            raise DataError(f"{path}: expected the row {expected}, which was there before; load the sweep again")
        return found


def _plain(value: Any) -> str | int:
    return value if isinstance(value, str) else int(value)


def load_sweeps(directories: Paths) -> Sweeps:
    """Reads one or several sweep directories, finished or not.

    Large records are parsed once and kept in a cache of this user; see `analysis.cache`. Of a sweep in an object store
    the scores of single questions and the models' answers are fetched too.

    Raises:
        DataError: If none is given, one is given twice, a file is missing or broken (with its line), a value has the
            wrong type, or the sweeps rank by different metrics or were scored on different data.
    """
    paths = [directories] if isinstance(directories, str | Path) else list(directories)
    if not paths:
        raise DataError("no sweep directory was given")
    manifests: dict[str, Manifest] = {}
    places: dict[str, Path] = {}
    for path in (local_copy(place, *_QUESTION_FILES) for place in paths):
        manifest = read_manifest(path)
        _check_manifest(path, manifest)
        if manifest.sweep_id in manifests:
            raise DataError(f"{path}: sweep {manifest.sweep_id!r} was given twice; name each sweep once")
        _check_comparable(path, manifest, manifests.values())
        manifests[manifest.sweep_id], places[manifest.sweep_id] = manifest, path
    prices = {sweep_id: _price(places[sweep_id], manifest) for sweep_id, manifest in manifests.items()}
    reports = _read_reports(places)
    # Sorted by trial: comparing neighbours takes a fraction of the time of finding duplicates.
    ends = (reports[["sweep", "trial_id"]] != reports[["sweep", "trial_id"]].shift(-1)).any(axis=1)
    trials = reports[ends].reset_index(drop=True)
    # A trial that was started again may finish the same model twice: the later one is the one on disk.
    finished = reports[reports["budget_epochs"].notna()]
    finished = _with_own_costs(finished.drop_duplicates(_MODEL, keep="last").reset_index(drop=True))
    models, finished = _without_copies(finished)
    reports, models, trials = (_with_dollars(table, prices) for table in (reports, models, trials))
    return Sweeps(manifests, places, reports, models, trials, finished)


def _read_reports(places: Mapping[str, Path]) -> pd.DataFrame:
    tables = []
    for sweep_id, path in sorted(places.items()):
        table = cached_table(path / RECORDS, read_table)
        # Not of the cache, for a sweep may be renamed; the column of a record of that name gives way.
        table = table.drop_columns([name for name in ("sweep",) if name in table.schema.names])
        tables.append(table.add_column(0, "sweep", pa.repeat(pa.scalar(sweep_id, pa.string()), len(table))))
    reports: pd.DataFrame = concat(tables).to_pandas(types_mapper=_PANDAS_TYPES.get)
    return reports.astype(dict.fromkeys(INTEGERS, "int64"))


def _without_copies(models: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Merges each row that repeats another trial's model into that model's, or all that repeat an absent one's.

    What the original's row lacks, such as the scores of the test sets, is taken over from the copy's.

    Returns:
        The merged rows, and all rows with the labels of their merged ones; see `Sweeps.finished`.
    """
    if "reused_from" not in models or models["reused_from"].isna().all():
        return models, models.assign(model=models.index)
    own = models["sweep"] + "/" + models["trial_id"]
    source = dict(zip(own, models["reused_from"].fillna(own), strict=True))
    origin = own.map(lambda name: _origin(name, source))
    first = models.assign(origin=origin).iloc[models["reused_from"].notna().argsort(kind="stable")]
    groups = first.groupby(["origin", "seed", "budget_epochs"], sort=False, dropna=False, as_index=False)
    merged = groups.first().assign(reused_from=groups.nth(0)["reused_from"].to_numpy())
    merged = merged[models.columns].sort_values(list(KEY))
    place = pd.Series(range(len(merged)), index=merged.index)
    finished = first.drop(columns="origin").assign(model=groups.ngroup().map(place))
    return merged.reset_index(drop=True), finished


def _origin(name: str, source: Mapping[str, str]) -> str:
    """Follows a copy to what it was copied from; a circle ends where it closes."""
    seen = {name}
    while (before := source.get(name, name)) not in seen:
        seen.add(before)
        name = before
    return name


def _with_own_costs(models: pd.DataFrame) -> pd.DataFrame:
    own = columns_of(models, "model_cost.")
    if not own:
        return models
    models = models.copy()
    for column in own:
        name = column.removeprefix("model_cost.")
        models[f"trial_cost.{name}"] = models[f"cost.{name}"] if f"cost.{name}" in models else float("nan")
        models[f"cost.{name}"] = models[column].fillna(models[f"trial_cost.{name}"])
    return models


def _with_dollars(table: pd.DataFrame, prices: Mapping[str, Price | None]) -> pd.DataFrame:
    """Adds `cost.usd`, missing where a sweep has no price, unless none has."""
    if not any(prices.values()):
        return table
    per_hour = {sweep_id: price.usd_per_hour if price else float("nan") for sweep_id, price in prices.items()}
    return table.assign(**{"cost.usd": table["cost.device_s"] / 3600.0 * table["sweep"].map(per_hour).astype(float)})


def _price(path: Path, manifest: Manifest) -> Price | None:
    try:
        return parse_prices(manifest.prices).by_device.get(manifest.device)
    except ValueError as error:
        raise DataError(f"{path}: its manifest's prices: {error}") from error


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
    for name, entry in manifest.data.items():
        if not isinstance(entry, dict):
            raise DataError(f"{path}: expected its manifest to hold a mapping data.{name}, found {entry!r}")
    if not isinstance(manifest.config.get("train"), dict):
        raise DataError(f"{path}: expected its manifest to hold a mapping config.train, found none")


def _check_comparable(path: Path, manifest: Manifest, others: Iterable[Manifest]) -> None:
    """Refuses sweeps whose scores cannot stand in one table."""
    for other in others:
        if (manifest.metric, manifest.mode) != (other.metric, other.mode):
            raise DataError(
                f"{path}: ranks by {manifest.metric} ({manifest.mode}), but sweep {other.sweep_id!r} ranks by "
                f"{other.metric} ({other.mode}); report them one by one"
            )
        shared = [name for name in manifest.data if name.startswith("test.") and name in other.data]
        for name in ("dev", *shared):
            if (found := _questions(manifest, name)) != (expected := _questions(other, name)):
                raise DataError(
                    f"{path}: was scored on other {name} questions than sweep {other.sweep_id!r} "
                    f"({_differences(found, expected)}), so their scores cannot be compared; report them one by one"
                )


def _questions(manifest: Manifest, data_set: str) -> dict[str, Any]:
    """What decides which questions a data set holds: all but where its file lies."""
    entry = dict(manifest.data.get(data_set) or {})
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
