"""Trial schedulers that know the learning-rate schedule; knows nothing of Ray.

A linear decay's length depends on `num_epochs`: after the same epoch, or the same share of their epochs, two trials of
different length are not alike. So a trial is compared only with trials of the same `num_epochs` (its *group*), at the
same point of the schedule (a *rung*): the first evaluation at or after a fraction of its epochs. The last epoch is no
rung, for nothing is left to save. A constant learning rate follows the same rule.

Use: one `Stopping` per sweep. For each report, in the order in which the reports are recorded, call `decide`; if it
returns True, end the trial, record it as `stopped_early` and tell the searcher that it was pruned. To go on with a
sweep, `replay` its rows first; `has_stopped` then names trials that need not be started again, such as one whose
driver died between its last row and its end.

    stopping = Stopping(config.stop, config.search.mode)
    stopping.replay(read_records(directory), config.search.metric)
    if stopping.decide(trial_id, num_epochs, epochs_trained, value): ...
"""

import math
import statistics
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sweeps.config import StopConfig, SweepConfig
from sweeps.pricing import usd
from sweeps.records import Row, TrialName, Value
from sweeps.space import Choice, Dimension, IntRange

SMALL_GROUP = 4
"""Trials of a group below which `Stopping` has nearly nothing to compare."""


@dataclass
class _Trial:
    """What a trial reported: scores, more is better, by epochs trained."""

    scores: dict[int, float] = field(default_factory=dict)
    stopped: bool = False


class Stopping:
    """Decides at each report whether a trial shall end.

    - `asha` (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", in the form that stops trials
      instead of pausing them, as Ray does): a trial goes on from a rung if its value there is among the best
      1 / `reduction_factor`, rounded down, of the group's so far, itself included, or while these are fewer than
      `reduction_factor`. Equal values go on together.
    - `median` (Golovin et al. 2017, "Google Vizier"): a trial is stopped at a rung if its best value so far is worse
      than the median, over the group's others that came to this rung, of the mean of all their values up to it; not
      before `min_trials` others did. Vizier takes completed trials for these others; in a group of a few trials that
      run at once there would be none.

    Decisions depend on the order of reports within a group and on nothing else. A report costs the same however many
    trials there are, but for inserting into a sorted list.
    """

    def __init__(self, stop: StopConfig, mode: Literal["max", "min"], budgets: Sequence[int] = ()) -> None:
        """Starts with no trials.

        Args:
            stop: The trial scheduler and its settings; with `none` no trial is ever stopped.
            mode: Whether values are better the higher or the lower.
            budgets: After which epochs trials have a finished model, if they have several: then these are the rungs.
        """
        self._stop, self._budgets = stop, tuple(budgets[:-1])
        self._sign = 1.0 if mode == "max" else -1.0
        self._trials: defaultdict[str, _Trial] = defaultdict(_Trial)
        self._rungs: defaultdict[tuple[int, int], list[float]] = defaultdict(list)

    def decide(self, trial_id: str, num_epochs: int, epochs_trained: int, value: Value) -> bool:
        """Takes note of a report and returns whether the trial shall end now.

        A report told twice, and any report of a stopped trial, changes nothing.

        Args:
            trial_id: Of the sweep.
            num_epochs: That the trial trains for if it is not stopped.
            epochs_trained: So far, from 1; a trial's reports come in ascending order.
            value: Of `search.metric` after this epoch; None and what is not finite count as worst.
        """
        trial = self._trials[trial_id]
        if self._stop.trial_scheduler == "none" or trial.stopped or epochs_trained in trial.scores:
            return trial.stopped
        trial.scores[epochs_trained] = self._score(value)
        if epochs_trained in (self._budgets or rung_epochs(self._stop.rungs, num_epochs)):
            rung = self._rungs[num_epochs, epochs_trained]
            rule = self._halves if self._stop.trial_scheduler == "asha" else self._is_below_median
            trial.stopped = rule(rung, trial.scores, epochs_trained)
        return trial.stopped

    def has_stopped(self, trial_id: str) -> bool:
        """Returns whether the trial was told to end."""
        return trial_id in self._trials and self._trials[trial_id].stopped

    def replay(self, rows: Iterable[Row], metric: str) -> None:
        """Takes note of the reports in a sweep's records, as `decide` did when they were written.

        Rows that are no report of an epoch are passed over, and so are those of finalists, which run without a trial
        scheduler. With other settings than before, trials count as these settings would have had it.

        Args:
            rows: In the order in which they were written.
            metric: The column with the values.

        Raises:
            DataError: If a report's `trial_id` is none.
        """
        for row in rows:
            trial_id, num_epochs, epochs_trained = (
                row.get(key) for key in ("trial_id", "config.num_epochs", "epochs_trained")
            )
            if not (isinstance(trial_id, str) and isinstance(num_epochs, int) and isinstance(epochs_trained, int)):
                continue
            # An answer from the records was compared with no trial when it was given.
            if "reused_from" not in row and not TrialName.parse(trial_id).is_final:
                self.decide(trial_id, num_epochs, epochs_trained, row.get(metric))

    def _score(self, value: Value) -> float:
        if isinstance(value, int | float) and math.isfinite(value):
            return self._sign * value
        return -math.inf

    def _halves(self, rung: list[float], scores: dict[int, float], epoch: int) -> bool:
        insort(rung, scores[epoch])
        num_best = len(rung) // self._stop.reduction_factor
        return num_best > 0 and scores[epoch] < rung[-num_best]

    def _is_below_median(self, rung: list[float], scores: dict[int, float], epoch: int) -> bool:
        stops = len(rung) >= self._stop.min_trials and max(scores.values()) < _median(rung)
        insort(rung, statistics.mean(scores.values()))  # exact: rounding shall not part trials that are alike
        return stops


