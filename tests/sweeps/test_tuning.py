from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.search import Searcher

from qa_train.config import build_config
from sweeps.answers import Answers
from sweeps.config import StopConfig, SweepConfig
from sweeps.history import PastTrial, read_history
from sweeps.journal import Journal
from sweeps.placement import Placement
from sweeps.recorder import Recorder
from sweeps.records import Row, read_records
from sweeps.search import StudySearcher
from sweeps.stopping import Stopping
from sweeps.sweep_store import SweepStore
from sweeps.trial import run_trial
from sweeps.tuning import Tuning

VALUES: dict[str, Any] = {"optim.learning_rate": 1e-4}


def tuning(directory: Path) -> Tuning:
    """Of a sweep of two equal trials with budgets of 1, 2 and 4 epochs, as the runner puts it together; without Ray."""
    plain: dict[str, Any] = {
        "train": {
            "data": {"train": "x"},
            "optim": {"schedule": "trunk", "warmup_epochs": 0.1},
            "budgets": [1, 2, 4],
        },
        "space": {"optim.learning_rate": {"choice": [1e-4, 2e-4]}},
        "search": {"searcher": "list", "enqueue": [VALUES, VALUES]},
    }
    config = build_config(SweepConfig, plain, "test")
    answers = Answers(config.train, {}, directory, "mine")
    recorder = Recorder(config, Journal(directory), lambda line: None, identify=answers.identify)
    recorder.observers.append(answers.record)
    mirror: Any = SimpleNamespace(started=lambda *_: None)
    limits: Any = SimpleNamespace(is_reached=False)
    placement = Placement(1, 1, 0, 1)
    return Tuning(config, placement, "cpu-core", SweepStore(directory), recorder, mirror, answers, limits, run_trial)


def searcher_of(found: Tuning, past: Sequence[PastTrial] = ()) -> StudySearcher:
    config = found.config
    return StudySearcher(config.space, config.search, past, duplicates=found, budgets=config.budgets)


def run_first(found: Tuning, searcher: StudySearcher) -> None:
    """Runs the first trial, which is best after its first budget."""
    found.recorder.started("00000", searcher.suggest("a")["values"], 0)
    for budget, f1 in ((1, 70.0), (2, 60.0), (4, 50.0)):
        status = "completed" if budget == 4 else "running"
        result = {"status": status, "epochs_trained": budget, "budget_epochs": budget, "dev.f1": f1}
        found.recorder.reported("00000", result)
        (searcher.on_trial_complete if budget == 4 else searcher.on_trial_result)("a", result)


def rows_of(directory: Path, trial_id: str) -> list[Row]:
    return [row for row in read_records(directory) if row["trial_id"] == trial_id]


def test_a_trial_of_several_budgets_is_answered_as_if_it_had_run(tmp_path: Path) -> None:
    found = tuning(tmp_path)
    run_first(found, searcher := searcher_of(found))
    assert searcher.suggest("b") == Searcher.FINISHED
    rows = rows_of(tmp_path, "00001")
    assert [(row["budget_epochs"], row["dev.f1"]) for row in rows] == [(1, 70.0), (2, 60.0), (4, 50.0)]
    assert {row["reused_from"] for row in rows} == {"mine/00000"}
    assert [trial.value for trial in searcher.study.trials] == [70.0, 70.0]


def test_an_answer_that_was_cut_off_is_completed_when_the_sweep_goes_on(tmp_path: Path) -> None:
    found = tuning(tmp_path)
    run_first(found, searcher_of(found))
    found.recorder.answered("00001", VALUES, 0, rows_of(tmp_path, "00000")[:1], "mine/00000")  # and killed there
    resumed, past = tuning(tmp_path), read_history(tmp_path)
    for row in read_records(tmp_path):
        resumed.answers.record(row)
    resumed.recorder.resume(past)
    searcher = searcher_of(resumed, past)
    assert searcher.suggest("b") == Searcher.FINISHED
    found_again = [(row["report"], row["budget_epochs"]) for row in rows_of(tmp_path, "00001")]
    assert found_again == [(0, 1), (1, 2), (2, 4)]
    assert [trial.value for trial in searcher.study.trials] == [70.0, 70.0]


def test_a_sweep_that_goes_on_compares_no_trial_with_answers_as_it_did_not_before(tmp_path: Path) -> None:
    found = tuning(tmp_path)
    model: Row = {"status": "completed", "epochs_trained": 4, "budget_epochs": 4, "dev.f1": 50.0}
    first: Row = {"status": "running", "epochs_trained": 1, "budget_epochs": 1, "dev.f1": 70.0}
    found.recorder.answered("00000", VALUES, 0, [first, model], "other/00000")
    stopping = Stopping(StopConfig(trial_scheduler="asha", reduction_factor=2), "max", found.config.budgets)
    stopping.replay(read_records(tmp_path), "dev.f1")
    assert not stopping.decide("00001", 4, 1, 30.0)  # the worse of two


def test_a_finalist_of_a_killed_driver_that_is_wanted_no_more_does_not_stay_running(tmp_path: Path) -> None:
    found = tuning(tmp_path)
    row: Row = {"trial_id": "final-00000-seed1", "status": "running", "epochs_trained": 1}
    found.recorder.resume([PastTrial("final-00000-seed1", VALUES, (row,), seed=1)])
    found.run_finalists()
    found_statuses = [(row["trial_id"], row["status"]) for row in read_records(tmp_path)]
    assert found_statuses == [("final-00000-seed1", "interrupted")]
