"""Makes data in SQuAD form of a CSV table with one row for each reference answer."""

import csv
import difflib
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from qa_train.alignment import align_answers, count_alignment
from qa_train.data import Answer, Example, describe_value
from qa_train.errors import DataError
from qa_train.storage import Pathlike, read_text, write_json

REQUIRED_COLUMNS = ("context", "question", "answer")
OPTIONAL_COLUMNS = ("id", "title", "answer_start")
DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";"}
MAX_PROBLEMS_SHOWN = 10

_MAX_CELL_CHARACTERS = 10_000_000
# So far before every context that no occurrence lies beside it, and the nearest one is the first.
_NO_OFFSET = -_MAX_CELL_CHARACTERS
# pandas writes integers as 114.0 in a column that has gaps.
_OFFSET = re.compile(r"(\d{1,9})(?:\.0)?", re.ASCII)

_Problems: TypeAlias = list[tuple[int, str]]
"""What is wrong with rows, each with the line in which the row begins."""


@dataclass(frozen=True)
class ConversionCounts:
    """What was made of a table.

    Attributes:
        num_articles: Different titles.
        num_paragraphs: Different contexts.
        num_questions: Questions written.
        num_answers: Reference answers written, `num_moved` and `num_searched` among them.
        num_moved: Answers that stand elsewhere than their `answer_start` says.
        num_searched: Answers that had no `answer_start`.
        num_dropped: Rows left out because their answer is blank or does not occur in its context.
        ignored_columns: Columns of other names.
    """

    num_articles: int
    num_paragraphs: int
    num_questions: int
    num_answers: int
    num_moved: int
    num_searched: int
    num_dropped: int
    ignored_columns: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """A row, the line it begins in, and what its cells hold; an `id` or `title` not given is empty."""

    line: int
    context: str
    question: str
    answer: str
    id: str
    title: str
    answer_start: int | None


def convert_csv(
    path: Pathlike, out: Pathlike, *, delimiter: str | None = None, drop_unfound: bool = False, overwrite: bool = False
) -> ConversionCounts:
    """Writes the questions of a CSV file in the form of SQuAD 1.1, with true offsets, ready for training.

    The columns are `context`, `question` and `answer`, and optionally `id`, `title` and `answer_start` (in
    characters, from 0), in any order and case; cells of optional columns may be empty. Quoted cells may hold line
    breaks. Rows without any text are skipped.

    - Rows of one context become one paragraph. Rows of one context and question become the reference answers of one
      question, unless they carry different ids.
    - An answer is looked for as `align_answers` does, whatever its case, near its `answer_start`, and is written as
      the context spells it. Without `answer_start` its first occurrence is taken, one of whole words if there is any.
    - A missing id is made of a hash of context and question: it stays the same when rows are added or moved.
    - A missing title is made of a hash of the context: a context without title is an article of its own, so that a
      dev set split off by article shares no context with training. Give titles where several contexts belong to one
      document, or parts of one document end up on both sides.

    Args:
        path: A UTF-8 file, with or without byte order mark.
        out: The JSON file to write; it appears complete or not at all.
        delimiter: The character that separates cells; by default that of `DELIMITERS` which the header shows.
        drop_unfound: Whether to leave out rows whose answer is blank or does not occur in its context, instead of
            refusing them.
        overwrite: Whether to replace `out`.

    Raises:
        DataError: If `path` cannot be read or is no CSV, a required column is missing, `out` exists or cannot be
            written, no question is left, or rows are not usable: too short or too long, a blank required cell, an
            `answer_start` that is no offset, an answer that does not occur in its context, an id of two questions, a
            context of two titles. The problems are counted, the first `MAX_PROBLEMS_SHOWN` named with their lines.
    """
    rows, ignored, problems = _read_rows(str(path), delimiter)
    if Path(out).exists() and (not overwrite or Path(out).samefile(path)):
        raise DataError(f"{out}: expected a new file, found one there; name another one, or pass --overwrite")
    rows = _fill_in_ids_and_titles(rows, problems)
    found = [(row, *_find_answer(row)) for row in rows]
    unfound = [row for row, _, answer in found if answer is None]
    if not drop_unfound:
        problems += [(row.line, _why_unfound(row)) for row in unfound]
    if problems:
        raise DataError(_list_problems(str(path), problems, hint=bool(unfound) and not drop_unfound))
    if len(unfound) == len(rows):
        raise DataError(f"{path}: expected at least one question, found none in {len(rows)} usable rows")
    kept = [(row, answer) for row, _, answer in found if answer is not None]
    articles = _as_articles(kept)
    write_json(out, {"version": "1.1", "data": articles})
    ways = Counter(way for _, way, _ in found)
    return ConversionCounts(
        num_articles=len(articles),
        num_paragraphs=len({row.context for row, _ in kept}),
        num_questions=len({row.id for row, _ in kept}),
        num_answers=len(kept),
        num_moved=ways["moved"],
        num_searched=ways["searched"],
        num_dropped=len(unfound),
        ignored_columns=ignored,
    )


