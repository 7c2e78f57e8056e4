"""Describes data files: counts, alignment of the answers, answerable share, lengths."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tabulate import tabulate

from qa_train.alignment import AlignmentCounts, count_alignment
from qa_train.attainable import are_answerable
from qa_train.data import read_squad
from qa_train.word_errors import TranscriptReport, WordErrors, compare_transcript

WINDOW_TOKENS = 384
"""Length of a window (question, context and special tokens) beyond which a question needs more than one."""


_NOT_COUNTED = "-"


class Tokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Returns the token ids of each text as `input_ids`."""

    def num_special_tokens_to_add(self, pair: bool) -> int:
        """Returns the number of special tokens around a pair of texts."""


@dataclass(frozen=True)
class Lengths:
    """Shortest, median, 95th percentile and longest; each is the length of a text that is there (nearest rank)."""

    minimum: int
    median: int
    p95: int
    maximum: int


@dataclass(frozen=True)
class FileReport:
    """What one data file holds.

    Attributes:
        path: The file, as it was named.
        num_articles: Different titles.
        num_paragraphs: Different contexts within their articles; those without a question are not counted.
        num_questions: All questions.
        num_answers: All reference answers, repeated ones included.
        num_without_answer: Questions without any reference answer (SQuAD 2.0).
        alignment: How training would find the answers; the noisy sets of Spoken-SQuAD carry the offsets of other
            texts, so that most of theirs are not exact.
        num_answerable: Questions of which a reference answer occurs in the context; see `attainable.are_answerable`.
        context_words: Lengths of the paragraphs in words between white space.
        question_words: The same of the questions.
        context_tokens: Lengths of the paragraphs in tokens, without special tokens; None without a tokenizer.
        question_tokens: The same of the questions.
        num_long: Questions that need more than one window of `WINDOW_TOKENS`; None without a tokenizer.
        questions_by_article: Number of questions by title, in the order of the file.
    """

    path: str
    num_articles: int
    num_paragraphs: int
    num_questions: int
    num_answers: int
    num_without_answer: int
    alignment: AlignmentCounts
    num_answerable: int
    context_words: Lengths
    question_words: Lengths
    context_tokens: Lengths | None
    question_tokens: Lengths | None
    num_long: int | None
    questions_by_article: dict[str, int]

    @property
    def answerable(self) -> float:
        """Share of the questions that are answerable, 0 to 100."""
        return 100 * self.num_answerable / self.num_questions


def inspect_file(path: str | Path, tokenizer: Tokenizer | None = None) -> FileReport:
    """Reads a file in SQuAD form and describes it; wrong offsets are counted, never refused.

    Raises:
        DataError: As `read_squad` does.
    """
    examples = read_squad(path).examples
    paragraphs = list(dict.fromkeys((example.title, example.context) for example in examples))
    contexts = [context for _, context in paragraphs]
    questions = [example.question for example in examples]
    by_article = Counter(example.title for example in examples)
    context_tokens = question_tokens = num_long = None
    if tokenizer is not None:
        sizes = dict(zip(contexts, _count_tokens(contexts, tokenizer), strict=True))
        question_sizes = _count_tokens(questions, tokenizer)
        room = WINDOW_TOKENS - tokenizer.num_special_tokens_to_add(pair=True)
        num_long = sum(
            size + sizes[example.context] > room for size, example in zip(question_sizes, examples, strict=True)
        )
        context_tokens, question_tokens = _lengths(sizes[context] for context in contexts), _lengths(question_sizes)
    return FileReport(
        path=str(path),
        num_articles=len(by_article),
        num_paragraphs=len(paragraphs),
        num_questions=len(examples),
        num_answers=sum(len(example.answers) for example in examples),
        num_without_answer=sum(not example.answers for example in examples),
        alignment=count_alignment(examples),
        num_answerable=sum(are_answerable(examples)),
        context_words=_lengths(len(context.split()) for context in contexts),
        question_words=_lengths(len(question.split()) for question in questions),
        context_tokens=context_tokens,
        question_tokens=question_tokens,
        num_long=num_long,
        questions_by_article=dict(by_article),
    )


def compare_files(transcript: str | Path, written: str | Path) -> TranscriptReport | None:
    """Compares a transcript with its written text; see `compare_transcript`.

    Raises:
        DataError: As `read_squad` does, or if no context has words.
        QAError: If jiwer or, for numbers, inflect is not installed.
    """
    return compare_transcript(read_squad(transcript), read_squad(written))


