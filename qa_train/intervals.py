"""Confidence intervals of mean scores over questions that come in articles.

The questions of an article share its context, its topic and its recognition errors, so that their scores are alike: the
standard error over articles is about twice that over questions. Articles are few and of unequal size, for which the
percentile bootstrap is too narrow; a delete-one-article jackknife with Student's t holds its level.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # scipy.stats would take a second to import

MIN_ARTICLES = 6
"""Below this number no interval is given: the variance between so few articles says next to nothing."""


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval, in the unit of the values."""

    low: float
    high: float


def article_interval(values: npt.ArrayLike, articles: Sequence[Hashable], level: float = 0.95) -> Interval | None:
    """Returns the interval of the mean over questions, articles being the independent units.

    The mean over all questions is a ratio (sum of scores to number of questions, both over articles). Its variance is
    estimated by leaving out one article at a time (Efron and Tibshirani 1993, chapter 11), its distribution taken as
    Student's t with one degree of freedom less than there are articles.

    Args:
        values: [num_questions] a score of each question, or a difference of two models' scores.
        articles: [num_questions] the article of each.
        level: Confidence level, between 0 and 1.

    Returns:
        The interval, not cut off at the ends of the score's range; None under `MIN_ARTICLES` articles.

    Raises:
        ValueError: If the two are not of one length.
    """
    scores = np.asarray(values, dtype=float)
    if scores.shape != (len(articles),):
        raise ValueError(f"expected one value for each of {len(articles)} questions, found shape {scores.shape}")
    numbers = {article: number for number, article in enumerate(dict.fromkeys(articles))}
    if len(numbers) < MIN_ARTICLES:
        return None
    index = np.array([numbers[article] for article in articles])
    sums, sizes = np.bincount(index, weights=scores), np.bincount(index)
    mean = sums.sum() / sizes.sum()
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    count = len(numbers)
    error = float(np.sqrt((count - 1) / count * np.sum((without - mean) ** 2)))
    reach = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return Interval(mean - reach, mean + reach)
