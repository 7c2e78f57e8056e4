"""The same trainings done bare in one process, as trials of a sweep, and in Ray Train's workers inside of Ray Tune.

Each way is a function that is called in a process of its own.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qa_train.config import TrainConfig, build_config, with_values
from qa_train.resources import limit_threads
from qa_train.storage import write_json
from sweeps.trial import TrialJob, messages

METERED = ("starting", "loading", "training", "evaluating", "checkpointing")
"""Parts of a training that it measures itself, `lost` apart, of which there is none here."""


@dataclass(frozen=True)
class Timing:
    """What trainings took, one after the other.

    Attributes:
        first_s: Seconds from the command's start to the first training's end.
        each_s: Seconds of each later one, from the end of the one before to its own.
        parts: What they went into, mean seconds of the later ones; they add up to the mean of `each_s`.
    """

    first_s: float
    each_s: tuple[float, ...]
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def mean_s(self) -> float:
        """Mean seconds of the later trainings."""
        return sum(self.each_s) / len(self.each_s)


Way = Callable[[dict[str, Any], Sequence[float]], Timing]
"""Trains the configuration (plain values) once with each learning rate."""


def bare(config: dict[str, Any], rates: Sequence[float]) -> Timing:
    """Trains in this process, without Ray."""
    limit_threads(1)
    clock, rows = _Clock(), []
    with tempfile.TemporaryDirectory() as directory:
        for number, rate in enumerate(rates):
            rows.append(_train(_job(config, rate, Path(directory), f"{number:05d}")))
            clock.training_ended()
    return clock.timing({name: _mean(rows, f"cost.{name}_s") for name in METERED}, rest="between")


def sweep(config: dict[str, Any], rates: Sequence[float]) -> Timing:
    """Runs a sweep, a trial at a time."""
    from sweeps.config import SweepConfig
    from sweeps.recorder import Recorder
    from sweeps.records import read_records
    from sweeps.runner import run_sweep
    from sweeps.search import StudySearcher

    clock = _Clock()
    plain = {
        "train": config,
        "space": {"optim.learning_rate": {"uniform": [min(rates) / 2, max(rates) * 2]}},
        "search": {
            "searcher": "random",
            "num_trials": len(rates),
            "max_concurrent_trials": 1,
            "enqueue": [{"optim.learning_rate": rate} for rate in rates],
        },
    }
    for owner, name, part in (
        (Recorder, "started", "recording"),
        (Recorder, "reported", "recording"),
        (StudySearcher, "suggest", "sampling"),
        (StudySearcher, "on_trial_complete", "sampling"),
    ):
        clock.watch(owner, name, part)
    with tempfile.TemporaryDirectory() as directory:
        run_sweep(build_config(SweepConfig, plain, "benchmark"), Path(directory) / "sweep", say=lambda line: None)
        rows = read_records(Path(directory) / "sweep")
    metered = {name: _mean(rows, f"cost.{name}_s") for name in (*METERED, "unexplained")}
    return clock.timing(metered | clock.watched(), rest="Ray and Tune")


def nested(config: dict[str, Any], rates: Sequence[float]) -> Timing:
    """Trains in Ray Train's workers, each group started by a driver function that is a trial of Ray Tune.

    That is what Ray's documentation advises, with the precautions without which it hangs: the dashboard that frees the
    workers of a trial; a driver that takes no core from them; a controller that looks often; and no end of the driver
    before Tune has got the last report.
    """
    from qa_train.ray_session import ray_session

    # isort: split
    from ray import tune

    clock = _Clock()

    class Listener(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            clock.training_ended()

    with tempfile.TemporaryDirectory() as directory, ray_session(dashboard=True):
        results = tune.Tuner(
            tune.with_resources(_drive, {"node:__internal_head__": 0.001}),
            param_space={"config": config, "rate": tune.grid_search([*rates]), "directory": directory},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(name="tune", storage_path=directory, callbacks=[Listener()], verbose=0),
        ).fit()
    if results.errors:
        raise results.errors[0]
    rows = [results[number].metrics or {} for number in range(len(results))]
    return clock.timing({name: _mean(rows, f"cost.{name}_s") for name in METERED}, rest="Ray, Tune and Train")


def _drive(arguments: dict[str, Any]) -> None:
    """Lets one worker train; the body of a trial of Ray Tune."""
    import ray.train
    from ray import tune
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trial_id = tune.get_context().get_trial_id()
    callback: Any = TuneReportCallback()  # type: ignore[no-untyped-call]
    TorchTrainer(
        _report,
        train_loop_config=arguments | {"trial_id": trial_id},
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=ray.train.RunConfig(
            name=f"train-{trial_id}", storage_path=arguments["directory"], callbacks=[callback]
        ),
    ).fit()
    while not callback._training_actor_item_queue.empty():
        time.sleep(0.05)
    time.sleep(0.5)  # until Tune has made a result of what it took


def _report(arguments: dict[str, Any]) -> None:
    """Trains and reports; what Ray Train's worker does."""
    import ray.train

    limit_threads(1)
    job = _job(arguments["config"], arguments["rate"], Path(arguments["directory"]), arguments["trial_id"])
    ray.train.report(_train(job))


def _job(config: dict[str, Any], rate: float, directory: Path, trial_id: str) -> TrialJob:
    trained = with_values(build_config(TrainConfig, config, "benchmark"), {"optim.learning_rate": rate})
    place = directory / "trials" / trial_id
    place.mkdir(parents=True)
    write_json(place / "config.json", trained.model_dump())
    return TrialJob(trial_id, trained, place, num_threads=1, created=time.time())


def _train(job: TrialJob) -> dict[str, Any]:
    return [*messages(job)][-1]


def _mean(rows: Sequence[dict[str, Any]], column: str) -> float:
    """Returns the mean over the last rows of all trainings but the first."""
    later = [row for row in rows if row.get("budget_epochs") is not None][1:]
    return sum(float(row[column]) for row in later) / len(later)


class _Clock:
    """Notes when trainings end, and what calls in between take."""

    def __init__(self) -> None:
        self._began, self._ends = time.perf_counter(), list[float]()
        self._calls: list[tuple[float, str, float]] = []

    def training_ended(self) -> None:
        """Notes the end of a training, all that is done about it included."""
        self._ends.append(time.perf_counter())

    def watch(self, owner: type, name: str, part: str) -> None:
        """Replaces a method by one that counts its time; one that tells of a trial's end ends a training, too."""
        method = getattr(owner, name)

        @functools.wraps(method)
        def counted(*arguments: Any, **more: Any) -> Any:
            began = time.perf_counter()
            result = method(*arguments, **more)
            self._calls.append((time.perf_counter(), part, time.perf_counter() - began))
            if name == "reported" and arguments[-1]["status"] == "completed":
                self.training_ended()
            return result

        setattr(owner, name, counted)

    def watched(self) -> dict[str, float]:
        """Returns the mean seconds that a later training's calls took, by part."""
        first, *_, last = self._ends
        parts = dict.fromkeys((part for _, part, _ in self._calls), 0.0)
        for when, part, seconds in self._calls:
            if first < when <= last:
                parts[part] += seconds / (len(self._ends) - 1)
        return parts

    def timing(self, parts: dict[str, float], rest: str) -> Timing:
        """Returns what was noted; what the parts do not account for is the rest."""
        first, *later = self._ends
        each = tuple(end - before for before, end in zip(self._ends, later, strict=False))
        return Timing(first - self._began, each, parts | {rest: sum(each) / len(each) - sum(parts.values())})
