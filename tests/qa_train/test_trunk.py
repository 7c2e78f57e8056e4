import itertools
from fractions import Fraction

import pytest

from qa_train.trunk import Leg, branch_epochs, branch_step, leg_at, next_leg, trunk_epochs, trunk_legs, whole_steps

PLANS = [
    (budgets, cooldown, steps)
    for budgets in ((1,), (3,), (1, 2, 3), (1, 2, 3, 5, 8), (2, 30))
    for cooldown in (1e-9, 0.1, 0.2, 1 / 3, 0.5, 0.9, 0.999, 1.0)
    for steps in (1, 2, 5, 168, 2310)
]


def test_the_legs_of_the_example_are_those_that_it_draws() -> None:
    assert trunk_legs((1, 2, 4), 0.25, 4) == (
        Leg(1, start=0, branch=3, end=4, before=0, kept=3),
        Leg(2, start=3, branch=6, end=8, before=4, kept=7),
        Leg(4, start=6, branch=12, end=16, before=9, kept=None),
    )


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "expected"),
    [(0.0, 5, 0), (0.1, 5, 1), (0.09, 5, 0), (0.5, 5, 3), (1.5, 3, 5), (0.3, 10, 3), (Fraction(1, 2), 3, 2)],
)
def test_epochs_are_rounded_to_the_nearest_step_and_halves_up(
    epochs: float, steps_per_epoch: int, expected: int
) -> None:
    assert whole_steps(epochs, steps_per_epoch) == expected


@pytest.mark.parametrize(
    ("budget", "cooldown", "steps_per_epoch", "expected"),
    [
        (1, 0.2, 5, 4),
        (1, 0.3, 5, 4),  # 3.5
        (3, 0.9, 5, 2),  # 1.5, though 3 * (1 - 0.9) * 5 is 1.4999999999999996
        (10, 0.7, 5, 15),
        (1, 1.0, 5, 0),
        (1, 0.01, 5, 4),  # 4.95: a step is left to the branch
        (2, 0.5, 1, 1),
        (1, 0.5, 1, 0),
    ],
)
def test_the_trunk_is_left_at_the_nearest_step(
    budget: int, cooldown: float, steps_per_epoch: int, expected: int
) -> None:
    assert branch_step(budget, cooldown, steps_per_epoch) == expected


@pytest.mark.parametrize(("budgets", "cooldown", "steps"), PLANS)
def test_each_leg_is_the_end_of_a_run_of_its_budget_alone(
    budgets: tuple[int, ...], cooldown: float, steps: int
) -> None:
    legs = trunk_legs(budgets, cooldown, steps)
    assert [leg.budget for leg in legs] == list(budgets)
    assert (legs[0].start, legs[0].before) == (0, 0)
    for leg in legs:
        [alone] = trunk_legs((leg.budget,), cooldown, steps)
        assert (leg.branch, leg.end) == (alone.branch, alone.end)
        assert leg.start <= leg.branch < leg.end
        assert leg.start <= leg.end - steps  # all of its last epoch, whose loss it tells, is its own
    for one, other in itertools.pairwise(legs):
        assert other.start == one.branch
        assert other.before == one.taken
        assert next_leg(legs, one) is other


@pytest.mark.parametrize(("budgets", "cooldown", "steps"), PLANS)
def test_a_run_goes_back_to_the_state_that_it_kept(budgets: tuple[int, ...], cooldown: float, steps: int) -> None:
    legs = trunk_legs(budgets, cooldown, steps)
    assert legs[-1].kept is None
    for leg in legs[:-1]:
        assert leg.kept is not None
        if leg.branch > 0:
            home = leg_at(legs, leg.kept)
            assert home.step_at(leg.kept) == leg.branch
            assert home.branch == leg.branch  # on the trunk, not in another branch
        else:
            assert leg.kept == 0
        assert leg.needs(leg.kept) is None
        assert leg.needs(leg.taken) == leg.kept


@pytest.mark.parametrize(("budgets", "cooldown", "steps"), [plan for plan in PLANS if plan[2] <= 5])
def test_each_step_of_a_run_belongs_to_one_leg(budgets: tuple[int, ...], cooldown: float, steps: int) -> None:
    legs = trunk_legs(budgets, cooldown, steps)
    expected = [(leg.budget, step) for leg in legs for step in range(leg.start + 1, leg.end + 1)]
    found = [leg_at(legs, taken) for taken in range(1, legs[-1].taken + 1)]
    assert [(leg.budget, leg.step_at(taken)) for taken, leg in enumerate(found, start=1)] == expected
    assert leg_at(legs, 0) is legs[0]


@pytest.mark.parametrize(("budgets", "cooldown", "steps"), [plan for plan in PLANS if plan[2] == 2310])
def test_the_work_of_a_run_is_that_of_its_legs(budgets: tuple[int, ...], cooldown: float, steps: int) -> None:
    taken = trunk_legs(budgets, cooldown, steps)[-1].taken
    assert trunk_epochs(budgets, cooldown) == pytest.approx(taken / steps, abs=len(budgets) / steps)


def test_ten_budgets_take_nineteen_epochs_instead_of_fifty_five() -> None:
    assert trunk_epochs(range(1, 11), 0.2) == 19
    assert trunk_epochs((1, 2, 3, 5), 0.25) / (1 + 2 + 3 + 5) < 0.6
    assert trunk_epochs((4,), 0.3) == 4
    assert trunk_epochs((1, 2, 3), 1.0) == 6


def test_a_cool_down_is_taken_as_it_is_written() -> None:
    assert branch_epochs(3, 0.9) == Fraction(3, 10)
    assert branch_epochs(1, 1e-05) == Fraction(99999, 100000)
