"""From start and end scores to answers: decoding on the device, over a whole batch at once."""

import re
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

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
    score, start, end = n_best_spans(start_logits, end_logits, context_begin, context_end, 1, max_answer_length)
    return score[:, 0], start[:, 0], end[:, 0]


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
    positions = torch.arange(start_logits.shape[1], device=start_logits.device)
    start = torch.where(positions >= context_begin[:, None], start_logits.float(), -torch.inf)
    end = torch.where(positions < context_end[:, None], end_logits.float(), -torch.inf)
    end = torch.nn.functional.pad(end, (0, width - 1), value=-torch.inf)
    # A start whose best span is not among the n best of all starts' best spans has n better spans before it, so that
    # none of its own is among the n best. Only the spans of n starts are left to be compared: [batch, n, width].
    best_of_start = start + _running_max(end, width)
    starts = _top_positions(best_of_start, n_best).sort(dim=1).values
    ends = starts[:, :, None] + positions[:width]
    scores = (start.gather(1, starts)[:, :, None] + end.gather(1, ends.flatten(1)).view(ends.shape)).flatten(1)
    chosen = _top_positions(scores, n_best)
    return scores.gather(1, chosen), starts.gather(1, chosen // width), ends.flatten(1).gather(1, chosen)


def _in_context(logits: Tensor, context_begin: Tensor, context_end: Tensor) -> Tensor:
    positions = torch.arange(logits.shape[1], device=logits.device)
    return (positions >= context_begin[:, None]) & (positions < context_end[:, None])


def _running_max(values: Tensor, width: int) -> Tensor:
    """Returns [batch, length - width + 1] the largest of each `width` values in a row."""
    covered = 1
    while covered < width:
        step = min(covered, width - covered)
        values = torch.maximum(values[:, :-step], values[:, step:])
        covered += step
    return values


def _top_positions(scores: Tensor, n_best: int) -> Tensor:
    """Returns [batch, n] the positions of the highest scores of each row, all if `n_best` are more; ties in order.

    `topk` of the scores themselves leaves open which of equal ones it takes, and a stable sort is far slower than
    `topk` of keys that are all different.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 becomes 0.0
    # Read as integers, floats above 0 stand in their order, those below 0 in the reverse one.
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    keys <<= 32
    keys -= torch.arange(scores.shape[1], device=scores.device)
    return keys.topk(min(n_best, scores.shape[1]), dim=1).indices


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
        scores, starts, ends = (tensor.cpu().numpy() for tensor in search)
        found = _character_spans(scores, starts, ends, offsets, contexts)
        # Different tokens can be the same characters: those of white space, and parts of one character.
        all_searched = scores.shape[1] < num_searched
        if all_searched or all(
            len(spans) >= n_best or lowest == -np.inf for spans, lowest in zip(found, scores[:, -1], strict=True)
        ):
            return [spans[:n_best] for spans in found]
        num_searched *= 2


def _character_spans(
    scores: np.ndarray, starts: np.ndarray, ends: np.ndarray, offsets: Sequence[Ints], contexts: Sequence[str]
) -> list[list[Span]]:
    """Turns spans of tokens [batch, n], best first, into spans of characters; of equal ones the best stays."""
    is_span = scores > -np.inf
    first_token = _first_indices(offsets)
    tokens = np.concatenate(offsets)
    # Positions without meaning can lie behind the last token.
    begin = tokens[np.where(is_span, first_token + starts, 0), 0]
    past = tokens[np.where(is_span, first_token + ends, 0), 1]
    edges = _characters(contexts, np.stack([begin, past - 1]))
    # Few spans are blank at an edge, and answer_span takes one at a time.
    for row, column in np.argwhere(is_span & ((begin >= past) | np.strings.isspace(edges).any(axis=0))):
        here = row, column
        begin[here], past[here] = answer_span(contexts[row], int(begin[here]), int(past[here]))
    kept = is_span & _are_new(begin.astype(np.int64) << 32 | past)
    columns = (array[kept].tolist() for array in (scores, begin, past))
    spans = map(partial(tuple.__new__, Span), zip(*columns, strict=True))  # Span(…) takes twice as long
    return [list(islice(spans, count)) for count in kept.sum(axis=1).tolist()]


def _first_indices(parts: Sequence[Any]) -> Ints:
    """Returns [len(parts), 1] the index of the first element of each part once all are joined."""
    return np.cumsum([0, *map(len, parts[:-1])])[:, None]


def _characters(contexts: Sequence[str], places: np.ndarray) -> np.ndarray:
    """Returns the characters at [..., batch, n] places in the contexts [batch]; of places outside, any."""
    joined = np.frombuffer("".join(contexts).encode("utf-32-le"), dtype="<U1")
    characters: np.ndarray = joined.take(_first_indices(contexts) + places, mode="clip")
    return characters


def _are_new(keys: np.ndarray) -> np.ndarray:
    """Returns [batch, n] whether a key is the first of its value in its row."""
    order = keys.argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(keys, order, axis=1)
    is_new = np.ones(keys.shape, dtype=bool)
    np.put_along_axis(is_new, order[:, 1:], ordered[:, 1:] != ordered[:, :-1], axis=1)
    return is_new


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
