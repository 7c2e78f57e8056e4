import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.errors import SweepError
from sweeps.records import Row
from sweeps.retention import BestModels, Retention, best_model, model_dir, models_to_remove, remove_model


def row(trial_id: str, status: str = "completed", score: float | None = None, **changes: Any) -> Row:
    """The last row of a trial; one that completed has a finished model."""
    budget = 2 if status == "completed" else None
    return {"trial_id": trial_id, "status": status, "budget_epochs": budget, "dev.f1": score, **changes}


def save_model(directory: Path, trial_id: str) -> Path:
    model = model_dir(directory, trial_id)
    model.mkdir(parents=True)
    (model / "model.safetensors").write_text("weights")
    (model.parent / "predictions_dev_2.json").write_text("{}")
    return model


def kept(directory: Path) -> set[str]:
    return {path.parent.name for path in directory.glob("trials/*/model")}


SWEEP = Path("sweep")


def driven_out(rows: list[Row], keep: int | None, mode: str = "max") -> list[str]:
    """Returns whose models are not kept."""
    return [model.parent.name for model in models_to_remove(SWEEP, rows, keep, "dev.f1", mode)]


def test_a_better_model_drives_out_the_worst() -> None:
    best = BestModels(SWEEP, 2, "dev.f1", "max")
    found = [best.add(row(name, score=score)) for name, score in (("a", 5.0), ("b", 7.0), ("c", 6.0), ("d", 4.0))]
    assert [model and model.parent.name for model in found] == [None, None, "a", "d"]


def test_less_is_better_where_the_mode_says_so() -> None:
    assert driven_out([row("a", score=1.0), row("b", score=3.0), row("c", score=2.0)], 2, "min") == ["b"]


def test_of_equal_models_the_earlier_one_stays_as_it_is_the_best_one_told() -> None:
    rows = [row("b", score=1.0), row("a", score=1.0)]
    assert driven_out(rows, 1) == ["a"]
    assert best_model(rows, "dev.f1", "max") == rows[0]


def test_null_keeps_all() -> None:
    assert driven_out([row("a", score=1.0), row("b", "failed")], None) == []


@pytest.mark.parametrize("value", [None, math.nan, "text"])
def test_a_model_without_a_score_is_the_worst_but_stays_while_there_is_room(value: Any) -> None:
    rows = [row("a", score=value), row("b", score=-5.0)]
    assert driven_out(rows, 2) == []
    assert driven_out(rows, 1) == ["a"]


def test_a_finished_model_ranks_whatever_becomes_of_its_trial() -> None:
    rows = [row("a", "running", score=9.0, budget_epochs=1), row("a", "failed"), row("b", score=1.0)]
    assert driven_out(rows, 1) == ["b"]


def test_an_answer_from_the_records_takes_no_place() -> None:
    assert driven_out([row("a", score=1.0), row("b", score=9.0, reused_from="sweep/a")], 1) == []


def test_the_budgets_of_one_trial_are_models_of_their_own() -> None:
    rows = [row("a", "running", score=float(f1), budget_epochs=epochs) for epochs, f1 in ((1, 5), (2, 7), (3, 6))]
    rows = [item | {"config.num_epochs": 3} for item in rows]
    assert models_to_remove(SWEEP, rows, 2, "dev.f1", "max") == [SWEEP / "trials" / "a" / "model_1"]
    assert models_to_remove(SWEEP, rows, 1, "dev.f1", "max")[-1] == SWEEP / "trials" / "a" / "model"


@given(scores=st.lists(st.integers(0, 5), max_size=12), keep=st.integers(1, 4), mode=st.sampled_from(["max", "min"]))
def test_at_any_time_exactly_the_best_are_left(scores: list[int], keep: int, mode: str) -> None:
    rows = [row(str(number), score=float(score)) for number, score in enumerate(scores)]
    for end in range(len(rows) + 1):
        ranked = sorted(rows[:end], key=lambda item: float(str(item["dev.f1"])) * (1 if mode == "min" else -1))
        assert sorted(driven_out(rows[:end], keep, mode)) == sorted(str(item["trial_id"]) for item in ranked[keep:])


