"""Assembles the report on one or several sweeps and writes it."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.choice import Evidence, recommend_paired, weigh
from analysis.configurations import configuration_table, members_of
from analysis.frontier import COST, WITHIN_F1, FrontStep, Recommendation, front_steps, recommend
from analysis.load import Sweeps, columns_of
from analysis.sentences import (
    tell_baselines,
    tell_cautions,
    tell_choice,
    tell_difference,
    tell_no_choice,
    tell_optimism,
    tell_spent,
    tell_trials,
)
from analysis.summaries import hyperparameter_table, searched_columns, test_set_table
from analysis.tables import (
    as_texts,
    format_cost,
    format_score,
    model_name,
    readable_table,
    report_table,
    steps_table,
    to_markdown,
)
from qa_train.errors import DataError
from qa_train.storage import dump_yaml, write_text
from sweeps.records import Row

TABLE_CSV, TABLE_MD, RECOMMENDED = "table.csv", "table.md", "recommended.yaml"


@dataclass(frozen=True)
class Report:
    """What the sweeps show.

    Attributes:
        table: The finished models, best first, those that differ by their seed alone as one; see
            `analysis.tables.report_table`, `analysis.configurations.configuration_table` and, for the columns that
            question scores add, `analysis.choice.Evidence`.
        choice: The best and the recommended model, as index labels of `table`; None where no model has a score.
        steps: What more compute buys along the Pareto set, cheapest pair first.
        metric: The column that ranks.
        cost: The column that costs are compared by.
        sentences: What is best and what to train, or why nothing can be recommended.
        text: The whole report as Markdown.
        recommended: The recommended configuration as YAML for `qa_train train`; None without a `choice`.
        evidence: What the scores of single questions say of the chance in it.
        files: What `write_report` wrote.
    """

    table: pd.DataFrame
    choice: Recommendation | None
    steps: list[FrontStep]
    metric: str
    cost: str
    sentences: tuple[str, ...]
    text: str
    recommended: str | None
    evidence: Evidence
    files: tuple[Path, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Returns the result as values that JSON has; models are named by their place in `models`."""
        place = {label: position for position, label in enumerate(self.table.index)}
        return {
            "metric": self.metric,
            "cost": self.cost,
            "within_f1": self.choice.within_f1 if self.choice else None,
            "best": place[self.choice.best] if self.choice else None,
            "recommended": place[self.choice.recommended] if self.choice else None,
            "difference": asdict(self.choice.difference) if self.choice and self.choice.difference else None,
            "optimism": asdict(self.evidence.optimism) if self.evidence.optimism else None,
            "note": self.evidence.note,
            "sentences": list(self.sentences),
            "steps": [
                {"start": place[step.start], "end": place[step.end], "gain": step.gain, "extra_cost": step.extra_cost}
                for step in self.steps
            ],
            "models": self.table.astype(object).where(self.table.notna(), None).to_dict("records"),
            "files": [str(path) for path in self.files],
        }


def make_report(sweeps: Sweeps, *, within_f1: float | None = None, cost: str = COST) -> Report:
    """Ranks the finished models and chooses one.

    Args:
        sweeps: What `analysis.load.load_sweeps` read.
        within_f1: How far below the best model's dev F1 the recommended one may be, 0 or more points. By default it is
            the cheapest that cannot be told from the best on the same questions; where these scores are missing, or of
            less than 6 articles, the cheapest within 1 point.
        cost: The column to save on, such as `cost.device_s`, `cost.usd` or `cost.tflop`.

    Raises:
        DataError: If the sweeps have no such cost column, `within_f1` is negative or NaN, or a file of question scores
            is broken.
    """
    costs = columns_of(sweeps.reports, "cost.")
    if cost not in costs:
        hint = "; give the sweep's prices to have dollars" if cost == "cost.usd" else ""
        raise DataError(f"{cost}: no such cost column, expected one of {', '.join(costs)}{hint}")
    metric, mode, manifests = sweeps.metric, sweeps.mode, sweeps.manifests
    models = configuration_table(sweeps.models, manifests)
    evidence = weigh(sweeps, models, members_of(sweeps.models, manifests), cost)
    choice = None
    if within_f1 is None and evidence.questions and evidence.suffices:
        choice = recommend_paired(models, evidence.questions, metric, mode, cost)
        if choice is None and len(models):
            note = "The best model is not among those with scores of single questions, so that a margin in F1 decides."
            evidence = replace(evidence, note=f"{evidence.note} {note}".strip())
    if choice is None:
        margin = WITHIN_F1 if within_f1 is None else within_f1
        choice = recommend(models, metric, mode, cost, within_f1=margin)
    table = report_table(models.join(evidence.columns) if evidence.suffices else models, metric, mode, cost, choice)
    steps = front_steps(table, metric, mode, cost)
    if choice:
        sentences: tuple[str, ...] = tell_choice(table, choice, manifests, metric=metric, cost=cost, steps=steps)
    else:
        sentences = (tell_no_choice(sweeps),)
    text = _to_text(sweeps, table, steps, sentences, cost, evidence)
    recommended = _to_config(sweeps, table, choice, cost) if choice else None
    return Report(table, choice, steps, metric, cost, sentences, text, recommended, evidence)


