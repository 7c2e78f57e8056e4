from pathlib import Path
from typing import Any

import pytest

from qa_train.config import build_config
from qa_train.errors import DataError
from sweeps.config import SweepConfig
from sweeps.speed import speed_of
from tests.analysis.fixtures import manifest, row, write_sweep


def config(**train: Any) -> SweepConfig:
    """As the fixtures' manifests have it, but for the folder of its data."""
    return build_config(SweepConfig, {"train": {"data": {"train": "/elsewhere/train.json"}} | train}, "test")


def report(trial_id: str, epochs: float, *seconds: float | None, **changes: Any) -> dict[str, Any]:
    """A report with its seconds of starting, loading, training, evaluating and checkpointing so far."""
    names = ("starting", "loading", "training", "evaluating", "checkpointing")
    costs = {f"cost__{name}_s": value for name, value in zip(names, seconds, strict=True)}
    return row(trial_id, epochs_trained=epochs, **costs, **changes)


ROWS = [
    report("0", 1, 1, 3, 50, 4, 2, status="running", budget_epochs=None),
    report("1", 1, 3, 5, 80, 2, 1, status="running", budget_epochs=None),
    report("0", 2, 1, 3, 100, 8, 4),
    # A row without costs ends a trial that failed; what it had reported counts.
    {"trial_id": "1", "attempt": 0, "report": 1, "status": "failed", "error.type": "E"},
]


def test_the_speed_is_the_mean_over_all_epochs_and_trials(tmp_path: Path) -> None:
    found = speed_of(write_sweep(tmp_path / "a", ROWS, devices_per_trial=2), config())
    assert found.start_s == (1 + 3 + 3 + 5) / 2
    assert found.training_s == pytest.approx((100 + 80) / 3)
    assert found.evaluating_s == pytest.approx((8 + 2) / 3)
    assert found.checkpointing_s == pytest.approx((4 + 1) / 3)
    assert found.training_s + found.evaluated_s == pytest.approx((180 + 10 + 5) / 3)
    assert (found.device, found.num_devices) == ("cpu-core", 2)
    assert found.source == f"3 epochs of 2 trials in {tmp_path / 'a'}"
    assert found.caveats == ()


def test_a_sweep_that_is_being_written_tells_its_speed(tmp_path: Path) -> None:
    found = speed_of(write_sweep(tmp_path / "a", ROWS[:1], torn='{"trial_id": "1", "epo'), config())
    assert (found.start_s, found.training_s) == (4, 50)


def test_the_size_of_a_model_is_that_of_the_largest_weights_there(tmp_path: Path) -> None:
    directory = write_sweep(tmp_path / "a", ROWS)
    assert speed_of(directory, config()).model_bytes is None
    for trial, size in (("0", 1000), ("1", 3000)):
        model = directory / "trials" / trial / "model"
        model.mkdir(parents=True)
        (model / "model.safetensors").write_bytes(bytes(size))
        (model / "tokenizer.json").write_bytes(bytes(5000))
    assert speed_of(directory, config()).model_bytes == 3000


@pytest.mark.parametrize(
    ("train", "named"),
    [
        ({"data": {"train": "/elsewhere/other.json"}}, ["data.train"]),
        ({"data": {"train": "train.json", "dev": "dev.json"}}, ["data.dev"]),
        ({"model": {"name": "bert-base-uncased", "max_seq_length": 256}}, ["model.name", "model.max_seq_length"]),
        ({"optim": {"batch_size": 32, "learning_rate": 1e-3}}, ["optim.batch_size"]),
        ({"precision": "bf16"}, ["precision"]),
        ({"precision": "fp32", "num_epochs": 9, "seed": 0}, []),
    ],
)
def test_what_makes_the_planned_sweep_slower_or_faster_is_said(
    tmp_path: Path, train: dict[str, Any], named: list[str]
) -> None:
    before = manifest().config
    before["train"] |= {"model": {"name": "/models/distilbert-base-uncased", "max_seq_length": 384}}
    before["train"] |= {"optim": {"batch_size": 16, "learning_rate": 3e-5}}
    directory = write_sweep(tmp_path / "a", ROWS, config=before)
    keys = ", ".join(f"train.{key}" for key in named)
    expected = (f"{directory} has other values of {keys}",) if named else ()
    assert speed_of(directory, config(**train)).caveats == expected


def test_a_sweep_that_searched_what_decides_the_speed_is_another_one(tmp_path: Path) -> None:
    before = manifest().config | {"space": {"optim.batch_size": {"choice": [8, 64]}}}
    [caveat] = speed_of(write_sweep(tmp_path / "a", ROWS, config=before), config()).caveats
    assert caveat.endswith("other values of train.optim.batch_size")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row("0")],  # without the parts of its cost
        [report("0", 0, 1, 1, 1, 1, 1)],
        [report("0", 1, 1, 1, None, 1, 1)],
        [report("0", 1, 1, 1, float("inf"), 1, 1)],
        [report("0", 1, 1, 1, -1, 1, 1)],
        [row("0", epochs_trained="1")],
    ],
)
def test_records_without_a_trained_epoch_and_its_cost_tell_no_speed(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="at least one trained epoch with its cost, found none; plan without --like"):
        speed_of(write_sweep(tmp_path / "a", rows), config())


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a sweep directory, found nothing there"):
        speed_of(tmp_path / "none", config())
    with pytest.raises(DataError, match=r"found no manifest\.json"):
        speed_of(tmp_path, config())
