"""How many words a recogniser got wrong, and which."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qa_train.confusions import learn_confusions, spoken_words
from qa_train.data import SquadData
from qa_train.errors import DataError, QAError
from qa_train.spoken_form import spoken_form

INAUDIBLE = "[inaudible]"
"""Stands for a context of which nothing was heard, where a blank one would not do; it has no words."""


@dataclass(frozen=True)
class WordErrors:
    """Errors of a recogniser, by the alignment with the fewest (jiwer).

    Attributes:
        num_words: Written words, 0 or more, as they are spoken.
        substitutions: Words heard as others.
        deletions: Words not heard.
        insertions: Words heard where none was written.
    """

    num_words: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def rate(self) -> float | None:
        """Errors per written word, 0 or more; None without written words."""
        errors = self.substitutions + self.deletions + self.insertions
        return errors / self.num_words if self.num_words else None


@dataclass(frozen=True)
class TranscriptReport:
    """A transcript beside its written text.

    Attributes:
        overall: Errors in all contexts of questions that both files have.
        by_article: The same by article of the written text.
        confusions: The most frequent errors as (written, heard, count); empty for what is not there.
    """

    overall: WordErrors
    by_article: dict[str, WordErrors]
    confusions: list[tuple[str, str, int]]

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON knows it, each with its `rate`."""
        return {
            **_as_dict(self.overall),
            "by_article": {title: _as_dict(errors) for title, errors in self.by_article.items()},
            "confusions": self.confusions,
        }


def _as_dict(errors: WordErrors) -> dict[str, Any]:
    return {**asdict(errors), "rate": errors.rate}


def written_words(text: str) -> list[str]:
    """Returns the words of a written text as a recogniser should hear them, numbers and signs spelled out."""
    return [word.text for word in spoken_form(text).words]


def heard_words(transcript: str) -> list[str]:
    """Returns the words of a transcript, to stand beside `written_words`."""
    return [] if transcript == INAUDIBLE else spoken_words(transcript)


def align_words(written: Sequence[Sequence[str]], heard: Sequence[Sequence[str]]) -> Any:
    """Aligns texts, given as words, pair by pair, with the fewest errors.

    Returns:
        jiwer's WordOutput: its `alignments`, of each pair, are chunks of `type` equal, substitute, delete or insert.

    Raises:
        QAError: If jiwer is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise QAError('word errors need jiwer, not found; pip install -c constraints.txt -e ".[speech]"') from error
    return jiwer.process_words([" ".join(words) for words in written], [" ".join(words) for words in heard])


def count_word_errors(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> WordErrors:
    """Counts the errors of (written, heard) texts, given as words; each pair is aligned by itself."""
    pairs = list(pairs)
    if not pairs:
        return WordErrors(0, 0, 0, 0)
    output = align_words([written for written, _ in pairs], [heard for _, heard in pairs])
    num_words = sum(len(written) for written, _ in pairs)
    return WordErrors(num_words, output.substitutions, output.deletions, output.insertions)


def compare_transcript(transcript: SquadData, written: SquadData, num_confusions: int = 10) -> TranscriptReport | None:
    """Compares the contexts of questions that two files share, each pair of contexts once.

    Returns:
        None if they share no question, or if all contexts of those are the same.

    Raises:
        QAError: If jiwer or, for numbers, inflect is not installed.
        DataError: If the contexts have no word that can be spoken.
    """
    heard = {example.id: example.context for example in transcript.examples}
    shared = [example for example in written.examples if example.id in heard]
    pairs = list(dict.fromkeys((example.title, example.context, heard[example.id]) for example in shared))
    if all(text == other for _, text, other in pairs):
        return None
    words: dict[str, list[tuple[list[str], list[str]]]] = {}
    for title, text, other in pairs:
        words.setdefault(title, []).append((written_words(text), heard_words(other)))
    everything = [pair for of_article in words.values() for pair in of_article]
    if not any(text for text, _ in everything):
        raise DataError(f"{written.path}: expected contexts with words that can be spoken, found none")
    learned = learn_confusions((" ".join(text), " ".join(other)) for text, other in everything)
    by_article = {title: count_word_errors(of_article) for title, of_article in words.items()}
    return TranscriptReport(count_word_errors(everything), by_article, learned.most_common(num_confusions))
