"""Makes the answer offsets of training data true."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qa_train.data import Answer, Example
from qa_train.errors import DataError

_WAYS = ("exact", "shifted", "searched", "unaligned")
"""How an answer may be found, the most trusted first; the fields of `AlignmentCounts`."""
_NOWHERE = ("unaligned", Answer("", -1))


@dataclass(frozen=True)
class AlignmentCounts:
    """Number of questions by how their answer was found in the context; the four add up to all questions.

    Attributes:
        exact: At its offset.
        shifted: One or two characters beside its offset.
        searched: Elsewhere in the context.
        unaligned: Not at all, or the question has no answer; these are left out of training.
    """

    exact: int
    shifted: int
    searched: int
    unaligned: int


@dataclass(frozen=True)
class Alignment:
    """Examples with one answer each, of which `context[start : start + len(text)] == text` holds."""

    examples: tuple[Example, ...]
    counts: AlignmentCounts


def align_answers(examples: Sequence[Example], path: str) -> Alignment:
    """Finds one answer of each training question in its context.

    An answer is looked for, whatever its case and without surrounding white space, at its offset, then one or two
    characters beside it, then at the occurrence nearest to it: one of whole words if there is any, else one inside a
    longer word. The answer that is found in the earliest of these ways is used, the first of several. Questions
    whose answers are all not found are left out and counted.

    Args:
        examples: Training questions with the offsets of their file, right or wrong.
        path: The file they come from, for messages.

    Returns:
        The questions found, in order, their answer as it is written in the context.

    Raises:
        DataError: If the offset of an answer that is not blank lies outside its context and the answer does not
            occur in there either, or if no question at all can be aligned.
    """
    for example in examples:
        _refuse_answers_outside(example, path)
    found = [_best_answer(example) for example in examples]
    aligned = tuple(
        replace(example, answers=(answer,))
        for example, (how, answer) in zip(examples, found, strict=True)
        if how != "unaligned"
    )
    if examples and not aligned:
        raise DataError(
            f"{_describe_mismatch(examples[0], path)}; none of the {len(examples)} questions has an answer that "
            "occurs in its context; expected offsets and texts that belong to these contexts"
        )
    return Alignment(aligned, _count(how for how, _ in found))


def count_alignment(examples: Sequence[Example]) -> AlignmentCounts:
    """Counts what `align_answers` would find; refuses nothing, so that noisy test sets can be looked at too."""
    return _count(_best_answer(example)[0] for example in examples)


def _count(ways: Iterable[str]) -> AlignmentCounts:
    counts = Counter(ways)
    return AlignmentCounts(**{way: counts[way] for way in _WAYS})


def _best_answer(example: Example) -> tuple[str, Answer]:
    """Returns how an answer of the question was found, and the answer as it stands in the context."""
    found = (_locate(example.context, answer) for answer in example.answers)
    return min(found, key=lambda way_and_answer: _WAYS.index(way_and_answer[0]), default=_NOWHERE)


def _locate(context: str, answer: Answer) -> tuple[str, Answer]:
    """Returns how the answer was found, and the answer as it stands in the context."""
    text = answer.text.strip()
    if not text:
        return _NOWHERE
    expected = answer.start + len(answer.text) - len(answer.text.lstrip())
    for shift in (0, -1, -2, 1, 2):
        start = expected + shift
        if start >= 0 and (there := context[start : start + len(text)]).lower() == text.lower():
            return "shifted" if shift else "exact", Answer(there, start)
    # Look-ahead finds occurrences that overlap, such as both of 'la la' in 'la la la'.
    for pattern in (rf"(?<!\w)(?={re.escape(text)}(?!\w))", rf"(?={re.escape(text)})"):
        starts = [match.start() for match in re.finditer(pattern, context, re.IGNORECASE)]
        if starts:
            start = min(starts, key=lambda start: abs(start - expected))
            return "searched", Answer(context[start : start + len(text)], start)
    return _NOWHERE


def _refuse_answers_outside(example: Example, path: str) -> None:
    for index, answer in enumerate(example.answers):
        inside = 0 <= answer.start < len(example.context)
        if inside or not answer.text.strip() or _locate(example.context, answer) != _NOWHERE:
            continue
        raise DataError(
            f"{path}: article {example.title!r}, question {example.id!r}: answers[{index}].answer_start is "
            f"{answer.start}, outside the context of {len(example.context)} characters, which does not "
            f"contain {answer.text!r} anywhere; correct the offset or remove the answer"
        )


def _describe_mismatch(example: Example, path: str) -> str:
    place = f"{path}: article {example.title!r}, question {example.id!r}"
    if not example.answers:
        return f"{place}: expected at least one of 'answers', found none"
    answer = example.answers[0]
    there = example.context[max(0, answer.start) :][: len(answer.text)]
    return (
        f"{place}: answers[0].answer_start is {answer.start}, but the context there reads {there!r}, "
        f"not {answer.text!r}"
    )
