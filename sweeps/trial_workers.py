"""One trial of several workers, under Ray Train."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qa_train.config import TrainConfig, build_config
from qa_train.errors import QAError
from qa_train.ray_trainer import RayTrainRun, tell
from qa_train.resources import limit_threads
from qa_train.workers import rank
from sweeps.trial import Message, TrialJob, append_report, failure, messages


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
        try:
            for message in self._run.events():
                if message["status"] == "running":
                    yield message
                else:
                    last = message
        except QAError as error:
            last = failure(self._job, error)
        yield last or failure(self._job, QAError("the workers ended before their last report"))


def trial_worker(arguments: dict[str, Any]) -> None:
    """Trains as one of the workers; what Ray Train calls in each."""
    config = build_config(TrainConfig, arguments["config"], "sweep")
    job = TrialJob(**{**arguments, "config": config, "directory": Path(arguments["directory"])})
    limit_threads(job.num_threads)
    for message in messages(job):
        if rank() == 0:
            append_report(job, message)
            tell(job.directory, message)
