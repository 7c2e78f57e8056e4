"""What a speech recogniser makes of words: counted where a transcript is aligned with its written text."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from qa_train.data import SquadData, describe_value
from qa_train.errors import DataError, QAError
from qa_train.storage import Pathlike, read_json, write_json

# For a character class: punctuation of ASCII, Latin-1, Arabic, Hindi, Chinese, and dashes and quotation marks. Not \W,
# which holds the vowel signs of Indic scripts. Halves of surrogate pairs are in it because no file can hold them.
PUNCTUATION = (
    r"!-/:-@\[-`{-~\u00a1\u00a7\u00ab\u00b6\u00b7\u00bb\u00bf\u060c\u061b\u061f\u0964\u0965\u2010-\u205e"
    r"\u3001-\u3011\uff01\uff0c\uff1f\ud800-\udfff"
)
MAX_HEARD_WORDS = 3
"""Most words that one written word may be heard as; longer stretches are counted as insertions."""

_APOSTROPHE = re.compile("['\u2019]")
_PUNCTUATION = re.compile(f"[{PUNCTUATION}]")
_KEYS = ("num_words", "substitutions", "deletions", "insertions")


@dataclass(frozen=True)
class Confusions:
    """Counts of a recogniser's errors; all words as `spoken_words` gives them.

    Attributes:
        num_words: Written words that were aligned, 1 or more; those that were heard right included.
        substitutions: By written word, how often it was heard as what: one word, or up to `MAX_HEARD_WORDS` joined
            by spaces.
        deletions: How often each written word was not heard at all.
        insertions: How often each word was heard where none was written.
    """

    num_words: int
    substitutions: Mapping[str, Mapping[str, int]]
    deletions: Mapping[str, int]
    insertions: Mapping[str, int]

    @property
    def num_substitutions(self) -> int:
        """Words heard as others; one heard as several counts once."""
        return sum(sum(heard.values()) for heard in self.substitutions.values())

    @property
    def num_deletions(self) -> int:
        """Words not heard at all."""
        return sum(self.deletions.values())

    @property
    def num_insertions(self) -> int:
        """Words heard where none was written."""
        return sum(self.insertions.values())

    @property
    def word_error_rate(self) -> float:
        """Errors per written word, from 0; where one was heard as several, all of these but one are insertions."""
        num_errors = self.num_substitutions + self.num_deletions + self.num_insertions
        more = sum(text.count(" ") * count for heard in self.substitutions.values() for text, count in heard.items())
        return (num_errors + more) / self.num_words

    def most_common(self, number: int) -> list[tuple[str, str, int]]:
        """Returns the most frequent errors as (written, heard, count), the most frequent first.

        What was heard is empty for a deletion, what was written is empty for an insertion.
        """
        errors = Counter({(word, text): n for word, heard in self.substitutions.items() for text, n in heard.items()})
        errors.update({(word, ""): n for word, n in self.deletions.items()})
        errors.update({("", word): n for word, n in self.insertions.items()})
        return [(written, heard, count) for (written, heard), count in errors.most_common(number)]


def spoken_words(text: str) -> list[str]:
    """Returns the words of a text as they are heard: lower-cased, without punctuation.

    Apostrophes vanish (`don't` is `dont`), other punctuation separates words (`well-known` is two).
    """
    return _PUNCTUATION.sub(" ", _APOSTROPHE.sub("", text.lower())).split()


def pair_contexts(written: SquadData, transcript: SquadData) -> list[tuple[str, str]]:
    """Pairs the contexts of two files by the ids of their questions, each pair once.

    Returns:
        (written, heard) contexts, in the order of `written`.

    Raises:
        DataError: If the two files share no question.
    """
    heard = {example.id: example.context for example in transcript.examples}
    pairs = [(example.context, heard[example.id]) for example in written.examples if example.id in heard]
    if not pairs:
        raise DataError(
            f"{transcript.path}: expected questions with the ids of those in {written.path}, found none among "
            f"{len(heard)}; give the written form and the transcript of the same data"
        )
    return list(dict.fromkeys(pairs))


def learn_confusions(pairs: Iterable[tuple[str, str]]) -> Confusions:
    """Aligns written texts with what was heard, by the fewest word errors, and counts the errors.

    A written word alone between words heard right is taken to be heard as all that stands in its place, up to
    `MAX_HEARD_WORDS`; longer stretches are paired word by word.

    Args:
        pairs: (written, heard). Take training data: a model that is trained with what is learned from test data is
            not tested by them.

    Raises:
        DataError: If no text has a written word.
        QAError: If jiwer is not installed.
    """
    align = _aligner()
    num_words = 0
    substitutions: dict[str, Counter[str]] = {}
    deletions: Counter[str] = Counter()
    insertions: Counter[str] = Counter()
    for text, transcript in pairs:
        written, heard = spoken_words(text), spoken_words(transcript)
        num_words += len(written)
        for words, others in _stretches(align(written, heard), written, heard):
            if len(words) == 1 and 1 <= len(others) <= MAX_HEARD_WORDS:
                others = [" ".join(others)]
            for word, other in zip(words, others, strict=False):
                substitutions.setdefault(word, Counter())[other] += 1
            deletions.update(words[len(others) :])
            insertions.update(others[len(words) :])
    if not num_words:
        raise DataError("cannot learn confusions: expected texts with written words, found none")
    by_word = {word: dict(heard) for word, heard in substitutions.items()}
    return Confusions(num_words, by_word, dict(deletions), dict(insertions))


def _aligner() -> Any:
    """Returns what aligns two lists of words."""
    try:
        import jiwer
    except ImportError as error:
        raise QAError('confusions need jiwer, not found; pip install -c constraints.txt -e ".[noise]"') from error
    return lambda written, heard: jiwer.process_words(" ".join(written), " ".join(heard)).alignments[0]


def _stretches(alignment: Iterable[Any], written: list[str], heard: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Yields the longest stretches without a word heard right, as what was written and what was heard."""
    for is_right, group in groupby(alignment, key=lambda chunk: chunk.type == "equal"):
        chunks = list(group)
        if not is_right:
            yield (
                written[chunks[0].ref_start_idx : chunks[-1].ref_end_idx],
                heard[chunks[0].hyp_start_idx : chunks[-1].hyp_end_idx],
            )


