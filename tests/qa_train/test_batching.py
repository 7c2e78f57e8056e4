from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qa_train.batching import collate, epoch_batches, padded_length, sorted_batches, split_batch
from qa_train.data import Answer, Example
from qa_train.tokenization import Features, Ints, encode
from tests.tiny_models import tiny_tokenizer

CPU = torch.device("cpu")


def skewed_lengths(count: int) -> Ints:
    """Lengths as in Spoken-SQuAD: most short, a few at the limit."""
    lengths = np.random.default_rng(0).lognormal(mean=5, sigma=0.6, size=count)
    return np.clip(lengths, 20, 384).astype(np.int64)


def overhead(lengths: Ints, batches: Sequence[Ints]) -> float:
    """Tokens processed for each real one."""
    return float(sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum())


def flat(batches: list[Ints]) -> list[int]:
    return [int(index) for batch in batches for index in batch]


@given(st.integers(1, 700), st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_each_feature_stands_in_one_batch_of_an_epoch(count: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(skewed_lengths(count), batch_size, seed, epoch)
    assert sorted(flat(batches)) == list(range(count))
    assert len(batches) == -(-count // batch_size)
    assert sorted(map(len, batches), reverse=True)[:-1] == [batch_size] * (len(batches) - 1)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = skewed_lengths(500)
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1, 2):
            np.random.seed(epoch)  # the global generator of others has no part in it
            torch.manual_seed(epoch)
            order = flat(epoch_batches(lengths, 8, seed, epoch))
            assert order == flat(epoch_batches(lengths, 8, seed, epoch))
            orders[seed, epoch] = tuple(order)
    assert len(set(orders.values())) == 6


def test_batches_are_not_the_same_in_the_next_epoch() -> None:
    lengths = skewed_lengths(2000)
    first, second = ({frozenset(batch.tolist()) for batch in epoch_batches(lengths, 8, 0, epoch)} for epoch in (0, 1))
    assert len(first & second) < len(first) / 10


def test_batches_of_like_length_waste_little_on_padding() -> None:
    lengths = skewed_lengths(4000)
    order = np.random.default_rng(0).permutation(len(lengths))
    at_random = [order[begin : begin + 16] for begin in range(0, len(order), 16)]
    assert overhead(lengths, epoch_batches(lengths, 16, 0, 0)) < 1.05
    assert overhead(lengths, at_random) > 1.5


def test_long_and_short_batches_are_mixed_over_the_epoch() -> None:
    lengths = skewed_lengths(4000)
    longest = [lengths[batch].max() for batch in epoch_batches(lengths, 16, 0, 0)]
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.2


def test_evaluation_takes_every_feature_once_the_longest_first() -> None:
    lengths = skewed_lengths(100)
    batches = sorted_batches(lengths, 32)
    assert sorted(flat(batches)) == list(range(100))
    assert lengths[flat(batches)].tolist() == sorted(lengths.tolist(), reverse=True)


@given(st.integers(1, 50), st.integers(1, 60))
def test_pieces_of_a_batch_are_of_equal_size_and_make_it_up(size: int, num_pieces: int) -> None:
    pieces = split_batch(np.arange(size), num_pieces)
    assert flat(pieces) == list(range(size))
    sizes = [len(piece) for piece in pieces]
    assert len(sizes) == num_pieces
    assert max(sizes) - min(sizes) <= 1


@pytest.fixture(scope="module")
def features() -> Features:
    contexts = ["rome", "the castle was in rome for many years", "it was the house of ada in rome"]
    examples = [
        Example(str(index), "title", context, "where was it ?", (Answer("rome", context.index("rome")),))
        for index, context in enumerate(contexts)
    ]
    return encode(examples, tiny_tokenizer("bert"))


def test_a_batch_is_padded_to_its_longest_window(features: Features) -> None:
    indices = [2, 0]
    batch = collate(features, indices, 7, CPU)
    length = int(features.lengths[2])
    assert len(batch) == 2
    for tensor in (batch.input_ids, batch.attention_mask, batch.token_type_ids):
        assert tensor.shape == (2, length)
        assert tensor.dtype == torch.int64
    for row, index in enumerate(indices):
        own = slice(int(features.splits[index]), int(features.splits[index + 1]))
        size = int(features.lengths[index])
        rest = length - size
        assert batch.input_ids[row].tolist() == [*features.input_ids[own], *[7] * rest]
        assert batch.attention_mask[row].tolist() == [1] * size + [0] * rest
        assert batch.token_type_ids[row].tolist() == [*features.token_type_ids[own], *[0] * rest]
    assert batch.num_tokens == features.lengths[indices].sum()


@pytest.mark.parametrize("multiple", [1, 4, 8, 64])
def test_lengths_are_rounded_up_to_a_multiple_or_the_longest_window(multiple: int, features: Features) -> None:
    longest = int(features.lengths.max())
    for index, length in enumerate(features.lengths.tolist()):
        padded = padded_length(features, [index], multiple)
        assert length <= padded <= longest
        assert padded % multiple == 0 or padded == longest
        batch = collate(features, [index], 7, CPU, multiple)
        assert batch.input_ids.shape == (1, padded)
        assert batch.attention_mask.sum() == batch.num_tokens == length
        assert batch.input_ids[0, length:].tolist() == [7] * (padded - length)


def test_a_batch_carries_the_labels_and_bounds_of_its_windows(features: Features) -> None:
    batch = collate(features, np.array([1, 2]), 0, CPU)
    for name in ("start_positions", "end_positions", "context_begin", "context_end"):
        assert getattr(batch, name).tolist() == getattr(features, name)[[1, 2]].tolist()


def test_a_batch_of_one_window_has_no_padding(features: Features) -> None:
    batch = collate(features, [0], 0, CPU)
    assert batch.input_ids.shape == (1, features.lengths[0])
    assert batch.attention_mask.all()
