"""Which questions a model gets wrong: by kind of question, length of answer and context, and what was misheard."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import Sweeps
from analysis.question_texts import find_examples, read_answers
from analysis.questions import read_scores, scores_path
from qa_train.data import Example, read_squad
from qa_train.errors import DataError
from qa_train.intervals import article_interval
from qa_train.metrics import normalize_answer
from qa_train.question_scores import QuestionScores

NUM_WORST = 20

GROUPS = ("question type", "answer length", "context length", "answer words lost")
QUESTION_TYPES = ("who", "when", "where", "why", "which", "what", "how many", "how", "other")
_ASKING = re.compile(r"\b(who(?:m|se)?|when|where|why|which|what|how(?: (?:many|much))?)\b", re.IGNORECASE)
_FAMILY = {"whom": "who", "whose": "who", "how much": "how many"}


@dataclass(frozen=True)
class ErrorAnalysis:
    """Where one model's score comes from.

    Attributes:
        data_set: `dev`, or `test.<name>`.
        num_questions: That were scored.
        f1: Mean over them, 0 to 100.
        exact_match: The same.
        num_zero: How many have F1 0.
        groups: [num_groups, 7] `group` (one of `GROUPS`), `value`, `num_questions`, the mean `f1` and `exact_match`,
            and `low` and `high` of the 95 % interval of F1 over articles (within 0 and 100), missing under 6 of them.
            Empty without the texts of the questions.
        worst: [num_worst, 4 to 8] those with the lowest F1, of equal ones those first whose answer the recogniser kept,
            and of these each article in turn: `question_id`, `article`, `f1`, `exact_match`; where texts are found also
            `question`, `answers` (those expected), `lost` (share of answer words that the transcript lacks, 0 to 1);
            and `prediction` where kept.
        note: Why texts are missing; empty where they are not.
    """

    data_set: str
    num_questions: int
    f1: float
    exact_match: float
    num_zero: int
    groups: pd.DataFrame
    worst: pd.DataFrame
    note: str

    def to_plain(self) -> dict[str, Any]:
        """Returns all of it as JSON's types."""
        tables = {name: _records(getattr(self, name)) for name in ("groups", "worst")}
        return {**vars(self), **tables}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table.astype(object).where(table.notna(), None).itertuples(index=False, name=None)
    return [dict(zip(map(str, table.columns), row, strict=True)) for row in rows]


def analyze_errors(
    sweeps: Sweeps, model: pd.Series, data_set: str = "dev", data: Path | None = None, num_worst: int = NUM_WORST
) -> ErrorAnalysis:
    """Groups the questions by what can make them hard.

    Args:
        sweeps: That the model is of.
        model: A row of `sweeps.models`.
        data_set: `dev`, or `test.<name>` for a model that was scored on that set.
        data: The data file with the questions; by default the one that the manifest names, if it is still the same.
        num_worst: How many of the worst questions are wanted.

    Raises:
        DataError: If the model has no scores of single questions, a file is broken, or `data` lacks one of the
            questions.
    """
    path = scores_path(sweeps, model, data_set)
    if not path.is_file():
        why = "sweeps of earlier versions have none" if data_set == "dev" else "finalists alone are scored on it"
        raise DataError(f"{path}: expected the scores of single questions, found no file ({why})")
    scores = read_scores(path)
    examples, note = _examples(scores, sweeps.manifests[str(model["sweep"])].data.get(data_set) or {}, data)
    table = pd.DataFrame(vars(scores))
    answers = read_answers(sweeps, model, data_set)
    kinds = [describe_question(example) for example in examples]
    if examples:
        table["question"] = [example.question for example in examples]
        table["answers"] = [" | ".join(dict.fromkeys(answer.text for answer in each.answers)) for each in examples]
        table["lost"] = [lost_share(example) for example in examples]
    if answers:
        table["prediction"] = [answers.get(key, "") for key in scores.question_id]
    worst = _worst(table, num_worst)
    f1, exact_match = float(table["f1"].mean()), float(table["exact_match"].mean())
    num_zero = int((table["f1"] == 0).sum())
    return ErrorAnalysis(data_set, len(table), f1, exact_match, num_zero, _group(table, kinds), worst, note)


def _worst(table: pd.DataFrame, count: int) -> pd.DataFrame:
    same = ["f1", "lost"] if "lost" in table else ["f1"]
    turn = table.groupby([*same, "article"], dropna=False, sort=False).cumcount()
    order = table[same].assign(turn=turn).sort_values([*same, "turn"], kind="stable").index
    return table.loc[order[:count]].reset_index(drop=True)


