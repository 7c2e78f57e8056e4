"""What of a score is chance: intervals over seeds, differences on the same questions, the luck of the best of many.

Intervals over articles are those of `qa_train.intervals`: a delete-one-article jackknife with Student's t.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import bdtr, stdtr, stdtrit  # scipy.stats would take a second to import

from qa_train.intervals import MIN_ARTICLES, Interval, article_interval

MIN_SEEDS = 3
"""Below this number no interval over seeds is given: two differ by 12.7 standard errors in one case of twenty."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How far one model is above another on the same questions, in points.

    Attributes:
        mean: Over questions; positive where the first one is better.
        interval: Of the mean, over articles; None where there are too few of them.
        num_articles: That the questions come in.
    """

    mean: float
    interval: Interval | None
    num_articles: int

    @property
    def is_told(self) -> bool:
        """Whether the two can be told from each other: there is an interval, and 0 lies outside."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test of two models' exact matches.

    Attributes:
        only_first: Questions that the first model alone gets right.
        only_second: Questions that the second one alone gets right.
        p_value: Two-sided, of the hypothesis that both kinds are equally frequent; 1 where there are none.
    """

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Optimism:
    """How much of the score of the best of several models is the luck of having been chosen on these questions.

    Attributes:
        num_models: Chosen from.
        best: Score of the best on all questions, 0 to 100.
        corrected: Score of the choice on articles that it was not made on; an estimate of what the best is worth.
        interval: Of `corrected`, over articles.
    """

    num_models: int
    best: float
    corrected: float
    interval: Interval | None

    @property
    def amount(self) -> float:
        """What is to be subtracted from `best`; by chance it can be below 0."""
        return self.best - self.corrected


def seed_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Returns the interval of the mean over seeds, by Student's t.

    It tells how far another training of the same configuration may come out on these questions, not on others.

    Args:
        values: [num_seeds] the score with each seed.
        level: Confidence level, between 0 and 1.

    Returns:
        The interval; None under `MIN_SEEDS` seeds, or if a score is missing.
    """
    scores = np.asarray(values, dtype=float)
    if len(scores) < MIN_SEEDS or np.isnan(scores).any():
        return None
    reach = stdtrit(len(scores) - 1, (1 + level) / 2) * scores.std(ddof=1) / np.sqrt(len(scores))
    return Interval(float(scores.mean() - reach), float(scores.mean() + reach))


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, articles: Sequence[Hashable], level: float = 0.95
) -> Difference:
    """Compares two models question by question; what makes a question hard for both of them cancels out.

    Args:
        first: [num_questions] the first model's scores.
        second: [num_questions] the second one's, of the same questions.
        articles: [num_questions] the article of each.
        level: Confidence level, between 0 and 1.

    Raises:
        ValueError: If the three are not of one length, or there are no questions.
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not one.shape == other.shape == (len(articles),) or not len(articles):
        raise ValueError(f"expected scores of {len(articles)} questions, found shapes {one.shape} and {other.shape}")
    difference = one - other
    return Difference(float(difference.mean()), article_interval(difference, articles, level), len({*articles}))


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """Tests whether one of two models is right more often on the questions that they disagree about.

    The exact test (McNemar 1947, with binomial tails). It takes questions as independent, which those of one article
    are not: where `paired_difference` says less, believe that.

    Args:
        first: [num_questions] exact match of the first model, 0 where it is wrong.
        second: [num_questions] the same of the second one.
    """
    one, other = np.asarray(first, dtype=float) > 0, np.asarray(second, dtype=float) > 0
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    tail = float(bdtr(min(only_first, only_second), only_first + only_second, 0.5))
    return McNemar(only_first, only_second, min(1.0, 2 * tail))


def spearman(values: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[float, float]:
    """Returns the rank correlation of two columns and the p-value of there being none.

    The p-value is that of Student's t with n - 2 degrees of freedom, which is too rough under ten values to be given.

    Args:
        values: [n] numbers.
        scores: [n] numbers.

    Returns:
        From -1 to 1, and 0 to 1. The second is NaN under ten values; both under three, or where one column holds but
        one value.
    """
    ranks, others = pd.Series(np.asarray(values, float)).rank(), pd.Series(np.asarray(scores, float)).rank()
    count = len(ranks)
    if count < 3 or ranks.nunique() < 2 or others.nunique() < 2:
        return float("nan"), float("nan")
    rho = float(np.clip(np.corrcoef(ranks, others)[0, 1], -1.0, 1.0))
    if count < 10:
        return rho, float("nan")
    if abs(rho) == 1.0:
        return rho, 0.0
    return rho, 2 * float(stdtr(count - 2, -abs(rho) * np.sqrt((count - 2) / (1 - rho**2))))


def optimism(scores: Scores, articles: Sequence[Hashable]) -> Optimism | None:
    """Estimates what the best of several models is worth on articles that it was not chosen on.

    Cross-fitting: for each article the best model of all the others is looked up and scored on that article; the mean
    over all questions is unbiased for a choice made on one article less (Stone 1974, "Cross-validatory choice and
    assessment of statistical predictions", on choosing and assessing with the same data; Tsamardinos, Greasidou and
    Borboudakis 2018, "Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation", on
    doing so with stored predictions).

    What it cannot see: that the search itself, or a trial scheduler, was led by these articles, so that the models it
    is given are fitted to them already. The rest may be larger than what is subtracted. A single estimate is uncertain
    by about the width of its interval.

    Args:
        scores: [num_models, num_questions] of each model, no value missing.
        articles: [num_questions] the article of each question.

    Returns:
        The estimate; None without models, or with less than `MIN_ARTICLES` articles.
    """
    sums, sizes, index = article_sums(scores, articles)
    if not len(scores) or len(sizes) < MIN_ARTICLES:
        return None
    chosen = (sums.sum(axis=1, keepdims=True) - sums).argmax(axis=0)  # [num_articles] the sizes are the same for all
    held_out = scores[chosen[index], np.arange(len(articles))]
    best = float(scores.mean(axis=1).max())
    return Optimism(len(scores), best, float(held_out.mean()), article_interval(held_out, articles))


def article_sums(scores: Scores, articles: Sequence[Hashable]) -> tuple[Scores, Scores, npt.NDArray[np.int64]]:
    """Adds scores up by article.

    Args:
        scores: [num_models, num_questions].
        articles: [num_questions] the article of each question.

    Returns:
        [num_models, num_articles] sums, [num_articles] numbers of questions, [num_questions] the article's number.
    """
    numbers = {article: number for number, article in enumerate(dict.fromkeys(articles))}
    index = np.fromiter((numbers[article] for article in articles), dtype=np.int64, count=len(articles))
    one_hot = np.zeros((len(articles), len(numbers)))
    one_hot[np.arange(len(articles)), index] = 1.0
    return scores @ one_hot, one_hot.sum(axis=0), index
