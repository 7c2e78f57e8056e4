import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from analysis.statistics import MIN_SEEDS, mcnemar, optimism, paired_difference, seed_interval, spearman
from qa_train.intervals import article_interval
from tests.analysis.fixtures import articles_of

Rng = np.random.Generator


def unequal_sizes(num_articles: int, rng: Rng) -> npt.NDArray[np.int64]:
    """Questions per article, from a few to ten times as many, as in Spoken-SQuAD (40 to 416)."""
    return np.rint(np.exp(rng.uniform(np.log(4), np.log(40), num_articles))).astype(int)


@pytest.mark.parametrize("num_articles", [9, 12, 48])
def test_the_interval_over_articles_holds_the_mean_in_95_of_100_cases(num_articles: int) -> None:
    rng = np.random.default_rng(num_articles)
    # The score of a question is 0, 100 or between; how hard an article is moves all of its questions together.
    covered, repeats = 0, 1500
    for _ in range(repeats):
        sizes = unequal_sizes(num_articles, rng)
        difficulty = np.repeat(rng.normal(0.0, 0.6, num_articles), sizes)
        scores = np.clip(50 + 50 * (difficulty + rng.normal(0, 1.2, len(difficulty))), 0, 100)  # symmetric around 50
        interval = article_interval(scores, np.repeat(np.arange(num_articles), sizes).tolist())
        assert interval is not None
        covered += interval.low <= 50 <= interval.high
    assert 0.92 <= covered / repeats <= 0.98


def test_the_interval_of_equal_articles_is_student_s() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(50, 10, 12)
    interval = article_interval(np.repeat(means, 5), articles_of([5] * 12))
    expected = stats.t.interval(0.95, 11, means.mean(), stats.sem(means))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_the_interval_over_seeds_is_student_s() -> None:
    scores = [70.0, 71.5, 69.0, 72.0]
    interval = seed_interval(scores)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(stats.t.interval(0.95, 3, np.mean(scores), stats.sem(scores)))
    assert seed_interval(scores[: MIN_SEEDS - 1]) is None
    assert seed_interval([*scores, math.nan]) is None


def test_a_difference_is_paired_and_changes_its_sign_with_the_order() -> None:
    rng = np.random.default_rng(1)
    articles = articles_of([3, 9, 5, 4, 8, 7, 6, 2, 12])
    hardness = rng.uniform(0, 80, len(articles))  # alone it would hide a point of difference
    first, second = hardness + 1 + rng.normal(0, 0.5, len(articles)), hardness
    difference, reverse = paired_difference(first, second, articles), paired_difference(second, first, articles)
    assert difference.is_told and difference.mean == pytest.approx((first - second).mean())
    assert difference.interval and reverse.interval
    assert difference.interval.low == pytest.approx(-reverse.interval.high)
    assert not paired_difference(first[:10], second[:10], ["one"] * 10).is_told


def test_a_model_and_itself_cannot_be_told_apart() -> None:
    scores = np.arange(40.0)
    difference = paired_difference(scores, scores, articles_of([5] * 8))
    assert difference.mean == 0 and not difference.is_told


@pytest.mark.parametrize("size", [0, 3])
def test_scores_that_do_not_fit_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"scores of {size} questions"):
        paired_difference([1.0] * size, [1.0, 2.0][:size], ["a"] * size)


def test_mcnemar_is_the_binomial_test_of_the_questions_that_one_alone_gets_right() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        first, second = 100.0 * (rng.random((2, 30)) < rng.random(2)[:, None])
        found = mcnemar(first, second)
        assert found.only_first == sum((first > 0) & (second == 0))
        disagreements = found.only_first + found.only_second
        expected = stats.binomtest(found.only_first, disagreements).pvalue if disagreements else 1.0
        assert found.p_value == pytest.approx(expected)


def test_spearman_is_that_of_scipy() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        values, scores = rng.integers(0, 6, 15).astype(float), rng.normal(size=15)
        expected = stats.spearmanr(values, scores)
        assert spearman(values, scores) == pytest.approx((expected.statistic, expected.pvalue))
    assert all(map(math.isnan, spearman([1, 2], [1, 2]) + spearman([1, 1, 1], [1, 2, 3])))
    rho, p_value = spearman([1, 2, 3, 4], [10, 20, 30, 40])
    assert rho == pytest.approx(1.0) and math.isnan(p_value)
    assert spearman(range(10), range(10))[1] < 1e-12


def choose_by_hand(scores: npt.NDArray[np.float64], articles: list[str]) -> float:
    """Mean over questions of the score, on each article, of the model that is best on all other articles."""
    names = np.array(articles)
    parts = []
    for article in dict.fromkeys(articles):
        best = max(scores, key=lambda row: row[names != article].mean())
        parts.append(best[names == article])
    return float(np.concatenate(parts).mean())


def test_the_choice_is_scored_on_articles_that_it_was_not_made_on() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        articles = articles_of(unequal_sizes(7, rng).tolist())
        scores = rng.uniform(0, 100, (5, len(articles)))
        found = optimism(scores, articles)
        assert found is not None
        assert found.corrected == pytest.approx(choose_by_hand(scores, articles))
        assert found.best == pytest.approx(scores.mean(axis=1).max())


def test_what_is_subtracted_makes_the_best_of_equal_models_as_good_as_they_are() -> None:
    rng = np.random.default_rng(5)
    articles = articles_of([6] * 12)
    found = [optimism(rng.normal(50, 30, (20, len(articles))), articles) for _ in range(150)]
    luck = [each for each in found if each is not None]
    assert np.mean([each.best for each in luck]) > 55
    assert np.mean([each.corrected for each in luck]) == pytest.approx(50, abs=1)


def test_too_few_articles_say_nothing_of_luck() -> None:
    assert optimism(np.zeros((3, 10)), articles_of([2] * 5)) is None
    assert optimism(np.zeros((0, 12)), articles_of([2] * 6)) is None
