"""The spans of tokens with the highest scores: by NumPy on a CPU, by PyTorch on any other device.

Both give the same spans. NumPy follows the few spans that can be among the best, which takes half the time; on a GPU
the number of them would have to be waited for.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MAX_ANSWER_LENGTH = 30
"""Tokens in an answer at most; the default of the SQuAD scripts."""

_LOWEST = np.float32(-np.inf)
_MOST_STARTS = 8
"""Starts of a window that are looked at, for each span that is wanted; there are 1.4 on average in random scores."""

_Floats = npt.NDArray[np.float32]
_Positions = npt.NDArray[np.int64]


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
    tensors = start_logits.detach().float(), end_logits.detach().float(), context_begin, context_end
    if start_logits.device.type == "cpu":
        start, end, begin, past = (tensor.numpy() for tensor in tensors)
        if found := _search_by_numpy(start, end, begin, past, n_best, width):
            scores, starts, ends = map(torch.from_numpy, found)
            return scores, starts, ends
    return _search_by_torch(*tensors, n_best, width)


def _search_by_torch(
    start_logits: Tensor, end_logits: Tensor, context_begin: Tensor, context_end: Tensor, n_best: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Searches with operations whose results' sizes are known beforehand, so that no GPU has to be waited for."""
    positions = torch.arange(start_logits.shape[1], device=start_logits.device)
    outside = (positions < context_begin[:, None]) | (positions >= context_end[:, None])
    start, end = (logits.masked_fill(outside, -torch.inf) for logits in (start_logits, end_logits))
    end = torch.nn.functional.pad(end, (0, width - 1), value=-torch.inf)
    # A start whose best span is not among the n best of all starts' best spans has n better spans before it, so that
    # none of its own is among the n best. Only the spans of n starts are left to be compared: [batch, n, width].
    best_of_start = start + _running_max(end, width, torch.maximum)
    starts = _top_positions(best_of_start, n_best).sort(dim=1).values
    ends = starts[:, :, None] + positions[:width]
    scores = (start.gather(1, starts)[:, :, None] + end.gather(1, ends.flatten(1)).view(ends.shape)).flatten(1)
    chosen = _top_positions(scores, n_best)
    return scores.gather(1, chosen), starts.gather(1, chosen // width), ends.flatten(1).gather(1, chosen)


def _top_positions(scores: Tensor, n_best: int) -> Tensor:
    """Returns [batch, n] the positions of the highest scores of each row, all if `n_best` are more; ties in order.

    `topk` of the scores themselves leaves open which of equal ones it takes, and a stable sort is far slower than
    `topk` of keys that are all different.
    """
    keys = _ordered((scores + 0.0).view(torch.int32)).long()  # + 0.0: -0.0 becomes 0.0
    keys <<= 32
    keys -= torch.arange(scores.shape[1], device=scores.device)
    top: Tensor = keys.topk(min(n_best, scores.shape[1]), dim=1).indices
    return top


@np.errstate(invalid="ignore", over="ignore")  # scores of infinities of both signs are no number, and no span
def _search_by_numpy(
    start_logits: _Floats,
    end_logits: _Floats,
    context_begin: _Positions,
    context_end: _Positions,
    n_best: int,
    width: int,
) -> tuple[_Floats, _Positions, _Positions] | None:
    """Searches among the spans that reach a score which the n best reach for certain; they are few.

    Returns:
        As `n_best_spans`; None if scores of a context are no numbers, or so many of them equal that the spans are not
        few and their memory has no bound.
    """
    batch, seq_len = start_logits.shape
    begin, past = (bound[:, None].astype(np.min_scalar_type(seq_len)) for bound in (context_begin, context_end))
    positions = np.arange(seq_len, dtype=begin.dtype)
    outside = (positions < begin) | (positions >= past)
    # Padded rows lie one after the other, and padding follows the last: the running maximum of all is that of each row.
    joined = np.full((batch + 1) * (seq_len + width - 1), _LOWEST)
    end = joined.reshape(batch + 1, -1)[:batch, :seq_len]
    np.copyto(end, end_logits, where=~outside)
    best_end = _running_max(joined, width, np.maximum)[: -seq_len or None].reshape(batch, -1)[:, :seq_len]
    best_of_start = start_logits + best_end
    np.copyto(best_of_start, _LOWEST, where=outside)
    if np.isnan(best_of_start.max(initial=_LOWEST)):
        return None
    reached = _reached_by(best_of_start, n_best)
    places = np.flatnonzero(best_of_start >= reached)
    rows = places // seq_len
    if np.bincount(rows).max(initial=0) > _MOST_STARTS * n_best:
        return None
    ends_of_start = np.lib.stride_tricks.as_strided(joined, (len(joined) - seq_len, width), joined.strides * 2)
    scores = start_logits.ravel()[places, None] + ends_of_start[places + rows * (width - 1)]
    cells = np.flatnonzero(scores >= reached[rows])
    index = cells // width
    best = _first_in_order(scores.ravel()[cells], rows[index], batch, min(n_best, seq_len * width))
    starts = places[index] - rows[index] * seq_len
    ends = starts + cells - index * width
    # What follows the last span stands for those that a window lacks.
    return np.append(scores.ravel()[cells], _LOWEST)[best], np.append(starts, 0)[best], np.append(ends, 0)[best]


def _reached_by(scores: _Floats, n_best: int) -> _Floats:
    """Returns [batch, 1] a finite score that the n best of each row reach, if they are finite; few others do.

    The largest of each of some groups are compared instead of all: half as many with each turn.
    """
    while scores.shape[1] >= 4 * n_best:
        half = scores.shape[1] // 2
        scores = np.maximum(scores[:, :half], scores[:, half : 2 * half])
    nth = max(scores.shape[1] - n_best, 0)
    lowest = np.partition(scores, nth, axis=1)[:, nth : nth + 1] if n_best <= scores.shape[1] else _LOWEST
    return np.broadcast_to(np.maximum(lowest, np.finfo(np.float32).min), (len(scores), 1))


def _first_in_order(scores: _Floats, rows: _Positions, batch: int, count: int) -> _Positions:
    """Returns [batch, count] the indices of each row's highest scores, of equal ones the first one first.

    Args:
        scores: [num_scores], those of a row side by side.
        rows: [num_scores] the row of each, ascending.
        batch: Rows.
        count: Indices to return of each; where it has fewer, `num_scores` stands for the rest.
    """
    sizes = np.bincount(rows, minlength=batch)
    width = max(count, sizes.max())
    # The index is part of the key: no two keys are equal, and no array of indices has to be sorted along.
    keys = np.full((batch, width), np.left_shift(_ordered(_LOWEST.view(np.int32)), 32, dtype=np.int64) - len(scores))
    own = np.left_shift(_ordered((scores + np.float32(0)).view(np.int32)), 32, dtype=np.int64) - np.arange(len(scores))
    keys.ravel()[np.arange(len(scores)) + rows * width - (np.cumsum(sizes) - sizes)[rows]] = own
    keys.sort(axis=1)
    return -keys[:, : -count - 1 : -1] & 0xFFFFFFFF


def _running_max(values: Any, width: int, maximum: Any) -> Any:
    """Returns [..., length - width + 1] the largest of each `width` values in a row."""
    covered = 1
    while covered < width:
        step = min(covered, width - covered)
        values = maximum(values[..., :-step], values[..., step:])
        covered += step
    return values


def _ordered(bits: Any) -> Any:
    """Returns the bits of floats as integers of the same order.

    Read as integers, floats above 0 stand in their order already, those below 0 in the reverse one.
    """
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