def format_transcript(report: TranscriptReport, transcript: str | Path, written: str | Path) -> str:
    """Returns tables of the word errors of all and of each article, and of the most frequent errors."""
    rows = [[title, *_error_cells(errors)] for title, errors in report.by_article.items()]
    headers = ["article", "words", "word error rate", "substitutions", "deletions", "insertions"]
    errors = _table([["all", *_error_cells(report.overall)], *rows], headers)
    common = [[word or "(nothing)", heard or "(nothing)", f"{count:,}"] for word, heard, count in report.confusions]
    title = f"{Path(transcript).name} as a transcript of {Path(written).name}"
    confusions = tabulate(
        common, ["written", "heard", "times"], disable_numparse=True, colalign=["left", "left", "right"]
    )
    return f"{title}\n\n{errors}\n\n{confusions}"


def _error_cells(errors: WordErrors) -> list[str]:
    rate = _NOT_COUNTED if errors.rate is None else f"{100 * errors.rate:.1f} %"
    counts = (errors.substitutions, errors.deletions, errors.insertions)
    return [f"{errors.num_words:,}", rate, *(f"{count:,}" for count in counts)]


def _count_tokens(texts: list[str], tokenizer: Tokenizer) -> list[int]:
    # verbose=False: no warning that a text is longer than the model takes; that is what is being counted here.
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def _lengths(lengths: Iterable[int]) -> Lengths:
    quantiles = np.quantile(np.fromiter(lengths, dtype=np.int64), [0, 0.5, 0.95, 1], method="inverted_cdf")
    return Lengths(*(int(value) for value in quantiles))


def reports_as_dict(reports: Iterable[FileReport], articles: bool = False) -> dict[str, dict[str, Any]]:
    """Returns the reports as JSON knows them, by the path of their file.

    Args:
        reports: Reports of different files.
        articles: Whether each holds `questions_by_article`.
    """
    described = {report.path: asdict(report) | {"answerable": report.answerable} for report in reports}
    if not articles:
        for fields in described.values():
            del fields["questions_by_article"]
    return described


def format_reports(reports: Sequence[FileReport], articles: bool = False) -> str:
    """Returns a table with a column for each file, one at least; rows that need a tokenizer only where one was given.

    Args:
        reports: One or more reports.
        articles: Whether a second table shows the number of questions of each article.
    """
    names = [Path(report.path).name for report in reports]
    columns = [_column(report) for report in reports]
    rows = [[label, *(column[label] for column in columns)] for label in columns[0]]
    rows = [row for row in rows if any(cell != _NOT_COUNTED for cell in row[1:])]
    text = _table(rows, ["", *names])
    if articles:
        titles = dict.fromkeys(title for report in reports for title in report.questions_by_article)
        counts = [[title, *(report.questions_by_article.get(title, 0) for report in reports)] for title in titles]
        text += "\n\n" + _table(counts, ["questions of article", *names])
    return text


def _table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    # Without disable_numparse a title such as '1973' would be set as a number.
    alignment = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, disable_numparse=True, colalign=alignment)


def _column(report: FileReport) -> dict[str, str]:
    """Returns the cells of one file by the label of their row."""

    def share(count: int | None) -> str:
        return _NOT_COUNTED if count is None else f"{count:,} ({100 * count / report.num_questions:.1f} %)"

    return {
        "articles": f"{report.num_articles:,}",
        "paragraphs": f"{report.num_paragraphs:,}",
        "questions": f"{report.num_questions:,}",
        "answers": f"{report.num_answers:,}",
        "questions without answer": f"{report.num_without_answer:,}",
        "answerable": share(report.num_answerable),
        "answer at its offset": share(report.alignment.exact),
        "1 or 2 characters beside it": share(report.alignment.shifted),
        "elsewhere in the context": share(report.alignment.searched),
        "not found": share(report.alignment.unaligned),
        "words of a context: min / median / 95 % / max": _cell(report.context_words),
        "words of a question": _cell(report.question_words),
        "tokens of a context": _cell(report.context_tokens),
        "tokens of a question": _cell(report.question_tokens),
        f"more than one window of {WINDOW_TOKENS} tokens": share(report.num_long),
    }


def _cell(lengths: Lengths | None) -> str:
    if lengths is None:
        return _NOT_COUNTED
    return f"{lengths.minimum:,} / {lengths.median:,} / {lengths.p95:,} / {lengths.maximum:,}"
