"""One trial: trains in a process of its own, which a server that has imported everything forks off.

So start-up is paid once, no state leaks from trial to trial, memory peaks are the trial's own, and an out-of-memory
kill takes this process only. It dies with the process that asked for it.
"""

import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

import torch._dynamo  # noqa: F401 - counting operations imports it; the server shall have done so

from qa_train.checkpoint import latest_checkpoint, read_progress, remove_checkpoints
from qa_train.config import TrainConfig
from qa_train.cost import CostMeter
from qa_train.errors import DataError, QAError
from qa_train.loop import Report
from qa_train.openmp import let_threads_sleep
from qa_train.resources import limit_threads
from qa_train.storage import write_json
from qa_train.training import Training, start_training
from qa_train.workers import rank
from sweeps.object_store import StoreUnavailableError
from sweeps.records import model_name, read_rows
from sweeps.trial_store import TrialStore

LOG, CHECKPOINTS, REPORTS = "log.txt", "checkpoints", "reports.jsonl"
RETRYABLE = "retryable"
"""In the message of a failure: whether another attempt may go better. A mistake that we explain comes again."""


@dataclass(frozen=True)
class TrialJob:
    """What a trial's process is told.

    Attributes:
        trial_id: Of the sweep.
        config: What to train, resolved.
        directory: The trial's own, existing.
        num_threads: CPU cores that it was given.
        created: When it was asked for, in seconds since the epoch.
        earlier_s: Seconds that earlier attempts at this trial held its devices; what its checkpoint does not account
            for is lost.
        evaluate_tests: Whether its finished model is scored on the test sets.
        sweep: Where the sweep's truth is, as `SweepStore.address`; empty if that is its directory.
    """

    trial_id: str
    config: TrainConfig
    directory: Path
    num_threads: int
    created: float
    earlier_s: float = 0.0
    evaluate_tests: bool = False
    sweep: str = ""

    @property
    def store(self) -> TrialStore:
        """Keeps the directory in step with the sweep's store, if it has one."""
        return TrialStore.of(self.sweep, self.trial_id)


Message = dict[str, Any]
"""Columns of a record; the last one of a trial that failed has `error.type` and `error.message`."""


def run_trial(job: TrialJob, connection: Connection) -> None:
    """Trains and sends a message after each epoch; the body of the trial's process."""
    _log_to(job.directory / LOG)
    _be_killed_first()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    limit_threads(job.num_threads)
    try:
        known = reported_epochs(job.directory)
        for message in messages(job):
            if message["epochs_trained"] not in known:
                append_report(job, message)
            connection.send(message)  # again, too: what the driver of an earlier attempt recorded is not known here
    except Exception as error:
        traceback.print_exc()
        connection.send(failure(job, error))
    connection.close()


def failure(job: TrialJob, error: Exception) -> Message:
    """Returns the message of a trial that failed."""
    text = str(error) if isinstance(error, QAError) else str(error).strip().partition("\n")[0]
    return {
        "status": "failed",
        "error.type": type(error).__name__,
        "error.message": text or "no message",
        "error.log": _log(job),
        RETRYABLE: not isinstance(error, QAError) or isinstance(error, StoreUnavailableError),
    }


def messages(job: TrialJob) -> Iterator[Message]:
    """Trains, alone or as one of several workers; yields the columns of a record after each epoch."""
    meter = CostMeter()
    meter.seconds["starting"] = time.time() - job.created
    meter.seconds["lost"] = max(0.0, job.earlier_s - checkpointed_s(job.directory / CHECKPOINTS))
    training = start_training(job.config, job.directory / CHECKPOINTS, meter=meter)
    for report in training.loop.reports():
        # A report of before a resume is told again, but its model is gone.
        is_there = report.budget_epochs is not None and training.loop.evaluation is not None
        if is_there and job.evaluate_tests:
            training.evaluate_tests()
        if is_there and rank() == 0:
            with meter.part("checkpointing"):
                _keep(job, training, report)
        if rank() == 0:
            with meter.part("checkpointing"):
                job.store.push()
        tests = _test_columns(training) if is_there else {}
        yield columns(report, job.config.num_epochs) | tests | training.loop.cost_columns()


def _test_columns(training: Training) -> Message:
    """Returns the scores on the test sets, so far as they were evaluated, by the column names of records."""
    sets = {f"test.{name}": scores for name, scores in training.tests.items()}
    return {f"{name}.{key}": getattr(scores, key) for name, scores in sets.items() for key in ("f1", "exact_match")}