def _read_rows(source: str, delimiter: str | None) -> tuple[list[_Row], tuple[str, ...], _Problems]:
    """Returns the usable rows, the columns that are ignored, and what is wrong with the other rows."""
    text = read_text(source)
    if delimiter is None:
        delimiter = max(DELIMITERS.values(), key=lambda candidate: len(_known(_header_of(text, candidate))))
    default = csv.field_size_limit(_MAX_CELL_CHARACTERS)
    try:
        records = list(_records(text, delimiter, source))
    finally:
        csv.field_size_limit(default)
    names = _column_names(records[0][1] if records else [], source)
    rows: list[_Row] = []
    problems: _Problems = []
    for line, cells in records[1:]:
        if len(cells) != len(names):
            problems.append((line, f"expected {len(names)} cells as in the header, found {len(cells)}"))
            continue
        row = _parse_row(line, dict(zip(names, cells, strict=True)))
        if isinstance(row, _Row):
            rows.append(row)
        else:
            problems.append((line, row))
    return rows, tuple(name for name in names if name not in _known(names)), problems


def _header_of(text: str, delimiter: str) -> list[str]:
    """Returns the cells of the first line; csv.Sniffer would guess from all the text, and often from its commas."""
    lines = csv.reader(io.StringIO(text.lstrip("\n")), delimiter=delimiter)
    try:
        return _normalized(next(lines, []))
    except csv.Error:
        return []


