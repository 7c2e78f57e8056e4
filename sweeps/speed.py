"""How long a trial's parts take: what a plan reckons with, and how an earlier sweep's records tell it."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from qa_train.config import TrainConfig, build_config, flatten
from qa_train.config_schema import locate
from qa_train.errors import DataError
from qa_train.trunk import trunk_epochs
from sweeps.config import SweepConfig
from sweeps.records import MANIFEST, Manifest, Row, read_manifest, read_records

SLOWING = (
    "data.train",
    "data.dev",
    "model.name",
    "model.max_seq_length",
    "model.doc_stride",
    "model.single_window",
    "optim.batch_size",
    "augment.recognition_noise",
)
"""Keys of `train` that decide how long an epoch takes."""

_PARTS = ("starting", "loading", "training", "evaluating", "checkpointing")


@dataclass(frozen=True)
class Measured:
    """How long the parts of a trial took; all times are wall-clock seconds.

    Attributes:
        source: What was measured, in words.
        device: Kind of device, as records name it.
        num_devices: Devices that the trial held.
        start_s: Before the first step: starting its process, reading the data, opening the model.
        training_s: Of an epoch.
        evaluating_s: Of the evaluation after an epoch.
        checkpointing_s: Of what is saved after an epoch; 0 where that was not measured.
        model_bytes: Of the weights of a model; None where that is not known.
        caveats: Why the numbers may not hold for the sweep that is planned.
    """

    source: str
    device: str
    num_devices: int
    start_s: float
    training_s: float
    evaluating_s: float
    checkpointing_s: float = 0.0
    model_bytes: int | None = None
    caveats: tuple[str, ...] = ()

    @property
    def evaluated_s(self) -> float:
        """Seconds of what follows an epoch after which a model is evaluated."""
        return self.evaluating_s + self.checkpointing_s


def speed_of(directory: Path, config: SweepConfig) -> Measured:
    """Returns the mean speed of an earlier sweep's trials, also of those that did not end.

    Args:
        directory: Of a sweep, running or not.
        config: Of the sweep that is planned; where it differs in what decides the speed, that is a caveat.

    Raises:
        DataError: If it is no sweep's directory, or its records hold no trained epoch with what it cost.
    """
    manifest = read_manifest(directory)
    rows = list(_last_reports(read_records(directory)))
    if not rows:
        raise DataError(
            f"{directory}: expected records of at least one trained epoch with its cost, found none; "
            "plan without --like to measure the speed here"
        )
    trunk = _trunk(directory, manifest)
    num_epochs = math.fsum(_work(trunk, row["epochs_trained"]) for row in rows)
    num_evaluated = math.fsum(_num_evaluated(trunk, row["epochs_trained"]) for row in rows)
    total = {part: math.fsum(row[f"cost.{part}_s"] for row in rows) for part in _PARTS}
    return Measured(
        source=f"{num_epochs:g} epochs of {len(rows)} trials in {directory}",
        device=manifest.device,
        num_devices=manifest.devices_per_trial,
        start_s=(total["starting"] + total["loading"]) / len(rows),
        training_s=total["training"] / num_epochs,
        evaluating_s=total["evaluating"] / num_evaluated,
        checkpointing_s=total["checkpointing"] / num_evaluated,
        model_bytes=max(map(_weights_bytes, directory.glob("trials/*/model")), default=0) or None,
        caveats=tuple(_differences(directory, manifest, config)),
    )


def _trunk(directory: Path, manifest: Manifest) -> TrainConfig | None:
    """Returns what the trials of an earlier sweep trained, if they had several budgets; else None."""
    before = manifest.config.get("train")
    if _dotted(before, "optim.schedule") != "trunk":
        return None
    return build_config(TrainConfig, manifest.config["train"], f"{directory / MANIFEST}: train")


def _work(trunk: TrainConfig | None, epochs: float) -> float:
    """Returns the epochs that were trained until a report after `epochs`, those of all branches included."""
    if trunk is None:
        return epochs
    return trunk_epochs([budget for budget in trunk.finished_epochs if budget <= epochs], trunk.optim.cooldown)


def _num_evaluated(trunk: TrainConfig | None, epochs: float) -> float:
    return epochs if trunk is None else sum(budget <= epochs for budget in trunk.finished_epochs)


def _last_reports(rows: Iterable[Row]) -> Iterator[dict[str, float]]:
    """Yields the numbers of each trial's last report that has its cost, which counts from the trial's beginning."""
    needed = ("epochs_trained", *(f"cost.{part}_s" for part in _PARTS))
    last: dict[object, dict[str, float]] = {}
    for row in rows:
        values = {key: float(value) for key in needed if _is_amount(value := row.get(key))}
        if "reused_from" not in row and len(values) == len(needed) and values["epochs_trained"]:
            last[row.get("trial_id")] = values
    yield from last.values()


def _is_amount(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _weights_bytes(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


def _differences(directory: Path, manifest: Manifest, config: SweepConfig) -> Iterator[str]:
    """Yields what the earlier sweep did otherwise; where files lie does not matter, only their names."""
    before, searched = (manifest.config.get(name) for name in ("train", "space"))
    now = flatten(config.train)
    keys = [
        key
        for key, value in now.items()
        if key in SLOWING and (key in (searched or {}) or _name(key, _dotted(before, key)) != _name(key, value))
    ]
    if config.train.precision not in ("auto", manifest.precision):
        keys.append("precision")
    if keys:
        yield f"{directory} has other values of {', '.join(f'train.{key}' for key in keys)}"


def _dotted(values: object, key: str) -> object:
    """Returns the value at a dotted name, or the default: a manifest may be older than the key."""
    located = locate(TrainConfig, key)
    for name in key.split("."):
        if not (isinstance(values, dict) and name in values):
            return located and located.field.get_default()
        values = values[name]
    return values


def _name(key: str, value: object) -> object:
    is_path = key.startswith(("data.", "model.name")) and isinstance(value, str)
    return Path(str(value)).name if is_path else value
