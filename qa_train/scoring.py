"""Scores a file of predictions against a data file."""

from pathlib import Path

from qa_train.data import describe_value, read_squad
from qa_train.errors import DataError
from qa_train.metrics import QAScores, score_predictions
from qa_train.storage import Pathlike, read_json


def score_files(data_path: str | Path, predictions_path: str | Path) -> dict[str, dict[str, float]]:
    """Scores predictions by the official rule of SQuAD 1.1.

    Args:
        data_path: Data in SQuAD form; offsets do not matter.
        predictions_path: A JSON object, {question id: answer text}.

    Returns:
        By the name of the data file (without its directories): `summarize_scores` and `num_unknown`, the number of
        predictions whose id is no question of the data. They do not count; a caller should say so.

    Raises:
        DataError: If a file cannot be read, the predictions are no object of strings, or there are some and not one
            belongs to a question of the data.
    """
    references = read_squad(data_path).references
    predictions = read_predictions(predictions_path)
    num_unknown = sum(question_id not in references for question_id in predictions)
    if predictions and num_unknown == len(predictions):
        raise DataError(
            f"{predictions_path}: expected ids of questions in {data_path}, such as {next(iter(references))!r}; found "
            f"{len(predictions)} ids that are not there, such as {next(iter(predictions))!r}; predict for this file"
        )
    summary = summarize_scores(score_predictions(predictions, references))
    return {Path(data_path).name: summary | {"num_unknown": num_unknown}}


def read_predictions(path: Pathlike) -> dict[str, str]:
    """Reads predictions, answer text by question id.

    Raises:
        DataError: If the file cannot be read or is not a JSON object whose values are all strings.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object {{question id: answer text}}, found {describe_value(content)}")
    for question_id, text in content.items():
        if not isinstance(text, str):
            raise DataError(
                f"{path}: question {question_id!r}: expected the answer as a string, found {describe_value(text)}"
            )
    return content


def summarize_scores(scores: QAScores) -> dict[str, float]:
    """Returns `exact_match`, `f1` (0 to 100), `num_questions` and `num_missing`, as commands print them."""
    return {
        "exact_match": scores.exact_match,
        "f1": scores.f1,
        "num_questions": scores.num_questions,
        "num_missing": scores.num_missing,
    }