def write_report(sweeps: Sweeps, out: str | Path, *, within_f1: float | None = None, cost: str = COST) -> Report:
    """Makes the report and writes `table.csv`, `table.md` and, where a model can be chosen, `recommended.yaml`.

    Files of these names in `out` are replaced, each at once; a `recommended.yaml` of an earlier report that this one
    does not bear out is removed.

    Raises:
        DataError: As `make_report` does, or if a file cannot be written.
    """
    report, out = make_report(sweeps, within_f1=within_f1, cost=cost), Path(out)
    contents = {
        TABLE_CSV: report.table.to_csv(index=False, lineterminator="\n"),
        TABLE_MD: report.text,
        RECOMMENDED: report.recommended,
    }
    for name, content in contents.items():
        if content is not None:
            write_text(out / name, content)
    if report.recommended is None:
        (out / RECOMMENDED).unlink(missing_ok=True)
    files = tuple(out / name for name, content in contents.items() if content is not None)
    return replace(report, files=files)


def _to_text(
    sweeps: Sweeps,
    table: pd.DataFrame,
    steps: list[FrontStep],
    sentences: tuple[str, ...],
    cost: str,
    evidence: Evidence,
) -> str:
    """The report as Markdown: what a person reads first stands first."""
    metric = sweeps.metric
    searched = [str(name) for manifest in sweeps.manifests.values() for name in manifest.config.get("space") or ()]
    parts = [f"# Report on {', '.join(sweeps.manifests)}", *sentences]
    parts += [evidence.note] if evidence.note and len(table) else []
    parts += [tell_optimism(evidence.optimism)] if evidence.optimism else []
    parts += tell_cautions(sweeps.manifests, cost)
    parts.append("\n".join(f"- {line}" for line in (*tell_trials(sweeps), *tell_spent(sweeps, cost))))
    if len(table):
        parts += ["## Finished models", to_markdown(readable_table(table, searched, metric=metric, cost=cost))]
        parts += [_EXPLANATION] if evidence.suffices else []
    parts += tell_baselines(sweeps.manifests)
    if steps:
        parts += ["## What more compute buys", to_markdown(steps_table(table, steps, metric=metric, cost=cost))]
    tests = test_set_table(table)
    if len(tests):
        parts += ["## Test sets", "They select nothing.", to_markdown(as_texts(tests))]
    columns = searched_columns(table, sweeps.manifests)
    by_value = hyperparameter_table(table, columns, metric, sweeps.mode)
    if len(by_value) > len(columns):
        parts += ["## What each hyperparameter did", to_markdown(as_texts(by_value))]
    return "\n\n".join(parts) + "\n"


_EXPLANATION = (
    "Intervals are over the articles of dev. The front share is how often a model is on the Pareto front when these "
    "articles are drawn anew with replacement."
)


def _to_config(sweeps: Sweeps, table: pd.DataFrame, choice: Recommendation, cost: str) -> str:
    """The recommended model's training configuration as YAML, opened by where it comes from."""
    model = table.loc[choice.recommended]
    row = sweeps.row_of(model)
    train = sweeps.manifests[model["sweep"]].config["train"]
    scores = f"dev F1 {format_score(model['dev.f1'])}, exact match {format_score(model['dev.exact_match'])}"
    by_margin = choice.within_f1 is not None
    rule = f"within {choice.within_f1:g} F1 of the best" if by_margin else "that cannot be told from the best"
    lines = [
        f"Recommended by `python -m analysis report`: the cheapest model {rule}.",
        f"Sweep {model['sweep']}, trial {model_name(table, choice.recommended)}: {scores}",
        f"Cost: {format_cost(model[cost], cost)} ({sweeps.manifests[model['sweep']].device})",
    ]
    if choice.difference:
        lines.append(f"Beside the best, {model_name(table, choice.best)}: {tell_difference(choice.difference)}")
    lines.append(f"Train it: python -m qa_train train --config {RECOMMENDED}")
    header = "".join(f"# {' '.join(line.split())}\n" for line in lines)
    return header + dump_yaml(_with_row(train, row))


def _with_row(train: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """A copy of the training configuration with the values that one trial had."""
    config = copy.deepcopy(dict(train))
    values = {key.removeprefix("config."): value for key, value in row.items() if key.startswith("config.")}
    if row.get("seed") is not None:
        values["seed"] = row["seed"]
    if isinstance(epochs := row.get("budget_epochs"), int | float) and epochs == int(epochs):
        values["num_epochs"] = int(epochs)  # of one of several models that a trial finished, not the longest
    for key, value in values.items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    return config
