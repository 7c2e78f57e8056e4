import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from qa_train.checkpoint import latest_checkpoint, remove_checkpoints
from qa_train.config import TrainConfig, build_config
from qa_train.loop import Report
from sweeps import trial
from sweeps.trial import CHECKPOINTS, LOG, REPORTS, Message, TrialJob, TrialProcess, columns, run_trial
from tests.tiny_models import tiny_model_dir, tiny_squad

TIMEOUT_S = 120.0
"""For what takes a second on an idle machine."""


def job(directory: Path, **values: Any) -> TrialJob:
    train = {"data": {"train": "none.json"}, "precision": "fp32"} | values
    return TrialJob("00003", build_config(TrainConfig, train, "test"), directory, 1, time.time())


@contextmanager
def process(job: TrialJob, target: Callable[[TrialJob, Connection], None] = run_trial) -> Iterator[TrialProcess]:
    running = TrialProcess(job, target)
    try:
        yield running
    finally:
        running.stop()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# What the child processes do. The forkserver finds these functions by their names in this module.


def sends_two(job: TrialJob, connection: Connection) -> None:
    connection.send({"status": "running", "pid": os.getpid(), "parent": os.getppid(), "epochs": job.config.num_epochs})
    connection.send({"status": "completed"})
    connection.close()


def waits_for_ever(job: TrialJob, connection: Connection) -> None:
    connection.send({"status": "running", "pid": os.getpid()})
    time.sleep(10 * TIMEOUT_S)


def says_who_is_killed_first(job: TrialJob, connection: Connection) -> None:
    trial._be_killed_first()
    connection.send({"status": "completed", "oom_score_adj": Path("/proc/self/oom_score_adj").read_text().strip()})
    connection.close()


def exits_with_3(job: TrialJob, connection: Connection) -> None:
    connection.send({"status": "running"})
    os._exit(3)


def returns_silently(job: TrialJob, connection: Connection) -> None:
    pass


def kills_itself(job: TrialJob, connection: Connection) -> None:
    os.kill(os.getpid(), signal.Signals[job.config.model.name])


def is_killed_as_it_sends(job: TrialJob, connection: Connection) -> None:
    os.write(connection.fileno(), (100).to_bytes(4, "big") + b"the first of 100 bytes")
    os.kill(os.getpid(), signal.SIGKILL)


def runs_out_of_memory(job: TrialJob, connection: Connection) -> None:
    def start_training(*args: object, **options: object) -> None:
        print("said on stdout")
        os.write(2, b"said on descriptor 2\n")
        raise MemoryError("cannot allocate\nsecond line")

    with mock.patch("sweeps.trial.start_training", start_training):
        run_trial(job, connection)


def fails_without_a_message(job: TrialJob, connection: Connection) -> None:
    def start_training(*args: object, **options: object) -> None:
        raise ZeroDivisionError

    with mock.patch("sweeps.trial.start_training", start_training):
        run_trial(job, connection)


def trains_for_ever(job: TrialJob, connection: Connection) -> None:
    def start_training(*args: object, **options: object) -> None:
        (job.directory / "pid").write_text(str(os.getpid()))
        time.sleep(10 * TIMEOUT_S)

    with mock.patch("sweeps.trial.start_training", start_training):
        run_trial(job, connection)


def removes_checkpoints_slowly(job: TrialJob, connection: Connection) -> None:
    def remove_slowly(directory: Path) -> None:
        time.sleep(1)
        remove_checkpoints(directory)

    with mock.patch("sweeps.trial.remove_checkpoints", remove_slowly):
        run_trial(job, connection)


def test_messages_arrive_in_order_from_a_process_of_its_own(tmp_path: Path) -> None:
    with process(job(tmp_path, num_epochs=7), sends_two) as running:
        first = running.next_message()
        assert first.pop("pid") not in (os.getpid(), first["parent"])
        assert first.pop("parent") != os.getpid()  # the server's
        assert first == {"status": "running", "epochs": 7}
        assert running.next_message() == {"status": "completed"}


def test_each_trial_is_a_fresh_process_of_the_same_server(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        with process(job(tmp_path), sends_two) as running:
            found.append(running.next_message())
    assert found[0]["parent"] == found[1]["parent"]
    assert found[0]["pid"] != found[1]["pid"]


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        (exits_with_3, "x", "ended with status 3 before its last report"),
        (returns_silently, "x", "ended with status 0 before its last report"),
        (
            kills_itself,
            "SIGKILL",
            "killed by signal 9, as the system does when memory runs out; lower optim.batch_size",
        ),
        (is_killed_as_it_sends, "x", "killed by signal 9"),
        (kills_itself, "SIGSEGV", "killed by signal 11"),
        (kills_itself, "SIGTERM", "killed by signal 15"),
    ],
)
def test_a_process_that_ends_without_its_last_message_is_a_failure(
    tmp_path: Path, target: Callable[[TrialJob, Connection], None], name: str, message: str
) -> None:
    with process(job(tmp_path, model={"name": name}), target) as running:
        found = running.next_message()
        if found["status"] == "running":
            found = running.next_message()
        assert found.pop("error.message").startswith(message)
        assert found == {"status": "failed", "error.type": "TrialProcessDied", "error.log": "trials/00003/log.txt"} | {
            "retryable": True
        }


def test_a_process_killed_from_outside_is_a_failure_by_signal_9(tmp_path: Path) -> None:
    with process(job(tmp_path), waits_for_ever) as running:
        os.kill(running.next_message()["pid"], signal.SIGKILL)
        found = running.next_message()
        assert (found["status"], found["error.type"]) == ("failed", "TrialProcessDied")
        assert "signal 9" in found["error.message"]


