"""The texts behind scores: the questions of a data set, and what a model answered to them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import Sweeps
from analysis.questions import trial_directory
from qa_train.data import Example, read_squad
from qa_train.errors import QAError
from qa_train.storage import read_json, sha256_file


def find_examples(entry: Mapping[str, Any]) -> tuple[dict[str, Example], str]:
    """Reads the questions of a set, if its file is still where the sweep found it, and the same.

    Args:
        entry: Of the manifest's `data`, with `path` and `sha256`; a set that was split off a file is in that file.

    Returns:
        The questions by id, all that the file holds; and why there are none, or an empty text.
    """
    path = Path(str(entry.get("path") or ""))
    if not path.is_file():
        return {}, f"{path} is not there" if entry.get("path") else "the manifest names no file"
    try:
        if sha256_file(path) != entry.get("sha256"):
            return {}, f"{path} has changed since the sweep"
        return {example.id: example for example in read_squad(path).examples}, ""
    except QAError as error:  # texts are an extra: without them the scores are told all the same
        return {}, str(error)


def read_answers(sweeps: Sweeps, model: pd.Series, data_set: str = "dev") -> dict[str, str]:
    """Returns what a model answered by question id; nothing if that was not kept.

    Args:
        sweeps: That the model is of.
        model: A row of `sweeps.models`.
        data_set: `dev`, or `test.<name>`.

    Raises:
        DataError: If the file is there and cannot be read.
    """
    path = trial_directory(sweeps, model) / f"predictions_{data_set}_{model['budget_epochs']:g}.json"
    found = read_json(path) if path.is_file() else {}
    return {key: str(text) for key, text in found.items()} if isinstance(found, dict) else {}