def write_confusions(path: Pathlike, confusions: Confusions) -> None:
    """Writes them as JSON: substitutions by written word, in alphabetical order; all else by frequency.

    Raises:
        DataError: If the file cannot be written.
    """
    content = {
        "num_words": confusions.num_words,
        "substitutions": {word: _by_count(heard) for word, heard in sorted(confusions.substitutions.items())},
        "deletions": _by_count(confusions.deletions),
        "insertions": _by_count(confusions.insertions),
    }
    write_json(path, content)


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def read_confusions(path: Pathlike) -> Confusions:
    """Reads what `write_confusions` wrote, or somebody by hand in the same form.

    Raises:
        DataError: If the file cannot be read or is not JSON, a key is missing or unknown, a word is not as
            `spoken_words` gives it, is heard as itself or as more than `MAX_HEARD_WORDS` words, a count is no
            integer of at least 1, or `num_words` is less than the words substituted and deleted.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.keys() != {*_KEYS}:
        found = ", ".join(map(repr, list(content)[:8])) if isinstance(content, dict) else describe_value(content)
        raise DataError(
            f"{path}: expected an object with {', '.join(map(repr, _KEYS))}, as `python -m qa_train confusions` "
            f"writes it; found {found or 'an empty one'}"
        )
    substitutions = {}
    for word, heard in _object(content["substitutions"], f"{path}: substitutions"):
        place = f"{path}: substitutions[{word!r}]"
        _check_words(word, 1, place)
        substitutions[word] = _counts(heard, place, MAX_HEARD_WORDS)
        if word in substitutions[word]:
            raise DataError(f"{place}: expected other words, found the word itself")
    deletions, insertions = (_counts(content[key], f"{path}: {key}", 1) for key in ("deletions", "insertions"))
    wrong = sum(sum(heard.values()) for heard in substitutions.values()) + sum(deletions.values())
    num_words = _integer(content["num_words"], max(1, wrong), f"{path}: num_words")
    return Confusions(num_words, substitutions, deletions, insertions)


def _object(value: object, place: str) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        raise DataError(f"{place}: expected an object with words as keys, found {describe_value(value)}")
    return list(value.items())


def _counts(value: object, place: str, max_words: int) -> dict[str, int]:
    counts = {}
    for words, count in _object(value, place):
        _check_words(words, max_words, place)
        counts[words] = _integer(count, 1, f"{place}[{words!r}]")
    return counts


def _check_words(text: str, max_words: int, place: str) -> None:
    words = spoken_words(text)
    if " ".join(words) != text or not 1 <= len(words) <= max_words:
        wanted = "one word" if max_words == 1 else f"1 to {max_words} words with single spaces between"
        raise DataError(f"{place}: expected {wanted}, in lower case without punctuation, found {describe_value(text)}")


def _integer(value: object, minimum: int, place: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise DataError(f"{place}: expected an integer of at least {minimum}, found {describe_value(value)}")
    return value
