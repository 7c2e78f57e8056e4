"""One number for a whole curve of score over cost."""

from collections.abc import Iterable


def hypervolume(points: Iterable[tuple[float, float]], largest_cost: float) -> float:
    """Returns the mean, over all costs up to a largest one, of the best score that each cost buys.

    It is the area that the points dominate, as in multi-objective optimisation (Zitzler and Thiele 1998), with the
    reference point of score 0 at `largest_cost`, divided by `largest_cost`: so it keeps the unit of the score.

    Args:
        points: (cost, score) of finished models; cost above 0, score 0 or more.
        largest_cost: Above 0; what costs as much or more adds nothing.
    """
    best, area = 0.0, 0.0
    for cost, score in sorted(points):
        if score > best and cost < largest_cost:
            area += (score - best) * (largest_cost - cost)
            best = score
    return area / largest_cost
