from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.load import load_models, load_sweeps
from qa_train.errors import DataError
from tests.analysis.fixtures import DEV, manifest, row, write_sweep


def test_only_rows_with_a_budget_are_models(tmp_path: Path) -> None:
    rows = [row("a", budget_epochs=None), row("a", report=1), row("b", budget_epochs=None, status="running")]
    sweeps = load_sweeps(write_sweep(tmp_path, rows))
    assert sweeps.models[["trial_id", "report"]].to_numpy().tolist() == [["a", 1]]
    assert len(sweeps.reports) == 3
    assert sweeps.trials["status"].tolist() == ["completed", "running"]


def test_a_model_of_a_trial_that_failed_later_counts(tmp_path: Path) -> None:
    rows = [row("a", status="running"), row("a", report=1, status="failed", budget_epochs=None)]
    sweeps = load_sweeps(write_sweep(tmp_path, rows))
    assert len(sweeps.models) == 1
    assert sweeps.trials["status"].tolist() == ["failed"]


def test_of_a_model_finished_twice_the_later_attempt_counts(tmp_path: Path) -> None:
    models = load_models(write_sweep(tmp_path, [row("a", dev__f1=1.0), row("a", attempt=1, dev__f1=2.0)]))
    assert models["dev.f1"].tolist() == [2.0]


def test_each_budget_of_one_trial_is_a_model(tmp_path: Path) -> None:
    models = load_models(write_sweep(tmp_path, [row("a", budget_epochs=1), row("a", report=1, budget_epochs=2)]))
    assert models["budget_epochs"].tolist() == [1, 2]


def test_numbers_that_are_missing_or_not_finite_are_missing(tmp_path: Path) -> None:
    rows = [row("a", dev__f1=None), row("b", dev__f1=float("nan")), row("c", eval_loss=float("inf"))]
    models = load_models(write_sweep(tmp_path, [*rows, row("d", cost__tokens=10**400)]))
    assert models["dev.f1"].isna().tolist() == [True, True, False, False]
    assert models["eval_loss"].isna().all()
    assert models["cost.tokens"].isna().tolist() == [False, False, False, True]


def test_whole_numbers_stay_whole_and_real_ones_real(tmp_path: Path) -> None:
    models = load_models(write_sweep(tmp_path, [row("a", config__optim__weight_decay=0.0)]))
    assert models["config.num_epochs"].dtype == pd.Int64Dtype()
    assert models["config.optim.weight_decay"].dtype == "float64"


def test_a_sweep_without_records_has_the_columns_that_reports_need(tmp_path: Path) -> None:
    models = load_models(write_sweep(tmp_path, []))
    assert len(models) == 0
    assert {"sweep", "trial_id", "seed", "dev.f1", "cost.device_s", "cost.peak_memory_bytes"} <= {*models}


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    assert len(load_models(write_sweep(tmp_path, [row("a")], torn='{"trial_id": "b", "att'))) == 1


def test_several_sweeps_stand_in_one_table(tmp_path: Path) -> None:
    write_sweep(tmp_path / "1", [row("a")], "one")
    write_sweep(tmp_path / "2", [row("a")], "two")
    assert load_models([tmp_path / "1", str(tmp_path / "2")])["sweep"].tolist() == ["one", "two"]


def test_no_sweep_or_the_same_one_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sweep directory"):
        load_sweeps([])
    write_sweep(tmp_path, [row("a")])
    with pytest.raises(DataError, match="given twice"):
        load_sweeps([tmp_path, tmp_path])


def load_two(tmp_path: Path, **changes: Any) -> None:
    write_sweep(tmp_path / "1", [row("a")], "one")
    write_sweep(tmp_path / "2", [row("a")], "two", **changes)
    load_sweeps([tmp_path / "1", tmp_path / "2"])


def test_sweeps_that_rank_differently_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ranks by eval_loss \(min\)"):
        load_two(tmp_path, metric="eval_loss", mode="min")


def test_dev_may_lie_at_another_place(tmp_path: Path) -> None:
    load_two(tmp_path, data={"dev": DEV | {"path": "/elsewhere/dev.json"}})


@pytest.mark.parametrize("change", [{"sha256": "b" * 64}, {"questions": 7}, {"split": True}])
def test_sweeps_scored_on_other_questions_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"other dev questions than sweep 'one' .{next(iter(change))}"):
        load_two(tmp_path, data={"dev": DEV | change})


@pytest.mark.parametrize("different", [{"seed": 1}, {"data": {"dev_fraction": 0.2}}])
def test_dev_sets_split_off_one_file_in_different_ways_are_refused(tmp_path: Path, different: dict[str, Any]) -> None:
    data = {"dev": DEV | {"split": True}}
    train = manifest().config["train"]
    write_sweep(tmp_path / "1", [row("a")], "one", data=data)
    write_sweep(tmp_path / "2", [row("a")], "two", data=data)
    assert len(load_models([tmp_path / "1", tmp_path / "2"])) == 2
    write_sweep(tmp_path / "2", [row("a")], "two", data=data, config={"train": train | different})
    with pytest.raises(DataError, match="other dev questions"):
        load_sweeps([tmp_path / "1", tmp_path / "2"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"trial_id": 3}, "trial_id must be a text"),
        ({"attempt": None}, "attempt must be an integer"),
        ({"report": True}, "report must be an integer"),
        ({"dev__f1": "high"}, "dev.f1 must be a number or null, but is 'high'"),
        ({"cost__device_s": True}, "cost.device_s must be a number"),
        ({"seed": [1]}, "seed must be a single value"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        load_sweeps(write_sweep(tmp_path, [row("a") | {k.replace("__", "."): v for k, v in change.items()}]))


@pytest.mark.parametrize("change", [{"config": {}}, {"config": {"train": 3}}, {"data": []}, {"baselines": 1}])
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="expected its manifest to hold a mapping"):
        load_sweeps(write_sweep(tmp_path, [row("a")], **change))
