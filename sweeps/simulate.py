"""Replays learning curves in virtual time through a sweep's own searcher, stopping, recorder and journal.

Only the training and Ray Tune are replaced: trials start as places become free, report in the order in which their
epochs would end, and are told to searcher, stopping and recorder in the order in which Tune tells them. Nothing waits,
so that a sweep of days takes seconds. Failures do not occur, and nobody needs time to decide.
"""

import contextlib
import heapq
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeps.config import SweepConfig
from sweeps.curves import Curve
from sweeps.journal import Journal
from sweeps.recorder import Recorder
from sweeps.records import Value
from sweeps.search import SEED, TRIAL_ID, VALUES, StudySearcher
from sweeps.space import Scalar
from sweeps.stopping import Stopping, limit_reached

CurveOf = Callable[[Mapping[str, Scalar], int], Curve]
"""Returns how a configuration trains, given the values searched and its `num_epochs`."""


@dataclass(frozen=True)
class Devices:
    """What trials run on.

    Attributes:
        kind: As records name it.
        per_trial: How many each trial holds.
    """

    kind: str = "cpu-core"
    per_trial: int = 1


@dataclass
class _Trial:
    """A trial that runs: what the searcher suggested, how it trains, when it started, and how far it is."""

    trial_id: str
    values: Mapping[str, Scalar]
    curve: Curve
    started_s: float
    epoch: int = 0

    @property
    def next_report_s(self) -> float:
        """When its next epoch ends, in virtual seconds."""
        return self.started_s + self.curve.start_s + (self.epoch + 1) * self.curve.epoch_s

    @property
    def is_last(self) -> bool:
        """Whether it trained to its end."""
        return self.epoch == self.curve.num_epochs


@dataclass
class Simulation:
    """A sweep in virtual time. `run` it, or let `start` and `report` take turns.

    Attributes:
        config: Of the sweep; `search.max_concurrent_trials` is not looked at.
        curve_of: Takes the place of training.
        searcher: Suggests trials, told of their reports and ends.
        stopping: Decides at each report.
        recorder: Gets each report; its journal and observers do what they do in a real sweep.
        num_at_once: Trials that run at once, 1 or more.
        devices: What they run on.
        on_start: Called with each trial's id and searched values as it starts.
        now_s: Virtual seconds since the sweep's start.
        reached: The limit of `stop` that ended the sweep; None if none did.
    """

    config: SweepConfig
    curve_of: CurveOf
    searcher: StudySearcher
    stopping: Stopping
    recorder: Recorder
    num_at_once: int
    devices: Devices = Devices()
    on_start: tuple[Callable[[str, Mapping[str, Value]], None], ...] = ()
    now_s: float = 0.0
    reached: str | None = None
    _running: list[tuple[float, int, _Trial]] = field(default_factory=list)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)
    _is_exhausted: bool = False

    def __post_init__(self) -> None:
        self.recorder.device_time = self._held

    def _held(self, trial_id: str) -> float | None:
        """Returns the device-seconds of a trial that runs."""
        started = next((trial.started_s for *_, trial in self._running if trial.trial_id == trial_id), None)
        return None if started is None else (self.now_s - started) * self.devices.per_trial

    def run(self) -> None:
        """Runs the sweep to its end: of the last trial, or at a limit of `stop`, where running trials are cut off."""
        while self.reached is None:
            while self.start():
                pass
            if not self.report():
                break
            self.reached = limit_reached(self.config, self.devices.kind, self.recorder.device_s, self.now_s)
        self.recorder.close()

    def start(self) -> bool:
        """Starts a trial, if a place is free and the searcher has one; returns whether it did."""
        if self._is_exhausted or len(self._running) >= self.num_at_once:
            return False
        name = str(next(self._order))  # Tune's own ids have nothing to do with those of the sweep
        suggestion = self.searcher.suggest(name)
        if not isinstance(suggestion, dict):
            self._is_exhausted = suggestion == StudySearcher.FINISHED
            return False
        trial_id, values = suggestion[TRIAL_ID], suggestion[VALUES]
        num_epochs = int(values.get("num_epochs", self.config.train.num_epochs))
        self._push(name, _Trial(trial_id, values, self.curve_of(values, num_epochs), self.now_s))
        self.recorder.started(trial_id, values, suggestion[SEED])
        for tell in self.on_start:
            tell(trial_id, values)
        return True

    def report(self) -> bool:
        """Passes on the report that comes next; returns whether there was one."""
        if not self._running:
            return False
        self.now_s, order, trial = heapq.heappop(self._running)
        trial.epoch += 1
        result = self._result(trial)
        ends = trial.is_last or self._stops(trial, result)
        # As Tune does: the searcher hears of a report before the recorder, and of a trial's end after it.
        if not ends:
            self.searcher.on_trial_result(str(order), result)
        is_stopped = ends and not trial.is_last
        self.recorder.reported(trial.trial_id, result | ({"status": "stopped_early"} if is_stopped else {}))
        if ends:
            self.searcher.on_trial_complete(str(order), result)
        else:
            self._push(str(order), trial)
        return True

    def _push(self, name: str, trial: _Trial) -> None:
        heapq.heappush(self._running, (trial.next_report_s, int(name), trial))

    def _stops(self, trial: _Trial, result: Mapping[str, Any]) -> bool:
        value = result[self.config.search.metric]
        return self.stopping.decide(trial.trial_id, trial.curve.num_epochs, trial.epoch, value)

    def _result(self, trial: _Trial) -> dict[str, Any]:
        """Returns what a trial would report after an epoch, by the columns of records."""
        return {
            "status": "completed" if trial.is_last else "running",
            "epochs_trained": trial.epoch,
            "budget_epochs": trial.epoch if trial.is_last else None,
            self.config.search.metric: trial.curve.scores[trial.epoch - 1],
            "cost.starting_s": trial.curve.start_s,
            "cost.training_s": trial.epoch * trial.curve.epoch_s,
            "cost.device_s": (self.now_s - trial.started_s) * self.devices.per_trial,
            "device": self.devices.kind,
            "launcher": "simulated",
        }


