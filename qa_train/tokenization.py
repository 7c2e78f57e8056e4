"""Cuts (question, context) pairs into tokenised windows, the features that a model reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from qa_train.data import Example
from qa_train.errors import DataError

UNKNOWN = -1
"""Start and end position of a feature whose answer's place is not known; loss and accuracies leave it out."""
_NO_ANSWER_HERE = 0
"""Position of the first token: the label of a window that does not hold the answer."""
_CHUNK = 1000

Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Features:
    """The windows of a data set in flat arrays: window i has the tokens `splits[i]` to `splits[i + 1]`.

    Attributes:
        input_ids: [num_tokens] int32.
        token_type_ids: [num_tokens] int8: 1 for the context where the model's kind tells the two apart, else all 0.
        offsets: [num_tokens, 2] int32, first and past-the-last character of each token in its context (or question).
        splits: [num_features + 1] int64.
        example_index: [num_features] int32, the example that the window belongs to.
        context_begin: [num_features] int32, position of the first context token in the window.
        context_end: [num_features] int32, position after the last context token.
        start_positions: [num_features] int32, position of the answer's first token; 0 if another window holds the
            answer, `UNKNOWN` if the example has no answer whose offset is true.
        end_positions: [num_features] int32, the same of its last token.
        num_questions_cut: Questions too long for their share of the window.
    """

    input_ids: Ints
    token_type_ids: Ints
    offsets: Ints
    splits: Ints
    example_index: Ints
    context_begin: Ints
    context_end: Ints
    start_positions: Ints
    end_positions: Ints
    num_questions_cut: int

    def __len__(self) -> int:
        return len(self.example_index)

    @property
    def lengths(self) -> Ints:
        """[num_features] Tokens of each window."""
        return np.diff(self.splits)

    def labelled(self) -> "Features":
        """Returns the windows whose label is known; these themselves if all are.

        Raises:
            DataError: If none is.
        """
        known = self.start_positions != UNKNOWN
        if known.all():
            return self
        if not known.any():
            raise DataError("no window holds its answer: expected at least one; use longer windows, or all of them")
        return self.take(np.flatnonzero(known))

    def take(self, windows: Ints) -> "Features":
        """Returns some windows, in the order of their indices [num_windows]; one may stand several times."""
        lengths = self.lengths[windows]
        splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        tokens = np.arange(splits[-1]) + np.repeat(self.splits[windows] - splits[:-1], lengths)
        return replace(
            self,
            splits=splits,
            **{name: getattr(self, name)[tokens] for name in ("input_ids", "token_type_ids", "offsets")},
            **{name: getattr(self, name)[windows] for name in _PER_WINDOW},
        )


_PER_WINDOW = ("example_index", "context_begin", "context_end", "start_positions", "end_positions")


