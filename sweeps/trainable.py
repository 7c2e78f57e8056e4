"""What Ray Tune runs: an actor that lets each trial train in a process of its own, or in several under Ray Train."""

import contextlib
import time
from collections import deque
from typing import Any

import ray
from ray import tune

from qa_train.config import TrainConfig, build_config, with_values
from qa_train.errors import DataError
from qa_train.storage import write_json
from sweeps.attempts import ATTEMPTS, Attempt
from sweeps.records import TRIAL_CONFIG
from sweeps.search import IS_FINAL, SEED, TRIAL_ID, VALUES
from sweeps.trial import CHECKPOINTS, RETRYABLE, Message, TrialJob, TrialProcess, checkpointed_s, read_reports
from sweeps.trial_store import TrialStore
from sweeps.trial_workers import TrialWorkers

TRAIN, DIRECTORY, NUM_THREADS, LAUNCHER = "train", "directory", "num_threads", "launcher"
NUM_DEVICES, DEVICE, BODY, MAX_FAILURES = "num_devices", "device", "body", "max_failures"
EVALUATE_TESTS = "evaluate_tests"


class TrialTrainable(tune.Trainable):
    """One trial after another; each `step` waits for one report."""

    _trial: TrialProcess | TrialWorkers | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Starts the first trial.

        Args:
            config: `train` (the sweep's training configuration as plain values), `trial_id`, `values` (those searched),
                `seed`, `is_final` (whether it is a finalist), `evaluate_tests` (`all` or `finalists`), `directory` (the
                sweep's, or its address), `launcher`, `num_threads` of each worker, `num_devices` and `device` of each
                trial, `body` (what the trial's process does), `max_failures` (after so many it is not started again).
        """
        self._spec, self._num_failures = config, 0
        self._start()

    def _start(self) -> None:
        """Starts an attempt at the trial; one that ended before its driver heard of it is only told again."""
        self._store = TrialStore.of(self._spec[DIRECTORY], self._spec[TRIAL_ID])
        self._store.pull()
        directory = self._store.directory
        directory.mkdir(parents=True, exist_ok=True)
        chosen = {**self._spec[VALUES], "seed": self._spec[SEED]}
        train = with_values(build_config(TrainConfig, self._spec[TRAIN], "sweep"), chosen)
        values = {"trial_id": self._spec[TRIAL_ID], "values": self._spec[VALUES], "train": train.model_dump()}
        write_json(directory / TRIAL_CONFIG, values)
        self._attempt = Attempt(directory)
        self._store.push(TRIAL_CONFIG, ATTEMPTS)
        # The last note of an attempt that was killed can be older than its last checkpoint.
        self._attempt.earlier_s = max(self._attempt.earlier_s, checkpointed_s(directory / CHECKPOINTS))
        self._told = deque(read_reports(directory))
        if self._told and self._told[-1]["status"] != "running":
            return
        self._told.clear()
        num_threads, earlier_s = self._spec[NUM_THREADS], self._attempt.earlier_s
        tests = self._spec[IS_FINAL] or self._spec[EVALUATE_TESTS] == "all"
        job = TrialJob(
            self._spec[TRIAL_ID], train, directory, num_threads, time.time(), earlier_s, tests, self._spec[DIRECTORY]
        )
        self._trial = TrialWorkers(job) if self._spec[LAUNCHER] == "ray_train" else TrialProcess(job, self._spec[BODY])

    def _stop(self) -> None:
        if self._trial is not None:
            self._trial.stop()
        self._attempt.end()
        with contextlib.suppress(DataError):  # the driver, too, will find that the store is gone
            self._store.push(ATTEMPTS)
        self._store.drop_weights()
        self._trial = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Ends the trial before, if Tune stopped it, and starts another."""
        self._stop()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the trial's next report and adds what only this process knows.

        A failure that may be chance is reported, as of a trial that still runs, and the trial started again.
        """
        message = self._next_message()
        number, held_s = self._attempt.number, self._attempt.held_s
        if message.pop(RETRYABLE, False) and self._num_failures < self._spec[MAX_FAILURES]:
            self._num_failures += 1
            message["status"] = "running"
            self._stop()
            self._start()
        explained_s, own_s = _seconds(message, "cost."), _seconds(message, "model_cost.")
        # A model of one budget of several is charged for all but the branches of the others.
        model = {"model_cost.device_s": (held_s - explained_s + own_s) * self._spec[NUM_DEVICES]} if own_s else {}
        unexplained = {"cost.unexplained_s": held_s - explained_s} if explained_s else {}
        return {
            **message,
            **unexplained,
            **model,
            "attempt": number,
            "cost.device_s": held_s * self._spec[NUM_DEVICES],
            "node": ray.get_runtime_context().get_node_id(),
            "device": self._spec[DEVICE],
            "launcher": self._spec[LAUNCHER],
            "done": message["status"] != "running",
        }

    def _next_message(self) -> Message:
        if self._told:
            return self._told.popleft()
        if self._trial is None:
            raise RuntimeError("the trial has ended")
        return self._trial.next_message()

    def cleanup(self) -> None:
        """Ends the trial's process."""
        self._stop()


def _seconds(message: Message, prefix: str) -> float:
    return float(sum(value for key, value in message.items() if key.startswith(prefix) and key.endswith("_s")))
