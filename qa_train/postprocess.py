"""From start and end scores to answers: decoding over a whole batch at once."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qa_train.data import Example
from qa_train.span_search import MAX_ANSWER_LENGTH, best_spans, n_best_spans
from qa_train.tokenization import Features, Ints

__all__ = [
    "MAX_ANSWER_LENGTH",
    "Span",
    "SpanTable",
    "answer_span",
    "answer_texts",
    "best_spans",
    "context_log_sums",
    "distinct_spans",
    "n_best_spans",
]

_WORD = re.compile(r"\S+")
_BLANK = np.array([chr(point).isspace() for point in range(0x3002)])
"""Whether each code point is white space, up to the last that is and one more, which stands for all that follow."""


class Span(NamedTuple):
    """Characters `start` to `end` (past the last) of a context; `logit` is the sum of its start and end score."""

    logit: float
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class SpanTable:
    """Spans of several windows as columns; a window's spans stand side by side, best first.

    Attributes:
        logits: [num_spans] float32, see `Span`.
        starts: [num_spans] first character of each in its context.
        ends: [num_spans] the character after its last.
        counts: [num_windows] spans of each window.
    """

    logits: npt.NDArray[np.float32]
    starts: Ints
    ends: Ints
    counts: Ints

    @classmethod
    def join(cls, tables: Sequence["SpanTable"]) -> "SpanTable":
        """Returns the spans of all windows of some tables, one or more, in their order."""
        columns = zip(*((table.logits, table.starts, table.ends, table.counts) for table in tables), strict=True)
        return cls(*map(np.concatenate, columns))

    def as_lists(self) -> list[list[Span]]:
        """Returns each window's spans. To make so many objects can take longer than to find the spans."""
        columns = (column.tolist() for column in (self.logits, self.starts, self.ends))
        spans = map(partial(tuple.__new__, Span), zip(*columns, strict=True))  # Span(…) takes twice as long
        return [list(islice(spans, count)) for count in self.counts.tolist()]


def distinct_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    context_begin: Tensor,
    context_end: Tensor,
    offsets: Sequence[Ints],
    contexts: Sequence[str],
    n_best: int,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> SpanTable:
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
        The spans of each window: `n_best` of them, or all it has.
    """
    bounds = context_begin, context_end
    num_searched = n_best
    while True:
        search = n_best_spans(start_logits, end_logits, *bounds, num_searched, max_answer_length)
        scores, starts, ends = (tensor.cpu().numpy() for tensor in search)
        found = _character_spans(scores, starts, ends, offsets, contexts, n_best)
        # Different tokens can be the same characters: those of white space, and parts of one character.
        all_searched = scores.shape[1] < num_searched
        if all_searched or ((found.counts == n_best) | (scores[:, -1] == -np.inf)).all():
            return found
        num_searched *= 2


def _character_spans(
    scores: npt.NDArray[np.float32],
    starts: Ints,
    ends: Ints,
    offsets: Sequence[Ints],
    contexts: Sequence[str],
    n_best: int,
) -> SpanTable:
    """Turns spans of tokens [batch, n], best first, into the first `n_best` that are different characters."""
    is_span = scores > -np.inf
    first_token = _first_indices(offsets)
    tokens = np.concatenate(offsets)
    # Positions without meaning can lie behind the last token.
    begin = tokens[:, 0][np.where(is_span, first_token + starts, 0)]
    past = tokens[:, 1][np.where(is_span, first_token + ends, 0)]
    is_blank = _are_blank(contexts, begin) | _are_blank(contexts, past - 1)
    # Few spans are blank at an edge, and answer_span takes one at a time.
    for row, column in np.argwhere(is_span & (is_blank | (begin >= past))):
        here = row, column
        begin[here], past[here] = answer_span(contexts[row], int(begin[here]), int(past[here]))
    kept = is_span & _are_new(begin.astype(np.int64) << 32 | past)
    if scores.shape[1] > n_best:
        kept &= kept.cumsum(axis=1) <= n_best
    return SpanTable(scores[kept], begin[kept], past[kept], kept.sum(axis=1))


def _first_indices(parts: Iterable[Any]) -> Ints:
    """Returns [len(parts), 1] the index of the first element of each part once all are joined."""
    sizes = np.fromiter(map(len, parts), np.int64)
    return (sizes.cumsum() - sizes)[:, None]


def _are_blank(contexts: Sequence[str], places: Ints) -> npt.NDArray[np.bool_]:
    """Returns whether the characters at [batch, n] places in the contexts [batch] are white space.

    Of places outside of a context the result means nothing.
    """
    different = dict.fromkeys(contexts)  # questions share contexts
    first_character = dict(zip(different, _first_indices(different)[:, 0].tolist(), strict=True))
    joined = np.frombuffer("".join(different).encode("utf-32-le"), dtype=np.uint32)
    firsts = np.fromiter(map(first_character.__getitem__, contexts), np.int64)
    return _BLANK.take(joined.take(firsts[:, None] + places, mode="clip"), mode="clip")


def _are_new(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Returns [batch, n] whether a key is the first of its value in its row."""
    is_new = np.ones(keys.shape, dtype=bool)
    ordered = np.sort(keys, axis=1)
    # Few rows hold a key twice, and to find out takes a fraction of the time of a stable argsort.
    for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
        is_new[row] = False
        is_new[row, np.unique(keys[row], return_index=True)[1]] = True
    return is_new


def context_log_sums(logits: Tensor, context_begin: Tensor, context_end: Tensor) -> Tensor:
    """Returns [batch] the logarithm of the sum of exp(logit) over each window's context.

    Of several windows they add up by `logaddexp` to the denominator of one softmax over all of them.
    """
    positions = torch.arange(logits.shape[1], device=logits.device)
    outside = (positions < context_begin[:, None]) | (positions >= context_end[:, None])
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
