import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.load import load_sweeps
from analysis.summaries import best_so_far, hyperparameter_table, searched_columns, spent
from analysis.summaries import test_set_table as set_table
from tests.analysis.fixtures import model, row, write_sweep

FAILED = {"status": "failed", "budget_epochs": None, "dev__f1": None}


def test_all_trials_are_paid_for_but_copies(tmp_path: Path) -> None:
    rows = [
        row("a", cost__device_s=100.0, budget_epochs=None),
        row("a", report=1, cost__device_s=250.0),
        row("b", cost__device_s=40.0, budget_epochs=None),
        row("b", report=1, cost__device_s=None, **FAILED),
        row("c", cost__device_s=1000.0, reused_from="other/7"),
    ]
    write_sweep(tmp_path / "1", rows, "one")
    write_sweep(tmp_path / "2", [row("a", cost__device_s=None)], "two")
    totals = spent(load_sweeps([tmp_path / "1", tmp_path / "2"]))
    assert totals["one"] == 290.0 and math.isnan(totals["two"])


def test_the_best_so_far_is_followed_over_all_that_was_spent(tmp_path: Path) -> None:
    rows = [
        row("a", time=1.0, cost__device_s=10.0, budget_epochs=None),
        row("b", time=2.0, cost__device_s=100.0, **FAILED),
        row("a", time=3.0, report=1, cost__device_s=30.0, dev__f1=60.0),
        row("d", time=4.0, cost__device_s=500.0, dev__f1=65.0, reused_from="other/1"),
        row("c", time=5.0, cost__device_s=7.0, dev__f1=50.0),
        row("0", time=6.0, cost__device_s=3.0, dev__f1=70.0),
    ]
    found = best_so_far(load_sweeps(write_sweep(tmp_path, rows)))
    assert found[["trial_id", "spent", "dev.f1", "best"]].to_numpy().tolist() == [
        ["a", 130.0, 60.0, 60.0],
        ["d", 130.0, 65.0, 65.0],
        ["c", 137.0, 50.0, 65.0],
        ["0", 140.0, 70.0, 70.0],
    ]


def test_peaks_of_memory_are_not_added_up(tmp_path: Path) -> None:
    found = best_so_far(load_sweeps(write_sweep(tmp_path, [row("a"), row("b")])), "cost.peak_memory_bytes")
    assert len(found) == 0 and "spent" in found


def test_a_loss_falls_and_each_sweep_spends_for_itself(tmp_path: Path) -> None:
    for name in ("1", "2"):
        rows = [row(name, time=float(name), cost__device_s=5.0, eval_loss=float(name))]
        write_sweep(
            tmp_path / name,
            [*rows, row("z", time=9.0, cost__device_s=5.0, eval_loss=1.5)],
            name,
            metric="eval_loss",
            mode="min",
        )
    found = best_so_far(load_sweeps([tmp_path / "1", tmp_path / "2"]))
    assert found[["sweep", "spent", "best"]].to_numpy().tolist() == [
        ["1", 5.0, 1.0], ["2", 5.0, 2.0], ["1", 10.0, 1.0], ["2", 10.0, 1.5],
    ]  # fmt: skip


def test_times_may_be_texts_or_missing(tmp_path: Path) -> None:
    rows = [row("b", time="2025-01-01T00:00:00+00:00"), row("a", time="2025-01-01T00:10:00+00:00"), row("c", time=None)]
    assert best_so_far(load_sweeps(write_sweep(tmp_path, rows)))["trial_id"].tolist() == ["b", "a", "c"]


@pytest.mark.parametrize("rows", [[], [row("a", **FAILED)]])
def test_without_models_there_are_columns_and_no_rows(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    sweeps = load_sweeps(write_sweep(tmp_path, rows))
    assert len(best_so_far(sweeps)) == 0 and len(set_table(sweeps.models)) == 0
    columns = searched_columns(sweeps.models, sweeps.manifests)
    assert len(hyperparameter_table(sweeps.models, columns, "dev.f1", "max")) == 0


def test_each_value_or_quarter_of_the_values_is_summarised() -> None:
    rng = np.random.default_rng(0)
    values = rng.permutation(40) / 100
    models = pd.DataFrame(
        {"config.rate": values, "config.kind": ["x", "y"] * 20, "config.n": pd.array([1, 2, 3, None] * 10, "Int64")}
    ).assign(**{"dev.f1": values * 100 + np.where(np.arange(40) % 2, 5.0, 0.0)})
    table = hyperparameter_table(models, ["config.rate", "config.kind", "config.n"], "dev.f1", "max")
    assert table["hyperparameter"].tolist() == ["rate"] * 4 + ["kind"] * 2 + ["n"] * 3
    assert table["value"].tolist()[:6] == ["0 to 0.09", "0.1 to 0.19", "0.2 to 0.29", "0.3 to 0.39", "x", "y"]
    assert table["num_models"].tolist() == [10, 10, 10, 10, 20, 20, 10, 10, 10]
    kind = models[models["config.kind"] == "y"]["dev.f1"]
    found = [table[name].tolist()[5] for name in ("mean", "sd", "best")]
    assert found == pytest.approx([kind.mean(), kind.std(), kind.max()])
    assert table["spearman"][0] > 0.9 and math.isnan(table["spearman"][4])
    lowest = hyperparameter_table(models, ["config.kind"], "dev.f1", "min")
    assert lowest["best"].tolist()[1] == kind.min()


def test_epochs_are_a_hyperparameter_of_trials_that_finish_several_models(tmp_path: Path) -> None:
    rows = [model("a", 70.0, 1.0, report=n, budget_epochs=n + 1) for n in range(2)]
    sweeps = load_sweeps(write_sweep(tmp_path, rows))
    assert searched_columns(sweeps.models, sweeps.manifests)[0] == "budget_epochs"


def test_test_sets_stand_beside_each_other_with_what_noise_costs(tmp_path: Path) -> None:
    scores = {"test__clean__f1": 60.0, "test__clean__exact_match": 50.0, "test__v1__f1": 45.0, "test__v2__f1": None}
    table = set_table(load_sweeps(write_sweep(tmp_path, [row("a"), row("b", **scores)])).models)
    assert table["trial_id"].tolist() == ["b"]
    assert table["test.v1.loss"].tolist() == [15.0] and table["test.clean.loss"].tolist() == [0.0]
    assert math.isnan(table["test.v2.f1"].tolist()[0])
