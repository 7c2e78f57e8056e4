import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from sweeps.mirror import JOURNAL, STUDY, StudyMirror
from sweeps.records import Row

DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "num_epochs": IntDistribution(1, 10),
    "optim.learning_rate": FloatDistribution(1e-6, 1e-4, log=True),
    "optim.schedule": CategoricalDistribution(["linear", "constant"]),
}
VALUES: dict[str, Any] = {"num_epochs": 2, "optim.learning_rate": 3e-5, "optim.schedule": "constant"}
START = 1_800_000_000.0


def row(trial_id: str, status: str = "running", epochs: int = 1, score: float | None = 10.0, **changes: Any) -> Row:
    budget = epochs if status == "completed" else None
    own: Row = {"trial_id": trial_id, "status": status, "epochs_trained": epochs, "budget_epochs": budget}
    own |= {"dev.f1": score, "time": START + 10 * epochs, "cost.training_s": 8.0, "cost.device_s": 18.0 * epochs}
    return own | {f"config.{key}": value for key, value in VALUES.items()} | changes


class Sweep:
    """A mirror of a sweep in a directory, with what it said."""

    def __init__(self, directory: Path, rows: list[Row] | None = None, mode: str = "max") -> None:
        self.directory, self.said = directory, list[str]()
        self.mirror = StudyMirror(directory, "tiny", "dev.f1", mode, DISTRIBUTIONS, self.said.append, rows or [])

    @property
    def study(self) -> optuna.Study:
        """The study as the dashboard opens it."""
        storage = JournalStorage(JournalFileBackend(str(self.directory / STUDY / JOURNAL)))
        return optuna.load_study(study_name="tiny", storage=storage)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials()

    def run(self, trial_id: str, *rows: Row) -> None:
        self.mirror.started(trial_id, VALUES)
        for item in rows:
            self.mirror.record(item)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_a_finished_trial_has_its_values_scores_and_end(sweep: Sweep) -> None:
    sweep.run("00007", row("00007"), row("00007", "completed", 2, 30.0))
    [trial] = sweep.trials
    assert (trial.state, trial.value, trial.params) == (TrialState.COMPLETE, 30.0, VALUES)
    assert trial.intermediate_values == {1: 10.0, 2: 30.0}
    assert trial.distributions == DISTRIBUTIONS
    assert trial.user_attrs == {"trial_id": "00007", "cost.device_s": 36.0}
    assert trial.datetime_start is not None and trial.datetime_complete is not None
    assert sweep.said == []


def test_a_trial_is_shown_from_its_start_on(sweep: Sweep) -> None:
    sweep.run("00000")
    [trial] = sweep.trials
    assert (trial.state, trial.params, trial.intermediate_values) == (TrialState.RUNNING, VALUES, {})


def test_a_trial_that_is_started_again_is_not_shown_twice(sweep: Sweep) -> None:
    sweep.run("00000", row("00000"))
    sweep.run("00000", row("00000", epochs=2, score=20.0))
    [trial] = sweep.trials
    assert trial.intermediate_values == {1: 10.0, 2: 20.0}


@pytest.mark.parametrize(
    ("status", "score", "state", "value"),
    [
        ("stopped_early", 20.0, TrialState.PRUNED, 20.0),
        ("failed", 20.0, TrialState.FAIL, None),
        ("interrupted", None, TrialState.FAIL, None),
        ("completed", None, TrialState.FAIL, None),
    ],
)
def test_each_end_has_a_state_live_and_rebuilt(
    tmp_path: Path, status: str, score: float | None, state: TrialState, value: float | None
) -> None:
    error = {"error.type": "QAError", "error.message": "loss is nan"} if status == "failed" else {}
    rows = [row("00000"), row("00000", status, 2, score, **error)]
    live = Sweep(tmp_path)
    live.run("00000", *rows)
    [trial] = live.trials
    assert (trial.state, trial.value) == (state, value)
    assert ("error.message" in trial.user_attrs) == (status == "failed")
    [again] = Sweep(tmp_path, rows).trials
    goes_on = status == "interrupted"
    assert (again.state, again.value) == (TrialState.RUNNING if goes_on else state, value)
    assert again.intermediate_values == trial.intermediate_values
    assert goes_on or again.user_attrs == trial.user_attrs


def test_the_study_knows_which_way_is_better(tmp_path: Path) -> None:
    for mode, better in (("max", "00001"), ("min", "00000")):
        sweep = Sweep(tmp_path, mode=mode)
        for trial_id, score in (("00000", 10.0), ("00001", 20.0)):
            sweep.run(trial_id, row(trial_id, "completed", 1, score))
        assert sweep.study.best_trial.user_attrs["trial_id"] == better


def test_with_two_objectives_the_study_has_both(tmp_path: Path) -> None:
    rows = [row("00000", "completed", 2, 30.0, **{"cost.tflop": 4.0}), row("00001", "completed", 1, 20.0)]
    said: list[str] = []
    mirror = StudyMirror(tmp_path, "tiny", "dev.f1", "max", DISTRIBUTIONS, said.append, rows, cost_metric="cost.tflop")
    mirror.started("00002", VALUES)
    mirror.record(row("00002", "completed", 1, 10.0, **{"cost.tflop": 1.0}))
    storage = JournalStorage(JournalFileBackend(str(tmp_path / STUDY / JOURNAL)))
    study = optuna.load_study(study_name="tiny", storage=storage)
    assert [trial.values for trial in study.trials] == [[30.0, 4.0], None, [10.0, 1.0]]
    assert [trial.number for trial in study.best_trials] == [0, 2]
    assert said == []


