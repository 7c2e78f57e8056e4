"""Assembles the report on one or several sweeps and writes it."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.choice import Evidence, recommend_paired, weigh
from analysis.configurations import configuration_table, members_of
from analysis.error_analysis import analyze_errors
from analysis.frontier import COST, WITHIN_F1, FrontStep, Recommendation, front_steps, recommend
from analysis.load import Sweeps, columns_of
from analysis.panels import NAMES, make_panels
from analysis.questions import scores_path
from analysis.sections import Section, error_sections, make_sections, sections_to_markdown
from analysis.sentences import tell_choice, tell_difference, tell_no_choice
from analysis.tables import format_cost, format_score, model_name, report_table
from qa_train.errors import DataError
from qa_train.storage import dump_yaml, write_bytes
from sweeps.records import Row

TABLE_CSV, TABLE_MD, RECOMMENDED, PAGE = "table.csv", "table.md", "recommended.yaml", "report.html"
_DRAWING = ("jinja2", "matplotlib", "plotly")


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
        sections: The whole report in parts.
        recommended: The recommended configuration as YAML for `qa_train train`; None without a `choice`.
        evidence: What the scores of single questions say of the chance in it.
        files: What `write_report` wrote.
        omitted: What `write_report` could not write, and why; empty if nothing.
    """

    table: pd.DataFrame
    choice: Recommendation | None
    steps: list[FrontStep]
    metric: str
    cost: str
    sentences: tuple[str, ...]
    sections: tuple[Section, ...]
    recommended: str | None
    evidence: Evidence
    files: tuple[Path, ...] = ()
    omitted: str = ""

    @property
    def text(self) -> str:
        """The whole report as Markdown."""
        return sections_to_markdown(self.sections)

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
            "omitted": self.omitted,
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
    sections = make_sections(sweeps, table, steps, sentences, cost, evidence)
    sections += _tell_errors(sweeps, table, choice) if choice else []
    recommended = _to_config(sweeps, table, choice, cost) if choice else None
    return Report(table, choice, steps, metric, cost, sentences, tuple(sections), recommended, evidence)


def write_report(
    sweeps: Sweeps,
    out: str | Path,
    *,
    within_f1: float | None = None,
    cost: str = COST,
    with_plots: bool = True,
    word_error_rates: Mapping[str, float] | None = None,
) -> Report:
    """Makes the report and writes it: tables, what is recommended, pictures and `report.html`.

    `table.csv` and `table.md` are always written, `recommended.yaml` where a model can be chosen, `report.html` and a
    PNG file for each picture where the extra `plots` is installed. Files of these names in `out` are replaced, each at
    once; those of an earlier report that this one has not are removed.

    Args:
        sweeps: What `analysis.load.load_sweeps` read.
        out: A directory; it need not exist.
        within_f1: See `make_report`.
        cost: See `make_report`.
        with_plots: Whether pictures and `report.html` are wanted.
        word_error_rates: Of data sets in percent, by name; see `analysis.chart_tables.word_error_rates`.

    Raises:
        DataError: As `make_report` does, if a word error rate is negative or NaN, or if a file cannot be written.
    """
    report, out = make_report(sweeps, within_f1=within_f1, cost=cost), Path(out)
    contents = {
        TABLE_CSV: report.table.to_csv(index=False, lineterminator="\n").encode(),
        TABLE_MD: report.text.encode(),
    }
    if report.recommended is not None:
        contents[RECOMMENDED] = report.recommended.encode()
    drawn, omitted = _draw(sweeps, report, word_error_rates) if with_plots else ({}, "")
    contents |= drawn
    for name, content in contents.items():
        write_bytes(out / name, content)
    for name in {RECOMMENDED, PAGE, *(f"{name}.png" for name in NAMES)} - contents.keys():
        (out / name).unlink(missing_ok=True)
    return replace(report, files=tuple(out / name for name in contents), omitted=omitted)


def _draw(sweeps: Sweeps, report: Report, rates: Mapping[str, float] | None) -> tuple[dict[str, bytes], str]:
    """The pictures and the page by their files' names; or none, and what is missing to draw them."""
    panels = make_panels(sweeps, report.table, report.cost, rates)
    # Otherwise the first picture on a machine comes with a warning that fonts are being looked for.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    try:
        from analysis.page import make_page
        from analysis.pictures import chart_json, draw_png
    except ModuleNotFoundError as error:
        if (library := str(error.name).partition(".")[0]) not in _DRAWING:
            raise
        return {}, f'{PAGE} and the plots need {library}, not found; pip install -c constraints.txt -e ".[plots]"'
    drawn = {f"{panel.name}.png": draw_png(panel) for panel in panels}
    page = make_page(report.sections, panels, chart_json(panels), sweeps.manifests)
    return {**drawn, PAGE: page.encode(errors="replace")}, ""


def _tell_errors(sweeps: Sweeps, table: pd.DataFrame, choice: Recommendation) -> list[Section]:
    """What the recommended model gets wrong, if it has scores of single questions."""
    model = sweeps.models.loc[choice.recommended]
    if not scores_path(sweeps, model).is_file():
        return []
    seed = f" (seed {model['seed']})" if table.loc[choice.recommended, "num_seeds"] > 1 else ""
    return error_sections(analyze_errors(sweeps, model), f"{model_name(table, choice.recommended)}{seed}")


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
    for key, value in values.items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    if isinstance(epochs := row.get("budget_epochs"), int | float) and epochs == int(epochs):
        config["num_epochs"] = int(epochs)  # of one of several models that a trial finished, not the longest
        if isinstance(optim := config.get("optim"), dict) and optim.get("schedule") == "trunk":
            config["budgets"] = [int(epochs)]  # a branch equals a run of its own; the trial's other budgets do not fit
    return config
