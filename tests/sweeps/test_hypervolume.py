import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from sweeps.hypervolume import hypervolume


@pytest.mark.parametrize("seed", range(20))
def test_it_is_optunas_hypervolume_over_the_largest_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(0.1, 9, 7), rng.uniform(0, 100, 7)])
    expected = compute_hypervolume(points * [1, -1], np.array([9.0, 0.0])) / 9
    assert hypervolume(map(tuple, points.tolist()), 9) == pytest.approx(expected)


def test_a_model_that_costs_more_and_scores_less_adds_nothing() -> None:
    assert hypervolume([(1, 60), (2, 50)], 4) == hypervolume([(1, 60)], 4) == pytest.approx(45)


def test_without_a_model_it_is_0() -> None:
    assert hypervolume([], 4) == 0
    assert hypervolume([(4, 50)], 4) == 0
