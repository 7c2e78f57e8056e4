from collections.abc import Callable

import pytest

from qa_train.errors import QAError
from qa_train.noise_level import choose_sample, find_noise_level


def recogniser(asked: list[float | None]) -> Callable[[float | None], float]:
    """Errs in 20 % of words without noise, in all at 0 dB or less, linearly from 40 dB on."""

    def measure(snr_db: float | None) -> float:
        asked.append(snr_db)
        return 0.2 if snr_db is None else min(1.0, max(0.2, 1 - 0.02 * snr_db))

    return measure


@pytest.mark.parametrize("target", [0.25, 0.442, 0.9])
def test_the_level_is_found_by_bisection(target: float) -> None:
    asked: list[float | None] = []
    level = find_noise_level(recogniser(asked), target)
    assert level.word_error_rate == pytest.approx(target, abs=0.005)
    assert level.snr_db == pytest.approx((1 - target) / 0.02, abs=0.3)
    assert [snr_db for snr_db, _ in level.tried] == asked
    assert len(asked) == len(set(asked)) <= 10


def test_no_noise_is_added_where_none_is_needed() -> None:
    asked: list[float | None] = []
    assert find_noise_level(recogniser(asked), 0.203).snr_db is None
    assert asked == [None]


def test_a_target_below_what_no_noise_gives_is_refused_with_that_figure() -> None:
    with pytest.raises(
        QAError, match=r"--target-wer 10\.0: expected at least 20\.0, the word error rate without noise"
    ):
        find_noise_level(recogniser([]), 0.1)


def test_a_target_that_no_noise_reaches_is_refused_with_the_most() -> None:
    with pytest.raises(QAError, match=r"--target-wer 90\.0: expected at most 60\.0"):
        find_noise_level(lambda snr_db: 0.2 if snr_db is None else 0.6, 0.9)


def test_a_sample_takes_paragraphs_of_all_articles_in_turn() -> None:
    sizes = [("A", 100)] * 10 + [("B", 100)] * 10 + [("C", 0)]
    chosen = choose_sample(sizes, seed=1, sample_words=600)
    assert (sum(n < 10 for n in chosen), sum(10 <= n < 20 for n in chosen)) == (3, 3)
    assert chosen == sorted(set(chosen)) == choose_sample(sizes, seed=1, sample_words=600)
    assert chosen != choose_sample(sizes, seed=2, sample_words=600)
    assert choose_sample(sizes, seed=1, sample_words=10**6) == list(range(20))
