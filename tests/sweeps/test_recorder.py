from pathlib import Path
from typing import Any

import pytest

from qa_train.config import build_config
from sweeps.config import SweepConfig
from sweeps.history import PastTrial
from sweeps.journal import Journal
from sweeps.recorder import Recorder
from sweeps.records import Row, read_records

VALUES: dict[str, Any] = {"num_epochs": 2, "optim.learning_rate": 3.45678e-5, "optim.schedule": "linear"}


class Sweep:
    """A recorder in a directory, with what it said."""

    def __init__(self, directory: Path, **search: object) -> None:
        plain = {"train": {"data": {"train": "x"}, "num_epochs": 3}, "search": search}
        self.directory, self.said = directory, list[str]()
        self.recorder = Recorder(build_config(SweepConfig, plain, "test"), Journal(directory), self.said.append)

    @property
    def rows(self) -> list[Row]:
        return read_records(self.directory)

    def start(self, trial_id: str = "00000", values: dict[str, Any] | None = None) -> None:
        self.recorder.started(trial_id, VALUES if values is None else values)

    def report(self, trial_id: str = "00000", **changes: Any) -> None:
        self.recorder.reported(trial_id, report(**changes))

    def finish(self, trial_id: str, score: float | None, **changes: Any) -> None:
        self.start(trial_id)
        self.report(trial_id, epochs=2, status="completed", budget_epochs=2, **{"dev.f1": score}, **changes)


def report(epochs: int = 1, **changes: Any) -> dict[str, Any]:
    """What Tune passes on of a trial after an epoch."""
    own = {"status": "running", "epochs_trained": epochs, "budget_epochs": None, "dev.f1": 10.0 * epochs}
    own |= {"cost.device_s": 5.0 * epochs, "cost.tokens": 100 * epochs, "node": "n1", "device": "cpu-core"}
    tunes = {
        "training_iteration": 9,
        "trial_id": "4711_0",
        "config": {"a": 1},
        "report": 7,
        "time_total_s": 1.5,
        "pid": 1,
    }
    return own | tunes | {"launcher": "local"} | changes


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_each_report_is_a_row_of_what_was_trained_and_what_came_of_it(sweep: Sweep) -> None:
    sweep.start()
    sweep.report(train_loss=3.5)
    [row] = sweep.rows
    assert isinstance(row.pop("time"), float)
    assert isinstance(row.pop("host"), str)
    assert row == {
        "trial_id": "00000",
        "attempt": 0,
        "report": 0,
        "seed": 0,
        "status": "running",
        "config.num_epochs": 2,
        "config.optim.learning_rate": 3.45678e-5,
        "config.optim.schedule": "linear",
        "epochs_trained": 1,
        "budget_epochs": None,
        "dev.f1": 10.0,
        "train_loss": 3.5,
        "cost.device_s": 5.0,
        "cost.tokens": 100,
        "node": "n1",
        "device": "cpu-core",
        "launcher": "local",
    }


def test_the_epochs_are_a_column_also_where_they_are_not_searched(sweep: Sweep) -> None:
    sweep.start("00000", {"optim.learning_rate": 1e-5})
    sweep.report()
    assert sweep.rows[0]["config.num_epochs"] == 3


def test_reports_are_counted_for_each_trial_on_its_own(sweep: Sweep) -> None:
    sweep.start("00000")
    sweep.start("00001")
    for trial_id, epochs in (("00000", 1), ("00001", 1), ("00001", 2), ("00000", 2)):
        sweep.report(trial_id, epochs=epochs)
    found = [(row["trial_id"], row["report"]) for row in sweep.rows]
    assert found == [("00000", 0), ("00001", 0), ("00001", 1), ("00000", 1)]


def test_a_line_is_said_for_each_event(sweep: Sweep) -> None:
    sweep.start()
    sweep.report()
    sweep.report(epochs=2, status="completed", budget_epochs=2)
    assert sweep.said == [
        "trial 00000: epoch 1/2, dev.f1 10.00 (optim.learning_rate=3.46e-05, optim.schedule=linear)",
        "trial 00000: epoch 2/2, dev.f1 20.00, finished (best so far: trial 00000, dev.f1 20.00)",
    ]


