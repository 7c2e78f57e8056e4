"""From start and end scores to answers: decoding on the device, over a whole batch at once."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qa_train.data import Example
from qa_train.tokenization import Features, Ints

MAX_ANSWER_LENGTH = 30
"""Tokens in an answer at most; the default of the SQuAD scripts."""

_WORD = re.compile(r"\S+")


class Span(NamedTuple):
    """Characters `start` to `end` (past the last) of a context; `logit` is the sum of its start and end score."""

    logit: float
    start: int
    end: int


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
    width = min(max_answer_length, start_logits.shape[1])
    score, best = _span_scores(start_logits, end_logits, context_begin, context_end, width).max(dim=1)
    return score, best // width, best // width + best % width


def n_best_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    context_begin: Tensor,
    context_end: Tensor,
    n_best: int,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the best spans of each window as `best_spans` finds the best one, with the same order among equal scores.

    Args:
        start_logits: [batch, seq_len] float.
        end_logits: [batch, seq_len] float.
        context_begin: [batch] first position of the context.
        context_end: [batch] position after its last; larger than `context_begin`.
        n_best: Spans to find in each window, 1 or more.
        max_answer_length: Tokens in a span at most.

    Returns:
        (scores, starts, ends), each [batch, n], best first; n is `n_best`, or the number of cells of the band,
        `seq_len * min(max_answer_length, seq_len)`, if that is smaller. Where a window has fewer spans, the rest have
        the score -inf and positions without meaning: drop them.
    """
    width = min(max_answer_length, start_logits.shape[1])
    scores = _span_scores(start_logits, end_logits, context_begin, context_end, width)
    best = _unique_keys(scores).topk(min(n_best, scores.shape[1]), dim=1).indices
    return scores.gather(1, best), best // width, best // width + best % width


def _span_scores(
    start_logits: Tensor, end_logits: Tensor, context_begin: Tensor, context_end: Tensor, width: int
) -> Tensor:
    """Returns [batch, seq_len * width] start + end score of the span of `i % width + 1` tokens from `i // width` on.

    Spans that are not inside the context have -inf.
    """
    outside = ~_in_context(start_logits, context_begin, context_end)
    start = start_logits.float().masked_fill(outside, -torch.inf)
    end = end_logits.float().masked_fill(outside, -torch.inf)
    # [batch, seq_len, width]: the end score `offset` tokens after each start.
    ends = torch.nn.functional.pad(end, (0, width - 1), value=-torch.inf).unfold(1, width, 1)
    return (start[:, :, None] + ends).flatten(1)


def _in_context(logits: Tensor, context_begin: Tensor, context_end: Tensor) -> Tensor:
    positions = torch.arange(logits.shape[1], device=logits.device)
    return (positions >= context_begin[:, None]) & (positions < context_end[:, None])


def _unique_keys(scores: Tensor) -> Tensor:
    """Returns int64 keys in the order of the scores, the first of equal ones highest.

    `topk` of the scores themselves leaves open which of equal ones it takes; a stable sort took 18 times as long as
    `topk` of these keys (on a CPU, 32 windows of 384 tokens).
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 becomes 0.0
    # Read as integers, floats above 0 stand in their order, those below 0 in the reverse one.
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) - torch.arange(scores.shape[1], device=scores.device)


def distinct_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    context_begin: Tensor,
    context_end: Tensor,
    offsets: Sequence[Ints],
    contexts: Sequence[str],
    n_best: int,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> list[list[Span]]:
    """Finds the best spans of each window as characters of its context; no two of a window are the same characters.

    Args:
        start_logits: [batch, seq_len] float.
        end_logits: [batch, seq_len] float.
        context_begin: [batch] first position of the context.
        context_end: [batch] position after its last; larger than `context_begin`.
        offsets: [batch] of [num_tokens, 2] first and past-the-last character of each token of the window.
        contexts: [batch] the context that each window is of.
        n_best: Spans to find in each window, 1 or more.
        max_answer_length: Tokens in a span at most.

    Returns:
        For each window its spans, best first: `n_best` of them, or all it has.
    """
    bounds = context_begin, context_end
    num_searched = n_best
    while True:
        search = n_best_spans(start_logits, end_logits, *bounds, num_searched, max_answer_length)
        rows = zip(offsets, contexts, *(tensor.cpu().numpy() for tensor in search), strict=True)
        found = [_character_spans(*row) for row in rows]
        # Different tokens can be the same characters: those of white space, and parts of one character.
        last = search[0][:, -1].tolist()
        all_searched = search[0].shape[1] < num_searched
        if all_searched or all(
            len(spans) >= n_best or lowest == -np.inf for spans, lowest in zip(found, last, strict=True)
        ):
            return [spans[:n_best] for spans in found]
        num_searched *= 2


def _character_spans(offsets: Ints, context: str, scores: np.ndarray, starts: Ints, ends: Ints) -> list[Span]:
    """Turns one window's spans of tokens, best first, into spans of characters; of equal ones the best stays."""
    spans: dict[tuple[int, int], Span] = {}
    for score, start, end in zip(scores.tolist(), starts, ends, strict=True):
        if score > -np.inf:
            characters = answer_span(context, int(offsets[start, 0]), int(offsets[end, 1]))
            spans.setdefault(characters, Span(score, *characters))
    return list(spans.values())


def context_log_sums(logits: Tensor, context_begin: Tensor, context_end: Tensor) -> Tensor:
    """Returns [batch] the logarithm of the sum of exp(logit) over each window's context.

    Of several windows they add up by `logaddexp` to the denominator of one softmax over all of them.
    """
    outside = ~_in_context(logits, context_begin, context_end)
    return logits.float().masked_fill(outside, -torch.inf).logsumexp(dim=1)


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
        Answer text by question id, for each example; never blank.
    """
    # Sorted by example, best window first, the earlier of equal ones first.
    order = np.lexsort((-scores, features.example_index))
    example_index, first = np.unique(features.example_index[order], return_index=True)
    texts = {}
    for example, feature in zip(example_index, order[first], strict=True):
        offset = features.splits[feature]
        context = examples[example].context
        begin, past = answer_span(
            context,
            int(features.offsets[offset + starts[feature], 0]),
            int(features.offsets[offset + ends[feature], 1]),
        )
        texts[examples[example].id] = context[begin:past]
    return texts


def answer_span(context: str, begin: int, past: int) -> tuple[int, int]:
    """Returns the first and past-the-last character of the answer in a span of the context.

    It is the span without white space at its edges, which the tokens of byte-level tokenizers hold. A span of white
    space alone gives the next word, or the last one of the context: no answer is blank.

    Args:
        context: Has a character that is no white space.
        begin: First character of the span.
        past: The character after its last.
    """
    text = context[begin:past]
    if text.strip():
        return begin + len(text) - len(text.lstrip()), begin + len(text.rstrip())
    if following := _WORD.search(context, past):
        return following.span()
    written = context.rstrip()
    return len(written) - len(written.split()[-1]), len(written)
