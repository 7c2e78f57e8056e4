import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.frontier import Recommendation, front_steps, pareto_mask, recommend
from qa_train.errors import DataError

# Few different values, so that ties are frequent.
value = st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0, math.nan]) | st.floats(allow_nan=True, allow_infinity=False)
points = st.lists(st.tuples(value, value), max_size=12)


def table(models: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Models by (dev F1, cost)."""
    return pd.DataFrame(models, columns=["dev.f1", "cost.device_s"], dtype="float64")


def choose(models: Sequence[tuple[float, float]], within_f1: float = 1.0) -> Recommendation | None:
    return recommend(table(models), "dev.f1", "max", within_f1=within_f1)


def brute_force(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    known = [(c, s) for c, s in zip(costs, scores, strict=True) if not (math.isnan(c) or math.isnan(s))]
    return [
        not (math.isnan(c) or math.isnan(s)) and not any(c2 <= c and s2 >= s and (c2, s2) != (c, s) for c2, s2 in known)
        for c, s in zip(costs, scores, strict=True)
    ]


@settings(deadline=None)
@given(points)
def test_the_front_is_what_brute_force_finds(pairs: list[tuple[float, float]]) -> None:
    costs, scores = [cost for cost, _ in pairs], [score for _, score in pairs]
    assert pareto_mask(costs, scores).tolist() == brute_force(costs, scores)


def test_vectors_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        pareto_mask([1.0], [1.0, 2.0])


@settings(deadline=None)
@given(points, st.sampled_from([0.0, 0.5, 1.0, 5.0]))
def test_the_recommended_model_is_within_the_margin_and_none_within_it_is_cheaper(
    models: list[tuple[float, float]], margin: float
) -> None:
    choice = choose(models, margin)
    scored = {i: (f1, cost) for i, (f1, cost) in enumerate(models) if not math.isnan(f1)}
    if not scored:
        assert choice is None
        return
    assert choice is not None
    top = max(f1 for f1, _ in scored.values())
    assert scored[choice.best][0] == top
    close = {i: cost for i, (f1, cost) in scored.items() if f1 >= top - margin and not math.isnan(cost)}
    if close:
        assert choice.cost == "cost.device_s"
        assert close[choice.recommended] == min(close.values())
    else:
        assert (choice.recommended, choice.cost) == (choice.best, None)


def test_the_cheapest_within_the_margin_is_recommended() -> None:
    assert choose([(80.0, 10.0), (79.1, 3.0), (78.9, 1.0)]) == Recommendation(0, 1, 1.0, "cost.device_s")


def test_a_model_exactly_at_the_margin_is_within_it() -> None:
    choice = choose([(80.0, 10.0), (79.0, 3.0)])
    assert choice and choice.recommended == 1


def test_of_equally_good_models_the_cheaper_is_best_and_of_equally_cheap_the_better_is_recommended() -> None:
    choice = choose([(80.0, 10.0), (80.0, 9.0), (79.2, 3.0), (79.5, 3.0)])
    assert choice and (choice.best, choice.recommended) == (1, 3)


def test_a_model_of_unknown_cost_can_be_best_but_is_not_recommended_over_one_with_a_cost() -> None:
    choice = choose([(80.0, np.nan), (79.5, 3.0)])
    assert choice and (choice.best, choice.recommended) == (0, 1)


def test_a_loss_is_ranked_from_below() -> None:
    models = table([(70.0, 5.0), (69.5, 4.0), (71.0, 1.0)]).assign(eval_loss=[1.0, 2.0, math.nan])
    choice = recommend(models, "eval_loss", "min")
    assert choice and (choice.best, choice.recommended) == (0, 1)


@pytest.mark.parametrize("margin", [-0.5, math.nan])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(DataError, match="0 or more"):
        choose([(80.0, 10.0)], margin)


def test_steps_go_along_the_front_from_cheap_to_dear() -> None:
    steps = front_steps(table([(80.0, 10.0), (70.0, 1.0), (60.0, 5.0), (78.0, 4.0)]), "dev.f1", "max")
    assert [(step.start, step.end, step.gain, step.extra_cost) for step in steps] == [(1, 3, 8, 3), (3, 0, 2, 6)]


@settings(deadline=None)
@given(points)
def test_every_step_gains_and_costs_something(models: list[tuple[float, float]]) -> None:
    front = table(models)
    assert all(front["dev.f1"][s.end] > front["dev.f1"][s.start] for s in front_steps(front, "dev.f1", "max"))
