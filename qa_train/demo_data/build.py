"""Turns the prose in `written/` into the demo's data: `python -m qa_train.demo_data.build`.

A file in `written/` holds articles. Each begins with `# Title`; its passages are separated by blank lines; a passage
is one line of prose followed by its questions, one on a line: `? question | answer`, the answer word for word as the
passage has it. Numbers are written out, so that the spoken form follows by rule: lower case and no punctuation.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_train.errors import DataError
from qa_train.storage import read_text, write_json

FOLDER = Path(__file__).parent
QUESTIONS_PER_PASSAGE = 5
PASSAGE_WORDS = (40, 60)
_LONGEST_COMMON_RUN = 3
"""Words that a question may share with its passage in one piece; more would make it a copy of the sentence."""


@dataclass(frozen=True)
class Passage:
    """A passage in written form with its (question, answer) pairs."""

    title: str
    text: str
    questions: tuple[tuple[str, str], ...]


def spoken(text: str) -> str:
    """Returns the text as a speech recogniser writes it: lower case, words only; apostrophes inside words stay."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower()))


def read_written(path: Path) -> Iterator[Passage]:
    """Reads the passages of one file.

    Raises:
        DataError: If a line does not have the form described above, or a passage breaks one of the rules that
            `problems` names.
    """
    title = ""
    for block in re.split(r"\n\s*\n", read_text(path).strip()):
        lines = [line.strip() for line in block.splitlines()]
        if lines[0].startswith("# "):
            title = lines.pop(0).removeprefix("# ").strip()
        if not lines:
            continue
        pairs = [line.removeprefix("?").strip().rpartition(" | ") for line in lines[1:]]
        passage = Passage(title, lines[0], tuple((question, answer) for question, _, answer in pairs))
        if found := list(problems(passage)):
            raise DataError(f"{path}: article {title!r}, passage {lines[0][:40]!r}: {'; '.join(found)}")
        yield passage


def problems(passage: Passage) -> Iterator[str]:
    """Yields each rule that a passage breaks."""
    words = spoken(passage.text).split()
    shortest, longest = PASSAGE_WORDS
    if not passage.title:
        yield "expected a '# Title' above it"
    if not shortest <= len(words) <= longest:
        yield f"expected {shortest} to {longest} words, found {len(words)}"
    if re.search(r"\d", passage.text):
        yield "expected numbers in words, found digits"
    if len(passage.questions) != QUESTIONS_PER_PASSAGE:
        yield f"expected {QUESTIONS_PER_PASSAGE} questions, found {len(passage.questions)}"
    if len({answer for _, answer in passage.questions}) < len(passage.questions):
        yield "expected a different answer to each question"
    for question, answer in passage.questions:
        if not question.endswith("?") or not answer:
            yield f"{question!r}: expected '? question? | answer'"
        elif f" {spoken(answer)} " not in f" {' '.join(words)} ":
            yield f"{question!r}: the answer {answer!r} does not stand in the passage"
        elif common := _common_run(spoken(question).split(), words):
            yield f"{question!r}: shares {common!r} with the passage, ask in other words"


def _common_run(question: list[str], passage: list[str]) -> str | None:
    size = _LONGEST_COMMON_RUN + 1
    runs = {tuple(passage[start : start + size]) for start in range(len(passage) - size + 1)}
    pieces = (tuple(question[start : start + size]) for start in range(len(question) - size + 1))
    return next((" ".join(piece) for piece in pieces if piece in runs), None)


def to_squad(passages: list[Passage]) -> dict[str, Any]:
    """Returns passages in SQuAD form: contexts and answers spoken, questions as written."""
    articles: dict[str, list[dict[str, Any]]] = {}
    for passage in passages:
        paragraphs = articles.setdefault(passage.title, [])
        context = spoken(passage.text)
        prefix = f"{spoken(passage.title).replace(' ', '-')}-{len(paragraphs) + 1}"
        qas = [
            {"id": f"{prefix}-{number}", "question": question, "answers": [_answer(context, answer)]}
            for number, (question, answer) in enumerate(passage.questions, start=1)
        ]
        paragraphs.append({"context": context, "qas": qas})
    data = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in articles.items()]
    return {"version": "1.1", "data": data}


def _answer(context: str, answer: str) -> dict[str, Any]:
    text = spoken(answer)
    return {"text": text, "answer_start": f" {context} ".index(f" {text} ")}


def split_titles(titles: list[str]) -> dict[str, list[str]]:
    """Assigns whole articles: of every eight in a row, the fourth to dev, the eighth to test, the others to train."""
    return {
        "train": [title for index, title in enumerate(titles) if index % 4 != 3],
        "dev": titles[3::8],
        "test": titles[7::8],
    }


def written_passages() -> list[Passage]:
    """Returns all passages of `written/`.

    Raises:
        DataError: See `read_written`.
    """
    return [passage for path in sorted((FOLDER / "written").glob("*.txt")) for passage in read_written(path)]


def build() -> None:
    """Writes `train.json`, `dev.json` and `test.json` and prints their sizes."""
    passages = written_passages()
    for name, titles in split_titles(list(dict.fromkeys(passage.title for passage in passages))).items():
        chosen = [passage for passage in passages if passage.title in titles]
        write_json(FOLDER / f"{name}.json", to_squad(chosen))
        print(f"{name}.json: {len(titles)} articles, {len(chosen)} passages")


if __name__ == "__main__":
    try:
        build()
    except DataError as error:
        sys.exit(f"error: {error}")
