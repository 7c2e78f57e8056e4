"""Answers by the overlap of words with the question: what a model must beat, without any training.

In the spirit of the sliding window of Richardson et al., "MCTest" (2013), section 4, that Rajpurkar et al., "SQuAD"
(2016), section 5, took up as their baseline. They choose among given candidates (answers, or constituents of a parse);
here the candidates are all short spans, since spoken text parses badly. The constants were set on training articles
of Spoken-SQuAD alone.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qa_train.data import Example
from qa_train.metrics import normalize_answer

WINDOW_WORDS = 10
"""How many words to the left and right of a word the question's words are looked for."""
MAX_ANSWER_WORDS = 4
"""Longest span that is proposed; most reference answers have no more words."""
STEM_LETTERS = 5
"""Words that begin with the same letters count as one, so that 'founded' meets 'founder'."""

_WORD = re.compile(r"\w+(?:[^\w\s]+\w+)*")
# Words that say little about what is asked; the articles are dropped by normalize_answer.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        about after all also am among and any are as at be because been before being between both but by can could did
        do does doing during each for from had has have having he her here hers him his how i if in into is it its
        just many me more most much my no nor not of on once one only or other our out over own same she should so
        some such than that their them then there these they this those through to too under until up very was we were
        what when where which while who whom whose why will with would you your
        """,
    )
)


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of the context: its place there, its stem ('' for a function word), whether a sentence ends with it."""

    start: int
    end: int
    stem: str
    ends_sentence: bool


def overlap_baseline(examples: Iterable[Example]) -> dict[str, str]:
    """Answers each question with the span of its context that stands nearest to the question's words.

    A word of the context is worth the more, the more different content words of the question stand within
    `WINDOW_WORDS` of it, the nearer they are (1 / (1 + distance)) and the rarer they are in the context (log(1 + 1 /
    count), the inverse count of Richardson et al.). A span is worth the sum over its words divided by the root of
    their number, so that neither one word nor the longest span always wins. It has 1 to `MAX_ANSWER_WORDS` words,
    none of them the question's, begins and ends with a content word and stays within a sentence. The first of the
    best is taken.

    Returns:
        Answer text by question id; empty only where the context is blank.
    """
    return {example.id: _answer(example) for example in examples}


def _answer(example: Example) -> str:
    words = _words(example.context)
    asked = {word.stem for word in _words(example.question)} - {""}
    values = _values([word.stem for word in words], asked)
    best, answer = -1.0, example.context.strip()
    for first, word in enumerate(words):
        value = 0.0
        if not word.stem:
            continue
        for num_words, last in enumerate(words[first : first + MAX_ANSWER_WORDS], 1):
            if last.stem in asked:
                break
            if last.stem:
                value += values[first + num_words - 1]
                if value / math.sqrt(num_words) > best:
                    best, answer = value / math.sqrt(num_words), example.context[word.start : last.end]
            if last.ends_sentence:
                break
    return answer


def _words(text: str) -> list[_Word]:
    return [
        _Word(match.start(), match.end(), _stem(match.group()), text[match.end() : match.end() + 1] in {".", "?", "!"})
        for match in _WORD.finditer(text)
    ]


def _stem(word: str) -> str:
    normalized = normalize_answer(word)
    return "" if normalized in _FUNCTION_WORDS else normalized[:STEM_LETTERS]


def _values(stems: Sequence[str], asked: set[str]) -> list[float]:
    """Returns, for each word of the context, how near it stands to the words asked for."""
    values = [0.0] * len(stems)
    for stem, count in Counter(stem for stem in stems if stem in asked).items():
        weight = math.log(1 + 1 / count)
        places = [index for index, other in enumerate(stems) if other == stem]
        for index in range(len(stems)):
            distance = min(abs(index - place) for place in places)
            if distance <= WINDOW_WORDS:
                values[index] += weight / (1 + distance)
    return values
