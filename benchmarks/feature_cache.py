"""How much faster features come from the cache than from the tokenizer: `python -m benchmarks.feature_cache`.

The questions are those of a data set, asked again and again about contexts that differ: each copy of a context begins
with the copy's number and ends with two other contexts, so that no two are equal and their length is about that of
Spoken-SQuAD. The cache is in a temporary directory. Times are seconds in one process.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import click
import numpy as np
from tabulate import tabulate

from qa_train import demo_data
from qa_train.config import find_data_file
from qa_train.data import Example, read_squad
from qa_train.errors import QAError, run_command
from qa_train.feature_cache import cached_encode, entry_key
from qa_train.model import load_tokenizer
from qa_train.offline_model import OFFLINE_MINILM
from qa_train.tokenization import Features, encode

DEMO = str(Path(demo_data.__file__).with_name("train.json"))
WINDOW: dict[str, Any] = {"max_seq_length": 384, "doc_stride": 128}

_T = TypeVar("_T")


def many_questions(examples: Sequence[Example], num_questions: int) -> list[Example]:
    """Returns `num_questions` questions that repeat those of `examples` about contexts of their own."""
    contexts = list(dict.fromkeys(example.context for example in examples))
    place = {context: index for index, context in enumerate(contexts)}
    longer: dict[tuple[int, int], str] = {}
    questions: list[Example] = []
    for number in range(num_questions):
        copy, example = number // len(examples), examples[number % len(examples)]
        index, prefix = place[example.context], f"{copy} . "
        if (copy, index) not in longer:
            others = (contexts[(index + step * (copy + 1)) % len(contexts)] for step in (1, 2))
            longer[copy, index] = " ".join([prefix + example.context, *others])
        answers = tuple(replace(answer, start=answer.start + len(prefix)) for answer in example.answers)
        questions.append(replace(example, id=str(number), context=longer[copy, index], answers=answers))
    return questions


def measure(examples: Sequence[Example], tokenizer: Any, directory: Path, repeats: int) -> dict[str, list[float]]:
    """Times tokenisation, the first call of the cache, and `repeats` times the key alone and a call that finds it.

    Raises:
        QAError: If the cache returns something else than the tokenizer.
    """
    encode_s, expected = _timed(lambda: encode(examples, tokenizer, **WINDOW))
    first_s, _ = _timed(lambda: cached_encode(examples, tokenizer, **WINDOW, cache_dir=directory))
    times: dict[str, list[float]] = {
        "encode": [encode_s],
        "first call": [first_s],
        "further calls": [],
        "key alone": [],
    }
    for _ in range(repeats):
        seconds, features = _timed(lambda: cached_encode(examples, tokenizer, **WINDOW, cache_dir=directory))
        if not _equal(features, expected):
            raise QAError("expected the cache to return what the tokenizer does, found a difference")
        times["further calls"].append(seconds)
        times["key alone"].append(_timed(lambda: entry_key(examples, tokenizer, WINDOW))[0])
    return times


def _timed(call: Callable[[], _T]) -> tuple[float, _T]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _equal(features: Features, expected: Features) -> bool:
    pairs = ((np.asarray(getattr(features, f.name)), np.asarray(getattr(expected, f.name))) for f in fields(Features))
    return all(one.dtype == other.dtype and np.array_equal(one, other) for one, other in pairs)


@click.command()
@click.option("--data", default=DEMO, show_default="the demo's", metavar="F.json", help="Questions to repeat.")
@click.option("--questions", type=click.IntRange(1), default=37_000, show_default=True, help="How many of them.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Calls that find the entry.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(data: str, questions: int, repeats: int, as_json: bool) -> int:
    r"""Compares tokenising with taking features from the cache; the median of the calls that find them.

    Takes about two minutes with the defaults on two cores, and 2 GB of memory.

    \b
    Example:
      python -m benchmarks.feature_cache --questions 37000
    """
    examples = many_questions(read_squad(find_data_file(data, Path.cwd())).examples, questions)
    tokenizer = load_tokenizer(OFFLINE_MINILM)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        times = measure(examples, tokenizer, Path(directory), repeats)
        size = sum(path.stat().st_size for path in Path(directory).iterdir())
    ratio = median(times["encode"]) / median(times["further calls"])
    if as_json:
        print(
            json.dumps(
                {"questions": questions, "load": load, "bytes": size, "seconds": times, "ratio": ratio}, indent=2
            )
        )
        return 0
    print(f"{questions:,} questions, {size / 1e6:.0f} MB in the cache; load before {load:.1f}; seconds:\n")
    rows = [[name, median(values), min(values), max(values)] for name, values in times.items()]
    print(tabulate(rows, ["", "median", "min", "max"], floatfmt=".3f"))
    print(f"\nencode / further calls: {ratio:.0f}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(command, "python -m benchmarks.feature_cache", argv)


if __name__ == "__main__":
    sys.exit(main())
