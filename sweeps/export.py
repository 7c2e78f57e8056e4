"""Takes a model out of a sweep: copies it, or trains it again from its record where it was not kept."""

import contextlib
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_train.config import TrainConfig, build_config, with_values
from qa_train.errors import QAError, SweepError
from qa_train.storage import read_json, sha256_file, unused_dir
from sweeps.records import MANIFEST, TRIALS, Manifest, Row, read_manifest, read_records
from sweeps.retention import best_model, model_dir, model_of
from sweeps.sweep_store import local_copy

_NUM_SHOWN = 12
_SCORES = ("dev.f1", "dev.exact_match")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Export:
    """A model taken out of a sweep.

    Attributes:
        directory: Where it is now.
        trial_id: Whose model it is.
        retrained: Whether it was trained again.
        recorded: Its scores on dev in the sweep's records, 0 to 100, such as `dev.f1`; None where there is none.
        scores: Those of the model in `directory`.
    """

    directory: Path
    trial_id: str
    retrained: bool
    recorded: dict[str, float | None]
    scores: dict[str, float | None]


def export_model(
    place: str | Path,
    destination: Path,
    trial_id: str | None = None,
    *,
    progress: bool = False,
    say: Callable[[str], None] = _say,
) -> Export:
    """Puts the model of a trial into a new directory; the sweep, running or not, stays as it is.

    Args:
        place: The sweep's directory or address.
        destination: New or empty. A training that was interrupted there can be resumed by `qa_train train --resume`.
        trial_id: Whose model, the best if it finished several; by default the best of all.
        progress: Whether a training shows a bar on stderr.
        say: Called with a line before a model is trained again.

    Raises:
        DataError: If it is no sweep directory, `destination` is in use, or a data file cannot be read.
        SweepError: If there is no such trial, it finished no model, its model cannot be copied, or the data that it
            would be trained on again have changed.
        QAError: See `qa_train.output.train_into`.
    """
    directory = local_copy(place)
    manifest, rows = read_manifest(directory), read_records(directory)
    row = choose(directory, manifest, rows, trial_id)
    source = model_of(directory, row)
    local_copy(place, f"{TRIALS}/{row['trial_id']}/{source.name}/*")
    target = unused_dir(destination, "give another directory with --to")
    recorded = _scores(row)
    try:
        if source.is_dir():
            copy_model(source, target)
            return Export(target, str(row["trial_id"]), False, recorded, recorded)
        config = config_of(directory, manifest, row)
        _check_data(manifest)
        say(_announcement(row))
        found = _train(target, config, progress)
        return Export(target, str(row["trial_id"]), True, recorded, found)
    finally:
        with contextlib.suppress(OSError):  # it holds something
            target.rmdir()


def choose(directory: Path, manifest: Manifest, rows: Sequence[Row], trial_id: str | None) -> Row:
    """Returns the row of a trial's finished model, or of the best one.

    Raises:
        SweepError: If there is no such trial, or it finished no model; those that did are named.
    """
    models = [row for row in rows if row.get("budget_epochs") is not None]
    finished = {str(row["trial_id"]): row for row in models}
    own = best_model([row for row in models if row["trial_id"] == trial_id], manifest.metric, manifest.mode)
    if own:
        return own
    last = {str(row["trial_id"]): row for row in rows}
    names = f"models were finished by {_list(sorted(finished))}" if finished else "no trial has finished a model"
    if trial_id in last:
        raise SweepError(f"{directory}: trial {trial_id} has no finished model, it {_fate(last[trial_id])}; {names}")
    if trial_id is not None:
        raise SweepError(f"{directory}: there is no trial {trial_id!r}; {names}")
    best = best_model(models, manifest.metric, manifest.mode)
    if best is None:
        fates = _list([f"{name} {_fate(row)}" for name, row in sorted(last.items())]) if last else "none was started"
        raise SweepError(f"{directory}: no trial has finished a model ({fates})")
    return best


