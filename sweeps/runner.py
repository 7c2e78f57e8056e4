"""Runs a sweep on Ray Tune and keeps its records."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from qa_train.ray_session import ray_session, resources

# isort: split
import ray
from ray.exceptions import RayError

from qa_train.config import build_config, with_values
from qa_train.errors import DataError, QAError, SweepError
from qa_train.storage import unused_dir
from sweeps.answers import Answers
from sweeps.attempts import ATTEMPTS, held_times
from sweeps.config import SweepConfig
from sweeps.extension import refuse_changes, refuse_other_data, refuse_other_device, refuse_other_models
from sweeps.history import PastTrial, end_stopped, read_history
from sweeps.identity import hash_models, surroundings
from sweeps.journal import Journal
from sweeps.live_view import live_view
from sweeps.mirror import StudyMirror
from sweeps.placement import Placement, needs_ray_train
from sweeps.plan import make_plan
from sweeps.pricing import check_max_usd
from sweeps.probe import Probe, probe
from sweeps.progress import Progress
from sweeps.recorder import Recorder, Say
from sweeps.records import MANIFEST, TRIALS, Manifest, Row, read_manifest, read_records, write_manifest
from sweeps.retention import Retention
from sweeps.samplers import distribution
from sweeps.stopping import Stopping
from sweeps.sweep_store import SweepStore, local_copy
from sweeps.tensorboard import CurveFiles
from sweeps.trial import TrialBody, run_trial
from sweeps.tune_hooks import Limits
from sweeps.tuning import Tuning


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more; the records have it all
        print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        directory: Where its manifest, records and models are: a path, or an address of an object store.
        num_completed: Trials with a finished model.
        num_stopped: Trials that were stopped early.
        num_failed: Trials that failed.
        best: Row of the best finished model by `search.metric`, None if there is none.
    """

    directory: str
    num_completed: int
    num_stopped: int
    num_failed: int
    best: Row | None


def run_sweep(
    config: SweepConfig,
    directory: str | Path | None = None,
    say: Say = _say,
    body: TrialBody = run_trial,
    *,
    live: bool = False,
) -> SweepResult:
    """Runs a sweep to its end, in a new directory.

    What was recorded stays readable however the sweep ends.

    Args:
        config: What to run.
        directory: New or empty, or an address such as `s3://bucket/prefix`; by default `runs/<name>-<time>`.
        say: Called with a line for each event.
        body: What a trial's process does; importable by name.
        live: Whether to show on stderr how the sweep gets on, if that is a terminal.

    Raises:
        DataError: If the directory is in use or a data file cannot be used.
        ConfigError: If the machine cannot run it.
        CheckpointError: If the model cannot be opened.
        SweepError: If Ray fails, or the records cannot be written.
        KeyboardInterrupt: On Ctrl-C, after the running trials were recorded as interrupted.
    """
    now = datetime.datetime.now().astimezone()
    store = SweepStore(directory or Path("runs") / f"{config.name}-{now:%Y%m%d-%H%M%S}")
    if not store.is_remote:
        unused_dir(store.directory, "give another --out")
    try:
        with store.locked():
            store.start()
            return _run(config, store, say, body, live)
    finally:
        with contextlib.suppress(OSError):
            store.directory.rmdir()  # nothing came of it


def resume_sweep(
    directory: str | Path,
    change: Callable[[SweepConfig], SweepConfig] = lambda config: config,
    say: Say = _say,
    body: TrialBody = run_trial,
    *,
    live: bool = False,
) -> SweepResult:
    """Goes on with a sweep, however it ended: rebuilds everything from its records and its trials' checkpoints.

    Trials that ended are not run again, others go on from their last checkpoint.

    Args:
        directory: Of the sweep.
        change: Returns the configuration to go on with: more trials, another space, metric or limits.
        say: Called with a line for each event.
        body: See `run_sweep`.
        live: See `run_sweep`.

    Raises:
        DataError: If the directory holds no sweep, or its data or a model have changed.
        ConfigError: If something has changed that may not, or the machine cannot run it.
        SweepError: If another process runs it, Ray fails, or the records cannot be written.
        KeyboardInterrupt: On Ctrl-C, after the running trials were recorded as interrupted.
    """
    store = SweepStore(directory)
    manifest = read_manifest(local_copy(directory))
    before = build_config(SweepConfig, manifest.config, f"{directory}/{MANIFEST}")
    config = change(before)
    refuse_changes(before, config)
    with store.locked():
        store.pull()
        return _run(config, store, say, body, live, manifest)


