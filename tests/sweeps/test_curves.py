import math
from typing import Any

import numpy as np
import pytest

from sweeps.curves import Curve, Surrogate, coordinates, read_curves
from sweeps.records import Row
from sweeps.space import Choice, IntRange, LogUniformRange, Space, UniformRange

SPACE = Space({"num_epochs": IntRange(1, 10), "optim.learning_rate": LogUniformRange(1e-6, 1e-4)})


def rows(trial_id: str, scores: list[float | None], rate: float = 1e-5, /, **last: Any) -> list[Row]:
    """A trial's reports, one an epoch, 100 s each, after 8 s to start; `last` changes the last one."""
    common: Row = {"trial_id": trial_id, "config.num_epochs": len(scores), "config.optim.learning_rate": rate}
    found: list[Row] = []
    for epoch, score in enumerate(scores, start=1):
        costs: Row = {"cost.starting_s": 5.0, "cost.loading_s": 3.0, "cost.training_s": 90.0 * epoch}
        costs |= {"cost.evaluating_s": 9.0 * epoch, "cost.checkpointing_s": 1.0 * epoch, "cost.lost_s": 50.0}
        found.append({**common, **costs, "epochs_trained": epoch, "budget_epochs": None, "dev.f1": score})
    found[-1] |= {"budget_epochs": len(scores)} | last
    return found


def read(*trials: list[Row], space: Space = SPACE, **fixed: Any) -> Any:
    return read_curves([row for own in trials for row in own], space, fixed, "dev.f1")


def test_a_finished_trial_is_a_curve_with_its_times() -> None:
    [curve] = read(rows("0", [10.0, 20.0, 25.0])).curves
    assert curve.values == {"num_epochs": 3, "optim.learning_rate": 1e-5}
    assert (curve.scores, curve.num_epochs) == ((10.0, 20.0, 25.0), 3)
    assert (curve.start_s, curve.epoch_s) == (8.0, pytest.approx(100.0))


def test_scores_that_are_missing_are_interpolated() -> None:
    [curve] = read(rows("0", [None, 20.0, None, 40.0])).curves
    assert curve.scores == (20.0, 20.0, 30.0, 40.0)


def test_trials_without_an_end_a_score_a_cost_or_a_place_in_the_space_are_counted() -> None:
    found = read(
        rows("good", [10.0]),
        rows("stopped", [10.0, 20.0], budget_epochs=None),
        rows("unscored", [10.0, math.nan]),
        rows("free", [10.0], 1e-5, **{"cost.training_s": None}),
        rows("outside", [10.0], 1e-3),
    )
    assert len(found.curves) == 1
    assert found.left_out == {
        "no finished model": 1,
        "no dev.f1": 1,
        "no cost": 1,
        "values outside of the space": 1,
    }


def test_what_the_earlier_sweep_did_not_search_is_as_it_was_fixed_there() -> None:
    space = Space({**SPACE.dimensions, "optim.warmup_ratio": UniformRange(0.0, 0.2)})
    [curve] = read(rows("0", [10.0]), space=space, **{"optim.warmup_ratio": 0.1}).curves
    assert curve.values["optim.warmup_ratio"] == 0.1
    assert read(rows("0", [10.0]), space=space).left_out == {"values outside of the space": 1}


def test_coordinates_are_fractions_of_a_range_on_its_own_scale() -> None:
    assert coordinates(UniformRange(10.0, 20.0), 15.0) == [0.5]
    assert coordinates(LogUniformRange(1e-6, 1e-4), 1e-5) == [pytest.approx(0.5)]
    assert coordinates(IntRange(1, 16, log=True), 4) == [pytest.approx(0.5)]
    assert coordinates(IntRange(3, 3), 3) == [0.0]


def test_different_choices_are_at_distance_one() -> None:
    choice = Choice((1, True, "a"))
    places = [np.array(coordinates(choice, value)) for value in choice.values]
    distances = [float(np.linalg.norm(one - other)) for one in places for other in places]
    assert distances == pytest.approx([0, 1, 1, 1, 0, 1, 1, 1, 0])


def line(x: float, *scores: float, epoch_s: float = 1.0) -> Curve:
    return Curve({"x": x}, scores, start_s=10 * x, epoch_s=epoch_s)


LINE = Space({"x": UniformRange(0.0, 1.0)})


def test_a_recorded_configuration_trains_as_recorded() -> None:
    surrogate = Surrogate([line(0.0, 1, 2), line(0.5, 3, 4), line(1.0, 5, 6)], LINE)
    assert surrogate.curve({"x": 0.5}, 2) == line(0.5, 3, 4)


def test_one_trained_twice_trains_as_the_mean() -> None:
    surrogate = Surrogate([line(0.5, 3, 4), line(0.5, 5, 8), line(1.0, 9, 9)], LINE)
    assert surrogate.curve({"x": 0.5}, 2).scores == (4, 6)
    assert surrogate.best_recorded("max") == 9
    assert surrogate.best_recorded("min") == 6


def test_another_is_the_mean_of_its_three_nearest_by_the_square_of_their_distance() -> None:
    curves = [line(0.0, 10, epoch_s=1), line(0.4, 20, epoch_s=2), line(0.6, 30, epoch_s=3), line(1.0, 99, epoch_s=9)]
    found = Surrogate(curves, LINE).curve({"x": 0.3}, 1)
    weights = [1 / 0.3**2, 1 / 0.1**2, 1 / 0.3**2]
    expected = [
        sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
        for values in ((10, 20, 30), (1, 2, 3), (0.0, 4.0, 6.0))
    ]
    assert [found.scores[0], found.epoch_s, found.start_s] == pytest.approx(expected)


def test_none_is_better_than_the_best_recorded() -> None:
    rng = np.random.default_rng(0)
    surrogate = Surrogate([line(x, score) for x, score in rng.uniform(size=(20, 2)).tolist()], LINE)
    scores = [surrogate.curve({"x": x}, 1).scores[0] for x in np.linspace(0, 1, 101).tolist()]
    assert max(scores) <= surrogate.best_recorded("max") + 1e-12
    assert min(scores) >= surrogate.best_recorded("min") - 1e-12


def test_a_curve_is_stretched_over_another_number_of_epochs() -> None:
    curves = [line(0.0, 10.0, 20.0)]
    assert Surrogate(curves, LINE, untrained=2.0).curve({"x": 0.0}, 4).scores == (6.0, 10.0, 15.0, 20.0)
    assert Surrogate(curves, LINE).curve({"x": 0.0}, 4).scores == (10.0, 10.0, 15.0, 20.0)
    assert Surrogate(curves, LINE).curve({"x": 0.0}, 1).scores == (20.0,)
