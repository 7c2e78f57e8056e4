"""Runs a sweep on Ray Tune and keeps its records."""

import contextlib
import datetime
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_train.ray_session import ray_session, resources

# isort: split
import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune import TuneError
from ray.tune.experiment import Trial

from qa_train.config import with_values
from qa_train.errors import QAError, SweepError
from qa_train.storage import unused_dir
from sweeps.config import SweepConfig
from sweeps.journal import Journal
from sweeps.placement import Placement, needs_ray_train, place
from sweeps.probe import Probe, probe
from sweeps.recorder import Recorder, Say
from sweeps.records import Manifest, Row, write_manifest
from sweeps.search import TRIAL_ID, VALUES, StudySearcher
from sweeps.trainable import DEVICE, DIRECTORY, LAUNCHER, NUM_DEVICES, NUM_THREADS, TRAIN, TrialTrainable


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        directory: Where its manifest, records and models are.
        num_completed: Trials with a finished model.
        num_failed: Trials that failed.
        best: Row of the best finished model by `search.metric`, None if there is none.
    """

    directory: Path
    num_completed: int
    num_failed: int
    best: Row | None


def run_sweep(config: SweepConfig, directory: Path | None = None, say: Say = _say) -> SweepResult:
    """Runs a sweep to its end, in a new directory.

    What was recorded stays readable however the sweep ends.

    Args:
        config: What to run.
        directory: New or empty; by default `runs/<name>-<time>`.
        say: Called with a line for each event.

    Raises:
        DataError: If the directory is in use or a data file cannot be used.
        ConfigError: If the machine cannot run it.
        CheckpointError: If the model cannot be opened.
        SweepError: If Ray fails, or the records cannot be written.
        KeyboardInterrupt: On Ctrl-C, after the running trials were recorded as interrupted.
    """
    now = datetime.datetime.now().astimezone()
    directory = unused_dir(directory or Path("runs") / f"{config.name}-{now:%Y%m%d-%H%M%S}", "give another --out")
    try:
        # Ray prints what it tells the user, such as a worker's death, to stdout, where the result goes.
        with contextlib.redirect_stdout(sys.stderr), ray_session(dashboard=needs_ray_train(config)):
            placement = place(config, *resources())
            say(f"sweep {config.name}: {config.search.num_trials} trials, {_describe(placement)}, in {directory}")
            found = _probe(config, placement)
            resolved = {"precision": found.precision, "scale.use_gpu": placement.gpus_per_worker > 0}
            config = config.model_copy(update={"train": with_values(config.train, resolved)})
            write_manifest(directory, _manifest(config, placement, found, now, directory.name))
            with Journal(directory) as journal:
                recorder = Recorder(config, journal, say)
                _run_tune(config, placement, found, directory, recorder)
    except RayError as error:
        raise SweepError(f"{directory}: Ray failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        with contextlib.suppress(OSError):
            directory.rmdir()  # nothing came of it
    return SweepResult(directory, recorder.num_completed, recorder.num_failed, recorder.best)


def _describe(placement: Placement) -> str:
    gpus = f" and {placement.gpus_per_worker} GPU" if placement.gpus_per_worker else ""
    workers = f"{placement.num_workers} x " if placement.num_workers > 1 else ""
    at_once = "one at a time" if placement.max_concurrent_trials == 1 else f"{placement.max_concurrent_trials} at once"
    return f"{at_once} with {workers}{placement.cpus_per_worker} CPU{gpus} each"


def _probe(config: SweepConfig, placement: Placement) -> Probe:
    """Runs `probe` where a trial would run."""
    task = ray.remote(num_cpus=placement.cpus_per_worker, num_gpus=placement.gpus_per_worker, max_calls=1)(probe)
    try:
        found: Probe = ray.get(task.remote(config.train, placement.cpus_per_worker))
        return found
    except QAError as error:  # Ray's wrapper is of this class too, but its text holds a traceback
        raise getattr(error, "cause", error) from None


def _manifest(
    config: SweepConfig, placement: Placement, found: Probe, now: datetime.datetime, sweep_id: str
) -> Manifest:
    from qa_train.training import commit

    return Manifest(
        sweep_id=sweep_id,
        name=config.name,
        note=config.note,
        created=now.isoformat(timespec="seconds"),
        config=config.model_dump(mode="json"),
        metric=config.search.metric,
        mode=config.search.mode,
        precision=found.precision,
        device=found.device,
        devices_per_trial=placement.num_devices,
        data=found.data,
        baselines=found.baselines,
        versions=found.versions,
        commit=commit(),
    )


def _run_tune(config: SweepConfig, placement: Placement, found: Probe, directory: Path, recorder: Recorder) -> None:
    param_space = {
        TRAIN: config.train.model_dump(),
        DIRECTORY: str(directory),
        LAUNCHER: placement.launcher,
        NUM_THREADS: placement.cpus_per_worker,
        NUM_DEVICES: placement.num_devices,
        DEVICE: found.device,
    }
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are told by the recorder
    listener = _Listener(recorder)
    scratch = Path(tempfile.mkdtemp(prefix="spansweep-"))  # Tune's own state, which nothing reads
    try:
        tune.Tuner(
            tune.with_resources(TrialTrainable, placement.trial_resources),
            param_space=param_space,
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(config.space, config.search),
                num_samples=config.search.num_trials,
                max_concurrent_trials=placement.max_concurrent_trials,
                # Ray Train's workers end with the actor that asked for them.
                reuse_actors=placement.launcher == "local",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep their own
                callbacks=[listener],
                stop=_Limits(config, recorder),
                verbose=0,
            ),
        ).fit()
    except TuneError:
        if listener.error:  # Tune replaces what a callback raises by its traceback
            raise listener.error from None
        raise
    finally:
        recorder.close()
        shutil.rmtree(scratch, ignore_errors=True)


class _Unsaved:
    """Leaves Tune's snapshots of itself empty: they are never read, and open files cannot be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Listener(_Unsaved, tune.Callback):
    """Passes Tune's events on to the recorder, under the trials' own ids.

    Attributes:
        error: Why an event could not be recorded.
    """

    error: QAError | None = None

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @contextlib.contextmanager
    def _keeping_error(self) -> Iterator[None]:
        try:
            yield
        except QAError as error:
            self.error = error
            raise

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._recorder.started(trial.config[TRIAL_ID], trial.config[VALUES])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        with self._keeping_error():
            self._recorder.reported(trial.config[TRIAL_ID], result)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        found = trial.get_pickled_error()
        name, message = "RayActorError", "the trial's Ray actor died"
        if isinstance(found, RayTaskError):  # the actor lives, but its code raised
            name, message = type(found.cause).__name__, str(found.cause)
        with self._keeping_error():
            if not self._recorder.knows(trial.config[TRIAL_ID]):
                self._recorder.started(trial.config[TRIAL_ID], trial.config[VALUES])  # its actor never came up
            self._recorder.failed(trial.config[TRIAL_ID], name, message)


class _Limits(_Unsaved, tune.Stopper):
    """Ends the sweep at `stop.max_device_hours` or `stop.max_wall_s`; trials that then run are interrupted."""

    def __init__(self, config: SweepConfig, recorder: Recorder) -> None:
        """Starts the clock of `max_wall_s`."""
        self._reached: str | None = None
        self._stop, self._recorder, self._started = config.stop, recorder, time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stops no single trial."""
        return False

    def stop_all(self) -> bool:
        """Returns whether a limit is reached, and says so once."""
        if self._reached is None:
            reached = {
                "max_device_hours": self._recorder.device_s / 3600,
                "max_wall_s": time.monotonic() - self._started,
            }
            limits = {name: getattr(self._stop, name) for name in reached}
            self._reached = next((name for name, limit in limits.items() if limit and reached[name] >= limit), None)
            if self._reached:
                self._recorder.say(f"stop.{self._reached} is reached: the sweep ends, running trials are interrupted")
        return self._reached is not None
