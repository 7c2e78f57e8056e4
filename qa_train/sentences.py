"""Cuts a text into sentences short enough to be read aloud and recognised one by one."""

import re
from collections.abc import Iterator

MAX_SENTENCE_WORDS = 30
"""Longer sentences are cut; a recogniser slows down, and loses its way, in long ones."""

# A stop, closing quotes or brackets, white space, then what begins a sentence. Line breaks end one anyhow.
_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]+[\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]*[A-Z0-9\u00c0-\u00de])|\s*\n\s*"
)
_ABBREVIATION = re.compile(r"(?<![^\W_])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Sr|Jr|Prof|Gen|Col|Lt|Capt|Rev|No|vs|c|ca|cf)\.$")
_CLAUSE_END = tuple(",;:—")


def split_sentences(text: str, max_words: int = MAX_SENTENCE_WORDS) -> list[tuple[int, int]]:
    """Returns the (start, end) of sentences in a text, in order.

    A sentence ends with a full stop, question or exclamation mark before white space and a capital letter or digit,
    unless an initial or a common title stands there (`J.`, `Mr.`), and with a line break. Text without such marks, as a
    transcript has none, is one sentence. Where a sentence is longer than `max_words`, it is cut after the last comma,
    semicolon, colon or dash in the second half of these words, else after all of them. Rules of this size make
    mistakes; one costs a wrong pause, never a word: all words are in one of the sentences, in none twice.
    """
    return [part for start, end in _sentences(text) for part in _cut(text, start, end, max_words)]


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in _END.finditer(text):
        if not _ABBREVIATION.search(text[start : match.end()].rstrip()):
            yield start, match.end()
            start = match.end()
    yield start, len(text)


def _cut(text: str, start: int, end: int, max_words: int) -> Iterator[tuple[int, int]]:
    words = [(start + word.start(), start + word.end()) for word in re.finditer(r"\S+", text[start:end])]
    while words:
        size = min(len(words), max_words)
        if len(words) > max_words:
            later_half = range(max_words, max_words // 2, -1)
            size = next((n for n in later_half if text[: words[n - 1][1]].endswith(_CLAUSE_END)), max_words)
        yield words[0][0], words[size - 1][1]
        words = words[size:]
