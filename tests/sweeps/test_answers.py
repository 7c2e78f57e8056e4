from pathlib import Path
from typing import Any

import pytest

from qa_train.config import TrainConfig, build_config
from qa_train.errors import DataError
from sweeps.answers import Answers, Source, copy_scores
from sweeps.journal import Journal
from sweeps.records import Manifest, Row, write_manifest

CONFIG = build_config(TrainConfig, {"data": {"train": "train.json"}}, "test")
COMMON = {"device": "cpu-core"}
VALUES: dict[str, Any] = {"num_epochs": 2}


TESTS: dict[str, dict[str, Any]] = {"test.clean": {"sha256": "A"}, "test.clean_v2": {"sha256": "B"}}


def answers(directory: Path, sweep_id: str = "mine", *, needs_tests: bool = False) -> Answers:
    return Answers(CONFIG, COMMON, directory, sweep_id, TESTS, needs_tests)


def finished(identity: str, **changes: Any) -> Row:
    row: Row = {"trial_id": "00003", "identity": identity, "status": "completed", "budget_epochs": 2, "dev.f1": 40.0}
    return row | changes


def found_in(known: Answers) -> Source:
    found = known.find(VALUES, 0)
    assert found is not None
    return found


def other_sweep(directory: Path, rows: list[Row], data: dict[str, dict[str, Any]] | None = None) -> Path:
    directory.mkdir()
    write_manifest(
        directory,
        Manifest("other", "name", "", "2026", {}, "dev.f1", "max", "fp32", "cpu-core", 1, data or {}),
    )
    with Journal(directory) as journal:
        for row in rows:
            journal.append(row)
    return directory


def test_a_finished_trial_answers_for_one_with_its_values_and_seed(tmp_path: Path) -> None:
    known = answers(tmp_path)
    assert known.find(VALUES, 0) is None
    known.record(row := finished(known.identify(VALUES, 0)))
    assert known.find(VALUES, 0) == Source("mine/00003", (row,), tmp_path / "trials" / "00003", frozenset(TESTS))
    assert known.find(VALUES, 1) is None
    assert known.find({"num_epochs": 3}, 0) is None


@pytest.mark.parametrize(
    "changes",
    [{"status": "stopped_early"}, {"status": "failed"}, {"budget_epochs": None}, {"reused_from": "x/00000"}],
)
def test_only_a_trial_that_finished_its_own_model_answers(tmp_path: Path, changes: dict[str, Any]) -> None:
    known = answers(tmp_path)
    known.record(finished(known.identify(VALUES, 0), **changes))
    assert known.find(VALUES, 0) is None


def test_trials_of_other_sweeps_are_counted_and_answer(tmp_path: Path) -> None:
    known = answers(tmp_path)
    without = {key: value for key, value in finished("").items() if key != "identity"}
    directory = other_sweep(tmp_path / "other", [without, finished(known.identify(VALUES, 0)), finished("another")])
    assert known.learn([str(directory)]) == 2
    found = known.find(VALUES, 0)
    assert found is not None
    assert (found.name, found.directory) == ("other/00003", directory / "trials" / "00003")


def test_a_directory_that_is_no_sweep_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a sweep directory"):
        answers(tmp_path).learn([str(tmp_path / "none")])


def test_the_scores_of_the_other_trial_are_copied_without_its_model(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "trials" / "00009"
    (source / "model").mkdir(parents=True)
    for name in ("scores_dev_2.parquet", "predictions_dev_2.json", "log.txt", "model/model.safetensors"):
        (source / name).write_text(name)
    copy_scores(Source("other/00003", (), source), target)
    assert sorted(path.name for path in target.iterdir()) == ["predictions_dev_2.json", "scores_dev_2.parquet"]


def test_of_test_sets_only_the_scores_on_the_same_file_are_copied(tmp_path: Path) -> None:
    names = [f"scores_{data_set}_2.parquet" for data_set in ("dev", "test.clean", "test.clean_v2", "test.gone")]
    for name in names:
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / name).touch()
    copy_scores(Source("other/00003", (), tmp_path / "source", frozenset({"test.clean"})), tmp_path / "target")
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == names[:2]


def test_test_scores_of_another_sweep_answer_only_where_the_file_is_the_same(tmp_path: Path) -> None:
    known = answers(tmp_path)
    tests: dict[str, Any] = {"test.clean.f1": 30.0, "test.clean_v2.f1": 31.0, "test.clean_v2.exact_match": 1.0}
    row = finished(known.identify(VALUES, 0), **tests, **{"test.gone.f1": 32.0})
    data = TESTS | {"test.clean_v2": {"sha256": "another"}, "test.gone": {"sha256": "C"}}
    known.learn([str(other_sweep(tmp_path / "other", [row], data))])
    found = found_in(known)
    assert {key: value for key, value in found.rows[0].items() if key.startswith("test.")} == {"test.clean.f1": 30.0}
    assert found.tests == {"test.clean"}


def test_where_every_trial_is_tested_only_one_with_all_test_scores_answers(tmp_path: Path) -> None:
    known = answers(tmp_path, needs_tests=True)
    identity = known.identify(VALUES, 0)
    scores: dict[str, Any] = {f"{name}.f1": 30.0 for name in TESTS}
    tested = finished(identity, **scores)
    other = {"test.clean": {"sha256": "A"}, "test.clean_v2": {"sha256": "another"}}
    assert known.learn([str(other_sweep(tmp_path / "first", [tested], other))]) == 0
    known.record(finished(identity))
    known.record(finished(identity, trial_id="00004", **{"test.clean.f1": 30.0}))
    assert known.find(VALUES, 0) is None
    known.record(tested | {"trial_id": "00005"})
    assert found_in(known).name == "mine/00005"


def test_a_trial_of_several_budgets_answers_with_each_of_its_models(tmp_path: Path) -> None:
    known = answers(tmp_path)
    identity = known.identify(VALUES, 0)
    first, on_the_way, second, last = [
        finished(identity, status=status, budget_epochs=budget)
        for status, budget in (("running", 1), ("running", None), ("running", 2), ("completed", 4))
    ]
    known.record(first)
    known.record(finished(identity, status="running", budget_epochs=1, trial_id="00004"))  # runs beside it
    for row in (on_the_way, second):
        known.record(row)
        assert known.find(VALUES, 0) is None
    known.record(last)
    assert found_in(known).rows == (first, second, last)


def test_what_another_sweep_of_the_same_name_left_unfinished_is_no_part_of_an_answer(tmp_path: Path) -> None:
    known = answers(tmp_path)
    identity = known.identify(VALUES, 0)
    unfinished, row = finished(identity, status="running", budget_epochs=1), finished(identity)
    places = [other_sweep(tmp_path / name, rows) for name, rows in (("a", [unfinished]), ("b", [row]))]
    known.learn(map(str, places))
    assert found_in(known).rows == (row,)
