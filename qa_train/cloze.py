"""Makes cloze questions of the contexts of a data file: a span is the answer, a question word stands in its place."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, zip_longest
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

from qa_train.data import Answer, Example, read_squad
from qa_train.errors import DataError
from qa_train.storage import Pathlike, write_json

Kind: TypeAlias = Literal["date", "number", "name", "rare word"]
KINDS: tuple[Kind, ...] = get_args(Kind)

RARE_COUNT = 3
"""Occurrences in the file, at most, of a word that is taken for a name where there are no capitals."""
RARE_LETTERS = 4
"""Its letters at least: in a small file the short function words are rare too."""
RARE_WORDS = 3
"""Neighbouring rare words that are one answer, at most."""
MAX_SENTENCE_WORDS = 40
"""Words of a sentence that is asked as a whole, at most."""
WINDOW_WORDS = 12
"""Words to each side of the answer in a question that is no whole sentence."""
MIN_QUESTION_WORDS = 4
"""Words of a question at least, beside the question word."""


class Span(NamedTuple):
    """Characters `start` to `end` (past the last) of a context, which may be asked for."""

    kind: Kind
    start: int
    end: int


@dataclass(frozen=True)
class ClozeCounts:
    """What was made of a file.

    Attributes:
        num_articles: Titles with a question.
        num_contexts: Different contexts that were read.
        num_questions: Questions written.
        num_without: Contexts that gave no question.
        num_by_kind: Questions by the kind of their answer.
    """

    num_articles: int
    num_contexts: int
    num_questions: int
    num_without: int
    num_by_kind: dict[Kind, int]


def synthesize(
    path: Pathlike, out: Pathlike, *, per_context: int = 5, seed: int = 0, overwrite: bool = False
) -> ClozeCounts:
    """Writes cloze questions about the contexts of a SQuAD file, in the same form, with true offsets.

    See `cloze_questions`. Titles and contexts stay as they are. Contexts without any question in `path` are not seen.

    Args:
        path: Training data. Questions about the contexts of a dev or test set would show a model its texts.
        out: The JSON file to write; it appears complete or not at all. It holds the new questions alone.
        per_context: Questions about a context at most.
        seed: The same seed and the same file give the same questions.
        overwrite: Whether to replace `out`.

    Raises:
        DataError: If `path` cannot be used (see `read_squad`), `out` exists or cannot be written, or no context gives
            a question.
    """
    examples = read_squad(Path(path)).examples
    if Path(out).exists() and (not overwrite or Path(out).samefile(path)):
        raise DataError(f"{out}: expected a new file, found one there; name another one, or pass --overwrite")
    made = cloze_questions(examples, per_context, seed)
    contexts = {example.context for example in examples}
    if not made:
        raise DataError(
            f"{path}: expected a date, number, name or rare word among {MIN_QUESTION_WORDS} others, found none in "
            f"{len(contexts)} contexts"
        )
    questions = [question for question, _ in made]
    write_json(out, {"version": "1.1", "data": _as_articles(questions)})
    by_kind = Counter(kind for _, kind in made)
    return ClozeCounts(
        num_articles=len({question.title for question in questions}),
        num_contexts=len(contexts),
        num_questions=len(questions),
        num_without=len(contexts - {question.context for question in questions}),
        num_by_kind={kind: by_kind[kind] for kind in KINDS},
    )


def cloze_questions(examples: Sequence[Example], per_context: int, seed: int) -> list[tuple[Example, Kind]]:
    """Makes questions about the contexts of others, each with the kind of its answer.

    A question is the sentence around its answer, or a window of words where no sentence is marked, with a question
    word that fits the kind in place of the answer: "She won the prize in 1903." gives "She won the prize when?". It
    does not hold its answer a second time, and no two are the same. The kinds of answers take turns in a context.

    Args:
        examples: Of any file; each context is asked about once, under its first title.
        per_context: Questions about a context at most.
        seed: Decides which of the spans are asked for.

    Returns:
        The questions in the order of their contexts, with ids of the form `<title>-cloze-<n>` that no example has.
    """
    titles: dict[str, str] = {}
    for example in examples:
        titles.setdefault(example.context, example.title)
    counts = Counter(word for context in titles for word in _WORD.findall(context))
    taken = {example.id for example in examples}
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(1))
    asked: set[str] = set()
    made: list[tuple[Example, Kind]] = []
    for context, title in titles.items():
        num_left = per_context
        for span in _in_turns(find_spans(context, counts), random.Random(f"{seed} {context}")):
            question = ask(context, span)
            if question is None or question in asked:
                continue
            asked.add(question)
            new_id = next(name for number in numbers[title] if (name := f"{title}-cloze-{number}") not in taken)
            answer = Answer(context[span.start : span.end], span.start)
            made.append((Example(new_id, title, context, question, (answer,)), span.kind))
            num_left -= 1
            if not num_left:
                break
    return made


def _in_turns(spans: list[Span], rng: random.Random) -> Iterator[Span]:
    rng.shuffle(spans)
    by_kind = ([span for span in spans if span.kind == kind] for kind in KINDS)
    return (span for turn in zip_longest(*by_kind) for span in turn if span)


def _as_articles(questions: Sequence[Example]) -> list[dict[str, object]]:
    articles: dict[str, dict[str, list[dict[str, object]]]] = {}
    for example in questions:
        answers = [{"text": answer.text, "answer_start": answer.start} for answer in example.answers]
        qas = articles.setdefault(example.title, {}).setdefault(example.context, [])
        qas.append({"id": example.id, "question": example.question, "answers": answers})
    return [
        {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs.items()]}
        for title, paragraphs in articles.items()
    ]


# What may be asked for

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
# Not after an initial or a title: "J. Smith", "Dr. Smith".
_SENTENCE_END = re.compile(r"(?<!\b[A-Za-z])(?<!\b(?:Dr|Mr|Ms|St))(?<!\bMrs)[.!?]+[\"'\u201d\u2019)\]]*(?=\s|$)")

_UNIT = "one|two|three|four|five|six|seven|eight|nine"
_TEEN = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_TWO_DIGITS = rf"(?:{_TENS})(?:[\s-]+(?:{_UNIT}))?|{_TEEN}"
_SMALL = rf"(?:{_TWO_DIGITS}|{_UNIT})\b"
_SCALE = r"(?:hundred|thousand|million|billion|trillion)\b"
# Neither inside a word or an amount of money, nor before a hyphen, a percent sign or more digits.
_BEGIN, _END = r"(?<![\w.,$£€-])", r"(?![\w%-]|[.,]\d)"
_NUMBER = re.compile(
    rf"{_BEGIN}(?:\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d+(?:\.\d+)?|{_SMALL})"
    rf"(?:\s+{_SCALE}(?:\s+(?:and\s+)?{_SMALL})?)*{_END}",
    re.IGNORECASE,
)

_ORDINAL = (
    r"(?:(?:twenty|thirty)[\s-]+)?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|eleventh|"
    r"twelfth|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)
_DAY = rf"(?:\d{{1,2}}(?:st|nd|rd|th)?|{_ORDINAL})\b"
_YEAR = (
    rf"(?:1\d{{3}}|20\d{{2}}|(?:{_TEEN}|twenty)\s+(?:(?:oh|o)\s+(?:{_UNIT})|{_TWO_DIGITS})"
    rf"|(?<=\bin )two\s+thousand(?:\s+(?:and\s+)?{_SMALL})?)\b"
)
_MONTH = "january|february|april|june|july|august|september|october|november|december"
# In lower case these two are mostly verbs, unless a day or a year stands beside them.
_ANY_MONTH = rf"(?:{_MONTH}|march|may)\b"
_DATE = re.compile(
    rf"{_BEGIN}(?:{_ANY_MONTH}\s+(?:the\s+)?{_DAY}(?:,?\s+{_YEAR})?"
    rf"|{_DAY}\s+(?:of\s+)?{_ANY_MONTH}(?:,?\s+{_YEAR})?"
    rf"|{_ANY_MONTH},?\s+(?:of\s+)?{_YEAR}"
    rf"|(?:{_MONTH}|(?-i:March|May)|(?:mon|tues|wednes|thurs|fri|satur|sun)day)\b"
    rf"|{_YEAR}){_END}",
    re.IGNORECASE,
)
_CAPITALS = re.compile(r"(?<![\w'\u2019-])[A-ZÀ-ÖØ-Þ][\w'\u2019-]*(?:\s+(?:of\s+)?[A-ZÀ-ÖØ-Þ][\w'\u2019-]*)*")
_POSSESSIVE = re.compile(r"['\u2019]s?$")


def find_spans(context: str, counts: Counter[str]) -> list[Span]:
    """Finds what may be asked for in a context.

    - Dates: days, months and years, in digits and in words. Any number from 1000 to 2099 is taken for a year.
    - Numbers, in digits and in words; `one` alone is mostly a pronoun and left out.
    - Names: words with capitals inside a sentence. Where a text has no capitals, as spoken text, its rare words stand
      in for them.

    Args:
        context: The text.
        counts: How often each word, as it is written, occurs in the file.

    Returns:
        Spans that do not overlap, each within a sentence.
    """
    spans: list[Span] = []
    has_capitals = context.lower() != context != context.upper()
    for begin, past in _sentences(context):
        dates = (Span("date", *match.span()) for match in _DATE.finditer(context, begin, past))
        numbers = (Span("number", *match.span()) for match in _NUMBER.finditer(context, begin, past))
        names = _names(context, begin, past, counts) if has_capitals else _rare_words(context, begin, past, counts)
        for span in chain(dates, numbers, names):
            if all(span.end <= other.start or other.end <= span.start for other in spans):
                spans.append(span)
    return [span for span in spans if context[span.start : span.end].lower() != "one"]


def _sentences(context: str) -> Iterator[tuple[int, int]]:
    begin = 0
    for match in _SENTENCE_END.finditer(context):
        yield begin, match.end()
        begin = match.end()
    yield begin, len(context)


def _names(context: str, begin: int, past: int, counts: Counter[str]) -> Iterator[Span]:
    first = _WORD.search(context, begin, past)
    for match in _CAPITALS.finditer(context, begin, past):
        start, end = match.span()
        if first and start <= first.start():
            # The capital of a sentence's first word says nothing. A word that is never seen without one may be a part
            # of the name: "Marie Curie", but not "In Paris".
            rest = _CAPITALS.search(context, first.end(), end)
            if rest is None or not counts[first[0].lower()]:
                continue
            start = rest.start()
        text = _POSSESSIVE.sub("", context[start:end])
        if text != "I":
            yield Span("name", start, start + len(text))


def _rare_words(context: str, begin: int, past: int, counts: Counter[str]) -> list[Span]:
    spans: list[Span] = []
    for word in _WORD.finditer(context, begin, past):
        if len(word[0]) < RARE_LETTERS or counts[word[0]] > RARE_COUNT:
            continue
        last = spans[-1] if spans else None
        if (
            last
            and context[last.end : word.start()].isspace()
            and len(context[last.start : last.end].split()) < RARE_WORDS
        ):
            spans[-1] = last._replace(end=word.end())
        else:
            spans.append(Span("rare word", *word.span()))
    return spans


# How it is asked

_QUESTION_WORD: dict[Kind, str] = {"date": "when", "number": "how many", "name": "who", "rare word": "what"}
_BEFORE_THINGS = re.compile(r"\b(?:the|a|an|in|at|near|from|into|of)\s+$", re.IGNORECASE)
_BEFORE_DATES = re.compile(r"\b(?:in|on)\s+$", re.IGNORECASE)


def ask(context: str, span: Span) -> str | None:
    """Returns the cloze question that a span answers; None if it would be too short or hold its answer."""
    before, after = _surroundings(context, span)
    answer = rf"(?<!\w){re.escape(context[span.start : span.end])}(?!\w)"
    is_given_away = re.search(answer, f"{before}\n{after}", re.IGNORECASE)
    if is_given_away or len(_WORD.findall(f"{before} {after}")) < MIN_QUESTION_WORDS:
        return None
    is_thing = span.kind == "name" and _BEFORE_THINGS.search(before)
    word = "what" if is_thing else _QUESTION_WORD[span.kind]
    if span.kind == "date":
        before = _BEFORE_DATES.sub("", before)
    return " ".join(f"{before}{word}{after}".split()).rstrip(" .,;:!?") + "?"


def _surroundings(context: str, span: Span) -> tuple[str, str]:
    """Returns what stands before and after a span in its sentence, or in a window of words where none is marked."""
    begin, past = next(bounds for bounds in _sentences(context) if span.start < bounds[1])
    before, after = context[begin : span.start], context[span.end : past]
    if _SENTENCE_END.search(context, span.end, past) and len(context[begin:past].split()) <= MAX_SENTENCE_WORDS:
        return before, after
    # Words are cut at white space; what is joined to the span, such as a comma, stays.
    starts = [word.start() for word in re.finditer(r"\S+", before)][-WINDOW_WORDS:] or [0]
    ends = [word.end() for word in re.finditer(r"\S+", after)][:WINDOW_WORDS] or [0]
    return before[starts[0] :], after[: ends[-1]]