def _median(ordered: list[float]) -> float:
    """Returns the median of a sorted list; `statistics.median` would look at all of it."""
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def rung_epochs(rungs: Iterable[float], num_epochs: int) -> tuple[int, ...]:
    """Returns after which epochs a trial is compared, ascending; none for a trial of one epoch.

    Args:
        rungs: Fractions of the schedule, each > 0 and < 1.
        num_epochs: Of the trial.

    Returns:
        For each fraction f the epoch ceil(f * num_epochs), where it is not the last one; those that fall together once.
    """
    # Rounded, for 0.07 * 100 is a little more than 7 in binary.
    epochs = {math.ceil(round(fraction * num_epochs, 9)) for fraction in rungs}
    return tuple(sorted(epoch for epoch in epochs if epoch < num_epochs))


def group_sizes(config: SweepConfig) -> dict[int, float]:
    """Returns how many configurations each group of the sweep expects, by `num_epochs`, ascending.

    Points of `search.enqueue` are counted, the others spread as random sampling, or a grid, does; TPE soon prefers
    some.
    """
    num_trials, dimension = config.num_trials, config.space.dimensions.get("num_epochs")
    if dimension is None:
        return {config.train.num_epochs: float(num_trials)}
    enqueued = Counter(point["num_epochs"] for point in config.search.enqueue)
    num_sampled = num_trials - enqueued.total()
    shares = _shares(dimension)
    if config.search.searcher == "grid":
        shares = dict.fromkeys(shares, 1 / len(shares))
    return {value: enqueued[value] + num_sampled * share for value, share in sorted(shares.items())}


def _shares(dimension: Dimension) -> dict[int, float]:
    """Returns the probability of each integer of a dimension, as Optuna samples it."""
    if isinstance(dimension, Choice):
        return {value: 1 / len(dimension.values) for value in dimension.values if isinstance(value, int)}
    values = range(math.ceil(dimension.low), math.floor(dimension.high) + 1)
    if not (isinstance(dimension, IntRange) and dimension.log):
        return dict.fromkeys(values, 1 / len(values))
    # The logarithm is sampled evenly from low - 0.5 to high + 0.5, then rounded to an integer.
    whole = math.log((values[-1] + 0.5) / (values[0] - 0.5))
    return {value: math.log((value + 0.5) / (value - 0.5)) / whole for value in values}


def small_groups(config: SweepConfig) -> dict[int, float]:
    """Returns how many trials those groups expect that are compared although these are fewer than `SMALL_GROUP`.

    A configuration has a trial of each of `search.seeds`. Without a trial scheduler nothing is compared, and a trial
    without a rung is compared with none.
    """
    if config.stop.trial_scheduler == "none":
        return {}
    num_trials = {epochs: size * len(config.search.seeds) for epochs, size in group_sizes(config).items()}
    return {
        num_epochs: size
        for num_epochs, size in num_trials.items()
        if size < SMALL_GROUP and rung_epochs(config.stop.rungs, num_epochs)
    }


def limit_reached(config: SweepConfig, device: str, device_s: float, wall_s: float) -> str | None:
    """Returns the name of the limit of `stop` that a whole sweep has reached; None if there is none.

    Args:
        config: Of the sweep.
        device: Kind of device that trials hold.
        device_s: Seconds x devices of all trials together.
        wall_s: Seconds since the sweep was started or gone on with.
    """
    reached = {
        "max_device_hours": device_s / 3600,
        "max_usd": usd(device_s, device, config.prices) or 0.0,
        "max_wall_s": wall_s,
    }
    limits = {name: getattr(config.stop, name) for name in reached}
    return next((name for name, limit in limits.items() if limit and reached[name] >= limit), None)