class SquadDataset(Dataset[dict[str, Ints]]):
    """Features one by one, as `torch.utils.data` wants them: arrays of one window, unpadded."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Ints]:
        """Returns `input_ids`, `token_type_ids` [seq_len], `start_positions`, `end_positions` [] of one window."""
        features = self.features
        window = slice(features.splits[index], features.splits[index + 1])
        return {
            "input_ids": features.input_ids[window],
            "token_type_ids": features.token_type_ids[window],
            "start_positions": features.start_positions[index],
            "end_positions": features.end_positions[index],
        }


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    *,
    single_window: bool = False,
) -> Features:
    """Tokenises examples into windows: the question first, then as much of the context as fits.

    A question may fill a quarter of the window; what is longer is cut off and counted. The label of a window is the
    example's first answer whose offset is true (`context[start : start + len(text)] == text`).

    Args:
        examples: Questions with their contexts.
        tokenizer: A fast tokenizer of Transformers.
        max_seq_length: Tokens in a window at most, question and special tokens included.
        doc_stride: Tokens of context that two neighbouring windows share.
        single_window: Keep the first window of each example only. Answers behind it are then out of reach: their
            label is unknown.

    Raises:
        DataError: If there is no example, or a context has no token at all.
    """
    if not examples:
        raise DataError("no questions to tokenise: expected at least one, found none")
    special = tokenizer.num_special_tokens_to_add(pair=True)
    question_limit = max(1, min(max_seq_length // 4, max_seq_length - special - doc_stride - 1))
    windows: list[_Window] = []
    num_questions_cut = 0
    for first in range(0, len(examples), _CHUNK):
        chunk = examples[first : first + _CHUNK]
        questions, num_cut = _cut_questions([example.question.strip() for example in chunk], tokenizer, question_limit)
        num_questions_cut += num_cut
        contexts = [example.context for example in chunk]
        windows += _windows(questions, contexts, tokenizer, max_seq_length, doc_stride, first)
    if not single_window:
        return _flatten(windows, examples, num_questions_cut)
    firsts = [windows[0], *(here for before, here in pairwise(windows) if here.example_index != before.example_index)]
    features = _flatten(firsts, examples, num_questions_cut)
    elsewhere = features.start_positions == _NO_ANSWER_HERE
    for positions in (features.start_positions, features.end_positions):
        positions[elsewhere] = UNKNOWN
    return features


@dataclass(frozen=True, slots=True)
class _Window:
    example_index: int
    input_ids: Ints
    token_type_ids: Ints
    offsets: Ints
    context_begin: int
    context_end: int
    # Characters of the context in this window, with those that the tokenizer drops at the context's ends.
    first_char: int
    past_char: int


def _cut_questions(questions: list[str], tokenizer: Any, limit: int) -> tuple[list[str], int]:
    """Returns the questions, each at most `limit` tokens long, and how many were cut."""
    encodings = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    cut = [
        question[: offsets[limit - 1][1]] if len(offsets) > limit else question
        for question, offsets in zip(questions, encodings["offset_mapping"], strict=True)
    ]
    return cut, sum(len(offsets) > limit for offsets in encodings["offset_mapping"])


def _windows(
    questions: list[str], contexts: list[str], tokenizer: Any, max_seq_length: int, doc_stride: int, first: int
) -> Iterator[_Window]:
    encoded = tokenizer(
        questions,
        contexts,
        truncation="only_second",
        max_length=max_seq_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    has_types = "token_type_ids" in tokenizer.model_input_names
    samples = encoded["overflow_to_sample_mapping"]
    for index, before, after, encoding in zip(
        samples, [None, *samples[:-1]], [*samples[1:], None], encoded.encodings, strict=True
    ):
        context_tokens = [position for position, part in enumerate(encoding.sequence_ids) if part == 1]
        if not context_tokens:
            raise DataError(
                f"question {questions[index]!r}: expected a context with at least one token, found {contexts[index]!r}"
            )
        input_ids, offsets = np.array(encoding.ids, dtype=np.int32), np.array(encoding.offsets, dtype=np.int32)
        yield _Window(
            first + index,
            input_ids,
            np.array(encoding.type_ids, dtype=np.int8) if has_types else np.zeros(len(input_ids), dtype=np.int8),
            offsets,
            context_tokens[0],
            context_tokens[-1] + 1,
            int(offsets[context_tokens[0], 0]) if index == before else 0,
            int(offsets[context_tokens[-1], 1]) if index == after else len(contexts[index]),
        )


def _flatten(windows: list[_Window], examples: Sequence[Example], num_questions_cut: int) -> Features:
    labels = [_label(window, examples[window.example_index]) for window in windows]
    lengths = [len(window.input_ids) for window in windows]
    return Features(
        input_ids=np.concatenate([window.input_ids for window in windows]),
        token_type_ids=np.concatenate([window.token_type_ids for window in windows]),
        offsets=np.concatenate([window.offsets for window in windows]),
        splits=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        example_index=np.array([window.example_index for window in windows], dtype=np.int32),
        context_begin=np.array([window.context_begin for window in windows], dtype=np.int32),
        context_end=np.array([window.context_end for window in windows], dtype=np.int32),
        start_positions=np.array([start for start, _ in labels], dtype=np.int32),
        end_positions=np.array([end for _, end in labels], dtype=np.int32),
        num_questions_cut=num_questions_cut,
    )


def _label(window: _Window, example: Example) -> tuple[int, int]:
    """Returns the positions of the answer's first and last token in the window."""
    span = _true_span(example)
    if span is None:
        return UNKNOWN, UNKNOWN
    first_char, past_char = span
    offsets = window.offsets[window.context_begin : window.context_end]
    if first_char < window.first_char or past_char > window.past_char:
        return _NO_ANSWER_HERE, _NO_ANSWER_HERE
    # The first token that ends after the answer's first character, the last that begins before its end. A character
    # can be several tokens (byte-level tokenizers) or none.
    start = int(np.searchsorted(offsets[:, 1], first_char, side="right"))
    end = int(np.searchsorted(offsets[:, 0], past_char, side="left")) - 1
    if start > end:  # the answer consists of characters that the tokenizer drops
        return UNKNOWN, UNKNOWN
    return window.context_begin + start, window.context_begin + end


def _true_span(example: Example) -> tuple[int, int] | None:
    """Returns the first and past-the-last character of the first answer that stands at its offset."""
    for answer in example.answers:
        text = answer.text.strip()
        start = answer.start + len(answer.text) - len(answer.text.lstrip())
        if text and start >= 0 and example.context[start : start + len(text)] == text:
            return start, start + len(text)
    return None