@dataclass(frozen=True)
class Outcome:
    """What came of a simulated sweep.

    Attributes:
        best: Score of the best finished model; None if no trial finished.
        device_hours: Hours x devices of all trials, as the ledger has them.
        wall_s: Virtual seconds from the first start to the last report.
        num_trials: Trials that ended, stopped ones included.
        num_stopped: Trials that were stopped early.
    """

    best: float | None
    device_hours: float
    wall_s: float
    num_trials: int
    num_stopped: int


def simulate(config: SweepConfig, curve_of: CurveOf, num_at_once: int, devices: Devices = Devices()) -> Outcome:
    """Runs a sweep in virtual time, with records of its own in a temporary directory.

    Args:
        config: Of the sweep.
        curve_of: Takes the place of training.
        num_at_once: Trials that run at once, 1 or more.
        devices: What they run on.

    Raises:
        SweepError: If the records cannot be written.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spansweep-")))
        # These records need not outlive the process, so nobody waits for the disk.
        journal = stack.enter_context(Journal(directory, durable=False))
        recorder = Recorder(config, journal, say=lambda line: None)
        searcher = StudySearcher(config.space, config.search, own_seed=config.train.seed, budgets=config.budgets)
        stopping = Stopping(config.stop, config.search.mode)
        simulation = Simulation(config, curve_of, searcher, stopping, recorder, num_at_once, devices)
        simulation.run()
    best = recorder.best and recorder.best.get(config.search.metric)
    return Outcome(
        best=float(best) if isinstance(best, int | float) else None,
        device_hours=recorder.device_s / 3600,
        wall_s=simulation.now_s,
        num_trials=recorder.num_completed + recorder.num_stopped + recorder.num_failed,
        num_stopped=recorder.num_stopped,
    )