def _run(
    config: SweepConfig, store: SweepStore, say: Say, body: TrialBody, live: bool, before: Manifest | None = None
) -> SweepResult:
    """Runs a new sweep, or goes on with the one `before`, in a place that is locked."""
    directory = store.directory
    past = read_history(directory) if before else []
    try:
        # Ray prints what it tells the user, such as a worker's death, to stdout, where the result goes.
        with contextlib.redirect_stdout(sys.stderr), ray_session(dashboard=needs_ray_train(config)):
            plan = make_plan(config, *resources(), None)
            placement = plan.placement
            say(f"sweep {config.name}: {_describe_trials(config, past)}, {_describe(placement)}, in {store.address}")
            _warn(say, plan.warnings)
            found = _probe(config, placement)
            _warn(say, found.warnings)
            if before and past:
                refuse_other_device(before, found.device)
            check_max_usd(config.stop.max_usd, found.device, config.prices)
            resolved = {"precision": found.precision, "scale.use_gpu": placement.gpus_per_worker > 0}
            config = config.model_copy(update={"train": with_values(config.train, resolved)})
            manifest = _manifest(config, placement, found, directory.name, before)
            write_manifest(directory, manifest)
            store.push(MANIFEST)
            progress = Progress(config, placement, found.device, time.monotonic(), read_records(directory))
            with (
                Journal(directory, store=store.append) as journal,
                live_view(progress, sys.stderr, wanted=live) as view,
            ):
                recorder = Recorder(config, journal, say, partial(_device_time, store, placement.num_devices))
                recorder.observers.append(view.record)
                recorder.start_observers.append(view.started)
                if _run_trials(config, placement, manifest, store, recorder, past, body):
                    write_manifest(directory, replace(manifest, ended=_now()))
                    store.push(MANIFEST)
    except RayError as error:
        raise SweepError(f"{store.address}: Ray failed: {str(error).strip().splitlines()[-1]}") from error
    return SweepResult(store.address, recorder.num_completed, recorder.num_stopped, recorder.num_failed, recorder.best)


def _warn(say: Say, warnings: Sequence[str]) -> None:
    for warning in warnings:
        say(f"warning: {warning}")


def _describe_trials(config: SweepConfig, past: Sequence[PastTrial]) -> str:
    num_ended = sum(trial.has_ended for trial in past)
    goes_on = f", goes on after {num_ended} that ended" if past else ""
    seeds = f" x {len(config.search.seeds)} seeds" if len(config.search.seeds) > 1 else ""
    return f"{config.num_trials} trials{seeds}{goes_on}"


def _run_trials(
    config: SweepConfig,
    placement: Placement,
    manifest: Manifest,
    store: SweepStore,
    recorder: Recorder,
    past: Sequence[PastTrial],
    body: TrialBody,
) -> bool:
    """Runs all trials that are left; returns whether no limit has ended the sweep before."""
    directory, search = store.directory, config.search
    common = surroundings(manifest.data, manifest.versions, manifest.precision, manifest.device, manifest.models)
    answers = Answers(config.train, common, directory, manifest.sweep_id, manifest.data, config.evaluate_tests == "all")
    if search.reuse_from:
        recorder.say(f"{answers.learn(search.reuse_from)} trials of {', '.join(search.reuse_from)} can be reused")
    stopping = Stopping(config.stop, search.mode, config.budgets)
    stopping.replay(read_records(directory), search.metric)
    past = end_stopped(past, stopping, search.metric, config.train.num_epochs)
    recorder.identify = answers.identify
    recorder.observers.append(CurveFiles(directory, recorder.say).record)
    recorder.resume(past)
    mirror = _observe(config, store, recorder, answers)
    limits = Limits(config, recorder, manifest.device)
    tuning = Tuning(config, placement, manifest.device, store, recorder, mirror, answers, limits, body)
    tuning.run_search(past, stopping)
    tuning.run_finalists()
    return not limits.is_reached


def _observe(config: SweepConfig, store: SweepStore, recorder: Recorder, answers: Answers) -> StudyMirror:
    """Shows the records so far, and all rows to come, to what keeps models, gives answers and mirrors the study."""
    directory, search = store.directory, config.search
    rows = read_records(directory)
    retention = Retention(directory, config.keep.models, search.metric, search.mode, recorder.say, store.remove)
    for row in rows:
        retention.record(row)
        answers.record(row)
    distributions = {key: distribution(dimension) for key, dimension in config.space.dimensions.items()}
    mirror = StudyMirror(
        directory,
        config.name,
        search.metric,
        search.mode,
        distributions,
        recorder.say,
        rows,
        search.cost_metric,
    )
    recorder.observers += [retention.record, answers.record, mirror.record]
    return mirror


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _device_time(store: SweepStore, num_devices: int, trial_id: str) -> float | None:
    with contextlib.suppress(DataError):
        store.fetch(f"{TRIALS}/{trial_id}/{ATTEMPTS}")
        return sum(held_times(store.directory / TRIALS / trial_id)) * num_devices
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
        DataError: If the data or a model are no longer those of `before`.
    """
    from qa_train.training import commit

    models = hash_models(_model_names(config))
    if before:
        refuse_other_data(before, found.data)
        refuse_other_models(before, models)
        search = config.search
        return replace(
            before,
            config=config.model_dump(mode="json"),
            metric=search.metric,
            mode=search.mode,
            device=found.device,
            devices_per_trial=placement.num_devices,
            prices=config.prices.to_plain(),
            num_trials=config.num_trainings,
            ended=None,
            resumed=[*before.resumed, _now()],
            models=before.models | models,
        )
    return Manifest(
        sweep_id=sweep_id,
        name=config.name,
        note=config.note,
        created=_now(),
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
        num_trials=config.num_trainings,
        models=models,
    )


def _model_names(config: SweepConfig) -> set[str]:
    searched = config.space.dimensions.get("model.name")
    return {config.train.model.name, *(str(name) for name in (searched.extremes if searched else ()))}
