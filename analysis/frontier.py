"""Which finished models are worth their compute, and which one to train."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.statistics import Difference, Scores, article_sums
from qa_train.errors import DataError

WITHIN_F1 = 1.0
COST = "cost.device_s"


@dataclass(frozen=True)
class Recommendation:
    """The best model and the one to train, as index labels of the table they were chosen from.

    Attributes:
        best: Best by the metric; the cheapest of those where several are equal.
        recommended: The cheapest whose dev F1 is at most `within_f1` points below that of `best`; by the paired rule
            of `analysis.choice`, the cheapest that cannot be told from `best`.
        within_f1: The margin, in points of F1 (0 to 100); None by the paired rule.
        cost: The column that "cheapest" refers to; None where no model that could be chosen has a cost.
        difference: By the paired rule, how far `recommended` is above `best` in F1; None where they are the same.
        num_unscored: By the paired rule, cheaper models that were passed over, having no scores of single questions.
    """

    best: Any
    recommended: Any
    within_f1: float | None
    cost: str | None
    difference: Difference | None = None
    num_unscored: int = 0


@dataclass(frozen=True)
class FrontStep:
    """From one point of the front to the next dearer one.

    Attributes:
        start: Index label of the cheaper model.
        end: Index label of the dearer model.
        gain: What the metric gains, in its own unit; positive (for a metric of mode `min`, how much it falls).
        extra_cost: What that costs, in the unit of the cost column; positive.
    """

    start: Any
    end: Any
    gain: float
    extra_cost: float


def pareto_mask(cost: npt.ArrayLike, score: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Marks the points that no other point beats: none costs at most as much, scores at least as much and is not equal.

    Args:
        cost: [n] smaller is better.
        score: [n] larger is better.

    Returns:
        [n] True on the front. Equal points are on it together; a point whose cost or score is NaN never is.

    Raises:
        ValueError: If `cost` and `score` are not vectors of the same length.
    """
    costs, scores = np.asarray(cost, dtype=float), np.asarray(score, dtype=float)
    if costs.ndim != 1 or costs.shape != scores.shape:
        raise ValueError(f"cost and score must be vectors of one length, found {costs.shape} and {scores.shape}")
    mask = np.zeros(costs.shape, dtype=bool)
    known = np.flatnonzero(~np.isnan(costs) & ~np.isnan(scores))
    order = known[np.lexsort((-scores[known], costs[known]))]  # cheapest first, best first where equally cheap
    sorted_costs, sorted_scores = costs[order], scores[order]
    best_so_far = np.maximum.accumulate(sorted_scores)
    # A best score belongs to the front only at the cost at which it was first reached.
    first_reached = np.searchsorted(best_so_far, best_so_far, side="left")
    mask[order] = (sorted_scores == best_so_far) & (sorted_costs == sorted_costs[first_reached])
    return mask


def numbers(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats; NaN where the table has no such column, or no number in it."""
    if column not in table:
        return pd.Series(np.nan, index=table.index)
    return pd.to_numeric(table[column], errors="coerce").astype(float)


def signed_score(table: pd.DataFrame, metric: str, mode: str) -> pd.Series:
    """The metric's column such that larger is better; NaN where there is no score."""
    return -numbers(table, metric) if mode == "min" else numbers(table, metric)


def best_model(table: pd.DataFrame, metric: str, mode: str, cost: str = COST) -> Any:
    """Returns the label of the best model, the cheapest of those that are equal; None where none has a score."""
    score = signed_score(table, metric, mode)
    if not score.notna().any():
        return None
    return numbers(table, cost).fillna(np.inf)[score == score.max()].idxmin()


def recommend(
    table: pd.DataFrame, metric: str, mode: str, cost: str = COST, *, within_f1: float = WITHIN_F1
) -> Recommendation | None:
    """Chooses the cheapest finished model that is about as good as the best.

    About as good is a dev F1 at most `within_f1` points below that of the best model: a stated margin, not a test.
    How far two models' F1 differ by chance depends on the dev articles and is not known from the records alone. The
    margin is in F1 whatever the metric, since F1 is what the compute is to buy.

    Args:
        table: [num_models, …] finished models with the columns `metric`, `cost` and `dev.f1`; unique index labels.
        metric: The column that decides which is best.
        mode: `max` or `min`.
        cost: The column to save on.
        within_f1: The margin in points of F1, 0 or more.

    Returns:
        The choice, or None where no model has a score.

    Raises:
        DataError: If `within_f1` is negative or NaN.
    """
    if not within_f1 >= 0:
        raise DataError(f"the margin in F1: expected 0 or more points, found {within_f1}")
    score, costs, f1 = signed_score(table, metric, mode), numbers(table, cost), numbers(table, "dev.f1")
    best = best_model(table, metric, mode, cost)
    if best is None:
        return None
    close = score.notna() & (f1 >= f1[best] - within_f1)
    close[best] = True
    candidates = costs[close & costs.notna()]
    if candidates.empty:
        return Recommendation(best, best, within_f1, None)
    cheapest = candidates.index[candidates == candidates.min()]
    return Recommendation(best, score[cheapest].idxmax(), within_f1, cost)


def front_steps(table: pd.DataFrame, metric: str, mode: str, cost: str = COST) -> list[FrontStep]:
    """What each neighbouring pair of the front gains for what it costs more, cheapest pair first."""
    score, costs = signed_score(table, metric, mode), numbers(table, cost)
    front = pd.DataFrame({"cost": costs, "score": score})[pareto_mask(costs.to_numpy(), score.to_numpy())]
    points = front.drop_duplicates().sort_values("cost").itertuples(name=None)
    return [
        FrontStep(start, end, score_end - score_start, cost_end - cost_start)
        for (start, cost_start, score_start), (end, cost_end, score_end) in pairwise(points)
    ]


def front_shares(
    cost: npt.ArrayLike,
    f1: Scores,
    articles: Sequence[Hashable],
    num_resamples: int = 1000,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Returns how often each model is on the Pareto front when the articles are drawn anew, with replacement.

    The articles are drawn as the bootstrap draws them, the questions of one together; costs stay as they are. A model
    whose share is small is on the front by the luck of these articles, or nearly is on it. It is a description, not a
    test: among few articles the draws differ less than other articles would.

    Args:
        cost: [num_models] smaller is better; NaN is never on the front.
        f1: [num_models, num_questions] F1 of each question.
        articles: [num_questions] the article of each question.
        num_resamples: Draws, 1 or more.
        seed: Of the draws.

    Returns:
        [num_models] from 0 to 1.
    """
    costs = np.asarray(cost, dtype=float)
    sums, sizes, _ = article_sums(f1, articles)
    draws = np.random.default_rng(seed).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), num_resamples)
    means = draws @ sums.T / (draws @ sizes)[:, None]  # [num_resamples, num_models]
    masks = np.array([pareto_mask(costs, scores) for scores in means])
    return np.asarray(masks.mean(axis=0), dtype=np.float64)