def checkpointed_s(checkpoints: Path) -> float:
    """Returns the seconds that went into the last checkpoint, those lost before it included."""
    checkpoint = latest_checkpoint(checkpoints)
    return sum(read_progress(checkpoint)["meter"]["seconds"].values()) if checkpoint else 0.0


def _keep(job: TrialJob, training: Training, report: Report) -> None:
    """Saves the finished model, its dev predictions and their scores before it is announced."""
    training.save(job.directory / model_name(report.budget_epochs, job.config.num_epochs))
    training.write_question_scores(job.directory, report.epochs_trained)
    if training.loop.evaluation:
        name = f"predictions_dev_{report.budget_epochs}.json"
        write_json(job.directory / name, training.loop.evaluation.predictions)


def columns(report: Report, num_epochs: int) -> Message:
    """Returns a report of a trial of so many epochs by the column names of records, without its cost."""
    return {
        "status": "completed" if report.budget_epochs == num_epochs else "running",
        "report": report.epochs_trained - 1,
        "epochs_trained": report.epochs_trained,
        "budget_epochs": report.budget_epochs,
        "dev.f1": report.f1,
        "dev.exact_match": report.exact_match,
        "train_loss": report.train_loss,
        "eval_loss": report.eval_loss,
        "start_accuracy": report.start_accuracy,
        "end_accuracy": report.end_accuracy,
        "learning_rate": report.learning_rate,
    }


def append_report(job: TrialJob, message: Message) -> None:
    """Writes a message to the trial's own reports, on disk before the driver hears of it.

    After the last one the checkpoints are of no use any more; the trial's process may be ended right after it.

    Raises:
        DataError: If it cannot be written, such as on a full disk.
    """
    path = job.directory / REPORTS
    try:
        with open(path, "a+", encoding="utf-8") as file:
            _cut_torn_line(file)
            file.write(json.dumps(message, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
    job.store.push(REPORTS)
    if message["status"] != "running":
        remove_checkpoints(job.directory / CHECKPOINTS)


def _cut_torn_line(file: TextIO) -> None:
    """Cuts off what an earlier attempt, killed as it wrote, left after the last whole line."""
    file.seek(0)
    content = file.read()
    if not content.endswith("\n") and content:
        file.seek(0)
        file.truncate(len(content[: content.rfind("\n") + 1].encode()))


def read_reports(directory: Path) -> list[Message]:
    """Returns what a trial wrote about itself, whole lines only.

    Raises:
        DataError: If it cannot be read.
    """
    return read_rows(directory / REPORTS)


def reported_epochs(directory: Path) -> set[int]:
    """Returns the epochs after which a trial has reported, in any attempt."""
    return {message["epochs_trained"] for message in read_reports(directory)}


def _log(job: TrialJob) -> str:
    return f"trials/{job.trial_id}/{LOG}"


def _log_to(path: Path) -> None:
    """Sends what this process prints, libraries written in C included, to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - as long as the process lives
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def _be_killed_first() -> None:
    """Lets Linux, where memory runs out, end this process, which is started again, rather than Ray or the driver."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


TrialBody = Callable[[TrialJob, Connection], None]


class TrialProcess:
    """A trial's process, seen from the one that asked for it."""

    def __init__(self, job: TrialJob, target: TrialBody = run_trial) -> None:
        """Starts the process; the first one of a caller also starts the server that forks it.

        Args:
            job: What to do.
            target: Its body, a function of a module.
        """
        self._job = job
        let_threads_sleep()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "sweeps.preload"])
        self._connection, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=target, args=(job, theirs))
        self._process.start()
        theirs.close()

    def next_message(self) -> Message:
        """Waits for the next message; a process that ends without its last one is told as a failure."""
        try:
            message: Message = self._connection.recv()
            return message
        except (EOFError, OSError):  # the latter of one that was killed as it sent a message
            self._process.join()
            return {
                "status": "failed",
                "error.type": "TrialProcessDied",
                "error.message": _describe_exit(self._process.exitcode),
                "error.log": _log(self._job),
                RETRYABLE: True,
            }

    def stop(self) -> None:
        """Ends the process, whatever it does, and waits for its end; may be called again."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _describe_exit(code: int | None) -> str:
    if code == -9:
        return "killed by signal 9, as the system does when memory runs out; lower optim.batch_size or run fewer trials"
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"ended with status {code} before its last report"
