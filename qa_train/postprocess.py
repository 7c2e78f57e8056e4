"""From start and end scores to answers: decoding on the device, over a whole batch at once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qa_train.data import Example
from qa_train.tokenization import Features

MAX_ANSWER_LENGTH = 30
"""Tokens in an answer at most; the default of the SQuAD scripts."""


def best_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    context_begin: Tensor,
    context_end: Tensor,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the best span of each window: start + end score is largest over all spans inside the context.

    Of spans with equal scores the first start is taken, then the shortest span.

    Args:
        start_logits: [batch, seq_len] float.
        end_logits: [batch, seq_len] float.
        context_begin: [batch] first position of the context.
        context_end: [batch] position after its last; larger than `context_begin`.
        max_answer_length: Tokens in a span at most.

    Returns:
        (score, start, end), each [batch]; `end` is the position of the span's last token.
    """
    batch, seq_len = start_logits.shape
    positions = torch.arange(seq_len, device=start_logits.device)
    inside = (positions >= context_begin[:, None]) & (positions < context_end[:, None])
    lowest = torch.finfo(torch.float32).min / 4  # two of them still add up to a finite number
    start = start_logits.float().masked_fill(~inside, lowest)
    end = end_logits.float().masked_fill(~inside, lowest)
    width = min(max_answer_length, seq_len)
    # [batch, seq_len, width]: the end score `offset` tokens after each start.
    ends = torch.nn.functional.pad(end, (0, width - 1), value=lowest).unfold(1, width, 1)
    score, best = (start[:, :, None] + ends).reshape(batch, -1).max(dim=1)
    return score, best // width, best // width + best % width


def answer_texts(
    features: Features,
    examples: Sequence[Example],
    scores: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
) -> dict[str, str]:
    """Takes the best-scored span over the windows of each example and cuts its text out of the context.

    Args:
        features: The windows.
        examples: What the windows were made from.
        scores: [num_features] score of each window's best span.
        starts: [num_features] its first token's position in the window.
        ends: [num_features] its last token's position.

    Returns:
        Answer text by question id, for each example; never empty, since a span holds at least one token.
    """
    # Sorted by example, best window first, the earlier of equal ones first.
    order = np.lexsort((-scores, features.example_index))
    example_index, first = np.unique(features.example_index[order], return_index=True)
    texts = {}
    for example, feature in zip(example_index, order[first], strict=True):
        offset = features.splits[feature]
        begin = int(features.offsets[offset + starts[feature], 0])
        past = int(features.offsets[offset + ends[feature], 1])
        texts[examples[example].id] = examples[example].context[begin:past]
    return texts
