"""Runs a sweep on Ray Tune and keeps its records."""

import contextlib
import datetime
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from qa_train.ray_session import ray_session, resources

# isort: split
import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import TuneError

from qa_train.config import build_config, with_values
from qa_train.errors import DataError, QAError, SweepError
from qa_train.storage import unused_dir
from sweeps.attempts import held_times
from sweeps.config import SweepConfig
from sweeps.extension import refuse_changes, refuse_other_data
from sweeps.history import PastTrial, read_history
from sweeps.journal import Journal
from sweeps.lock import LOCAL_LOCK, locked
from sweeps.mirror import StudyMirror
from sweeps.placement import Placement, needs_ray_train, place
from sweeps.pricing import check_max_usd
from sweeps.probe import Probe, probe
from sweeps.recorder import Recorder, Say
from sweeps.records import MANIFEST, TRIALS, Manifest, Row, read_manifest, read_records, write_manifest
from sweeps.retention import Retention
from sweeps.search import StudySearcher, distribution
from sweeps.stopping import Stopping
from sweeps.tensorboard import CurveFiles
from sweeps.trainable import (
    BODY,
    DEVICE,
    DIRECTORY,
    LAUNCHER,
    MAX_FAILURES,
    NUM_DEVICES,
    NUM_THREADS,
    TRAIN,
    TrialTrainable,
)
from sweeps.trial import TrialBody, run_trial
from sweeps.tune_hooks import Limits, Listener, TrialScheduler


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        directory: Where its manifest, records and models are.
        num_completed: Trials with a finished model.
        num_stopped: Trials that were stopped early.
        num_failed: Trials that failed.
        best: Row of the best finished model by `search.metric`, None if there is none.
    """

    directory: Path
    num_completed: int
    num_stopped: int
    num_failed: int
    best: Row | None


def run_sweep(
    config: SweepConfig, directory: Path | None = None, say: Say = _say, body: TrialBody = run_trial
) -> SweepResult:
    """Runs a sweep to its end, in a new directory.

    What was recorded stays readable however the sweep ends.

    Args:
        config: What to run.
        directory: New or empty; by default `runs/<name>-<time>`.
        say: Called with a line for each event.
        body: What a trial's process does; importable by name.

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
        with locked(directory):
            return _run(config, directory, say, body)
    finally:
        with contextlib.suppress(OSError):
            (directory / LOCAL_LOCK).unlink()
        with contextlib.suppress(OSError):
            directory.rmdir()  # nothing came of it


def resume_sweep(
    directory: Path,
    change: Callable[[SweepConfig], SweepConfig] = lambda config: config,
    say: Say = _say,
    body: TrialBody = run_trial,
) -> SweepResult:
    """Goes on with a sweep, however it ended: rebuilds everything from its records and its trials' checkpoints.

    Trials that ended are not run again, others go on from their last checkpoint.

    Args:
        directory: Of the sweep.
        change: Returns the configuration to go on with: more trials, another space, metric or limits.
        say: Called with a line for each event.
        body: See `run_sweep`.

    Raises:
        DataError: If the directory holds no sweep, or its data have changed.
        ConfigError: If something has changed that may not, or the machine cannot run it.
        SweepError: If another process runs it, Ray fails, or the records cannot be written.
        KeyboardInterrupt: On Ctrl-C, after the running trials were recorded as interrupted.
    """
    manifest = read_manifest(directory)
    before = build_config(SweepConfig, manifest.config, str(directory / MANIFEST))
    config = change(before)
    refuse_changes(before, config)
    with locked(directory):
        return _run(config, directory, say, body, manifest)


