"""Batches of like length, in an order that is a function of (seed, epoch) alone, and their padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qa_train.tokenization import Features, Ints

BATCHES_PER_BLOCK = 50
"""Batches among which features are sorted by length: enough for like lengths, few enough to stay random."""


@dataclass(frozen=True)
class Batch:
    """Padded windows on one device.

    Attributes:
        input_ids: [batch, seq_len] int64.
        attention_mask: [batch, seq_len] int64, 0 at padding.
        token_type_ids: [batch, seq_len] int64.
        start_positions: [batch] int64, see `Features`.
        end_positions: [batch] int64.
        context_begin: [batch] int64.
        context_end: [batch] int64.
        num_tokens: Tokens without padding.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    start_positions: Tensor
    end_positions: Tensor
    context_begin: Tensor
    context_end: Tensor
    num_tokens: int

    def __len__(self) -> int:
        return len(self.input_ids)


def epoch_batches(lengths: Ints, batch_size: int, seed: int, epoch: int) -> list[Ints]:
    """Returns the batches of one epoch; each feature stands in exactly one of them.

    Features are shuffled, sorted by length within blocks of `BATCHES_PER_BLOCK` batches, and the batches shuffled
    again: on Spoken-SQuAD 1.03 tokens are then processed for each real one, against 1.93 in random batches.

    Args:
        lengths: [num_features] tokens of each feature.
        batch_size: Features in a batch; the last of the epoch, wherever it stands, may be smaller.
        seed: Of the run, 0 or more.
        epoch: Counted from 0.

    Returns:
        [num_batches] arrays of feature indices.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    block = batch_size * BATCHES_PER_BLOCK
    batches: list[Ints] = []
    for first in range(0, len(order), block):
        members = order[first : first + block]
        members = members[np.argsort(lengths[members], kind="stable")]
        batches += [members[begin : begin + batch_size] for begin in range(0, len(members), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def sorted_batches(lengths: Ints, batch_size: int) -> list[Ints]:
    """Returns batches for evaluation, longest first, so that memory fails early if it fails."""
    order = np.argsort(-lengths, kind="stable")
    return [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]


def split_batch(batch: Ints, num_pieces: int) -> list[Ints]:
    """Cuts a batch into pieces of equal size (to one feature) for gradient accumulation; some may be empty."""
    return np.array_split(batch, num_pieces)


def padded_length(features: Features, indices: Sequence[int] | Ints, multiple: int = 1) -> int:
    """Returns the length that windows are padded to: that of the longest of them, rounded up.

    Args:
        features: All windows.
        indices: [batch] which of them.
        multiple: It is a multiple of this, or the longest of all windows if that is shorter.
    """
    longest = int(features.lengths[indices].max())
    return min(-(-longest // multiple) * multiple, int(features.lengths.max()))


def collate(
    features: Features,
    indices: Sequence[int] | Ints,
    pad_token_id: int,
    device: torch.device,
    multiple: int = 1,
) -> Batch:
    """Pads windows to one length.

    Args:
        features: All windows.
        indices: [batch] which of them.
        pad_token_id: Of the tokenizer.
        device: Where the batch shall be; a copy to a GPU does not block.
        multiple: See `padded_length`.
    """
    indices = np.asarray(indices)
    starts = features.splits[indices]
    lengths = features.splits[indices + 1] - starts
    positions = np.arange(padded_length(features, indices, multiple))
    inside = positions < lengths[:, None]
    source = np.where(inside, starts[:, None] + positions, 0)

    def move(array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array.astype(np.int64))
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    return Batch(
        input_ids=move(np.where(inside, features.input_ids[source], pad_token_id)),
        attention_mask=move(inside),
        token_type_ids=move(np.where(inside, features.token_type_ids[source], 0)),
        start_positions=move(features.start_positions[indices]),
        end_positions=move(features.end_positions[indices]),
        context_begin=move(features.context_begin[indices]),
        context_end=move(features.context_end[indices]),
        num_tokens=int(lengths.sum()),
    )
