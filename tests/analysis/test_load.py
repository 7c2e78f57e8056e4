import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.cache import cached_table
from analysis.load import load_models, load_sweeps
from analysis.questions import scores_path
from qa_train.errors import DataError
from sweeps.sweep_store import local_copy
from tests.analysis.fixtures import DEV, manifest, row, write_scores, write_sweep
from tests.sweeps.test_object_store import stand_in


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


def test_sweeps_whose_test_sets_of_one_name_differ_are_refused(tmp_path: Path) -> None:
    for number, data in enumerate(
        [{}, {"test.noise": DEV}, {"test.noise": DEV | {"path": "/elsewhere"}, "test.b": DEV}]
    ):
        write_sweep(tmp_path / str(number), [row("a")], f"sweep{number}", data={"dev": DEV, **data})
    assert len(load_models([tmp_path / str(number) for number in range(3)])) == 3
    write_sweep(tmp_path / "3", [row("a")], "other", data={"dev": DEV, "test.noise": DEV | {"sha256": "b" * 64}})
    with pytest.raises(DataError, match=r"other test\.noise questions than sweep 'sweep1' .sha256 bbb"):
        load_sweeps([tmp_path / str(number) for number in (0, 1, 3)])


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


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},
        {"config": {"train": 3}},
        {"data": []},
        {"data": {"dev": None}},
        {"data": {"test.a": "x"}},
        {"baselines": 1},
    ],
)
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="expected its manifest to hold a mapping"):
        load_sweeps(write_sweep(tmp_path, [row("a")], **change))


PRICES = {"cpu-core": {"usd_per_hour": 0.5, "date": "2025-01-01", "source": "a bill"}}


def test_dollars_come_from_the_price_of_the_device_if_there_is_one(tmp_path: Path) -> None:
    write_sweep(tmp_path / "1", [row("a", cost__device_s=7200.0)], "one", prices=PRICES)
    write_sweep(tmp_path / "2", [row("a")], "two")
    models = load_models([tmp_path / "1", tmp_path / "2"])
    assert models["cost.usd"].tolist()[:1] == [1.0] and models["cost.usd"].isna().tolist() == [False, True]
    assert "cost.usd" not in load_models(tmp_path / "2")


def test_a_price_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prices: .*usd_per_hour"):
        load_sweeps(write_sweep(tmp_path, [row("a")], prices={"cpu-core": {"usd_per_hour": 1}}))


def test_a_model_costs_its_own_share_of_a_trial_that_finishes_several(tmp_path: Path) -> None:
    costs = {"model_cost__device_s": 1000.0, "cost__device_s": 1500.0}
    sweeps = load_sweeps(write_sweep(tmp_path, [row("a", budget_epochs=1, **costs), row("b")], prices=PRICES))
    assert sweeps.models["cost.device_s"].tolist() == [1000.0, 3600.0]
    assert sweeps.models["trial_cost.device_s"].tolist() == [1500.0, 3600.0]
    assert sweeps.models["cost.usd"].tolist() == pytest.approx([1000 / 7200, 0.5])
    assert sweeps.trials["cost.device_s"].tolist() == [1500.0, 3600.0]


def test_a_copied_result_is_counted_once_and_gives_what_the_original_lacks(tmp_path: Path) -> None:
    copies = [row("f", reused_from="demo-1/a", final=True, test__clean__f1=50.0), row("g", reused_from="demo-1/f")]
    models = load_models(write_sweep(tmp_path, [row("a"), row("b"), *copies]))
    assert models["trial_id"].tolist() == ["a", "b"]
    assert models["test.clean.f1"].tolist()[0] == 50.0
    assert models["final"].tolist()[0] is True
    assert models["reused_from"].isna().all()


def test_copies_of_a_result_that_is_not_here_are_one_model(tmp_path: Path) -> None:
    rows = [row("a", reused_from="other/3"), row("b", reused_from="other/3"), row("c", reused_from="other/4")]
    assert load_models(write_sweep(tmp_path / "1", rows))["trial_id"].tolist() == ["a", "c"]
    write_sweep(tmp_path / "2", [row("3")], "other")
    assert load_models([tmp_path / "1", tmp_path / "2"])["trial_id"].tolist() == ["c", "3"]


def test_copies_in_a_circle_are_read(tmp_path: Path) -> None:
    rows = [row("a", reused_from="demo-1/b"), row("b", reused_from="demo-1/a")]
    assert len(load_models(write_sweep(tmp_path, rows))) >= 1


def test_a_record_is_found_again_as_it_was_written(tmp_path: Path) -> None:
    rows = [row("a"), row("ab", config__data__dev=None), row("ab", report=1, config__x=0)]
    sweeps = load_sweeps(write_sweep(tmp_path, rows, torn='{"trial_id": "ab"'))
    assert [sweeps.row_of(report) for _, report in sweeps.reports.iterrows()] == rows
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(DataError, match="load the sweep again"):
        sweeps.row_of(sweeps.reports.iloc[0])


def test_what_comes_from_the_cache_is_what_was_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("a", config__x=1, flag=True, note=None), row("b", config__x=2.5, dev__f1=None, host="ö")]
    sweep = write_sweep(tmp_path / "sweep", rows)
    expected = load_sweeps(sweep)
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("analysis.load.cached_table", partial(cached_table, min_bytes=1))
    os.utime(sweep / "records.jsonl", (1.7e9, 1.7e9))
    for _ in range(2):
        pd.testing.assert_frame_equal(load_sweeps(sweep).reports, expected.reports)
    assert len(list((tmp_path / "cache" / "analysis").iterdir())) == 1


def test_of_a_sweep_in_a_store_scores_and_answers_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = write_sweep(tmp_path / "store/bucket/prefix", [row("a")])
    write_scores(sweep, "a", [50.0], ["x"]).with_name("predictions_dev_2.json").write_text("{}")
    (sweep / "trials/a/model").mkdir()
    (sweep / "trials/a/model/weights").touch()
    (sweep / "records").mkdir()
    shutil.move(sweep / "records.jsonl", sweep / "records/000000.jsonl")
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("analysis.load.local_copy", partial(local_copy, opened=stand_in(tmp_path / "store")))
    sweeps = load_sweeps("s3://bucket/prefix")
    path = scores_path(sweeps, sweeps.models.iloc[0])
    assert path.is_file() and path.is_relative_to(tmp_path / "cache")
    assert {item.name for item in path.parent.iterdir()} == {path.name, "predictions_dev_2.json"}
