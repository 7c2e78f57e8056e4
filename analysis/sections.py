"""The sections of a report, as they are written in Markdown and in HTML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.chart_tables import failure_table
from analysis.choice import Evidence
from analysis.error_analysis import ErrorAnalysis
from analysis.frontier import FrontStep
from analysis.load import Sweeps
from analysis.sentences import tell_baselines, tell_cautions, tell_optimism, tell_spent, tell_trials
from analysis.summaries import hyperparameter_table, searched_columns, test_set_table
from analysis.tables import MISSING, as_texts, format_score, readable_table, steps_table, to_markdown

_EXPLANATION = (
    "Intervals are over the articles of dev. The front share is how often a model is on the Pareto front when these "
    "articles are drawn anew with replacement."
)


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: Its heading.
        lead: Paragraphs that stand first.
        points: A list below them.
        table: [num_rows, num_columns] of str; None for none.
        notes: Paragraphs below the table.
    """

    title: str
    lead: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    table: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()


def make_sections(
    sweeps: Sweeps,
    table: pd.DataFrame,
    steps: Sequence[FrontStep],
    sentences: Sequence[str],
    cost: str,
    evidence: Evidence,
) -> list[Section]:
    """Returns the sections of a report; what a person reads first stands first.

    Args:
        sweeps: What was loaded.
        table: Of `analysis.tables.report_table`.
        steps: Of `analysis.frontier.front_steps`.
        sentences: What is best and what to train.
        cost: The column that costs are compared by.
        evidence: What the scores of single questions say.
    """
    metric, manifests = sweeps.metric, sweeps.manifests
    searched = [str(name) for manifest in manifests.values() for name in manifest.config.get("space") or ()]
    baselines = tell_baselines(manifests)
    lead = [*sentences, *([evidence.note] if evidence.note and len(table) else [])]
    lead += [tell_optimism(evidence.optimism)] if evidence.optimism else []
    lead += tell_cautions(manifests, cost)
    points = (*tell_trials(sweeps), *tell_spent(sweeps, cost))
    title = f"Report on {', '.join(manifests)}"
    found = [Section(title, tuple(lead), points, notes=() if len(table) else baselines)]
    if len(table):
        shown = readable_table(table, searched, metric=metric, cost=cost)
        notes = (*([_EXPLANATION] if evidence.suffices else []), *baselines)
        found.append(Section("Finished models", table=shown, notes=notes))
    if steps:
        bought = steps_table(table, steps, metric=metric, cost=cost)
        found.append(Section("What more compute buys", table=bought))
    tests = test_set_table(table)
    if len(tests):
        found.append(Section("Test sets", ("They select nothing.",), table=as_texts(tests)))
    columns = searched_columns(table, manifests)
    by_value = hyperparameter_table(table, columns, metric, sweeps.mode)
    if len(by_value) > len(columns):
        found.append(Section("What each hyperparameter did", table=as_texts(by_value)))
    failed = failure_table(sweeps)
    if len(failed):
        found.append(Section("Failed trials", table=as_texts(failed)))
    return found


def error_sections(errors: ErrorAnalysis, name: str) -> list[Section]:
    """Returns what a model gets wrong, in one or two sections.

    Args:
        errors: The model's.
        name: Of the model.
    """
    means = f"{errors.num_questions:,} {errors.data_set} questions, F1 {format_score(errors.f1)}"
    title = f"Where {name} goes wrong"
    if errors.groups.empty:
        return [Section(title, (f"{means}. {errors.note}".strip(),))]
    lead = (f"{means}, exact match {format_score(errors.exact_match)}. Intervals are over articles.",)
    found = [Section(title, lead, table=_group_texts(errors.groups))]
    if len(errors.worst):
        told = (
            f"{errors.num_zero:,} of {errors.num_questions:,} questions have F1 0. Of equal ones those come first "
            "whose answer the recogniser kept, each article in turn."
        )
        shown = as_texts(errors.worst.drop(columns=["exact_match"]))
        found.append(Section("Questions answered worst", (told,), table=shown))
    return found


def _group_texts(groups: pd.DataFrame) -> pd.DataFrame:
    ends = zip(groups["low"], groups["high"], strict=True)
    texts = {
        "group": groups["group"],
        "value": groups["value"],
        "questions": groups["num_questions"].map("{:,}".format),
        "F1": groups["f1"].map(format_score),
        "F1, 95 %": [MISSING if pd.isna(low) else f"{low:.2f} to {high:.2f}" for low, high in ends],
        "exact match": groups["exact_match"].map(format_score),
    }
    return pd.DataFrame(texts, dtype="str")


def sections_to_markdown(sections: Iterable[Section]) -> str:
    """Returns the sections as one Markdown text, the first under a heading of the first level."""
    parts = []
    for number, section in enumerate(sections):
        parts += [f"{'##' if number else '#'} {section.title}", *section.lead]
        parts += ["\n".join(f"- {line}" for line in section.points)] if section.points else []
        parts += [to_markdown(section.table)] if section.table is not None else []
        parts += section.notes
    return "\n\n".join(parts) + "\n"
