"""What Ray Tune runs: an actor that lets each trial train in a process of its own, or in several under Ray Train."""

import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from qa_train.config import TrainConfig, build_config, with_values
from sweeps.search import TRIAL_ID, VALUES
from sweeps.trial import TrialJob, TrialProcess
from sweeps.trial_workers import TrialWorkers

TRAIN, DIRECTORY, NUM_THREADS, LAUNCHER = "train", "directory", "num_threads", "launcher"
NUM_DEVICES, DEVICE = "num_devices", "device"


class TrialTrainable(tune.Trainable):
    """One trial after another; each `step` waits for one report."""

    def setup(self, config: dict[str, Any]) -> None:
        """Starts the first trial.

        Args:
            config: `train` (the sweep's training configuration as plain values), `trial_id`, `values` (those searched),
                `directory` (the sweep's), `launcher`, `num_threads` of each worker, `num_devices` and `device` of each
                trial.
        """
        self._started = time.monotonic()
        self._spec = config
        job = self._job(config)
        self._trial: TrialProcess | TrialWorkers
        self._trial = TrialWorkers(job) if config[LAUNCHER] == "ray_train" else TrialProcess(job)

    def _job(self, config: dict[str, Any]) -> TrialJob:
        train = build_config(TrainConfig, config[TRAIN], "sweep")
        directory = Path(config[DIRECTORY]) / "trials" / config[TRIAL_ID]
        directory.mkdir(parents=True, exist_ok=True)
        resolved = with_values(train, config[VALUES])
        return TrialJob(config[TRIAL_ID], resolved, directory, config[NUM_THREADS], time.time())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Ends the trial before, if Tune stopped it, and starts another."""
        self._trial.stop()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the trial's next report and adds what only this process knows."""
        message = self._trial.next_message()
        held = (time.monotonic() - self._started) * self._spec[NUM_DEVICES]
        return {
            **message,
            "cost.device_s": held,
            "node": ray.get_runtime_context().get_node_id(),
            "device": self._spec[DEVICE],
            "launcher": self._spec[LAUNCHER],
            "done": message["status"] != "running",
        }

    def cleanup(self) -> None:
        """Ends the trial's process."""
        self._trial.stop()
