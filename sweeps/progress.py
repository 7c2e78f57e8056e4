"""How a running sweep gets on, row by row, as lines for people: best so far, running, cost, time left."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sweeps.config import SweepConfig
from sweeps.placement import Placement
from sweeps.pricing import usd
from sweeps.records import Row, Value
from sweeps.status_text import describe_best, describe_cost, describe_counts, describe_score, duration
from sweeps.tally import STATUSES, Tally, number

_MAX_RUNNING_SHOWN = 8


@dataclass(frozen=True)
class _RunningTrial:
    """A trial that runs.

    Attributes:
        seen: When it was started or reported last.
        num_epochs: That it trains for.
        epochs_trained: Reported so far.
        row: Its last report in this run of the sweep; None before the first.
    """

    seen: float
    num_epochs: float
    epochs_trained: float
    row: Row | None = None


class Progress:
    """What there is to show of a running sweep. All of its times are seconds on one clock, such as `time.monotonic`."""

    def __init__(
        self, config: SweepConfig, placement: Placement, device: str, now: float, rows: Iterable[Row] = ()
    ) -> None:
        """Starts to count what elapses.

        Args:
            config: Of the sweep.
            placement: What each trial holds and how many run at once.
            device: The kind of device that trials hold.
            now: The time.
            rows: The records of earlier runs of the sweep.
        """
        self._config, self._placement, self._device, self._began = config, placement, device, now
        self._tally = Tally.of(rows, config.search.metric, config.search.mode)
        self._running: dict[str, _RunningTrial] = {}

    def started(self, trial_id: str, values: Mapping[str, Value], now: float) -> None:
        """Notes that a trial runs, with the searched `values` by dotted name; does nothing for one that runs."""
        if trial_id not in self._running:
            num_epochs = number(values.get("num_epochs", self._config.train.num_epochs))
            trained = number(self._tally.last.get(trial_id, {}).get("epochs_trained"))
            self._running[trial_id] = _RunningTrial(now, num_epochs, trained)

    def record(self, row: Row, now: float) -> None:
        """Takes note of a row."""
        self._tally.add(row)
        before = self._running.pop(trial_id := str(row["trial_id"]), None)
        if row.get("status") == "running":
            report = row if row.get("epochs_trained") or before is None else before.row  # or it tells of a failure
            trained = number((report or row).get("epochs_trained"))
            self._running[trial_id] = _RunningTrial(now, number(row.get("config.num_epochs")), trained, report)

    def left_s(self, now: float) -> float | None:
        """Estimates the seconds until the sweep ends; None until a trial has completed or was stopped early.

        Reckons with such trials' mean seconds per epoch, all that they held their devices for included. A trial that is
        still to be started counts as many epochs as others on average: those trained of the ended ones, those asked for
        of the running ones, without which the short trials, that end first, would decide alone. A limit of `stop` may
        end the sweep sooner.
        """
        tally, at_once = self._tally, self._placement.max_concurrent_trials
        if not tally.trained_epochs:
            return None
        epoch_s = tally.trained_device_s / tally.trained_epochs / self._placement.num_devices
        running = [_left_s(trial, epoch_s, now) for trial in self._running.values()]
        num_new = max(0, self._config.num_trainings - tally.num_ended - len(running))
        asked = sum(trial.num_epochs for trial in self._running.values())
        mean_epochs = (tally.trained_epochs + asked) / (tally.num_trained + len(running))
        work_s = sum(running) + num_new * mean_epochs * epoch_s
        return max(0.0, min(max(work_s / at_once, *running, 0.0), self._until_limits_s(now)))

    def _until_limits_s(self, now: float) -> float:
        """Returns in how many seconds the first limit of `stop` is reached while as many trials run as may."""
        stop, held = self._config.stop, self._placement.max_concurrent_trials * self._placement.num_devices
        left_s = [math.inf if stop.max_wall_s is None else self._began + stop.max_wall_s - now]
        device_s = [] if stop.max_device_hours is None else [stop.max_device_hours * 3600]
        if stop.max_usd is not None and (per_s := usd(1.0, self._device, self._config.prices)):
            device_s.append(stop.max_usd / per_s)
        return min(*left_s, *((limit - self._tally.device_s) / held for limit in device_s), math.inf)

    def lines(self, now: float) -> list[str]:
        """Returns what to show, the most wanted first."""
        tally = self._tally
        lines = [describe_best(tally.best, tally.metric)] if tally.best else []
        running = [f"runs: trial {trial_id}, {self._describe(trial, now)}" for trial_id, trial in self._running.items()]
        lines += sorted(running)[:_MAX_RUNNING_SHOWN]
        lines += [f"runs: {len(running) - _MAX_RUNNING_SHOWN} more"] if len(running) > _MAX_RUNNING_SHOWN else []
        lines.append(describe_counts(self._counts(), self._config.num_trainings))
        dollars = usd(tally.device_s, self._device, self._config.prices)
        cost, left_s = describe_cost(tally.device_s / 3600, self._device, dollars), self.left_s(now)
        left = [] if left_s is None else [f"about {duration(left_s)} left"]
        return [*lines, ", ".join([cost, f"{duration(now - self._began)} elapsed", *left])]

    def _describe(self, trial: _RunningTrial, now: float) -> str:
        epochs = f"epoch {trial.epochs_trained:g}/{trial.num_epochs:g}"
        if trial.row is None:
            return f"{f'{epochs}, ' if trial.epochs_trained else ''}started {duration(now - trial.seen)} ago"
        return f"{epochs}, {describe_score(trial.row, self._tally.metric)}"

    def _counts(self) -> dict[str, int]:
        """Returns the trials by status; one that was started (again) runs, whatever its last row says."""
        counts = self._tally.counts.copy()
        for trial_id in self._running:
            counts[str(self._tally.last.get(trial_id, {}).get("status"))] -= 1
        counts["running"] = len(self._running)
        return {status: counts[status] for status in STATUSES if counts[status] > 0}


def _left_s(trial: _RunningTrial, epoch_s: float, now: float) -> float:
    """Returns what is left of a trial; of the epoch that it is in, at most all is done."""
    in_epoch_s = min(now - trial.seen, epoch_s)
    return max(0.0, (trial.num_epochs - trial.epochs_trained) * epoch_s - in_epoch_s)
