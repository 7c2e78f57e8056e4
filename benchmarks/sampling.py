"""Few batches that stand for an epoch's."""

from collections.abc import Iterator, Sequence

import numpy as np

from qa_train.batching import epoch_batches
from qa_train.tokenization import Ints

BATCH_SIZE = 16
_NUM_DRAWS = 2000


def plan_grouped(lengths: Ints, num_batches: int, seed: int) -> list[Ints]:
    """Returns batches that stand for those of our loop's first epoch.

    A loop that is given their windows alone puts them into the same batches again, in the order in which they are here.

    Args:
        lengths: [num_features] tokens of each window.
        num_batches: How many; the first warms up and need not stand for anything.
        seed: Of the loop that shall train them.
    """
    batches = grouped_batches(lengths, seed)

    def as_taken(draw: Ints) -> list[Ints]:
        chosen = np.concatenate([batches[index] for index in draw])
        return [chosen[batch] for batch in epoch_batches(lengths[chosen], BATCH_SIZE, seed, 0)]

    return _most_typical((as_taken(draw) for draw in _draws(len(batches), num_batches, seed)), batches, lengths)


def plan_random(lengths: Ints, num_batches: int, seed: int) -> list[Ints]:
    """Returns random batches that stand for an epoch of random batches; arguments as for `plan_grouped`."""
    batches = random_batches(lengths, seed)
    drawn = ([batches[index] for index in draw] for draw in _draws(len(batches), num_batches, seed))
    return _most_typical(drawn, batches, lengths)


def grouped_batches(lengths: Ints, seed: int) -> list[Ints]:
    """Returns the batches of our loop's first epoch that have the full size."""
    return [batch for batch in epoch_batches(lengths, BATCH_SIZE, seed, 0) if len(batch) == BATCH_SIZE]


def random_batches(lengths: Ints, seed: int) -> list[Ints]:
    """Returns an epoch of random batches that have the full size."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    return list(order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE))


def num_tokens(batches: Sequence[Ints], lengths: Ints) -> int:
    """Returns the tokens of batches without padding."""
    return sum(int(lengths[batch].sum()) for batch in batches)


def num_padded_tokens(batches: Sequence[Ints], lengths: Ints, seq_len: int | None = None) -> int:
    """Returns the tokens of batches with padding to `seq_len`, or to the longest window of each batch."""
    return sum(len(batch) * (seq_len or int(lengths[batch].max())) for batch in batches)


def _draws(num_batches: int, size: int, seed: int) -> Iterator[Ints]:
    generator = np.random.default_rng([seed, size])
    return (generator.permutation(num_batches)[:size] for _ in range(_NUM_DRAWS))


def _most_typical(plans: Iterator[list[Ints]], batches: list[Ints], lengths: Ints) -> list[Ints]:
    """Returns the plan whose batches after the first are most like `batches` in their means.

    The padding of four random batches is off by a tenth; of many draws of four, one is off by a hundredth. What is
    compared decides what a step costs: tokens, tokens with padding, and the pairs of them in attention.
    """
    expected = np.mean([_size(batch, lengths) for batch in batches], axis=0)

    def distance(plan: list[Ints]) -> float:
        found = np.mean([_size(batch, lengths) for batch in plan[1:]], axis=0)
        return float(np.abs(found / expected - 1).max())

    return min(plans, key=distance)


def _size(batch: Ints, lengths: Ints) -> tuple[int, int, int]:
    longest = int(lengths[batch].max())
    return int(lengths[batch].sum()), len(batch) * longest, len(batch) * longest**2
