"""Finds the noise that makes a recogniser err at a given rate."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qa_train.errors import QAError

TOLERANCE = 0.005
"""Word error rate that a level may be off the target by, on the sample, for the search to end."""
SAMPLE_WORDS = 1500
"""Written words that the level is sought on; with 1,500 a rate of 0.44 is known to about 2 points."""
_QUIETEST_DB, _LOUDEST_DB = 50.0, -5.0
_MAX_TRIES = 9


@dataclass(frozen=True)
class NoiseLevel:
    """A level of noise, and the way to it.

    Attributes:
        snr_db: Signal-to-noise ratio; None: no noise.
        word_error_rate: On the sample.
        tried: All (snr_db, word error rate), in order.
    """

    snr_db: float | None
    word_error_rate: float
    tried: tuple[tuple[float | None, float], ...]


def find_noise_level(measure: Callable[[float | None], float], target: float) -> NoiseLevel:
    """Finds a level by bisection, since more noise makes more errors.

    Args:
        measure: Returns the word error rate at a signal-to-noise ratio in dB; None: without noise.
        target: The word error rate wanted, above 0.

    Returns:
        The level within `TOLERANCE` that is met first, else the nearest of all that were tried.

    Raises:
        QAError: If fewer errors are wanted than are made without noise, or more than with the loudest.
    """
    tried: list[tuple[float | None, float]] = [(None, measure(None))]
    least = tried[0][1]
    if target < least - TOLERANCE:
        raise QAError(
            f"--target-wer {100 * target:.1f}: expected at least {100 * least:.1f}, the word error rate without noise; "
            "give another voice, or a higher target"
        )
    quiet, loud = _QUIETEST_DB, _LOUDEST_DB
    while abs(tried[-1][1] - target) > TOLERANCE and len(tried) <= _MAX_TRIES:
        snr_db = (quiet + loud) / 2
        tried.append((snr_db, measure(snr_db)))
        if tried[-1][1] < target:
            quiet = snr_db
        else:
            loud = snr_db
    best = min(tried, key=lambda level: abs(level[1] - target))
    most = max(rate for _, rate in tried)
    if loud == _LOUDEST_DB and most < target - 4 * TOLERANCE:
        raise QAError(
            f"--target-wer {100 * target:.1f}: expected at most {100 * most:.1f}, the word error rate with noise of "
            f"{quiet:.0f} dB; give a lower target"
        )
    return NoiseLevel(*best, tuple(tried))


def choose_sample(num_words: Sequence[tuple[str, int]], seed: int, sample_words: int = SAMPLE_WORDS) -> list[int]:
    """Chooses paragraphs, in turn one of each article, until they have enough words.

    Args:
        num_words: (article, number of words) of each paragraph; those without words are never chosen.
        seed: The same seed chooses the same.
        sample_words: Words that are enough; all paragraphs are taken where there are fewer.

    Returns:
        Their indices, in order.
    """
    generator = random.Random(seed)
    of_article: dict[str, list[int]] = {}
    for index, (article, words) in enumerate(num_words):
        if words:
            of_article.setdefault(article, []).append(index)
    queues = list(of_article.values())
    for queue in queues:
        generator.shuffle(queue)
    generator.shuffle(queues)
    chosen: list[int] = []
    while queues and sum(num_words[index][1] for index in chosen) < sample_words:
        queue = queues.pop(0)
        chosen.append(queue.pop())
        if queue:
            queues.append(queue)
    return sorted(chosen)
