from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qa_train.data import Example
from qa_train.postprocess import Span, SpanTable, answer_span, answer_texts, best_spans, distinct_spans, n_best_spans
from qa_train.span_search import _search_by_numpy, _search_by_torch
from qa_train.tokenization import Features, encode
from tests.tiny_models import tiny_tokenizer


def brute_force(
    start: list[float], end: list[float], context_begin: int, context_end: int, max_answer_length: int
) -> tuple[float, int, int]:
    best = (-float("inf"), -1, -1)
    for first in range(context_begin, context_end):
        for last in range(first, min(first + max_answer_length, context_end)):
            score = float(np.float32(start[first]) + np.float32(end[last]))
            if score > best[0]:
                best = (score, first, last)
    return best


@st.composite
def scored_windows(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]], list[tuple[int, int]]]:
    seq_len, batch = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    # A few whole numbers make equal scores frequent.
    score = draw(st.sampled_from([st.floats(-1e4, 1e4, width=32), st.integers(-2, 2).map(float)]))
    row = st.lists(score, min_size=seq_len, max_size=seq_len)
    rows = st.lists(row, min_size=batch, max_size=batch)
    bounds = []
    for _ in range(batch):
        begin = draw(st.integers(0, seq_len - 1))
        bounds.append((begin, draw(st.integers(begin + 1, seq_len))))
    return draw(rows), draw(rows), bounds


@given(scored_windows(), st.integers(1, 15))
def test_the_best_span_is_that_of_a_search_through_all(
    windows: tuple[list[list[float]], list[list[float]], list[tuple[int, int]]], max_answer_length: int
) -> None:
    start, end, bounds = windows
    begins, pasts = torch.tensor(bounds).unbind(dim=1)
    score, first, last = best_spans(torch.tensor(start), torch.tensor(end), begins, pasts, max_answer_length)
    for row, (context_begin, context_end) in enumerate(bounds):
        expected = brute_force(start[row], end[row], context_begin, context_end, max_answer_length)
        assert (float(score[row]), int(first[row]), int(last[row])) == expected
        assert context_begin <= first[row] <= last[row] < context_end


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_span_never_leaves_the_context_however_high_the_scores_outside(dtype: torch.dtype) -> None:
    lowest, highest = torch.finfo(dtype).min, torch.finfo(dtype).max
    start = torch.full((1, 8), highest, dtype=dtype)
    start[0, 3:6] = -100
    end = start.clone()
    end[0, 3:6] = lowest / 1e4
    _, first, last = best_spans(start, end, torch.tensor([3]), torch.tensor([6]))
    assert 3 <= int(first) <= int(last) < 6


@settings(deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1), st.integers(1, 45), st.integers(1, 35))
def test_numpy_finds_the_spans_that_pytorch_finds(
    data: st.DataObject, seed: int, n_best: int, max_answer_length: int
) -> None:
    batch, seq_len = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 60))
    width = min(max_answer_length, seq_len)
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, batch, seq_len)).astype(np.float32)
    if data.draw(st.booleans()):  # many equal scores, and both zeros
        logits = np.round(logits)
    for odd in data.draw(st.lists(st.sampled_from([-np.inf, np.inf]), max_size=2)):
        logits[rng.random(logits.shape) < 0.1] = odd
    begin = rng.integers(0, seq_len, size=batch)
    past = rng.integers(begin + 1, seq_len + 1, dtype=np.int64)
    outside = (np.arange(seq_len) < begin[:, None]) | (np.arange(seq_len) >= past[:, None])
    logits[:, outside] = data.draw(st.sampled_from([0.0, np.inf, np.nan]))
    found = _search_by_numpy(logits[0], logits[1], begin, past, n_best, width)
    expected = [part.numpy() for part in _search_by_torch(*_as_tensors(logits, begin, past), n_best, width)]
    if found is None:
        return  # too many starts that reach the same score
    is_span = expected[0] > -np.inf
    assert np.array_equal(found[0] > -np.inf, is_span)
    parts: list[np.ndarray] = [*found]
    for part, other in zip(parts, expected, strict=True):
        assert part.shape == other.shape and part.dtype == other.dtype
        assert np.array_equal(part[is_span], other[is_span])


def test_scores_that_are_no_numbers_or_mostly_equal_are_left_to_pytorch() -> None:
    begin, past = np.array([2, 0]), np.array([50, 60])
    logits = np.random.default_rng(0).normal(size=(2, 2, 60)).astype(np.float32)
    assert _search_by_numpy(logits[0], logits[1], begin, past, 5, 30) is not None
    odd = logits.copy()
    odd[0, 0, 7] = np.nan
    for scores in (odd, odd[::-1].copy(), np.zeros_like(logits)):
        assert _search_by_numpy(scores[0], scores[1], begin, past, 5, 30) is None
        tensors = _as_tensors(scores, begin, past)
        for part, other in zip(n_best_spans(*tensors, 5), _search_by_torch(*tensors, 5, 30), strict=True):
            assert np.array_equal(part.numpy(), other.numpy(), equal_nan=True)