def _examples(scores: QuestionScores, entry: Mapping[str, Any], data: Path | None) -> tuple[list[Example], str]:
    """The examples of the scored questions in their order, or none of them and why."""
    if data is not None:
        found = {example.id: example for example in read_squad(data).examples}
        missing = [key for key in scores.question_id if key not in found]
        if missing:
            raise DataError(
                f"{data}: expected the {len(scores.question_id)} questions that the model was scored on, found "
                f"{len(missing)} of them missing, such as {missing[0]!r}"
            )
    else:
        found, reason = find_examples(entry)
        if not {*scores.question_id} <= found.keys():
            reason = reason or "it does not hold the questions that were scored"
            return [], f"The questions' texts are not known ({reason}); name their file with --data."
    return [found[key] for key in scores.question_id], ""


def describe_question(example: Example) -> dict[str, str]:
    """Returns what a question is grouped by: for each of `GROUPS` its value."""
    references = _references(example)
    length = min(map(len, references), default=0)
    return {
        "question type": question_type(example.question),
        "answer length": _bin(length, (1, 2, 3, 5), "word", "words") if references else "no answer",
        "context length": _bin(len(example.context.split()), (100, 150, 250), "word", "words"),
        "answer words lost": _lost_name(lost_share(example)),
    }


def question_type(question: str) -> str:
    """Returns the first word that asks, such as `who`; one of `QUESTION_TYPES`.

    `whom` and `whose` count as `who`, `how much` as `how many`.
    """
    found = _ASKING.search(question)
    word = found.group().lower() if found else "other"
    word = _FAMILY.get(word, word)
    return word if word in QUESTION_TYPES else "other"  # a dotted I or a long s matches i or s


def lost_share(example: Example) -> float:
    """Returns the share of answer words that the recogniser lost: that occur nowhere in the transcript.

    Words are those of the official normalisation. Of several reference answers the best preserved counts.

    Returns:
        From 0 to 1; NaN for a question without an answer of words.
    """
    heard = set(normalize_answer(example.context).split())
    shares = [sum(word not in heard for word in words) / len(words) for words in _references(example)]
    return min(shares, default=float("nan"))


def _references(example: Example) -> list[list[str]]:
    texts = dict.fromkeys(normalize_answer(answer.text) for answer in example.answers)
    return [text.split() for text in texts if text]


def _bin(value: int, ends: Sequence[int], one: str, many: str) -> str:
    """The bin that a number falls in; each goes from the end of the one before to its own end."""
    start = 0
    for end in ends:
        if value <= end:
            span = f"{end}" if end == start + 1 else f"{start + 1} to {end}" if start else f"up to {end}"
            return f"{span} {one if span == '1' else many}"
        start = end
    return f"over {ends[-1]} {many}"


def _lost_name(share: float) -> str:
    if np.isnan(share):
        return "no answer"
    if share in (0.0, 1.0):
        return "all" if share else "none"
    return "up to half" if share <= 0.5 else "over half"


_ORDER: dict[str, Callable[[str], Any]] = {
    "question type": QUESTION_TYPES.index,
    "answer words lost": ("none", "up to half", "over half", "all", "no answer").index,
}


def _group(table: pd.DataFrame, kinds: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    rows = [row for group in GROUPS if kinds for row in _rows_of(table, group, [kind[group] for kind in kinds])]
    names = ["group", "value", "num_questions", "f1", "low", "high", "exact_match"]
    return pd.DataFrame(rows, columns=names)


def _rows_of(table: pd.DataFrame, group: str, values: Sequence[str]) -> Iterator[dict[str, Any]]:
    order = _ORDER.get(group, _first_number)
    column = pd.Series(values, index=table.index)
    for value in sorted(set(values), key=order):
        members = table[column == value]
        interval = article_interval(members["f1"].to_numpy(), members["article"].tolist())
        yield {
            "group": group,
            "value": value,
            "num_questions": len(members),
            "f1": members["f1"].mean(),
            "low": max(interval.low, 0.0) if interval else np.nan,
            "high": min(interval.high, 100.0) if interval else np.nan,
            "exact_match": members["exact_match"].mean(),
        }


def _first_number(value: str) -> tuple[int, bool]:
    found = re.search(r"\d+", value)
    return int(found.group()) if found else 10**9, value.startswith("over")
