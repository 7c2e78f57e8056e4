"""What Ray Tune asks a sweep while it runs: whom to tell of events, which trial to stop, when to end."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from qa_train.errors import QAError
from sweeps.config import SweepConfig
from sweeps.mirror import StudyMirror
from sweeps.recorder import Recorder
from sweeps.search import SEED, TRIAL_ID, VALUES
from sweeps.stopping import Stopping, limit_reached


class _Unsaved:
    """Leaves Tune's snapshots of itself empty: they are never read, and open files cannot be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Listener(_Unsaved, tune.Callback):
    """Passes Tune's events on to the recorder, under the trials' own ids.

    Attributes:
        error: Why an event could not be recorded.
    """

    error: QAError | None = None

    def __init__(self, recorder: Recorder, stopping: Stopping, mirror: StudyMirror) -> None:
        self._recorder, self._stopping, self._mirror = recorder, stopping, mirror

    @contextlib.contextmanager
    def _keeping_error(self) -> Iterator[None]:
        try:
            yield
        except QAError as error:
            self.error = error
            raise

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Notes that a trial runs."""
        self._recorder.started(trial.config[TRIAL_ID], trial.config[VALUES], trial.config[SEED])
        self._mirror.started(trial.config[TRIAL_ID], trial.config[VALUES])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Records a report; of a trial that the scheduler has just stopped, as its last."""
        trial_id = trial.config[TRIAL_ID]
        # The trial scheduler has seen the result before.
        if result["status"] == "running" and self._stopping.has_stopped(trial_id):
            result = result | {"status": "stopped_early"}
        with self._keeping_error():
            self._recorder.reported(trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Records a trial that failed too often to be started again."""
        found = trial.get_pickled_error()
        name, message = "RayActorError", "the trial's Ray actor died"
        if isinstance(found, RayTaskError):  # the actor lives, but its code raised
            name, message = type(found.cause).__name__, str(found.cause)
        with self._keeping_error():
            if not self._recorder.knows(trial.config[TRIAL_ID]):
                # Its actor never came up.
                self._recorder.started(trial.config[TRIAL_ID], trial.config[VALUES], trial.config[SEED])
            self._recorder.failed(trial.config[TRIAL_ID], name, message)


class TrialScheduler(_Unsaved, FIFOScheduler):
    """Stops trials as `Stopping` decides; starts them in the order in which they were sampled."""

    def __init__(self, config: SweepConfig, stopping: Stopping) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._config, self._stopping = config, stopping

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Returns whether the trial goes on."""
        epochs = result.get("epochs_trained")
        if result["status"] != "running" or not isinstance(epochs, int):
            return FIFOScheduler.CONTINUE
        num_epochs = trial.config[VALUES].get("num_epochs", self._config.train.num_epochs)
        value = result.get(self._config.search.metric)
        stops = self._stopping.decide(trial.config[TRIAL_ID], num_epochs, epochs, value)
        return FIFOScheduler.STOP if stops else FIFOScheduler.CONTINUE


class Limits(_Unsaved, tune.Stopper):
    """Ends the sweep at a limit of `stop`, in device-hours, dollars or time; trials that then run are interrupted."""

    def __init__(self, config: SweepConfig, recorder: Recorder, device: str) -> None:
        """Starts the clock of `max_wall_s`."""
        self._reached: str | None = None
        self._config, self._device = config, device
        self._recorder, self._started = recorder, time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stops no single trial."""
        return False

    @property
    def is_reached(self) -> bool:
        """Whether a limit has ended the sweep."""
        return self._reached is not None

    def stop_all(self) -> bool:
        """Returns whether a limit is reached, and says so once."""
        if self._reached is None:
            wall_s = time.monotonic() - self._started
            self._reached = limit_reached(self._config, self._device, self._recorder.device_s, wall_s)
            if self._reached:
                self._recorder.say(f"stop.{self._reached} is reached: the sweep ends, running trials are interrupted")
        return self._reached is not None