def _run(
    config: SweepConfig, directory: Path, say: Say, body: TrialBody, before: Manifest | None = None
) -> SweepResult:
    """Runs a new sweep, or goes on with the one `before`, in a directory that is locked."""
    past = read_history(directory) if before else []
    try:
        # Ray prints what it tells the user, such as a worker's death, to stdout, where the result goes.
        with contextlib.redirect_stdout(sys.stderr), ray_session(dashboard=needs_ray_train(config)):
            placement = place(config, *resources())
            say(f"sweep {config.name}: {_describe_trials(config, past)}, {_describe(placement)}, in {directory}")
            found = _probe(config, placement)
            check_max_usd(config.stop.max_usd, found.device, config.prices)
            resolved = {"precision": found.precision, "scale.use_gpu": placement.gpus_per_worker > 0}
            config = config.model_copy(update={"train": with_values(config.train, resolved)})
            manifest = _manifest(config, placement, found, directory.name, before)
            write_manifest(directory, manifest)
            with Journal(directory) as journal:
                recorder = Recorder(config, journal, say, partial(_device_time, directory, placement.num_devices))
                recorder.observers.append(CurveFiles(directory, say).record)
                recorder.resume(past)
                _run_tune(config, placement, found, directory, recorder, past, body)
    except RayError as error:
        raise SweepError(f"{directory}: Ray failed: {str(error).strip().splitlines()[-1]}") from error
    return SweepResult(directory, recorder.num_completed, recorder.num_stopped, recorder.num_failed, recorder.best)


def _describe_trials(config: SweepConfig, past: Sequence[PastTrial]) -> str:
    num_ended = sum(trial.has_ended for trial in past)
    goes_on = f", goes on after {num_ended} that ended" if past else ""
    return f"{config.search.num_trials} trials{goes_on}"


def _device_time(directory: Path, num_devices: int, trial_id: str) -> float | None:
    with contextlib.suppress(DataError):
        return sum(held_times(directory / TRIALS / trial_id)) * num_devices
    return None


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
    config: SweepConfig, placement: Placement, found: Probe, sweep_id: str, before: Manifest | None
) -> Manifest:
    """Returns the manifest of a new sweep, or that of `before` with what it goes on with.

    Raises:
        DataError: If the data are no longer those of `before`.
    """
    from qa_train.training import commit

    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    if before:
        refuse_other_data(before, found.data)
        search = config.search
        return replace(
            before,
            config=config.model_dump(mode="json"),
            metric=search.metric,
            mode=search.mode,
            devices_per_trial=placement.num_devices,
            prices=config.prices.to_plain(),
            resumed=[*before.resumed, now],
        )
    return Manifest(
        sweep_id=sweep_id,
        name=config.name,
        note=config.note,
        created=now,
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
        prices=config.prices.to_plain(),
    )


def _run_tune(
    config: SweepConfig,
    placement: Placement,
    found: Probe,
    directory: Path,
    recorder: Recorder,
    past: Sequence[PastTrial],
    body: TrialBody,
) -> None:
    searcher = StudySearcher(config.space, config.search, past)
    stopping = Stopping(config.stop, config.search.mode)
    mirror = _observe(config, directory, recorder, stopping)
    if not searcher.num_left:
        return
    param_space = {
        TRAIN: config.train.model_dump(),
        DIRECTORY: str(directory),
        LAUNCHER: placement.launcher,
        NUM_THREADS: placement.cpus_per_worker,
        NUM_DEVICES: placement.num_devices,
        DEVICE: found.device,
        BODY: body,
        MAX_FAILURES: config.stop.max_failures,
    }
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are told by the recorder
    listener = Listener(recorder, stopping, mirror)
    scratch = Path(tempfile.mkdtemp(prefix="spansweep-"))  # Tune's own state, which nothing reads
    try:
        tune.Tuner(
            tune.with_resources(TrialTrainable, placement.trial_resources),
            param_space=param_space,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=TrialScheduler(config, stopping),
                num_samples=searcher.num_left,
                max_concurrent_trials=placement.max_concurrent_trials,
                # Ray Train's workers end with the actor that asked for them.
                reuse_actors=placement.launcher == "local",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=config.stop.max_failures),  # of actors and nodes
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep their own
                callbacks=[listener],
                stop=Limits(config, recorder, found.device),
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


def _observe(config: SweepConfig, directory: Path, recorder: Recorder, stopping: Stopping) -> StudyMirror:
    """Shows the records so far, and all rows to come, to what keeps models, stops trials and mirrors the study."""
    rows, search = read_records(directory), config.search
    stopping.replay(rows, search.metric)
    retention = Retention(directory, config.keep.models, search.metric, search.mode, recorder.say)
    for row in rows:
        retention.record(row)
    distributions = {key: distribution(dimension) for key, dimension in config.space.dimensions.items()}
    mirror = StudyMirror(directory, config.name, search.metric, search.mode, distributions, recorder.say, rows)
    recorder.observers += [retention.record, mirror.record]
    return mirror
