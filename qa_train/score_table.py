"""Shows scores as tables."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

_ROWS = {
    "f1": "F1",
    "exact_match": "exact match",
    "per_answer_f1": "F1, mean over answers (not official)",
    "per_answer_exact_match": "exact match, mean over answers (not official)",
    "study_f1": "F1 as in the study (not official)",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "answerable_share": "answerable questions, %",
    "best_possible_f1": "best F1 that a span can have",
}
_COLUMNS = {
    "num_questions": "questions",
    "f1": "F1",
    "exact_match": "exact match",
    "num_missing": "missing",
    "num_empty": "blank",
    "answerable_share": "answerable, %",
    "best_possible_f1": "best F1",
}


def format_scores(name: str, scores: Mapping[str, Any], articles: bool = False) -> str:
    """Returns a line with the official scores and a table of all; scores that are None are left out.

    Args:
        name: Of the data file.
        scores: What `scoring.score_examples` returns.
        articles: Whether a second table shows the articles.
    """
    line = (
        f"{name}: F1 {scores['f1']:.2f}, exact match {scores['exact_match']:.2f} on {scores['num_questions']} "
        f"questions, {scores['num_missing']} of them without a prediction (counted as wrong)"
    )
    if scores["num_empty"]:
        line += f", {scores['num_empty']} with a blank one"
    rows = [
        [label, _cell(scores[key]), _interval(scores.get(f"{key}_interval"))]
        for key, label in _ROWS.items()
        if scores.get(key) is not None
    ]
    headers = ["", "score", f"95 % interval over {scores['num_articles']} articles"]
    if not any(interval for _, _, interval in rows):
        rows, headers = [row[:2] for row in rows], headers[:2]
    text = f"{line}\n\n" + _table(rows, headers)
    if articles:
        cells = [[title, *(_cell(article[key]) for key in _COLUMNS)] for title, article in scores["articles"].items()]
        text += "\n\n" + _table(cells, ["article", *_COLUMNS.values()])
    return text


def _cell(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"


def _interval(ends: list[float] | None) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""


def _table(rows: list[list[str]], headers: list[str]) -> str:
    # Without disable_numparse a title such as '1973' would be set as a number.
    return tabulate(rows, headers, disable_numparse=True, colalign=["left", *["right"] * (len(headers) - 1)])