def _fate(row: Row) -> str:
    status = str(row.get("status"))
    if status == "failed":
        return f"failed ({row.get('error.type')}: {row.get('error.message')})"
    return {"running": "runs or did not end", "interrupted": "was interrupted"}.get(status, "was stopped early")


def _list(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > _NUM_SHOWN else ""
    return ", ".join(names[:_NUM_SHOWN]) + more


def _scores(row: Row) -> dict[str, float | None]:
    values = {name: row.get(name) for name in _SCORES}
    return {name: float(value) if isinstance(value, int | float) else None for name, value in values.items()}


def copy_model(source: Path, target: Path) -> None:
    """Copies a model beside its place, then renames it there.

    Args:
        source: A model directory.
        target: An empty directory.

    Raises:
        SweepError: If it cannot be copied, such as on a full disk; `target` then stays empty.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        shutil.copytree(source, partial)
        partial.rename(target)
    except OSError as error:  # shutil.Error holds a list of (source, target, reason)
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error.strerror
        raise SweepError(f"{source}: the model cannot be copied to {target}: {reason}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def config_of(directory: Path, manifest: Manifest, row: Row) -> TrainConfig:
    """Returns what a trial trained: its own configuration, or the sweep's where it left none, with its row's values.

    Raises:
        SweepError: If there is no configuration.
        DataError: If the trial's cannot be read.
        ConfigError: If it is none that this version can train.
    """
    own = model_dir(directory, str(row["trial_id"])).with_name("config.json")
    path, whole = (own, read_json(own)) if own.is_file() else (directory / MANIFEST, manifest.config)
    plain = whole.get("train") if isinstance(whole, Mapping) else None
    if not isinstance(plain, Mapping):
        raise SweepError(f"{path}: expected the configuration of a training as train, found {plain!r}")
    values: dict[str, Any] = {
        key.removeprefix("config."): value for key, value in row.items() if key.startswith("config.")
    }
    values |= {key: row[column] for column, key in _COLUMN_KEYS.items() if row.get(column) is not None}
    if plain.get("precision") == "auto":
        values["precision"] = manifest.precision
    optim = plain.get("optim")
    if isinstance(optim, Mapping) and optim.get("schedule") == "trunk":  # a branch equals a run of its own bit for bit
        values |= {"num_epochs": row["budget_epochs"], "budgets": [row["budget_epochs"]]}
    return with_values(build_config(TrainConfig, plain, str(path)), values, f"trial {row['trial_id']}")


_COLUMN_KEYS = {"seed": "seed", "launcher": "scale.launcher"}


def _check_data(manifest: Manifest) -> None:
    """Raises SweepError if a file that decides the weights, or which were chosen, is not what it was."""
    for name, entry in manifest.data.items():
        path, expected = entry.get("path"), entry.get("sha256")
        if path and expected and not name.startswith("test.") and sha256_file(path) != expected:
            problem = "has changed since the sweep, so that its model cannot be trained again"
            raise SweepError(f"{path}: {problem}; put the file back, or train anew with python -m qa_train train")


def _announcement(row: Row) -> str:
    held = row.get("cost.device_s")
    cost = f", which took {held / 3600:.2f} device-hours in the sweep" if isinstance(held, int | float) else ""
    return (
        f"trial {row['trial_id']}: its model was not kept; it is trained again from its record, "
        f"{row.get('budget_epochs')} epochs{cost}"
    )


def _train(target: Path, config: TrainConfig, progress: bool) -> dict[str, float | None]:
    from qa_train.output import claim_output, release_output, train_into  # imports torch, which a copy does not need

    claim_output(target, config)
    try:
        summary: dict[str, Any] = train_into(target, config, progress=progress)
    except QAError:
        release_output(target)
        raise
    dev = summary["scores"]["dev"]
    return {name: dev.get(name.removeprefix("dev.")) for name in _SCORES}