def test_an_expected_error_is_told_in_full(tmp_path: Path) -> None:
    with process(job(tmp_path)) as running:
        assert running.next_message() == {
            "status": "failed",
            "error.type": "DataError",
            "error.message": "none.json: no such file",
            "error.log": "trials/00003/log.txt",
            "retryable": False,  # it would come again
        }
    assert "DataError: none.json: no such file" in (tmp_path / LOG).read_text()


def test_any_other_error_is_told_by_its_first_line_and_logged_with_its_trace(tmp_path: Path) -> None:
    with process(job(tmp_path), runs_out_of_memory) as running:
        found = running.next_message()
    assert (found["error.type"], found["error.message"]) == ("MemoryError", "cannot allocate")
    assert found["retryable"]
    log = (tmp_path / LOG).read_text()
    assert "said on stdout\n" in log
    assert "said on descriptor 2\n" in log
    assert "Traceback (most recent call last):" in log
    assert log.endswith("MemoryError: cannot allocate\nsecond line\n")


def test_an_error_without_a_message_says_so(tmp_path: Path) -> None:
    with process(job(tmp_path), fails_without_a_message) as running:
        found = running.next_message()
    assert (found["error.type"], found["error.message"]) == ("ZeroDivisionError", "no message")


def test_where_memory_runs_out_the_kernel_ends_a_trial_first(tmp_path: Path) -> None:
    with process(job(tmp_path), says_who_is_killed_first) as running:
        assert running.next_message()["oom_score_adj"] == "1000"


def test_stopping_ends_a_process_at_once(tmp_path: Path) -> None:
    running = TrialProcess(job(tmp_path), waits_for_ever)
    pid = running.next_message()["pid"]
    running.stop()
    assert not psutil.pid_exists(pid)


def test_stopping_twice_does_no_harm(tmp_path: Path) -> None:
    running = TrialProcess(job(tmp_path), returns_silently)
    running.stop()
    running.stop()


_PARENT = """
import sys, time
from pathlib import Path
from tests.sweeps.test_trial import TrialProcess, job, trains_for_ever
running = TrialProcess(job(Path(sys.argv[1])), trains_for_ever)
time.sleep(10_000)
"""


def test_a_trial_dies_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path)], cwd=Path(__file__).parents[2])
    try:
        pid_file = tmp_path / "pid"
        wait_for(lambda: (pid_file.exists() and pid_file.read_text()) or parent.poll() is not None)
        child = psutil.Process(int(pid_file.read_text()))
        server = child.parent()
        assert server is not None
        assert server.ppid() == parent.pid
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a configuration needs for a training of a second."""
    directory = tmp_path_factory.mktemp("a trial's inputs")
    data = {"train": str(tiny_squad(directory / "train.json", 8)), "dev": str(tiny_squad(directory / "dev.json", 2, 1))}
    model = {"name": str(tiny_model_dir(directory / "model")), "max_seq_length": 128, "doc_stride": 32}
    return {"data": data, "model": model, "num_epochs": 2}


def run(job: TrialJob, target: Callable[[TrialJob, Connection], None] = run_trial) -> list[Message]:
    with process(job, target) as running:
        messages = [running.next_message()]
        while messages[-1]["status"] == "running":
            messages.append(running.next_message())
        return messages


def test_a_trial_reports_each_epoch_and_leaves_its_model(tmp_path: Path, inputs: dict[str, Any]) -> None:
    messages = run(job(tmp_path, **inputs))
    assert [message["status"] for message in messages] == ["running", "completed"]
    assert [message["epochs_trained"] for message in messages] == [1, 2]
    assert [message["budget_epochs"] for message in messages] == [None, 2]
    assert all(message["cost.starting_s"] > 0 and message["cost.loading_s"] > 0 for message in messages)
    assert [json.loads(line) for line in (tmp_path / REPORTS).read_text().splitlines()] == messages
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    scores = record["scores"]["dev"]
    assert (scores["f1"], scores["exact_match"]) == (messages[1]["dev.f1"], messages[1]["dev.exact_match"])
    assert (tmp_path / LOG).read_text() == ""
    predictions = json.loads((tmp_path / "predictions_dev_2.json").read_text())
    assert len(predictions) == 12


def test_what_earlier_attempts_held_and_no_checkpoint_accounts_for_is_lost(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    with process(dataclasses.replace(job(tmp_path, **inputs), earlier_s=100.0)) as running:
        message = running.next_message()
    assert message["cost.lost_s"] == 100.0


def test_no_checkpoint_is_left_when_the_last_message_comes(tmp_path: Path, inputs: dict[str, Any]) -> None:
    assert run(job(tmp_path, **inputs), removes_checkpoints_slowly)[-1]["status"] == "completed"
    assert latest_checkpoint(tmp_path / CHECKPOINTS) is None


def test_a_report_goes_by_the_names_of_records() -> None:
    report = Report(
        epochs_trained=3,
        budget_epochs=None,
        step=30,
        learning_rate=1e-5,
        train_loss=2.5,
        eval_loss=None,
        f1=40.0,
        exact_match=30.0,
        start_accuracy=50.0,
        end_accuracy=60.0,
        cost={},
    )
    found = columns(report, report.budget_epochs or 3)
    assert (found["status"], found["budget_epochs"], found["epochs_trained"]) == ("running", None, 3)
    assert (found["dev.f1"], found["dev.exact_match"], found["eval_loss"]) == (40.0, 30.0, None)
    assert (found["train_loss"], found["learning_rate"]) == (2.5, 1e-5)
    assert (found["start_accuracy"], found["end_accuracy"]) == (50.0, 60.0)
