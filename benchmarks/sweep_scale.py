"""Whether a sweep's own work grows with the sweep: `python -m benchmarks.sweep_scale`.

2,000 trials and about 20,000 reports, replayed in virtual time through all that a real sweep runs in its driver:
searcher, stopping, limits, recorder, journal, and what looks at each row (curve files, kept models, answers, study
mirror). Ray and the training are left out. Each trial of 25 epochs has a learning curve with noise; successive halving
stops most of them, which leaves about 10 reports a trial.

Work is CPU time of the driver's thread, which other jobs on the machine disturb little. Two things are measured apart:
Optuna's sampling, and the wait for the disk (wall time in `fsync`).
"""

import contextlib
import json
import math
import os
import sys
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest import mock

import click
import numpy as np
import optuna
import psutil
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from benchmarks.throughput import describe_machine
from qa_train.config import build_config
from qa_train.errors import run_command
from sweeps.answers import Answers
from sweeps.config import SweepConfig
from sweeps.curves import Curve
from sweeps.journal import Journal
from sweeps.mirror import StudyMirror
from sweeps.placement import Placement
from sweeps.recorder import Recorder
from sweeps.records import RECORDS, TRIALS, Row
from sweeps.retention import Retention
from sweeps.samplers import distribution
from sweeps.search import StudySearcher
from sweeps.simulate import Simulation
from sweeps.space import Scalar
from sweeps.stopping import Stopping
from sweeps.sweep_store import SweepStore
from sweeps.tensorboard import CurveFiles
from sweeps.trial import run_trial
from sweeps.tune_hooks import Limits
from sweeps.tuning import Tuning

GOAL = 1.3
"""How much the work of a report may grow at most, from the first tenth of the trials to the last."""
NUM_TENTHS = 10
SAMPLER, DISK, OUTSIDE = "sampler (Optuna)", "waiting for the disk", "outside"
APART = (SAMPLER, DISK)
EVENTS = ("start of a trial", "report", "end of a trial")
_START, _REPORT, _END = EVENTS
_DEVICE, _SWEEP_ID = "cpu-core", "sweep-scale"
_NUM_EPOCHS = 25

_P = ParamSpec("_P")
_T = TypeVar("_T")
Clock = Callable[[], float]


class Stopwatch:
    """Adds up the time of each part, without that of the parts called from it."""

    def __init__(self, clock: Clock) -> None:
        """Starts at zero; the disk is always measured in wall time."""
        self._clock = clock
        self._open = [OUTSIDE]
        self._last = (clock(), time.perf_counter())
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def wrap(self, part: str, call: Callable[_P, _T]) -> Callable[_P, _T]:
        """Returns the function; what it takes is added to `part`."""

        def timed(*arguments: _P.args, **keywords: _P.kwargs) -> _T:
            self._charge()
            self._open.append(part)
            try:
                return call(*arguments, **keywords)
            finally:
                self._charge()
                self._open.pop()

        return timed

    def take(self) -> dict[str, float]:
        """Returns what was added up, and starts at zero again."""
        self._charge()
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken

    def _charge(self) -> None:
        now = (self._clock(), time.perf_counter())
        part = self._open[-1]
        which = int(part == DISK)
        self._seconds[part] += now[which] - self._last[which]
        self._last = now


