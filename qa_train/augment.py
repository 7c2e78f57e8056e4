"""Makes transcripts worse in the way a speech recogniser does, so that a model learns to read past its errors."""

import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from qa_train.confusions import PUNCTUATION, Confusions, spoken_words
from qa_train.data import Answer, Example
from qa_train.errors import ConfigError
from qa_train.sound_alikes import SoundAlikes

NUM_FREQUENT_WORDS = 100
"""The most frequent words serve as insertions, and as replacements of words that nothing sounds like."""

DEFAULT_SHARES = (70, 15, 15)
"""Substitutions, deletions and insertions among the errors, in per cent.

Most errors of a recogniser are substitutions. The numbers are round because the shares differ from one recogniser to
the next; confusions tell those of the user's own.
"""
# From the first character of a word to its last, without the punctuation around it.
_WORD = re.compile(rf"[^\s{PUNCTUATION}](?:\S*[^\s{PUNCTUATION}])?")


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` in place of the characters `start` to `end` of a context.

    `text` is empty where a word is dropped; `start` is `end` where one is inserted.
    """

    start: int
    end: int
    text: str


def count_words(examples: Iterable[Example]) -> Counter[str]:
    """Counts the words of all contexts, each context once; lower-cased, without the punctuation around them."""
    contexts = dict.fromkeys(example.context for example in examples)
    return Counter(match[0].lower() for context in contexts for match in _WORD.finditer(context))


def has_true_offset(example: Example, answer: Answer) -> bool:
    """Returns whether the context holds the answer, which is not blank, at its offset."""
    return bool(answer.text.strip()) and answer.start >= 0 and example.context.startswith(answer.text, answer.start)


class RecognitionNoise:
    """Replaces, drops and inserts words of a context as a speech recogniser does, outside the answers.

    What replaces a word is drawn from what a recogniser heard in its place, if `confusions` know the word; else from
    the vocabulary's words that sound alike; else from the frequent ones; each time by frequency.
    """

    def __init__(self, rate: float, vocabulary: Mapping[str, int], confusions: Confusions | None = None) -> None:
        """Prepares the noise; what replaces a word is looked up when it is first changed.

        Args:
            rate: Share of the words outside answers that are changed, 0 to below 1.
            vocabulary: Count, 1 or more, of each word that may replace another or be inserted; `count_words` of the
                training questions.
            confusions: What a recogniser makes of words. They also give the shares of substitutions, deletions and
                insertions (70, 15 and 15 % without), and the words to insert.

        Raises:
            ConfigError: If `rate` is not in its range.
            QAError: If jellyfish is not installed.
        """
        if not 0 <= rate < 1:
            raise ConfigError([f"expected a number >= 0 and < 1, found {rate}"], "rate of recognition noise")
        self.rate = rate
        self._sound_alikes = SoundAlikes(vocabulary)
        self._confused = confusions.substitutions if confusions else {}
        self._shares = list(accumulate(_shares(confusions)))
        self._frequent = dict(Counter(vocabulary).most_common(NUM_FREQUENT_WORDS))
        self._insertions = _Choice(confusions.insertions if confusions and confusions.insertions else self._frequent)
        self._replacements: dict[str, _Choice] = {}

    def noise(self, example: Example, generator: np.random.Generator) -> Example:
        """Returns the example with a noisy context.

        Args:
            example: Answers whose offset is true keep their text and are found at their new `start`. All others are
                left as they are and their words are not spared.
            generator: The result is a function of its state and the example.

        Returns:
            An example whose context still has a word if it had one, and the same title, question and number of
            answers.
        """
        return apply_edits(example, self.edits(example, generator))

    def edits(self, example: Example, generator: np.random.Generator) -> list[Edit]:
        """Returns what `noise` changes, from left to right, without overlap and outside of answers with true offsets.

        Each word is changed with probability `rate`. Words beside punctuation and the last word are replaced where
        they would be dropped.
        """
        context = example.context
        answers = [answer for answer in example.answers if has_true_offset(example, answer)]
        spans = {(answer.start, answer.start + len(answer.text)) for answer in answers}
        words = [match.span() for match in _WORD.finditer(context)]
        draws = generator.random((len(words), 3))
        edits = []
        for index in np.flatnonzero(draws[:, 0] < self.rate):
            (start, end), (_, kind, choice) = words[index], draws[index].tolist()
            if _touches(spans, start, end):
                continue
            error = bisect(self._shares, kind * self._shares[-1])
            following = words[index + 1][0] if index + 1 < len(words) else end
            if error == 1 and _stands_free(context, start, end, following) and not _touches(spans, start, following):
                edits.append(Edit(start, following, ""))
            elif error == 2 and (inserted := self._insertions.draw(choice)):
                edits.append(Edit(start, start, f"{inserted} "))
            elif error != 2 and (replacement := self._replacement(context[start:end], choice)):
                edits.append(Edit(start, end, replacement))
        return edits

    def _replacement(self, word: str, choice: float) -> str:
        """Returns another word, spelt with capitals where `word` is; empty if there is none in the vocabulary."""
        lower = word.lower()
        if lower not in self._replacements:
            confused = self._confused.get(" ".join(spoken_words(word)))
            others = confused or _without(lower, self._sound_alikes.of(lower)) or _without(lower, self._frequent)
            self._replacements[lower] = _Choice(others)
        return _with_capitals_of(word, self._replacements[lower].draw(choice))


def apply_edits(example: Example, edits: Sequence[Edit]) -> Example:
    """Returns the example with a changed context; `edits` are as `RecognitionNoise.edits` gives them."""
    if not edits:
        return example
    context, parts, position = example.context, [], 0
    for edit in edits:
        parts += [context[position : edit.start], edit.text]
        position = edit.end
    answers = tuple(
        replace(answer, start=_moved(answer.start, edits)) if has_true_offset(example, answer) else answer
        for answer in example.answers
    )
    return replace(example, context="".join([*parts, context[position:]]), answers=answers)


def _shares(confusions: Confusions | None) -> tuple[int, int, int]:
    if confusions is None or not confusions.word_error_rate:
        return DEFAULT_SHARES
    return confusions.num_substitutions, confusions.num_deletions, confusions.num_insertions


def _moved(start: int, edits: Sequence[Edit]) -> int:
    return start + sum(len(edit.text) - (edit.end - edit.start) for edit in edits if edit.end <= start)


def _touches(spans: Iterable[tuple[int, int]], start: int, end: int) -> bool:
    return any(first < end and start < last for first, last in spans)


def _stands_free(context: str, start: int, end: int, following: int) -> bool:
    """Returns whether there is white space, and nothing else, around the word and up to the following one."""
    return context[end:following].isspace() and (start == 0 or context[start - 1].isspace())


def _without(word: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {other: count for other, count in counts.items() if other != word}


def _with_capitals_of(word: str, other: str) -> str:
    if len(word) > 1 and word.isupper():
        return other.upper()
    return other[:1].upper() + other[1:] if word[0].isupper() else other


class _Choice:
    """Words drawn by their counts."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._words = sorted(counts)
        self._cumulative = list(accumulate(counts[word] for word in self._words))

    def draw(self, choice: float) -> str:
        """Returns the word that a uniform number from 0 to below 1 falls on; empty if there is none."""
        return self._words[bisect(self._cumulative, choice * self._cumulative[-1])] if self._words else ""
