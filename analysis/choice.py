"""Which configuration to train, by the scores of each question: what cannot be told from the best, and costs least."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.frontier import COST, Recommendation, best_model, front_shares, numbers, pareto_mask, signed_score
from analysis.load import Sweeps
from analysis.questions import Questions, read_questions
from analysis.statistics import Optimism, optimism, paired_difference
from qa_train.intervals import MIN_ARTICLES, article_interval

MAX_SCORED = 1000
"""Models whose question scores are read at most, those nearest to the front; the others would change nothing."""

_FILE = "scores_dev_<epochs>.parquet"


@dataclass(frozen=True)
class Evidence:
    """What the scores of single questions say beyond the records.

    Attributes:
        questions: Dev scores of the configurations, by index label of their table; None without files.
        columns: [num_configurations, 5] `dev.f1.low`, `dev.f1.high`, `dev.exact_match.low`, `dev.exact_match.high` (of
            the 95 % intervals over articles) and `front_share` (0 to 1; only where `dev.f1` or `dev.exact_match`
            ranks); missing where there are no scores, or too few articles.
        optimism: Of the best by dev F1; None where another metric ranks, with too few articles, of a single
            configuration, or where the best has no scores.
        note: Why nothing is said of chance, or of which models; empty where all is said of all.
    """

    questions: Questions | None
    columns: pd.DataFrame
    optimism: Optimism | None
    note: str

    @property
    def suffices(self) -> bool:
        """Whether models can be told apart by them."""
        return self.questions is not None and self.questions.num_articles >= MIN_ARTICLES


def weigh(sweeps: Sweeps, table: pd.DataFrame, members: Mapping[Any, Sequence[Any]], cost: str = COST) -> Evidence:
    """Reads the scores of single questions of the configurations and says what of the records may be chance.

    Args:
        sweeps: What was loaded.
        table: [num_configurations, …] of `analysis.configurations.configuration_table`.
        members: Of `analysis.configurations.members_of`.
        cost: The column that the front weighs F1 against.

    Raises:
        DataError: If a file is there and broken.
    """
    near = _nearest_to_front(table, cost, sweeps)
    questions, missing = read_questions(sweeps, {label: members[label] for label in near})
    names = ("dev.f1.low", "dev.f1.high", "dev.exact_match.low", "dev.exact_match.high", "front_share")
    columns = pd.DataFrame(np.nan, index=table.index, columns=list(names))
    if questions is None:
        reason = f"no model has a file {_FILE}" if len(table) else "there is no model"
        return Evidence(None, columns, None, f"How far scores differ by chance is not known: {reason}.")
    if questions.num_articles < MIN_ARTICLES:
        few = f"dev holds {questions.num_articles} articles, and less than {MIN_ARTICLES} say next to nothing of others"
        return Evidence(questions, columns, None, f"How far scores differ by chance is not known: {few}.")
    labels = list(questions.labels)
    scores = {"dev.f1": questions.f1, "dev.exact_match": questions.exact_match}
    for name, rows in scores.items():
        intervals = [article_interval(row, questions.articles) for row in rows]
        columns.loc[labels, f"{name}.low"] = [each.low if each else np.nan for each in intervals]
        columns.loc[labels, f"{name}.high"] = [each.high if each else np.nan for each in intervals]
    costs = numbers(table.loc[labels], cost).to_numpy()
    if sweeps.metric in scores:
        columns.loc[labels, "front_share"] = front_shares(costs, scores[sweeps.metric], questions.articles)
    best = best_model(table, sweeps.metric, sweeps.mode, cost)
    is_told = sweeps.metric == "dev.f1" and best in labels and len(labels) > 1
    luck = optimism(questions.f1, questions.articles) if is_told else None
    return Evidence(questions, columns, luck, _tell_missing(len(table), len(near), len(missing)))


def _tell_missing(num_all: int, num_near: int, num_missing: int) -> str:
    notes = []
    if num_near < num_all:
        notes.append(f"Intervals are given for the {num_near:,} models nearest to the front, of {num_all:,}.")
    if num_missing:
        missing = f"{num_missing} of {num_near} models have no file {_FILE}, or one of other questions"
        notes.append(f"{missing}: of them no interval is given.")
    return " ".join(notes)


def _nearest_to_front(table: pd.DataFrame, cost: str, sweeps: Sweeps) -> list[Any]:
    """The models whose scores are read: those least below the best F1 that their cost buys, and the best."""
    if len(table) <= MAX_SCORED:
        return list(table.index)
    f1, costs = numbers(table, "dev.f1"), numbers(table, cost)
    by_cost = pd.DataFrame({"f1": f1, "cost": costs}).sort_values(["cost", "f1"], ascending=[True, False])
    below = by_cost["f1"].cummax() - by_cost["f1"]
    below[table.index[pareto_mask(costs.to_numpy(), signed_score(table, sweeps.metric, sweeps.mode).to_numpy())]] = -1.0
    best = best_model(table, sweeps.metric, sweeps.mode, cost)
    below[[best] if best is not None else []] = -2.0
    chosen = {*below.sort_values(kind="stable").index[:MAX_SCORED]}
    return [label for label in table.index if label in chosen]


def recommend_paired(
    table: pd.DataFrame, questions: Questions, metric: str, mode: str, cost: str = COST
) -> Recommendation | None:
    """Chooses the cheapest configuration that cannot be told from the best on the same questions.

    A cheaper one cannot be told from the best where the 95 % interval over articles of its F1 minus the best's,
    question by question, reaches 0. This is no proof that they are equal: with few articles the interval is wide, and
    what is recommended may be some points worse. So the difference and its interval are part of the answer.

    Args:
        table: [num_configurations, …] with the columns `metric`, `cost` and `dev.f1`; unique index labels.
        questions: Their dev scores, of at least 6 articles, by index label.
        metric: The column that decides which is best.
        mode: `max` or `min`.
        cost: The column to save on.

    Returns:
        The choice; None where no model has a score, or the best one has no scores of single questions.
    """
    best, place = best_model(table, metric, mode, cost), questions.place()
    if best is None or best not in place:
        return None
    costs, score = numbers(table, cost), signed_score(table, metric, mode)
    known = score.notna() & costs.notna()
    cheaper = table.index[known & ((costs < costs[best]) | costs[[best]].isna().all())]
    order = pd.DataFrame({"cost": costs[cheaper], "score": -score[cheaper]}).sort_values(["cost", "score"]).index
    num_unscored = 0
    for label in order:
        if label not in place:
            num_unscored += 1
            continue
        difference = paired_difference(questions.f1[place[label]], questions.f1[place[best]], questions.articles)
        if difference.interval is None or difference.interval.high >= 0:
            return Recommendation(best, label, None, cost, difference, num_unscored)
    none_cost = cost if known.any() else None
    return replace(Recommendation(best, best, None, none_cost), num_unscored=num_unscored)
