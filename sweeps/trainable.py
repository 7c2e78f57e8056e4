"""What Ray Tune runs: an actor that is reused from trial to trial and lets each train in a process of its own."""

import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from qa_train.config import TrainConfig, build_config, with_values
from sweeps.search import TRIAL_ID, VALUES
from sweeps.trial import TrialJob, TrialProcess

TRAIN, DIRECTORY, NUM_THREADS, NUM_DEVICES, DEVICE = "train", "directory", "num_threads", "num_devices", "device"


class TrialTrainable(tune.Trainable):
    """One trial after another; each `step` waits for one report."""

    def setup(self, config: dict[str, Any]) -> None:
        """Starts the first trial.

        Args:
            config: `train` (the sweep's training configuration as plain values), `trial_id`, `values` (those searched),
                `directory` (the sweep's), `num_threads`, `num_devices` and `device` (what each trial is given).
        """
        self._started = time.monotonic()
        self._spec = config
        self._process = TrialProcess(self._job(config))

    def _job(self, config: dict[str, Any]) -> TrialJob:
        train = build_config(TrainConfig, config[TRAIN], "sweep")
        directory = Path(config[DIRECTORY]) / "trials" / config[TRIAL_ID]
        directory.mkdir(parents=True, exist_ok=True)
        resolved = with_values(train, config[VALUES])
        return TrialJob(config[TRIAL_ID], resolved, directory, config[NUM_THREADS], time.time())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Ends the trial before, if Tune stopped it, and starts another."""
        self._process.stop()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the trial's next report and adds what only this process knows."""
        message = self._process.next_message()
        held = (time.monotonic() - self._started) * self._spec[NUM_DEVICES]
        return {
            **message,
            "cost.device_s": held,
            "node": ray.get_runtime_context().get_node_id(),
            "device": self._spec[DEVICE],
            "launcher": "local",
            "done": message["status"] != "running",
        }

    def cleanup(self) -> None:
        """Ends the trial's process."""
        self._process.stop()