def test_the_best_is_the_first_finished_model_with_the_highest_score(sweep: Sweep) -> None:
    for number, score in enumerate((30.0, 50.0, 50.0, 40.0)):
        sweep.finish(f"{number:05d}", score)
    sweep.start("00004")
    sweep.report("00004", **{"dev.f1": 90.0})  # not finished
    assert sweep.recorder.best == sweep.rows[1]
    assert (sweep.recorder.num_completed, sweep.recorder.num_failed) == (4, 0)
    assert sweep.said[3].endswith("dev.f1 40.00, finished (best so far: trial 00001, dev.f1 50.00)")


def test_the_best_by_a_loss_is_the_lowest(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, metric="eval_loss", mode="min")
    for number, loss in enumerate((3.0, 2.0, None, 2.5)):
        sweep.finish(str(number), 10.0, eval_loss=loss)
    assert sweep.recorder.best == sweep.rows[1]
    assert sweep.said[-1].endswith("(best so far: trial 1, eval_loss 2.00)")


def test_a_model_without_a_score_is_only_the_best_while_alone(sweep: Sweep) -> None:
    sweep.finish("0", None)
    assert sweep.recorder.best == sweep.rows[0]
    assert sweep.said == ["trial 0: epoch 2/2, dev.f1 -, finished (best so far: trial 0, dev.f1 -)"]
    sweep.finish("1", float("nan"))
    assert sweep.recorder.best == sweep.rows[0]
    sweep.finish("2", 0.0)
    assert sweep.recorder.best == sweep.rows[2]
    assert sweep.rows[1]["dev.f1"] is None


def test_a_failure_that_a_trial_tells_is_recorded_with_its_log(sweep: Sweep) -> None:
    sweep.start()
    sweep.report()
    error = {"error.type": "QAError", "error.message": "loss is nan", "error.log": "trials/00000/log.txt"}
    sweep.recorder.reported("00000", {"status": "failed", "cost.device_s": 7.0, "node": "n1", "done": True} | error)
    row = sweep.rows[1]
    assert (row["status"], row["report"], row["cost.device_s"]) == ("failed", 1, 7.0)
    assert {key: row[key] for key in error} == error
    assert row["config.optim.schedule"] == "linear"
    assert "budget_epochs" not in row
    assert sweep.said[-1] == "trial 00000: failed: QAError: loss is nan (log: trials/00000/log.txt)"
    assert (sweep.recorder.num_failed, sweep.recorder.num_completed, sweep.recorder.best) == (1, 0, None)


def test_a_trial_whose_actor_died_is_recorded_as_failed_once(sweep: Sweep) -> None:
    sweep.start()
    for _ in range(2):
        sweep.recorder.failed("00000", "RayActorError", "the trial's Ray actor died")
    sweep.recorder.failed("00009", "RayActorError", "never started")
    [row] = sweep.rows
    assert (row["status"], row["report"], row["error.type"]) == ("failed", 0, "RayActorError")
    assert sweep.said == ["trial 00000: failed: RayActorError: the trial's Ray actor died"]
    assert sweep.recorder.num_failed == 1


def test_an_ended_trial_cannot_fail_any_more(sweep: Sweep) -> None:
    sweep.finish("00000", 40.0)
    sweep.recorder.failed("00000", "RayActorError", "died while it was taken down")
    assert [row["status"] for row in sweep.rows] == ["completed"]


def test_closing_records_the_running_trials_as_interrupted(sweep: Sweep) -> None:
    sweep.finish("00000", 40.0)
    sweep.start("00001")
    sweep.start("00002")
    sweep.report("00002")
    for _ in range(2):
        sweep.recorder.close()
    found = [(row["trial_id"], row["report"], row["status"]) for row in sweep.rows]
    assert found[2:] == [("00001", 0, "interrupted"), ("00002", 1, "interrupted")]
    assert sweep.rows[-1]["config.num_epochs"] == 2
    assert (sweep.recorder.num_completed, sweep.recorder.num_failed) == (1, 0)


def test_device_time_is_that_of_all_trials_ended_or_not(sweep: Sweep) -> None:
    assert sweep.recorder.device_s == 0
    sweep.finish("00000", 40.0)  # 10 s
    sweep.start("00001")
    assert sweep.recorder.device_s == 10
    sweep.report("00001")  # 5 s
    sweep.start("00002")
    sweep.report("00002")
    sweep.recorder.failed("00002", "RayActorError", "died")  # after 5 s that are known of
    assert sweep.recorder.device_s == 20
    sweep.report("00001", epochs=2)
    assert sweep.recorder.device_s == 25
    sweep.recorder.close()
    assert sweep.recorder.device_s == 25


