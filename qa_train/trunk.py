"""The schedule `trunk`: every epoch budget from one run (Hägele et al. 2024, arXiv 2405.18392); pure functions.

After its warm-up a run keeps its learning rate: the trunk. For each budget a branch leaves it, lowers the learning rate
to 0 and ends with the finished model of that budget; then the run goes back to where it left the trunk. What it trains
from one return to the next is a leg. Budgets 1, 2 and 4, cool-down 0.25, four steps an epoch:

    step   0   4   8   12  16
    leg 1  ===-                the trunk to step 3, the branch to step 4
    leg 2     ===--            back at step 3: the trunk to step 6, the branch to step 8
    leg 3        ======----    back at step 6: the trunk to step 12, the branch to step 16

With the head that it shares with the legs before, a leg is the run that has its budget alone: the same batches, the
same learning rates. A run of one budget, whatever its schedule, has one leg.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Leg:
    """A part of a run that ends with a finished model.

    A step is known by two numbers: how many steps its model has taken before (`start` to `end`), which decides its
    batch, its dropout and its learning rate; and how many the whole run has taken, those of other branches included.

    Attributes:
        budget: Epochs that its model is trained for.
        start: Steps that its model has taken when the leg begins, 0 in the first.
        branch: Where it leaves the trunk, `start` to `end` - 1; `end` where there is no trunk.
        end: Steps of the finished model.
        before: Steps that the run took in the legs before.
        kept: Steps that the run had taken when the trunk was where this leg leaves it; the run goes back to that state
            afterwards. None in the last leg, after which nothing is trained.
    """

    budget: int
    start: int
    branch: int
    end: int
    before: int = 0
    kept: int | None = None

    @property
    def taken(self) -> int:
        """Steps that the run has taken when the leg ends."""
        return self.before + self.end - self.start

    def step_at(self, taken: int) -> int:
        """Returns the steps that the model has taken, of those that the run has."""
        return self.start + taken - self.before

    def needs(self, taken: int) -> int | None:
        """Returns `kept` if the run has then left the trunk and will go back, else None."""
        return self.kept if self.kept is not None and taken > self.kept else None


def branch_epochs(budget: int, cooldown: float) -> Fraction:
    """Returns after how many epochs the trunk is left: budget * (1 - cooldown), of the decimal number as it is written.

    Args:
        budget: Epochs of the finished model.
        cooldown: Share of them in which the learning rate falls, above 0, at most 1.
    """
    return budget * (1 - Fraction(str(cooldown)))


def whole_steps(epochs: float | Fraction, steps_per_epoch: int) -> int:
    """Returns a number of epochs in steps, rounded to the nearest, halves up."""
    return math.floor(Fraction(str(epochs)) * steps_per_epoch + Fraction(1, 2))


def branch_step(budget: int, cooldown: float, steps_per_epoch: int) -> int:
    """Returns after how many steps the trunk is left: `branch_epochs`, rounded to the nearest, halves up.

    At least one step is left to the branch.
    """
    return min(whole_steps(branch_epochs(budget, cooldown), steps_per_epoch), budget * steps_per_epoch - 1)


def trunk_legs(budgets: Sequence[int], cooldown: float, steps_per_epoch: int) -> tuple[Leg, ...]:
    """Returns the legs of a run, in the order in which they are trained.

    Args:
        budgets: Epochs, ascending, at least one.
        cooldown: See `branch_epochs`.
        steps_per_epoch: At least 1.
    """
    legs: list[Leg] = []
    start, before, kept = 0, 0, 0
    for budget in budgets:
        branch = branch_step(budget, cooldown, steps_per_epoch)
        if branch > start:  # else the trunk is left where it was left before
            kept = before + branch - start
        returns = budget != budgets[-1]
        legs.append(Leg(budget, start, branch, budget * steps_per_epoch, before, kept if returns else None))
        start, before = branch, legs[-1].taken
    return tuple(legs)


def leg_at(legs: Sequence[Leg], taken: int) -> Leg:
    """Returns the leg in which a run is that has taken so many steps; where two meet, the one that has ended."""
    return next(leg for leg in legs if taken <= leg.taken)


def next_leg(legs: Sequence[Leg], leg: Leg) -> Leg:
    """Returns the leg after one that is not the last."""
    return legs[legs.index(leg) + 1]


def trunk_epochs(budgets: Sequence[int], cooldown: float) -> float:
    """Returns the epochs of work of one run that gives a finished model of each budget.

    The trunk up to the last branch and all branches. Trained each on its own, the models take `sum(budgets)` epochs.

    Args:
        budgets: Epochs, at least one, in any order.
        cooldown: See `branch_epochs`.
    """
    return float(branch_epochs(max(budgets), cooldown) + sum(budgets) * Fraction(str(cooldown)))