def _as_tensors(logits: np.ndarray, begin: np.ndarray, past: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    start, end = torch.from_numpy(logits)
    return start, end, torch.from_numpy(begin), torch.from_numpy(past)


def test_the_spans_of_several_tables_are_joined_in_order() -> None:
    first = SpanTable(np.array([2, 1], dtype=np.float32), np.array([0, 4]), np.array([3, 6]), np.array([2, 0]))
    other = SpanTable(np.array([5], dtype=np.float32), np.array([7]), np.array([9]), np.array([1]))
    assert SpanTable.join([first, other]).as_lists() == [[Span(2, 0, 3), Span(1, 4, 6)], [], [Span(5, 7, 9)]]


def features_of(examples: list[Example], kind: Any = "distilbert", **options: Any) -> Features:
    return encode(examples, tiny_tokenizer(kind), **options)


def test_the_window_with_the_best_score_answers_the_question() -> None:
    context = "paris berlin cairo delhi essen florence geneva hamburg izmir jena kyoto london"
    examples = [Example("a", "", context, "where ?", ()), Example("b", "", "rome", "where ?", ())]
    features = features_of(examples, max_seq_length=16, doc_stride=2)
    assert features.example_index.tolist() == [0, 0, 1]
    begin = features.context_begin.astype(np.int64)
    texts = [
        answer_texts(features, examples, np.array(scores), begin, begin + np.array([1, 1, 0]))
        for scores in ([1.0, 2.0, -5.0], [2.0, 1.0, -5.0], [2.0, 2.0, -5.0])
    ]
    assert [text["b"] for text in texts] == ["rome"] * 3
    assert texts[0]["a"] == "jena kyoto"
    assert texts[1]["a"] == texts[2]["a"] == "paris berlin"  # of equal ones, the earlier


def test_an_answer_is_cut_from_the_context_as_it_is_written_there() -> None:
    examples = [Example("a", "", "  In  PARIS,  Texas. ", "where ?", ())]
    features = features_of(examples)
    tokens = features.offsets[features.context_begin[0] : features.context_end[0]].tolist()
    context = examples[0].context
    first = next(index for index, (begin, _) in enumerate(tokens) if begin == context.index("PARIS"))
    last = next(index for index, (_, past) in enumerate(tokens) if past == context.index("Texas") + len("Texas"))
    at = np.array([features.context_begin[0]])
    texts = answer_texts(features, examples, np.zeros(1), at + first, at + last)
    assert texts == {"a": "PARIS,  Texas"}


@pytest.mark.parametrize("context", ["in  paris \n\n now", "  paris  ", "\n\nparis\n\n"])
def test_no_answer_is_blank_even_where_a_token_is_white_space_alone(context: str) -> None:
    examples = [Example("a", "", context, "where ?", ())]
    features = features_of(examples, "roberta")
    for position in range(features.context_begin[0], features.context_end[0]):
        at = np.array([position])
        text = answer_texts(features, examples, np.zeros(1), at, at)["a"]
        assert text
        assert text == text.strip()
        assert text in context


@st.composite
def windows_of_contexts(draw: st.DrawFn) -> list[tuple[str, list[tuple[int, int]]]]:
    """Contexts of their own, each with tokens that may be blank, empty, or the same characters."""
    text = st.text("ab €\u3000\n😀", min_size=1, max_size=12).filter(str.strip)
    windows = []
    for context in draw(st.lists(text, min_size=1, max_size=4)):
        edge = st.integers(0, len(context))
        tokens = draw(st.lists(st.tuples(edge, edge).map(sorted), min_size=1, max_size=8))
        windows.append((context, [(begin, past) for begin, past in sorted(tokens)]))
    return windows


@given(windows_of_contexts(), st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9))
def test_distinct_spans_are_those_of_a_loop_over_all_spans_of_each_window(
    windows: list[tuple[str, list[tuple[int, int]]]], seed: int, n_best: int, max_answer_length: int
) -> None:
    lengths = [len(tokens) for _, tokens in windows]
    # Whole numbers, so that many spans have equal scores.
    start, end = np.random.default_rng(seed).integers(-3, 4, size=(2, len(windows), max(lengths))).astype(np.float32)
    expected = []
    for row, (context, tokens) in enumerate(windows):
        scored = [
            (float(start[row, first] + end[row, last]), *answer_span(context, tokens[first][0], tokens[last][1]))
            for first in range(len(tokens))
            for last in range(first, min(first + max_answer_length, len(tokens)))
        ]
        best: dict[tuple[int, int], Span] = {}
        for score, begin, past in sorted(scored, key=lambda span: -span[0]):
            best.setdefault((begin, past), Span(score, begin, past))
        expected.append(list(best.values())[:n_best])
    found = distinct_spans(
        torch.from_numpy(start),
        torch.from_numpy(end),
        torch.zeros(len(windows), dtype=torch.int64),
        torch.tensor(lengths),
        [np.array(tokens, dtype=np.int32) for _, tokens in windows],
        [context for context, _ in windows],
        n_best,
        max_answer_length,
    ).as_lists()
    assert found == expected
    assert all(type(span) is Span for spans in found for span in spans)
