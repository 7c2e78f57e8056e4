"""The questions of a run: what it trains on, is selected by and is reported on."""

from dataclasses import asdict, dataclass
from typing import Any

from qa_train.alignment import AlignmentCounts, align_answers
from qa_train.config import TrainConfig
from qa_train.data import Example, SquadData, read_squad, split_by_title
from qa_train.errors import DataError
from qa_train.storage import sha256_file


@dataclass(frozen=True, eq=False)
class Questions:
    """The examples of a run, by the use they are put to.

    Attributes:
        train: Aligned training questions.
        extra: Aligned questions that are mixed in, by the set's name.
        dev: Questions that select.
        tests: Questions that are only reported, by the test set's name.
        alignment: How the answers of `train` were found.
        description: `path`, `sha256` and number of `questions` of each set, for manifests.
    """

    train: tuple[Example, ...]
    extra: dict[str, tuple[Example, ...]]
    dev: tuple[Example, ...]
    tests: dict[str, tuple[Example, ...]]
    alignment: AlignmentCounts
    description: dict[str, dict[str, Any]]


def read_questions(config: TrainConfig) -> Questions:
    """Reads a run's data files and splits dev off where the configuration names no file for it.

    Of the extra training files, questions about articles of dev or a test set are left out and counted: their contexts
    would be trained on.

    Raises:
        DataError: If a file cannot be used, has too few articles to be split, or is an extra one about no other
            articles than those of dev and the test sets.
    """
    train_data = read_squad(config.data.train)
    train, dev_data = train_data.examples, train_data
    if config.data.dev is None:
        train, dev = split_by_title(train, config.data.dev_fraction, config.seed)
    else:
        dev_data = read_squad(config.data.dev)
        dev = dev_data.examples
    tests = {name: read_squad(path) for name, path in config.data.test.items()}
    aligned = align_answers(train, config.data.train)
    split = {"split": True} if config.data.dev is None else {}
    description = {
        "train": _describe(train_data, aligned.examples) | asdict(aligned.counts),
        "dev": _describe(dev_data, dev) | split,
        **{f"test.{name}": _describe(data, data.examples) for name, data in tests.items()},
    }
    test_examples = {name: data.examples for name, data in tests.items()}
    held_out = {example.title for examples in (dev, *test_examples.values()) for example in examples}
    extra = {}
    for name, path in config.data.extra_train.items():
        extra[name], description[f"extra_train.{name}"] = _read_extra(path, held_out)
    if config.augment.confusions:
        path = config.augment.confusions
        description["confusions"] = {"path": path, "sha256": sha256_file(path), "questions": 0}
    return Questions(aligned.examples, extra, dev, test_examples, aligned.counts, description)


def _read_extra(path: str, held_out: set[str]) -> tuple[tuple[Example, ...], dict[str, Any]]:
    data = read_squad(path)
    kept = tuple(example for example in data.examples if example.title not in held_out)
    num_held_out = len(data.examples) - len(kept)
    if not kept:
        raise DataError(
            f"{path}: expected questions about articles that neither dev nor a test set is about, found none among "
            f"{num_held_out}; mix in other articles"
        )
    aligned = align_answers(kept, path)
    return aligned.examples, _describe(data, aligned.examples) | asdict(aligned.counts) | {"held_out": num_held_out}


def _describe(data: SquadData, used: tuple[Example, ...]) -> dict[str, Any]:
    return {"path": data.path, "sha256": data.sha256, "questions": len(used)}