def test_a_trial_of_several_budgets_ranks_each_and_tells_its_curve_at_the_end(sweep: Sweep) -> None:
    sweep.start()
    scores: dict[str, Any] = {"dev.f1": 30.0, "model_cost.device_s": 3.0}
    sweep.report(epochs=1, budget_epochs=1, **scores)
    assert sweep.recorder.best and sweep.recorder.best["budget_epochs"] == 1
    assert sweep.rows[0]["model_cost.device_s"] == 3.0
    sweep.report(epochs=2, budget_epochs=2, status="completed", **(scores | {"dev.f1": 29.0}))
    assert sweep.recorder.best["budget_epochs"] == 1
    assert sweep.said[-1] == "trial 00000: dev.f1 by epochs: 1: 30.00, 2: 29.00"


def curve(*scores: float) -> list[Row]:
    """The rows of the models of another trial, with budgets of 1, 2, 3 … epochs."""
    budgets = range(1, len(scores) + 1)
    own = [report(budget, budget_epochs=budget, **{"dev.f1": f1}) for budget, f1 in zip(budgets, scores, strict=True)]
    return [*own[:-1], own[-1] | {"status": "completed"}]


def test_a_trial_of_several_budgets_is_answered_with_a_row_for_each(sweep: Sweep) -> None:
    written = sweep.recorder.answered("00001", VALUES, 0, curve(70.0, 60.0), "other/00000")
    assert sweep.rows == written
    keys = ("report", "status", "budget_epochs", "dev.f1", "reused_from")
    assert [tuple(row[key] for key in keys) for row in written] == [
        (0, "running", 1, 70.0, "other/00000"),
        (1, "completed", 2, 60.0, "other/00000"),
    ]
    assert sweep.recorder.best == written[0]
    assert (sweep.recorder.num_completed, sweep.recorder.device_s) == (1, 0.0)
    assert sweep.said == [
        "trial 00001: dev.f1 60.00, as trained by other/00000",
        "trial 00001: dev.f1 by epochs: 1: 70.00, 2: 60.00",
    ]


def answered_in_part(directory: Path) -> Sweep:
    """A sweep that goes on after its driver was killed between two rows of an answer."""
    before, sweep = Sweep(directory), Sweep(directory)
    before.recorder.answered("00000", VALUES, 0, curve(70.0, 60.0)[:1], "other/00000")
    sweep.recorder.resume([PastTrial("00000", VALUES, tuple(sweep.rows), seed=0)])
    return sweep


def test_an_answer_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    sweep = answered_in_part(tmp_path)
    written = sweep.recorder.answered("00000", VALUES, 0, curve(70.0, 60.0), "other/00000")
    assert sweep.rows == written
    assert [(row["report"], row["budget_epochs"]) for row in written] == [(0, 1), (1, 2)]
    sweep.recorder.close()
    assert len(sweep.rows) == 2


def test_a_trial_that_runs_after_all_does_not_tell_again_what_was_answered(tmp_path: Path) -> None:
    sweep = answered_in_part(tmp_path)
    sweep.start()
    for row in curve(70.0, 60.0):
        sweep.recorder.reported("00000", row)
    assert [(row["report"], row["budget_epochs"]) for row in sweep.rows] == [(0, 1), (1, 2)]


def test_closing_records_trials_of_a_killed_driver_that_were_not_started_again_as_interrupted(sweep: Sweep) -> None:
    told = tuple({"trial_id": f"{number:05d}", **report()} for number in range(3))
    interrupted = told[1] | {"status": "interrupted"}
    rows: list[tuple[Row, ...]] = [told[:1], (told[1], interrupted), (), told[2:]]
    sweep.recorder.resume(PastTrial(f"{number:05d}", VALUES, own, seed=0) for number, own in enumerate(rows))
    sweep.start("00003")
    sweep.report("00003", epochs=2, status="completed", budget_epochs=2)
    for _ in range(2):
        sweep.recorder.close()
    found = [(row["trial_id"], row["report"], row["status"]) for row in sweep.rows[1:]]
    assert found == [("00000", 1, "interrupted"), ("00002", 0, "interrupted")]
