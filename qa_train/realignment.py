"""Finds in a transcript what was heard of an answer to its written text."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypeAlias

from qa_train.confusions import spoken_words
from qa_train.data import Answer
from qa_train.metrics import normalize_answer
from qa_train.spoken_form import SpokenWord
from qa_train.word_errors import align_words, count_word_errors

Fate: TypeAlias = Literal["exact", "aligned", "lost"]

MIN_SHARE_RIGHT = 0.5
"""Share of an answer's spoken words that must have been heard right; with fewer it is lost."""


@dataclass(frozen=True)
class Found:
    """What became of an answer.

    Attributes:
        fate: exact, aligned or lost; see `HeardContext.find`.
        start: Index in the transcript of its first character; -1 where it is lost.
        text: What stands there.
        error: Word error rate of the text against the answer as it is spoken; None where it is lost.
    """

    fate: Fate
    start: int = -1
    text: str = ""
    error: float | None = None


@dataclass(frozen=True)
class HeardSentence:
    """A sentence as it was spoken, its words' places being those in the context, and as it was heard."""

    spoken: Sequence[SpokenWord]
    heard: Sequence[str]


@dataclass(frozen=True)
class _Place:
    """Where a spoken word was heard: from heard word `start` up to `end`, both the same where it was not."""

    start: int
    end: int
    is_right: bool
    stretch: int  # of words between two that were heard right; one that was heard right is a stretch of its own