def test_a_resumed_sweep_shows_what_was_and_goes_on(tmp_path: Path) -> None:
    before = Sweep(tmp_path)
    rows = [row("00000"), row("00000", "completed", 2, 30.0), row("00001"), row("00001", "interrupted", 1, None)]
    before.run("00000", *rows[:2])
    before.run("00001", *rows[2:])
    (tmp_path / STUDY / f"{JOURNAL}.lock").symlink_to("left by a driver that was killed")
    after = Sweep(tmp_path, rows)
    assert [trial.state for trial in after.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    after.run("00001", row("00001", "completed", 2, 40.0))
    after.run("00002")
    assert [trial.user_attrs["trial_id"] for trial in after.trials] == ["00000", "00001", "00002"]
    assert [trial.value for trial in after.trials] == [30.0, 40.0, None]
    assert after.trials[1].intermediate_values == {1: 10.0, 2: 40.0}
    assert after.said == []


def test_a_rebuilt_trial_has_the_times_at_which_it_ran(tmp_path: Path) -> None:
    [trial] = Sweep(tmp_path, [row("00000"), row("00000", "completed", 2, 30.0)]).trials
    assert trial.datetime_start is not None and trial.datetime_complete is not None
    assert trial.datetime_start.timestamp() == pytest.approx(START + 2)  # its first report came after 8 s of training
    assert trial.datetime_complete.timestamp() == pytest.approx(START + 20)


def test_values_outside_of_a_changed_space_are_left_out(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"config.num_epochs": 20, "config.optim.schedule": "cosine"}
    [trial] = Sweep(tmp_path, [row("00000", "completed", **changes)]).trials
    assert trial.params == {"optim.learning_rate": 3e-5}


def test_what_was_never_started_is_not_shown(sweep: Sweep) -> None:
    sweep.mirror.record(row("00000", "completed"))
    sweep.run("00001", row("00001", "completed"), row("00001", "failed"))
    assert [trial.user_attrs["trial_id"] for trial in sweep.trials] == ["00001"]


def test_a_mirror_that_cannot_be_written_warns_once_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / STUDY).write_text("in the way")
    sweep = Sweep(tmp_path)
    sweep.run("00000", row("00000"), row("00000", "completed", 2, 30.0))
    [warning] = sweep.said
    assert warning.startswith(f"warning: {tmp_path / STUDY / JOURNAL}: cannot be written: ")


def test_a_mirror_that_breaks_later_warns_once_and_ends_nothing(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        raise OSError(28, "No space left on device")

    sweep.run("00000", row("00000"))
    monkeypatch.setattr(JournalFileBackend, "append_logs", fail)
    sweep.run("00000", row("00000", "completed", 2, 30.0))
    sweep.run("00001")
    [warning] = sweep.said
    assert "cannot be written: No space left on device; optuna-dashboard will not show this sweep" in warning


def test_a_report_costs_little(sweep: Sweep) -> None:
    num_trials, num_reports = 20, 5
    started = time.perf_counter()
    for number in range(num_trials):
        trial_id = f"{number:05d}"
        sweep.run(trial_id, *(row(trial_id, "running", epoch) for epoch in range(1, num_reports + 1)))
    each = (time.perf_counter() - started) / (num_trials * num_reports)
    print(f"{1000 * each:.2f} ms a report")
    assert each < 0.1


@contextlib.contextmanager
def dashboard(journal: Path) -> Iterator[str]:
    """Runs optuna-dashboard on loopback; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), str(journal), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ}
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def ask(url: str, timeout_s: float = 60) -> Any:
    """Asks a server that may still be starting."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


@pytest.mark.slow
def test_the_dashboard_shows_the_trials_as_they_come(sweep: Sweep) -> None:
    pytest.importorskip("optuna_dashboard")
    sweep.run("00000", row("00000"), row("00000", "completed", 2, 30.0))
    sweep.run("00001", row("00001"))
    with dashboard(sweep.directory / STUDY / JOURNAL) as address:
        [study] = ask(f"{address}/api/studies")["study_summaries"]
        assert (study["study_name"], study["directions"]) == ("tiny", ["maximize"])
        trials = ask(f"{address}/api/studies/{study['study_id']}")["trials"]
        assert [trial["state"] for trial in trials] == ["Complete", "Running"]
        assert trials[0]["values"] == [30.0]
        assert {param["name"]: param["param_external_value"] for param in trials[0]["params"]} == {
            "num_epochs": "2",
            "optim.learning_rate": "3e-05",
            "optim.schedule": "constant",
        }
        assert [(step["step"], step["value"]) for step in trials[0]["intermediate_values"]] == [(1, 10.0), (2, 30.0)]
        sweep.run("00002")
        deadline = time.monotonic() + 30
        while len(ask(f"{address}/api/studies/{study['study_id']}")["trials"]) < 3:
            assert time.monotonic() < deadline
            time.sleep(1)
