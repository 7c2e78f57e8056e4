"""What `evaluate` is asked to do, checked before anything is opened: which models, which files, what goes where."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qa_train.config import find_data_file
from qa_train.config_io import find_model
from qa_train.errors import ConfigError
from qa_train.precision import Precision

ENSEMBLE = "ensemble"
"""The name of the ensemble among those of the models."""
_SOURCE = "evaluate"

Target = tuple[str, str]
"""Name of a model, or `ENSEMBLE`, and of a data file."""


@dataclass(frozen=True)
class EvaluationJob:
    """A checked request; plain values, so that it can be sent to workers.

    Attributes:
        models: Absolute directories, or names on the Hub, by the name under which their scores appear.
        data: Absolute paths by the name of the file.
        ensemble: Whether the models also answer together.
        fit_weights: Data to which their weights are fitted; None for equal ones.
        n_best: Answers that are written for each question, with their probability; None for the best one's text.
        predictions: Files for the answers.
        question_scores: Files for the scores of single questions.
        tokenizer: Model whose tokenizer `study_f1` uses; None for each model's own.
        precision: As for `open_members`.
        device: As for `open_members`.
        max_seq_length: As for `open_members`.
        doc_stride: As for `open_members`.
    """

    models: dict[str, str]
    data: dict[str, str]
    ensemble: bool
    fit_weights: str | None
    n_best: int | None
    predictions: dict[Target, str]
    question_scores: dict[Target, str]
    tokenizer: str | None = None
    precision: Literal["auto"] | Precision = "auto"
    device: str = "auto"
    max_seq_length: int | None = None
    doc_stride: int | None = None

    @property
    def names(self) -> list[str]:
        """What is scored: the models, then the ensemble if asked."""
        return [*self.models, *([ENSEMBLE] if self.ensemble else [])]

    @property
    def main(self) -> str:
        """Whose scores stand for all: the ensemble's if asked, else the first model's."""
        return ENSEMBLE if self.ensemble else next(iter(self.models))


def plan_evaluation(
    models: Sequence[str],
    data: Sequence[str],
    *,
    ensemble: bool = False,
    fit_weights: str | None = None,
    n_best: int | None = None,
    predictions: str | None = None,
    question_scores: str | None = None,
    tokenizer: str | None = None,
    precision: Literal["auto"] | Precision = "auto",
    device: str = "auto",
    max_seq_length: int | None = None,
    doc_stride: int | None = None,
) -> EvaluationJob:
    """Checks a request and finds its files.

    Args:
        models: Directories of trained models, or names on the Hub.
        data: Data files, looked up as `find_data_file` does.
        ensemble: Whether the models also answer together; fitted weights imply it.
        fit_weights: A dev file to fit the weights to.
        n_best: Answers to write for each question, 1 or more.
        predictions: The file to write for one model (or the ensemble) and one data file; else the directory, in which
            each model has a file `<model>__<data file>` for each data file.
        question_scores: The directory for `scores_<stem of the data file>.parquet` of the only model or the ensemble;
            those of each of several models go to a directory of its name in there.
        tokenizer: See `EvaluationJob`, as for the others.
        precision: See there.
        device: See there.
        max_seq_length: See there.
        doc_stride: See there.

    Raises:
        DataError: If there is no such file, or no such model though its name is plainly a path.
        ConfigError: If a model is given twice, two data files have the same name, an ensemble would have a single
            member, answers are counted that are not written, or a file cannot be where it is asked for.
    """
    if not models or not data:
        _refuse("expected one model or more and one data file or more")
    named = _name_models([find_model(name, Path.cwd()) for name in models])
    files = {Path(path).name: path for path in (find_data_file(name, Path.cwd()) for name in data)}
    if len(files) < len(data):
        [(name, _)] = Counter(Path(path).name for path in data).most_common(1)
        _refuse(f"--data: expected files of different names, by which their scores are told apart; found {name} twice")
    ensemble = ensemble or fit_weights is not None
    if ensemble and len(named) == 1:
        _refuse("--ensemble: expected two models or more, found one; give each with its own --model")
    if n_best is not None and predictions is None:
        _refuse("--n-best: the answers are not written anywhere; give --predictions OUT.json too")
    dev = fit_weights and find_data_file(fit_weights, Path.cwd())
    job = EvaluationJob(
        named,
        files,
        ensemble,
        dev,
        n_best,
        _prediction_files(predictions, [*named], [*files], ensemble) if predictions else {},
        _question_score_files(question_scores, [*named], [*files], ensemble) if question_scores else {},
        tokenizer and find_model(tokenizer, Path.cwd()),
        precision,
        device,
        max_seq_length,
        doc_stride,
    )
    _check_targets(
        [*job.predictions.values(), *job.question_scores.values()], [*files.values(), *([dev] if dev else [])]
    )
    return job


def _name_models(models: Sequence[str]) -> dict[str, str]:
    """Returns the models by the last part of their path, or by as many parts as tell them apart."""
    [(model, count)] = Counter(models).most_common(1)
    if count > 1:
        _refuse(f"--model: expected different models, found {model} {count} times")
    parts = [Path(model).parts for model in models]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len({*names, ENSEMBLE}) == len(names) + 1:
            return dict(zip(names, models, strict=True))
    return dict(zip(models, models, strict=True))


def _prediction_files(out: str, models: list[str], files: list[str], ensemble: bool) -> dict[Target, str]:
    path = os.path.abspath(os.path.expanduser(out))
    main = [ENSEMBLE] if ensemble else models
    if len(main) == len(files) == 1:
        return {(main[0], files[0]): path}
    names = [*models, *([ENSEMBLE] if ensemble else [])]
    return {(name, file): os.path.join(path, f"{_file_name(name)}__{file}") for name in names for file in files}


def _question_score_files(out: str, models: list[str], files: list[str], ensemble: bool) -> dict[Target, str]:
    directory = os.path.abspath(os.path.expanduser(out))
    is_single = len(models) == 1
    folders = {name: "" if is_single else _file_name(name) for name in models} | ({ENSEMBLE: ""} if ensemble else {})
    return {
        (name, file): os.path.join(directory, folder, f"scores_{Path(file).stem}.parquet")
        for name, folder in folders.items()
        for file in files
    }


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


def _check_targets(targets: Sequence[str], inputs: Sequence[str]) -> None:
    for path, count in Counter(targets).items():
        if count > 1:
            _refuse(f"{path} would be written twice; give models and data files names that differ")
        if path in inputs:
            _refuse(f"{path} is an input; give another file for the answers")
        if os.path.isdir(path):
            _refuse(f"{path}: expected a file to write, found a directory")
        above = next(parent for parent in Path(path).parents if parent.exists())
        if not above.is_dir():
            _refuse(f"{above}: expected a directory to write into, found a file")


def _refuse(problem: str) -> None:
    raise ConfigError([problem], _SOURCE)