class HeardContext:
    """A written context, and its transcript as the sentences make it.

    Attributes:
        transcript: All that was heard, words joined by single spaces.
    """

    def __init__(self, context: str, sentences: Sequence[HeardSentence]) -> None:
        self._context = context
        self._spoken = [word for sentence in sentences for word in sentence.spoken]
        self._heard = [word for sentence in sentences for word in sentence.heard]
        self.transcript = " ".join(self._heard)
        self._offsets = [match.start() for match in re.finditer(r"\S+", self.transcript)]
        self._places: list[_Place] = []
        self._stretches: list[tuple[int, int, int, int]] = []
        self._sentence_of: list[tuple[int, int]] = []  # of each spoken word, the heard words of its sentence
        num_heard = 0
        for sentence in sentences:
            self._align(sentence, num_heard)
            self._sentence_of += [(num_heard, num_heard + len(sentence.heard))] * len(sentence.spoken)
            num_heard += len(sentence.heard)

    def _align(self, sentence: HeardSentence, first_heard: int) -> None:
        first_spoken = len(self._places)
        # Spoken words have no apostrophes or stops, what is heard can: it is aligned in the same form, token by token.
        tokens = [(token, index) for index, word in enumerate(sentence.heard) for token in spoken_words(word)]
        word_of = [first_heard + index for _, index in tokens] + [first_heard + len(sentence.heard)]
        output = align_words([[word.text for word in sentence.spoken]], [[token for token, _ in tokens]])
        for is_right, chunks in _stretches(output.alignments[0]):
            if is_right:
                for chunk in chunks:
                    for offset in range(chunk.ref_end_idx - chunk.ref_start_idx):
                        spoken = first_spoken + chunk.ref_start_idx + offset
                        heard = word_of[chunk.hyp_start_idx + offset]
                        self._places.append(_Place(heard, heard + 1, True, len(self._stretches)))
                        self._stretches.append((spoken, spoken + 1, heard, heard + 1))
                continue
            for chunk in chunks:
                for offset in range(chunk.ref_end_idx - chunk.ref_start_idx):
                    heard = word_of[min(chunk.hyp_start_idx + offset, chunk.hyp_end_idx)]
                    end = heard + (chunk.type == "substitute")
                    self._places.append(_Place(heard, end, False, len(self._stretches)))
            self._stretches.append(
                (
                    first_spoken + chunks[0].ref_start_idx,
                    first_spoken + chunks[-1].ref_end_idx,
                    *_word_range(word_of, chunks[0].hyp_start_idx, chunks[-1].hyp_end_idx),
                )
            )

    def find(self, answer: Answer) -> Found:
        """Finds an answer in the transcript.

        It is exact if its text, by SQuAD's normalisation, was heard in the sentences in which it is written, there at
        the occurrence nearest to its place. Else what was heard in its place is taken, by the alignment of fewest word
        errors, and it is aligned if `MIN_SHARE_RIGHT` of its words as they are spoken were heard right (so
        `1990`, which no transcript holds, is aligned without an error to `nineteen ninety`). All else is lost, a word
        that was misheard but occurs elsewhere with it: that is no answer to the question. An answer that does not stand
        in the written context is looked for as text alone, in the whole transcript.
        """
        start = self._written_start(answer)
        if start is None:
            return self._find_exact(answer, 0, len(self._heard), 0) or Found("lost")
        end = start + len(answer.text)
        words = [i for i, word in enumerate(self._spoken) if word.start < end and word.end > start]
        if not words:
            return Found("lost")
        first, last = self._heard_range(words[0], words[-1] + 1)
        exact = self._find_exact(answer, self._sentence_of[words[0]][0], self._sentence_of[words[-1]][1], first)
        if exact:
            return exact
        num_right = sum(self._places[i].is_right for i in words)
        if first == last or num_right < MIN_SHARE_RIGHT * len(words):
            return Found("lost")
        return self._span("aligned", first, last, [self._spoken[i].text for i in words])

    def _written_start(self, answer: Answer) -> int | None:
        """Returns where the answer stands in the written context: at its offset, else at the nearest occurrence."""
        text = re.escape(answer.text)
        if not answer.text.strip():
            return None
        starts = [match.start() for match in re.finditer(f"(?={text})", self._context, re.IGNORECASE)]
        return min(starts, key=lambda start: abs(start - answer.start), default=None)

    def _heard_range(self, first: int, end: int) -> tuple[int, int]:
        """Returns the heard words in the place of spoken words `first` to `end`.

        Of a stretch of misheard words that lies in there whole, all that was heard counts; of one that does not, what
        the alignment pairs with each word.
        """
        places = self._places[first:end]
        whole = [self._stretches[place.stretch] for place in places]
        whole = [stretch for stretch in whole if first <= stretch[0] and stretch[1] <= end]
        start = min([place.start for place in places] + [stretch[2] for stretch in whole])
        return start, max([place.end for place in places] + [stretch[3] for stretch in whole])

    def _find_exact(self, answer: Answer, first: int, end: int, near: int) -> Found | None:
        target = normalize_answer(answer.text).split()
        if not target:
            return None
        normal = [(i, word) for i in range(first, end) for word in normalize_answer(self._heard[i]).split()]
        matches = [
            (normal[k][0], normal[k + len(target) - 1][0] + 1)
            for k in range(len(normal) - len(target) + 1)
            if [word for _, word in normal[k : k + len(target)]] == target
        ]
        if not matches:
            return None
        start, stop = min(matches, key=lambda match: abs(match[0] - near))
        article = answer.text.split()[0].lower()
        if article in {"a", "an", "the"} and start > first and self._heard[start - 1] == article:
            start -= 1
        return self._span("exact", start, stop, self._heard[start:stop])

    def _span(self, fate: Fate, first: int, end: int, spoken: Sequence[str]) -> Found:
        text = " ".join(self._heard[first:end])
        error = count_word_errors([(spoken_words(" ".join(spoken)), spoken_words(text))]).rate
        return Found(fate, self._offsets[first], text, error)


def _word_range(word_of: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """Returns the words that tokens `start` to `end` belong to; `word_of` has the word of each token, and one more."""
    return word_of[start], word_of[end - 1] + 1 if end > start else word_of[start]


def _stretches(alignment: Sequence[Any]) -> Iterator[tuple[bool, list[Any]]]:
    """Yields the chunks of a jiwer alignment, those between words heard right together."""
    for is_right, group in groupby(alignment, key=lambda chunk: chunk.type == "equal"):
        yield is_right, list(group)
