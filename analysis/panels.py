"""Which pictures a report has: of each its table, its title and what it shows; none where there is nothing to see."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.chart_style import LEARNING_RATE
from analysis.chart_tables import curve_table, ledger_table, noise_table, word_error_rates
from analysis.frontier import numbers
from analysis.importance import importance_table
from analysis.load import Sweeps
from analysis.summaries import best_so_far, searched_columns

NAMES = (
    "pareto_front",
    "best_so_far",
    "score_over_epochs",
    "learning_rate_map",
    "importance",
    "parallel_coordinates",
    "f1_over_noise",
    "ledger",
)
"""Of all pictures: of the functions in `analysis.plots` and of the files, such as `ledger.png`."""


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        name: One of `NAMES`.
        title: A few words.
        caption: What is seen in it, in a sentence or two.
        table: What it is drawn from.
        options: Keyword arguments of the function that draws it.
    """

    name: str
    title: str
    caption: str
    table: pd.DataFrame
    options: dict[str, Any] = field(default_factory=dict)


def make_panels(
    sweeps: Sweeps, table: pd.DataFrame, cost: str, rates: Mapping[str, float] | None = None
) -> tuple[Panel, ...]:
    """Returns the pictures that there is something to see in, in the order of `NAMES`.

    Args:
        sweeps: What was loaded.
        table: Of `analysis.report.Report`.
        cost: The column that costs are compared by.
        rates: Word error rates of data sets in percent, by name; see `analysis.chart_tables.word_error_rates`.

    Raises:
        DataError: If a rate is negative or NaN.
    """
    metric, mode, manifests = sweeps.metric, sweeps.mode, sweeps.manifests
    scored = table[numbers(table, metric).notna()]
    columns = searched_columns(table, manifests)
    ranges = [name for name in columns if numbers(scored, name).nunique() > 1]
    panels = (
        Panel(
            "pareto_front",
            "What compute buys",
            f"Each point is a finished model. None beats one on the front and costs no more.{_bars(table)}",
            scored[numbers(scored, cost).notna()],
            {"metric": metric, "cost": cost},
        ),
        Panel(
            "best_so_far",
            "The best so far",
            "How good the best finished model was once so much had been spent, trials that failed included.",
            best_so_far(sweeps, cost),
            {"metric": metric, "cost": cost},
        ),
        Panel(
            "score_over_epochs",
            "Over the epochs",
            "Filled points are finished models; a score on the way, before the learning rate has decayed, is none.",
            curve_table(sweeps),
            {"metric": metric, "mode": mode},
        ),
        Panel(
            "learning_rate_map",
            "Learning rate and epochs",
            "The lighter, the higher the score; the best model is ringed.",
            scored if _is_spread(scored) else scored[:0],
            {"metric": metric, "mode": mode},
        ),
        Panel(
            "importance",
            "What mattered",
            "How much each hyperparameter mattered for being among the best models: a hint, no more.",
            importance_table(table, columns, manifests, metric, mode),
        ),
        Panel(
            "parallel_coordinates",
            "All hyperparameters",
            "Each line is a finished model; the best fifth are thick.",
            scored if len(ranges) > 1 and len(scored) > 2 else scored[:0],
            {"metric": metric, "mode": mode, "columns": ranges},
        ),
        Panel(
            "f1_over_noise",
            "Where the recogniser errs more",
            "F1 over the word error rate of the transcripts, of the first models of the table with such scores.",
            noise_table(table, word_error_rates(manifests, rates)),
        ),
        Panel(
            "ledger",
            "What the time went to",
            "The parts are measured one by one; what they leave open is unexplained.",
            ledger_table(sweeps),
        ),
    )
    return tuple(panel for panel in panels if len(panel.table))


def _bars(table: pd.DataFrame) -> str:
    return " Bars are 95 % intervals over articles." if "dev.f1.low" in table else ""


def _is_spread(scored: pd.DataFrame) -> bool:
    return any(numbers(scored, name).nunique() > 1 for name in (LEARNING_RATE, "budget_epochs")) and bool(
        numbers(scored, LEARNING_RATE).notna().any()
    )