def test_thousands_of_trials_cost_little() -> None:
    rows = [row(f"{number:05d}", score=float(number * 7919 % 10_007)) for number in range(20_000)]
    started = time.perf_counter()
    assert len(driven_out(rows, 3)) == 19_997
    assert time.perf_counter() - started < 2


def test_weights_go_and_the_rest_of_the_trial_stays(tmp_path: Path) -> None:
    model = save_model(tmp_path, "00001")
    save_model(tmp_path, "00002")
    for trial_id in ("00001", "00001", "00009"):
        remove_model(model_dir(tmp_path, trial_id))
    assert not model.exists()
    assert [path.name for path in model.parent.iterdir()] == ["predictions_dev_2.json"]
    assert kept(tmp_path) == {"00002"}


def test_what_a_killed_driver_half_removed_is_no_model_and_goes_the_next_time(tmp_path: Path) -> None:
    model = save_model(tmp_path, "00001")
    model.rename(model.with_name(".model.removed"))
    remove_model(model)
    assert [path.name for path in model.parent.iterdir()] == ["predictions_dev_2.json"]


@pytest.mark.parametrize("trial_id", ["..", "../../other", "", "/etc", "a/b"])
def test_no_record_leads_out_of_the_directory(tmp_path: Path, trial_id: str) -> None:
    with pytest.raises(SweepError, match="expected a trial id of letters"):
        model_dir(tmp_path, trial_id)


def test_a_keeper_removes_as_trials_end_and_can_be_rebuilt_from_the_records(tmp_path: Path) -> None:
    rows = [row("00000", score=5.0), row("00001", score=7.0), row("00002", "running"), row("00003", score=6.0)]
    for item in rows:
        save_model(tmp_path, str(item["trial_id"]))
    said = list[str]()
    keeper = Retention(tmp_path, 2, "dev.f1", "max", said.append)
    for item in rows[:2]:
        keeper.record(item)
    assert kept(tmp_path) == {"00000", "00001", "00002", "00003"}
    keeper.record(rows[2])
    keeper.record(rows[3])
    assert kept(tmp_path) == {"00001", "00002", "00003"}  # what a trial that runs has saved stays
    again = Retention(tmp_path, 2, "dev.f1", "max", said.append)
    for item in rows:
        again.record(item)
    again.record(row("00002", score=9.0))
    assert kept(tmp_path) == {"00001", "00002"}
    assert said == []


def test_a_model_that_cannot_be_removed_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sweeps.retention.shutil.rmtree", refuse)
    said = list[str]()
    keeper = Retention(tmp_path, 1, "dev.f1", "max", said.append)
    for number in range(4):
        save_model(tmp_path, str(number))
        keeper.record(row(str(number), score=float(number)))
    [warning] = said
    assert warning.startswith(f"warning: {tmp_path}/trials/0/model: cannot be removed: Permission denied; ")


def test_what_a_failed_trial_saved_and_never_told_is_removed(tmp_path: Path) -> None:
    retention = Retention(tmp_path, 3, "dev.f1", "max", print)
    for trial_id, item in (("00000", row("00000", "failed")), ("00001", row("00001", "stopped_early"))):
        save_model(tmp_path, trial_id)
        retention.record(item)
    assert kept(tmp_path) == set()


@pytest.mark.parametrize("keep", [1, None])
def test_checkpoints_stay_as_long_as_their_trial_may_go_on(tmp_path: Path, keep: int | None) -> None:
    statuses = ("running", "interrupted", "completed", "failed", "stopped_early")
    retention = Retention(tmp_path, keep, "dev.f1", "max", print)
    for status in statuses:
        (tmp_path / "trials" / status / "checkpoints" / "checkpoint-00000005").mkdir(parents=True)
        retention.record(row(status, status))
    left = {path.parent.name for path in tmp_path.glob("trials/*/checkpoints")}
    assert left == {"running", "interrupted"}
