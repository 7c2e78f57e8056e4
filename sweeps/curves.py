"""Learning curves of an earlier sweep's trials, and from them that of a configuration which was never trained.

Pure: rows in, curves out. The idea of a surrogate in place of a training is that of Syne Tune's simulated back end
(Salinas et al. 2022, "Syne Tune: A Library for Large Scale Hyperparameter Tuning and Reproducible Research").
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from sweeps.records import Row, Value
from sweeps.space import Choice, Dimension, IntRange, LogUniformRange, Scalar, Space

MIN_CURVES = 4
"""Recorded trials below which nothing can be told of a space."""
NUM_NEIGHBOURS = 3

_STARTING, _EPOCH = ("starting", "loading"), ("training", "evaluating", "checkpointing")
_Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """What a trial scored on its way, and how long that took.

    Attributes:
        values: Those searched, by dotted name.
        scores: [num_epochs] of the metric, after each epoch; all finite.
        start_s: Seconds before the first step: starting its process, reading the data, opening the model.
        epoch_s: Seconds of an epoch with all that follows it.
    """

    values: Mapping[str, Scalar]
    scores: tuple[float, ...]
    start_s: float
    epoch_s: float

    @property
    def num_epochs(self) -> int:
        """Epochs that the trial was trained for."""
        return len(self.scores)


@dataclass(frozen=True)
class Recorded:
    """The learning curves in a sweep's records.

    Attributes:
        curves: Of the trials that finished within the space.
        left_out: How many other trials there are, by what they lack.
    """

    curves: tuple[Curve, ...]
    left_out: Mapping[str, int]


def read_curves(rows: Iterable[Row], space: Space, fixed: Mapping[str, Scalar], metric: str) -> Recorded:
    """Collects the curves of trials that trained to their end; one that was stopped early does not tell its end.

    Args:
        rows: Records of a sweep, in their order.
        space: What is searched now.
        fixed: What trials trained with, by dotted name, where their rows do not say.
        metric: The column with the scores, such as `dev.f1`.

    Returns:
        Curves in the order in which their trials first appear. A score missing between others is interpolated, one
        missing before all others is like the first.
    """
    trials: dict[Value, list[Row]] = {}
    for row in rows:
        trials.setdefault(row.get("trial_id"), []).append(row)
    found = [_curve(own, space, fixed, metric) for own in trials.values()]
    curves = tuple(curve for curve in found if isinstance(curve, Curve))
    return Recorded(curves, Counter(reason for reason in found if isinstance(reason, str)))


def _curve(rows: Sequence[Row], space: Space, fixed: Mapping[str, Scalar], metric: str) -> Curve | str:
    """Returns the curve of a trial, or why it has none."""
    last = next((row for row in reversed(rows) if row.get("budget_epochs") is not None), None)
    if last is None:
        return "no finished model"
    values = {key: last.get(f"config.{key}", fixed.get(key)) for key in space.dimensions}
    if not space.contains(values):
        return "values outside of the space"
    told = [(row.get("epochs_trained"), row.get(metric)) for row in rows]
    scores = {epoch: score for epoch, score in told if _is_finite(epoch) and epoch >= 1 and _is_finite(score)}
    num_epochs = last.get("epochs_trained")
    if not _is_finite(num_epochs) or num_epochs not in scores:
        return f"no {metric}"
    parts = {part: last.get(f"cost.{part}_s") for part in (*_STARTING, *_EPOCH)}
    seconds = {part: float(value) for part, value in parts.items() if _is_finite(value) and value >= 0}
    if "training" not in seconds:
        return "no cost"
    every = range(1, int(num_epochs) + 1)
    return Curve(
        values,
        tuple(np.interp(every, sorted(scores), [scores[epoch] for epoch in sorted(scores)]).tolist()),
        start_s=math.fsum(seconds.get(part, 0.0) for part in _STARTING),
        epoch_s=math.fsum(seconds.get(part, 0.0) for part in _EPOCH) / len(every),
    )


def _is_finite(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Surrogate:
    """Stands in for training: a configuration scores and takes what its nearest recorded neighbours did.

    The curve is the mean of the 3 nearest, weighted by 1 / distance² (inverse distance weighting), each taken as a
    function of the fraction of its schedule. Distance is Euclidean over the searched values, each scaled to 0..1 over
    its range, on a log scale where it is sampled so; two different choices are at distance 1. So a recorded
    configuration scores as recorded, one trained twice as the mean of both, and no other scores better than the best
    of these: what a searcher could find between the recorded trials is not known.
    There is no noise of a seed.
    """

    def __init__(self, curves: Sequence[Curve], space: Space, untrained: float | None = None) -> None:
        """Places the curves in the space.

        Args:
            curves: At least one.
            space: What is searched.
            untrained: Score before the first epoch; None, where it is not known, takes a curve's first score for it.
        """
        self._curves, self._space, self._untrained = curves, space, untrained
        self._places = np.array([_place(curve.values, space) for curve in curves])

    def curve(self, values: Mapping[str, Scalar], num_epochs: int) -> Curve:
        """Returns how a configuration would train.

        Args:
            values: One for each dimension of the space, by dotted name; others are not looked at.
            num_epochs: It trains for.
        """
        weights = self._weights(_place(values, self._space))
        near = [pair for pair in zip(self._curves, weights.tolist(), strict=True) if pair[1]]
        scores = sum(weight * self._scores(curve, num_epochs) for curve, weight in near)
        return Curve(
            {key: values[key] for key in self._space.dimensions},
            tuple(np.asarray(scores).tolist()),
            start_s=math.fsum(weight * curve.start_s for curve, weight in near),
            epoch_s=math.fsum(weight * curve.epoch_s for curve, weight in near),
        )

    def best_recorded(self, mode: str) -> float:
        """Returns the best last score at a recorded configuration; the higher is the better with mode `max`."""
        last = [self.curve(curve.values, curve.num_epochs).scores[-1] for curve in self._curves]
        return max(last) if mode == "max" else min(last)

    def _weights(self, place: _Floats) -> _Floats:
        """Returns [num_curves] weights that sum to 1; those of recorded trials at this very place are equal."""
        squared = ((self._places - place) ** 2).sum(axis=1)
        weights = np.zeros(len(squared))
        if (same := squared == 0).any():
            weights[same] = 1.0
        else:
            nearest = np.argsort(squared, kind="stable")[:NUM_NEIGHBOURS]
            weights[nearest] = squared[nearest].min() / squared[nearest]
        return np.asarray(weights / weights.sum())

    def _scores(self, curve: Curve, num_epochs: int) -> _Floats:
        """Returns [num_epochs] scores of a curve that is stretched to another number of epochs."""
        first = curve.scores[0] if self._untrained is None else self._untrained
        recorded = np.arange(curve.num_epochs + 1) / curve.num_epochs
        return np.interp(np.arange(1, num_epochs + 1) / num_epochs, recorded, (first, *curve.scores))


def _place(values: Mapping[str, Scalar], space: Space) -> _Floats:
    """Returns the coordinates of a configuration: one of a range, as many as there are values of a choice."""
    return np.array([each for key, item in space.dimensions.items() for each in coordinates(item, values[key])])


def coordinates(dimension: Dimension, value: Scalar) -> list[float]:
    """Returns where a value lies: in 0..1 of a range, on a log scale if it is sampled so; one for each of a choice."""
    if isinstance(dimension, Choice):
        # sqrt(1/2): so that two of them are at distance 1.
        return [math.sqrt(0.5) * Choice((item,)).contains(value) for item in dimension.values]
    low, high, at = float(dimension.low), float(dimension.high), float(value or 0)
    if isinstance(dimension, LogUniformRange) or (isinstance(dimension, IntRange) and dimension.log):
        low, high, at = math.log(low), math.log(high), math.log(at)
    return [(at - low) / (high - low) if high > low else 0.0]