def _normalized(cells: Sequence[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def _known(names: Sequence[str]) -> set[str]:
    return {*names} & {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}


def _records(text: str, delimiter: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line in which each record begins, and its cells."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{source}, line {line}: not valid CSV: {error}; look for a quotation mark that is not doubled or "
                "not closed"
            ) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _column_names(header: Sequence[str], source: str) -> list[str]:
    names = _normalized(header)
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        others = [name for name in names if name not in _known(names)]
        nearest = {name: difflib.get_close_matches(name, others, n=1) for name in missing}
        lacking = ", ".join(
            repr(name) + (f" (the nearest is {match[0]!r})" if match else "") for name, match in nearest.items()
        )
        found = ", ".join(map(repr, names[:20])) or "an empty file"
        raise DataError(f"{source}: expected the columns 'context', 'question', 'answer'; no {lacking}; found {found}")
    twice = [name for name in sorted(_known(names)) if names.count(name) > 1]
    if twice:
        raise DataError(f"{source}: expected each column once, found {', '.join(map(repr, twice))} several times")
    return names


def _parse_row(line: int, cells: dict[str, str]) -> _Row | str:
    """Returns the row, or what is wrong with it."""
    if blank := [name for name in ("context", "question") if not cells[name].strip()]:
        return f"{' and '.join(blank)} blank"
    offset = cells.get("answer_start", "").strip()
    match = _OFFSET.fullmatch(offset)
    if offset and not match:
        return f"expected answer_start to be an integer, 0 or more, found {describe_value(offset)}"
    return _Row(
        line=line,
        context=cells["context"],
        question=cells["question"],
        answer=cells["answer"],
        id=cells.get("id", "").strip(),
        title=cells.get("title", "").strip(),
        answer_start=int(match[1]) if match else None,
    )


def _fill_in_ids_and_titles(rows: Sequence[_Row], problems: _Problems) -> list[_Row]:
    """Gives every row an id and a title; appends to `problems` where those in the table contradict each other."""
    titles: dict[str, _Row] = {}
    owners: dict[str, _Row] = {}
    ids: dict[tuple[str, str], str] = {}
    for row in rows:
        if row.title and (first := titles.setdefault(row.context, row)).title != row.title:
            both = f"title {describe_value(row.title)}, but {describe_value(first.title)} in line {first.line}"
            problems.append((row.line, f"{both} for the same context"))
        if row.id:
            first = owners.setdefault(row.id, row)
            if (first.context, first.question) != (row.context, row.question):
                problems.append((row.line, f"id {row.id!r} belongs to another question in line {first.line}"))
            ids.setdefault((row.context, row.question), row.id)

    def filled_in(row: _Row) -> _Row:
        made = row.id or ids.get((row.context, row.question)) or _hash(row.context, row.question)
        title = titles[row.context].title if row.context in titles else f"context-{_hash(row.context)}"
        return replace(row, id=made, title=title)

    return [filled_in(row) for row in rows]


def _hash(*parts: str) -> str:
    """Returns 24 hexadecimal digits, as the ids of SQuAD have."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _find_answer(row: _Row) -> tuple[str, Answer | None]:
    """Returns how the answer was found (`exact`, `moved`, `searched`, `unfound`), and it as its context has it."""
    start = _NO_OFFSET if row.answer_start is None else row.answer_start
    example = Example(row.id, row.title, row.context, row.question, (Answer(row.answer, start),))
    counts = count_alignment([example])
    if counts.unaligned:
        return "unfound", None
    way = "searched" if row.answer_start is None else "exact" if counts.exact else "moved"
    return way, align_answers([example], "").examples[0].answers[0]


def _why_unfound(row: _Row) -> str:
    return f"{describe_value(row.answer)} does not occur in its context" if row.answer.strip() else "answer blank"


def _as_articles(answered: Sequence[tuple[_Row, Answer]]) -> list[dict[str, object]]:
    """Groups answers by question, paragraph and article, each in the order of its first row."""
    answers: dict[str, list[dict[str, object]]] = {}
    articles: dict[str, dict[str, list[dict[str, object]]]] = {}
    for row, answer in answered:
        if row.id not in answers:
            answers[row.id] = []
            qas = articles.setdefault(row.title, {}).setdefault(row.context, [])
            qas.append({"id": row.id, "question": row.question, "answers": answers[row.id]})
        answers[row.id].append({"text": answer.text, "answer_start": answer.start})
    return [
        {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs.items()]}
        for title, paragraphs in articles.items()
    ]


def _list_problems(source: str, problems: _Problems, hint: bool) -> str:
    lines = [f"line {line}: {problem}" for line, problem in sorted(problems)]
    remedy = "correct them" + (", or pass --drop-unfound to leave out answers that are not there" if hint else "")
    if len(lines) == 1:
        return f"{source}, {lines[0]}; {remedy.replace('them', 'it')}"
    shown = "".join(f"\n  - {line}" for line in lines[:MAX_PROBLEMS_SHOWN])
    more = len(lines) - MAX_PROBLEMS_SHOWN
    return f"{source}: {len(lines)} problems; {remedy}{shown}" + (f"\n  - and {more} more" if more > 0 else "")
