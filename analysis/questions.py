"""The scores of each question, of several models of sweeps, beside each other."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import Sweeps
from analysis.statistics import Scores
from qa_train.errors import DataError
from qa_train.question_scores import QuestionScores, read_question_scores
from sweeps.records import TRIALS


@dataclass(frozen=True)
class Questions:
    """Scores of the same questions by several models.

    Attributes:
        ids: [num_questions] of the questions.
        articles: [num_questions] the article that each is about.
        labels: [num_models] the models, such as index labels of a table.
        f1: [num_models, num_questions] 0 to 100.
        exact_match: [num_models, num_questions] 0 or 100, or between for a mean over seeds.
    """

    ids: tuple[str, ...]
    articles: tuple[str, ...]
    labels: tuple[Hashable, ...]
    f1: Scores
    exact_match: Scores

    @property
    def num_articles(self) -> int:
        """How many articles the questions come in."""
        return len({*self.articles})

    def place(self) -> dict[Any, int]:
        """Returns the row of each model."""
        return {label: row for row, label in enumerate(self.labels)}


def scores_path(sweeps: Sweeps, model: pd.Series, data_set: str = "dev") -> Path:
    """Returns where a model's scores are, if it has some.

    Args:
        sweeps: That the model is of.
        model: A row of `sweeps.models`.
        data_set: `dev`, or `test.<name>`.
    """
    name = f"scores_{data_set}_{model['budget_epochs']:g}.parquet"
    return trial_directory(sweeps, model) / name


def trial_directory(sweeps: Sweeps, model: pd.Series) -> Path:
    """Returns the directory of a model's trial.

    Raises:
        DataError: If the trial's id could lead out of the sweep's directory, as no driver writes it.
    """
    trial_id = str(model["trial_id"])
    if Path(trial_id).name != trial_id:
        raise DataError(
            f"{sweeps.directories[model['sweep']]}: expected a trial id without slashes, found {trial_id!r}"
        )
    return sweeps.directories[model["sweep"]] / TRIALS / trial_id


def read_questions(
    sweeps: Sweeps, members: Mapping[Any, Sequence[Any]], data_set: str = "dev"
) -> tuple[Questions | None, tuple[Any, ...]]:
    """Reads what is there of the scores of some models, or of the means over seeds of some configurations.

    Args:
        sweeps: That the models are of.
        members: By label, index labels of `sweeps.models` whose mean is wanted; a single one for a single model.
        data_set: `dev`, or `test.<name>`.

    Returns:
        The scores, None if there are none; and the labels that have none, or have those of other questions.

    Raises:
        DataError: If a file is there and broken; see `read_scores`.
    """
    found: dict[Any, tuple[Scores, Scores]] = {}
    first: QuestionScores | None = None
    for label, models in members.items():
        files = [_read(sweeps, sweeps.models.loc[model], data_set) for model in models]
        reference = first or files[0]
        aligned = [_align(file, reference) for file in files if file and reference]
        arrays = [pair for pair in aligned if pair is not None]
        if len(arrays) == len(files):
            first = reference
            found[label] = (np.mean([f1 for f1, _ in arrays], axis=0), np.mean([em for _, em in arrays], axis=0))
    missing = tuple(label for label in members if label not in found)
    if first is None:
        return None, missing
    f1, exact_match = (np.array(scores) for scores in zip(*found.values(), strict=True))
    return Questions(first.question_id, first.article, tuple(found), f1, exact_match), missing


def _read(sweeps: Sweeps, model: pd.Series, data_set: str) -> QuestionScores | None:
    path = scores_path(sweeps, model, data_set)
    return read_scores(path) if path.is_file() else None


def read_scores(path: Path) -> QuestionScores:
    """Reads the scores of single questions of one model.

    Raises:
        DataError: If the file cannot be read, holds no question, or a score that is NaN or infinite.
    """
    scores = read_question_scores(path)
    if not scores.question_id:
        raise DataError(f"{path}: expected the scores of single questions, found none; evaluate the model again")
    is_number = np.isfinite([scores.f1, scores.exact_match]).all(axis=0)
    if not is_number.all():
        place = int(is_number.argmin())
        found = f"{scores.f1[place]} and {scores.exact_match[place]} of question {scores.question_id[place]!r}"
        raise DataError(f"{path}: expected scores from 0 to 100, found {found}")
    return scores


def _align(scores: QuestionScores, first: QuestionScores) -> tuple[Scores, Scores] | None:
    """F1 and exact match in the order of the first model's questions; None if they are other ones."""
    f1, exact_match = np.array(scores.f1), np.array(scores.exact_match)
    if scores.question_id == first.question_id:
        return f1, exact_match
    place = {question: row for row, question in enumerate(scores.question_id)}
    if place.keys() != {*first.question_id}:
        return None
    order = [place[question] for question in first.question_id]
    return f1[order], exact_match[order]


def read_files(paths: Iterable[Path]) -> Questions:
    """Reads the scores of several models from files, such as `evaluate --question-scores` writes.

    Args:
        paths: Of the files, at least one; they are the labels.

    Raises:
        DataError: If a file cannot be read, holds no question, others than the first one, or a score that is NaN or
            infinite.
    """
    paths = list(paths)
    files = [read_scores(path) for path in paths]
    first, arrays = files[0], []
    for path, file in zip(paths, files, strict=True):
        pair = _align(file, first)
        if pair is None:
            found, expected = len(file.question_id), len(first.question_id)
            problem = f"found {found} questions that are not the {expected} of the first"
            raise DataError(f"{path}: expected the scores of the same questions as in {paths[0]}, {problem}")
        arrays.append(pair)
    f1, exact_match = (np.array(scores) for scores in zip(*arrays, strict=True))
    return Questions(first.question_id, first.article, tuple(map(str, paths)), f1, exact_match)