@dataclass
class Result:
    """What the driver's work took, event by event.

    Attributes:
        events: [num_events] of `EVENTS`, as their indices.
        seconds: By part, [num_events].
        rss_bytes: [num_events] memory of the process.
        num_bytes: Size of the records at the end.
        wall_s: Of the whole run.
    """

    events: "array[int]" = field(default_factory=lambda: array("b"))
    seconds: "dict[str, array[float]]" = field(default_factory=dict)
    rss_bytes: "array[int]" = field(default_factory=lambda: array("q"))
    num_bytes: int = 0
    wall_s: float = 0.0

    def add(self, event: str, seconds: Mapping[str, float]) -> None:
        """Notes an event and what its parts took."""
        for part in seconds.keys() - self.seconds.keys() - {OUTSIDE}:
            self.seconds[part] = array("d", [0.0] * len(self.events))
        for part, values in self.seconds.items():
            values.append(seconds.get(part, 0.0))
        self.events.append(EVENTS.index(event))
        self.rss_bytes.append(psutil.Process().memory_info().rss)

    def count(self, event: str) -> int:
        """Returns how many of these events there were."""
        return self.events.count(EVENTS.index(event))

    @property
    def num_reports(self) -> int:
        """Reports of all trials, the last ones included."""
        return len(self.events) - self.count(_START)

    @property
    def parts(self) -> list[str]:
        """All parts, ours first."""
        return sorted(self.seconds, key=lambda part: (part in APART, part))

    @property
    def tenths(self) -> NDArray[np.int64]:
        """[num_events] from 0 to 9: in which tenth of the reports each event was."""
        num_before = np.maximum(np.cumsum(self._are_reports) - 1, 0)
        return np.asarray(num_before * NUM_TENTHS // self.num_reports)

    def work(self, event: str) -> list[float]:
        """Returns our seconds for such an event in each tenth, on average: without the sampler and the disk."""
        ours = np.sum([values for part, values in self.seconds.items() if part not in APART], axis=0)
        chosen = np.asarray(self.events) == EVENTS.index(event)
        return _means(ours[chosen], self.tenths[chosen])

    def per_report(self, part: str) -> list[float]:
        """Returns a part's seconds in all events of each tenth, for each report in it."""
        num_reports = np.bincount(self.tenths[self._are_reports])
        return [float(value) for value in np.bincount(self.tenths, self.seconds[part]) / num_reports]

    @property
    def _are_reports(self) -> NDArray[np.bool_]:
        return np.array([event != EVENTS.index(_START) for event in self.events])

    @property
    def grown_bytes(self) -> int:
        """Returns by how much memory grew after the first tenth."""
        return int(self.rss_bytes[-1] - self.rss_bytes[int(np.flatnonzero(self.tenths == 0)[-1])])

    @property
    def bytes_per_trial(self) -> float:
        """The same for each trial that ended in that time."""
        ended = (np.asarray(self.events) == EVENTS.index(_END)) & (self.tenths > 0)
        return self.grown_bytes / int(ended.sum())


def _means(values: NDArray[np.float64], tenths: NDArray[np.int64]) -> list[float]:
    """Returns the mean in each tenth, NaN where there is none."""
    with np.errstate(invalid="ignore"):
        means = np.bincount(tenths, values, NUM_TENTHS) / np.bincount(tenths, minlength=NUM_TENTHS)
    return [float(mean) for mean in means]


def growth(values: Sequence[float]) -> float:
    """Returns the last tenth beside the first; NaN where the first took nothing."""
    return values[-1] / values[0] if values[0] else math.nan


def learning_curves(seed: int = 0) -> Callable[[Mapping[str, Scalar], int], Curve]:
    """Returns a stand-in for training: a curve that rises to a score that depends on the learning rate, with noise."""
    rng = np.random.default_rng(seed)

    def curve(values: Mapping[str, Scalar], num_epochs: int) -> Curve:
        rate = np.log10(float(values["optim.learning_rate"] or 1.0))
        last = 70 - 8 * (rate + 4.6) ** 2 + rng.normal(0, 2)
        rise = 1 - np.exp(-4 * np.arange(1, num_epochs + 1) / num_epochs)
        scores = last * rise + rng.normal(0, 0.5, size=num_epochs)
        return Curve(values, tuple(scores.tolist()), start_s=20.0, epoch_s=float(rng.uniform(200, 400)))

    return curve


def sweep_config(num_trials: int, searcher: str) -> SweepConfig:
    """Returns the sweep that is replayed: all its trials are compared with each other."""
    plain = {
        "train": {"data": {"train": "none.json"}, "num_epochs": _NUM_EPOCHS},
        "space": {
            "optim.learning_rate": {"loguniform": [1e-6, 1e-3]},
            "optim.warmup_ratio": {"uniform": [0.0, 0.2]},
            "optim.weight_decay": {"uniform": [0.0, 0.1]},
        },
        "search": {"searcher": searcher, "num_trials": num_trials},
        "stop": {"trial_scheduler": "asha", "max_device_hours": 1e9},
    }
    return build_config(SweepConfig, plain, "benchmark")


def measure(
    num_trials: int, num_at_once: int, searcher: str, directory: Path, clock: Clock = time.thread_time
) -> Result:
    """Replays a sweep.

    Args:
        num_trials: Configurations to sample, 10 or more.
        num_at_once: Trials that run at once, in virtual time.
        searcher: `random` or `tpe`.
        directory: Empty; the sweep's.
        clock: Returns seconds, or anything else that work can be counted in.
    """
    config, watch, result = sweep_config(num_trials, searcher), Stopwatch(clock), Result()
    started = time.perf_counter()
    with _timed_library(watch), Journal(directory) as journal:
        simulation, check_limits = _assemble(config, num_at_once, directory, journal, watch)
        recorder, is_open = simulation.recorder, True
        while is_open:
            watch.take()
            while simulation.start():
                result.add(_START, watch.take())
            num_ended = recorder.num_completed + recorder.num_stopped
            is_open = simulation.report()
            check_limits()
            if is_open:
                has_ended = recorder.num_completed + recorder.num_stopped > num_ended
                result.add(_END if has_ended else _REPORT, watch.take())
        recorder.close()
    result.num_bytes, result.wall_s = (directory / RECORDS).stat().st_size, time.perf_counter() - started
    return result


@contextlib.contextmanager
def _timed_library(watch: Stopwatch) -> Iterator[None]:
    """Measures, wherever they are called, Optuna's sampling and the wait for the disk."""
    ask, fsync = watch.wrap(SAMPLER, optuna.Study.ask), watch.wrap(DISK, os.fsync)
    with mock.patch.object(optuna.Study, "ask", ask), mock.patch.object(os, "fsync", fsync):
        yield


def _assemble(
    config: SweepConfig, num_at_once: int, directory: Path, journal: Journal, watch: Stopwatch
) -> tuple[Simulation, Callable[[], object]]:
    """Puts together what `sweeps.runner` does, each part measured; returns also what checks the sweep's limits."""
    search, said = config.search, list[str]()
    recorder = Recorder(config, journal, said.append)
    curve_files = CurveFiles(directory, said.append)
    retention = Retention(directory, config.keep.models, search.metric, search.mode, said.append)
    answers = Answers(config.train, {}, directory, _SWEEP_ID)
    distributions = {key: distribution(dimension) for key, dimension in config.space.dimensions.items()}
    mirror = StudyMirror(directory, config.name, search.metric, search.mode, distributions, said.append)
    limits = Limits(config, recorder, _DEVICE)
    placement = Placement(1, 1, 0, num_at_once)
    tuning = Tuning(config, placement, _DEVICE, SweepStore(directory), recorder, mirror, answers, limits, run_trial)
    searcher = StudySearcher(config.space, search, (), config.train.seed, tuning)
    stopping = Stopping(config.stop, search.mode)
    recorder.identify = watch.wrap("answers", answers.identify)
    recorder.observers += [
        lambda row: _leave_model(directory, row),
        watch.wrap("curve files", curve_files.record),
        watch.wrap("kept models", retention.record),
        watch.wrap("answers", answers.record),
        watch.wrap("study mirror", mirror.record),
    ]
    for part, owner, names in (
        ("searcher", searcher, ("suggest", "on_trial_result", "on_trial_complete")),
        ("stopping", stopping, ("decide",)),
        ("recorder", recorder, ("started", "reported")),
        ("journal", journal, ("append",)),
    ):
        for name in names:
            setattr(owner, name, watch.wrap(part, getattr(owner, name)))
    started = watch.wrap("study mirror", mirror.started)
    simulation = Simulation(config, learning_curves(), searcher, stopping, recorder, num_at_once, on_start=(started,))
    said.clear()
    return simulation, watch.wrap("limits", limits.stop_all)


def _leave_model(directory: Path, row: Row) -> None:
    """Writes, as the trial itself would, what is to be removed after its end."""
    if row["epochs_trained"] == 1:
        (directory / TRIALS / str(row["trial_id"]) / "checkpoints").mkdir(parents=True)
    if row["status"] == "completed":
        model = directory / TRIALS / str(row["trial_id"]) / "model"
        model.mkdir()
        (model / "model.safetensors").touch()


@click.command()
@click.option("--trials", type=click.IntRange(100), default=2000, show_default=True, help="To start.")
@click.option("--at-once", type=click.IntRange(1), default=64, show_default=True, help="That run at once.")
@click.option("--searcher", type=click.Choice(["random", "tpe"]), default="random", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(trials: int, at_once: int, searcher: str, as_json: bool) -> int:
    r"""Measures whether a sweep's own work for a report grows with the sweep.

    Takes some minutes with the defaults, most of them in waiting for the disk; TMPDIR decides which. The sampler of tpe
    takes the longer the more trials there are.

    \b
    Example:
      python -m benchmarks.sweep_scale --searcher tpe
    """
    machine = describe_machine(torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="spansweep-") as directory:
        result = measure(trials, at_once, searcher, Path(directory))
    settings = {"trials": trials, "at_once": at_once, "searcher": searcher}
    if as_json:
        print(json.dumps({"machine": machine, "settings": settings, **as_dict(result)}, indent=2))
        return 0
    print(f"{machine['cpu']}, load before {machine['load']}, optuna {optuna.__version__}")
    print(f"{trials:,} trials, {at_once} at once, {result.num_reports:,} reports, searcher {searcher}\n")
    print(format_result(result))
    return 0


def as_dict(result: Result) -> dict[str, Any]:
    """Returns the result for `--json`: times in seconds, of each tenth; null in a tenth without such an event."""
    works = {event: result.work(event) for event in EVENTS}
    return {
        "reports": result.num_reports,
        "events": {
            event: {"work_s": [*map(_known, work)], "growth": _known(growth(work))} for event, work in works.items()
        },
        "goal": GOAL,
        "parts_per_report_s": {part: result.per_report(part) for part in result.parts},
        "bytes_per_trial": result.bytes_per_trial,
        "records_bytes": result.num_bytes,
        "wall_s": result.wall_s,
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def format_result(result: Result) -> str:
    """Returns a table of our work for each kind of event, one of its parts, and a line on memory."""
    works = {event: result.work(event) for event in EVENTS}
    events = [[event, result.count(event), *_ends(work), GOAL] for event, work in works.items()]
    parts = [[part, *_ends(result.per_report(part))] for part in result.parts]
    tenths = ["first tenth", "last tenth", "last / first"]
    return "\n\n".join(
        [
            tabulate(
                events, ["our work, ms", "number", *tenths, "goal"], floatfmt=("", "", ".2f", ".2f", ".2f", ".1f")
            ),
            tabulate(parts, ["parts, ms per report", *tenths], floatfmt=("", ".3f", ".3f", ".2f")),
            f"memory: {result.grown_bytes / 2**20:.1f} MiB more at the end than after the first tenth, "
            f"{result.bytes_per_trial / 1024:.1f} KiB for each trial; records: {result.num_bytes / 2**20:.1f} MiB; "
            f"the run took {result.wall_s:.0f} s",
        ]
    )


def _ends(values: Sequence[float]) -> tuple[float, float, float]:
    return 1e3 * values[0], 1e3 * values[-1], growth(values)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(command, "python -m benchmarks.sweep_scale", argv)


if __name__ == "__main__":
    sys.exit(main())
