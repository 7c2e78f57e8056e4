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


def answers(directory: Path, sweep_id: str = "mine") -> Answers:
    return Answers(CONFIG, COMMON, directory, sweep_id)


def finished(identity: str, **changes: Any) -> Row:
    row: Row = {"trial_id": "00003", "identity": identity, "status": "completed", "budget_epochs": 2, "dev.f1": 40.0}
    return row | changes


def other_sweep(directory: Path, rows: list[Row]) -> Path:
    directory.mkdir()
    write_manifest(
        directory,
        Manifest("other", "name", "", "2026", {}, "dev.f1", "max", "fp32", "cpu-core", 1, {}),
    )
    with Journal(directory) as journal:
        for row in rows:
            journal.append(row)
    return directory


def test_a_finished_trial_answers_for_one_with_its_values_and_seed(tmp_path: Path) -> None:
    known = answers(tmp_path)
    assert known.find(VALUES, 0) is None
    known.record(row := finished(known.identify(VALUES, 0)))
    assert known.find(VALUES, 0) == Source("mine/00003", row, tmp_path / "trials" / "00003")
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
    copy_scores(Source("other/00003", {}, source), target)
    assert sorted(path.name for path in target.iterdir()) == ["predictions_dev_2.json", "scores_dev_2.parquet"]
