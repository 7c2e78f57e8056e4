"""Reads question-answering data in SQuAD form and splits a development set off it by article."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from qa_train.errors import DataError
from qa_train.storage import read_json, sha256_file

_T = TypeVar("_T", str, int, list[object])
_JSON_NAMES: dict[type, str] = {str: "a string", int: "an integer", list: "a list", dict: "an object"}
# Half of a surrogate pair: JSON can spell it, but it is no character and no tokenizer takes it.
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Answer:
    """A reference answer; `start` is the index of its first character in the context."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its context; `answers` is empty where the data give none (SQuAD 2.0)."""

    id: str
    title: str
    context: str
    question: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class SquadData:
    """The questions of one file, in its order, with the file's name and its SHA-256."""

    examples: tuple[Example, ...]
    path: str
    sha256: str

    @property
    def references(self) -> dict[str, tuple[str, ...]]:
        """Reference answers by question id, as `metrics.score_predictions` takes them."""
        return {example.id: tuple(answer.text for answer in example.answers) for example in self.examples}

    @property
    def num_articles(self) -> int:
        """Number of different article titles."""
        return len({example.title for example in self.examples})


def read_squad(path: str | Path) -> SquadData:
    """Reads a file in the form of SQuAD 1.1, SQuAD 2.0 or Spoken-SQuAD.

    A question's `plausible_answers` serve where it has no `answers`; a question where both are empty (SQuAD 2.0)
    keeps no answers. Offsets are only checked to be integers: the noisy test sets of Spoken-SQuAD carry wrong ones.
    `alignment.align_answers` repairs them for training. A blank question or answer is kept, since it harms nothing:
    the question can still be asked and scored, the answer never aligns. A blank context is refused: no answer
    could be given from it.

    Raises:
        DataError: If the file is missing, is a directory, is not JSON, has no `data`, holds no question, gives one
            id to two questions, asks about a blank context, or has a field that is missing, of a wrong type or
            not Unicode.
    """
    source = str(path)
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise DataError(
            f"{source}: expected the SQuAD form, an object whose 'data' is a list of articles; "
            f"found {_found_data(content)}"
        )
    title_of_id: dict[str, str] = {}
    examples: list[Example] = []
    for index, article in enumerate(content["data"]):
        for example in _read_article(article, f"{source}: data[{index}]", source):
            if example.id in title_of_id:
                raise DataError(
                    f"{source}: article {example.title!r}, question {example.id!r}: expected an id of its own, found "
                    f"one that a question of article {title_of_id[example.id]!r} has already; give each its own id"
                )
            title_of_id[example.id] = example.title
            examples.append(example)
    if not examples:
        raise DataError(f"{source}: expected at least one question, found none in {len(content['data'])} articles")
    return SquadData(tuple(examples), source, sha256_file(path))


def _read_article(article: object, place: str, source: str) -> Iterator[Example]:
    title = _field(article, "title", str, place)
    place = f"{source}: article {title!r}"
    for number, paragraph in enumerate(_field(article, "paragraphs", list, place)):
        in_paragraph = f"{place}, paragraphs[{number}]"
        context = _field(paragraph, "context", str, in_paragraph)
        qas = _field(paragraph, "qas", list, in_paragraph)
        if qas and not context.strip():
            raise DataError(
                f"{in_paragraph}: expected a context with words, found {describe_value(context)}; no answer can be "
                "in it, remove the paragraph"
            )
        for index, qa in enumerate(qas):
            question_id = _field(qa, "id", str, f"{in_paragraph}, qas[{index}]")
            in_question = f"{place}, question {question_id!r}"
            question = _field(qa, "question", str, in_question)
            yield Example(question_id, title, context, question, _read_answers(qa, in_question))


def _read_answers(qa: object, place: str) -> tuple[Answer, ...]:
    plausible = _field(qa, "plausible_answers", list, place, default=[])
    # An empty 'answers' says that there is no answer; to leave it out is a mistake unless plausible ones stand in.
    key, items = "answers", _field(qa, "answers", list, place, default=[] if plausible else None)
    if not items:
        key, items = "plausible_answers", plausible
    return tuple(
        Answer(_field(item, "text", str, in_answer), _field(item, "answer_start", int, in_answer))
        for item, in_answer in ((item, f"{place}, {key}[{index}]") for index, item in enumerate(items))
    )


def _field(container: object, key: str, kind: type[_T], place: str, default: _T | None = None) -> _T:
    """Takes a field of a JSON object and checks its type; a field without a default is required."""
    if not isinstance(container, dict):
        raise DataError(f"{place}: expected an object with {key!r}, found {describe_value(container)}")
    if key not in container and default is not None:
        return default
    if key not in container:
        keys = ", ".join(repr(name) for name in container) or "no keys"
        raise DataError(f"{place}: expected {key!r}, {_JSON_NAMES[kind]}, found only {keys}")
    value = container[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{place}: expected {key!r} to be {_JSON_NAMES[kind]}, found {describe_value(value)}")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise DataError(f"{place}: expected {key!r} to be Unicode text, found half of a surrogate pair in it")
    return value


def describe_value(value: object) -> str:
    """Says in a few words of one line what a value read from JSON is, for 'found …' in a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | dict):
        return _JSON_NAMES[type(value)]
    text = repr(value)
    return f"the {'string' if isinstance(value, str) else 'number'} {text if len(text) <= 40 else text[:40] + '…'}"


def _found_data(content: object) -> str:
    if not isinstance(content, dict):
        return describe_value(content)
    if "data" in content:
        return f"'data' to be {describe_value(content['data'])}"
    return "no 'data' but " + (", ".join(repr(key) for key in list(content)[:5]) or "an empty object")


def split_by_title(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Splits a development set off by whole articles, so that no context of it is seen in training.

    The titles are shuffled by `seed`. Each is taken if it fits under `fraction` of the questions, then one more if
    that comes nearer to it. Articles are of very unequal length and difficulty, so dev is never one title alone: if
    it would be, the two titles that come nearest are taken. With two titles in all, each side gets one.

    Args:
        examples: Questions of at least two titles.
        fraction: Share of the questions that go to dev, between 0 and 1.
        seed: The same seed and the same questions give the same split.

    Returns:
        (train, dev), both in the order of `examples`.

    Raises:
        DataError: If there are fewer than two titles, or `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise DataError(f"cannot split off a dev set: expected a fraction between 0 and 1, found {fraction}")
    sizes = Counter(example.title for example in examples)
    if len(sizes) < 2:
        raise DataError(
            f"cannot split a dev set off by article: expected at least 2 article titles, found {len(sizes)} "
            f"({', '.join(map(repr, sizes)) or 'no questions'}); name a dev file instead"
        )
    target = fraction * len(examples)
    titles = sorted(sizes)
    random.Random(seed).shuffle(titles)

    def distance(chosen: Iterable[str]) -> float:
        return abs(sum(sizes[title] for title in chosen) - target)

    dev: list[str] = []
    for title in titles:
        if sum(sizes[chosen] for chosen in dev) + sizes[title] <= target:
            dev.append(title)
    wider = [[*dev, title] for title in titles if title not in dev and len(dev) + 1 < len(titles)]
    dev = min([dev, *wider], key=distance)
    at_least = min(2, len(titles) - 1)
    if len(dev) < at_least:
        dev = list(min(combinations(titles, at_least), key=distance))
    return (
        tuple(example for example in examples if example.title not in dev),
        tuple(example for example in examples if example.title in dev),
    )
