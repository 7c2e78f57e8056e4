"""One trial of several workers, under Ray Train."""

import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qa_train.config import TrainConfig, build_config
from qa_train.errors import QAError
from qa_train.ray_trainer import NUM_RESTARTS, RayTrainRun, tell
from qa_train.resources import limit_threads
from qa_train.workers import rank
from sweeps.trial import LOG, Message, TrialJob, append_report, failure, messages, reported_epochs
from sweeps.trial_store import TrialStore


class TrialWorkers:
    """A trial's workers, seen from the actor that asked for them; the counterpart of `TrialProcess`."""

    def __init__(self, job: TrialJob) -> None:
        """Starts the workers; `job.num_threads` CPU cores are for each of them."""
        self._job = job
        arguments = asdict(job) | {"config": job.config.model_dump(), "directory": str(job.directory)}
        self._run = RayTrainRun(
            trial_worker,
            arguments,
            job.directory,
            num_workers=job.config.scale.num_workers,
            cpus_per_worker=job.num_threads,
            use_gpu=job.config.scale.use_gpu is True,
        )
        self._messages = self._read()

    def next_message(self) -> Message:
        """Waits for the next message; the last one comes when the workers have gone and their devices are free."""
        return next(self._messages)

    def stop(self) -> None:
        """Does nothing: the workers end with the actor that asked for them, which Tune ends with the trial."""

    def _read(self) -> Iterator[Message]:
        last: Message | None = None
        num_epochs = 0
        try:
            for message in self._run.events():
                if "warning" in message:
                    self._log(f"{message['warning']}\n")
                elif message["status"] != "running":
                    last = message
                elif message["epochs_trained"] > num_epochs:  # workers that were started again tell some twice
                    num_epochs = message["epochs_trained"]
                    yield message
        except QAError as error:
            self._log("".join(traceback.format_exception(error)))
            last = failure(self._job, error)
        yield last or failure(self._job, QAError("the workers ended before their last report"))

    def _log(self, text: str) -> None:
        with suppress(OSError), open(self._job.directory / LOG, "a", encoding="utf-8") as file:
            file.write(text)


def trial_worker(arguments: dict[str, Any]) -> None:
    """Trains as one of the workers; what Ray Train calls in each."""
    num_restarts = arguments.pop(NUM_RESTARTS)
    config, directory = build_config(TrainConfig, arguments["config"], "sweep"), Path(arguments["directory"])
    TrialStore.of(arguments["sweep"], arguments["trial_id"]).pull()  # onto this node
    job = TrialJob(**{**arguments, "config": config, "directory": directory})
    if num_restarts:  # what this attempt took so far is lost, but for what is in its checkpoint
        now = time.time()
        job = replace(job, created=now, earlier_s=job.earlier_s + now - job.created)
    limit_threads(job.num_threads)
    known = reported_epochs(job.directory)
    for message in messages(job):
        if rank() == 0:
            if message["epochs_trained"] not in known:
                append_report(job, message)
            tell(job.directory, message)
