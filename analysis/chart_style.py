"""What static and interactive pictures share: colours, labels with units, and how many of a thing are told apart.

The colours are those of Okabe and Ito (2008, "Color universal design"), which the colour-blind tell apart.
"""

from collections.abc import Iterable

import pandas as pd

from analysis.frontier import signed_score
from analysis.tables import METRICS, unit_of

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
"""In an order in which neighbours differ in grey too."""
HIGHLIGHT, GREY = "#D55E00", "#8c8c8c"
LEARNING_RATE = "config.optim.learning_rate"
MAX_TOLD = 7
"""So many lines are told apart in one picture; more would be a tangle."""
MAX_LINES = 200
"""So many lines are drawn at all."""
MAX_BARS = 30


def score_label(metric: str) -> str:
    """Returns a metric's name with its unit, for an axis."""
    name = METRICS.get(metric, metric)
    return f"{name} (nats)" if metric.endswith("loss") else f"{name} (points)"


def cost_label(cost: str) -> str:
    """Returns a cost's unit for an axis, such as `cost (device-hours)`."""
    return f"cost ({unit_of(cost).many})"


def axis_name(column: str) -> str:
    """Returns what a column of a configuration is called on an axis."""
    names = {"budget_epochs": "epochs of the model", "config.num_epochs": "epochs"}
    return names.get(column) or column.removeprefix("config.").removeprefix("optim.").replace("_", " ")


def is_wide(values: pd.Series) -> bool:
    """Returns whether values are positive and span more than a factor of 20, so that they need a log scale."""
    known = values.astype(float).dropna()
    return bool(len(known)) and bool(known.min() > 0) and bool(known.max() > 20 * known.min())


def trial_names(table: pd.DataFrame) -> pd.Series:
    """Returns each row's trial as one text, with its sweep where the table has several."""
    names = table["trial_id"].astype("str").str.replace(r"\s+", " ", regex=True)
    return table["sweep"].astype(str) + "/" + names if table["sweep"].nunique() > 1 else names


def model_names(table: pd.DataFrame) -> pd.Series:
    """Returns each row's model as one text: its trial and, where trials finished several, its epochs."""
    names = trial_names(table)
    if table.empty or table.groupby(["sweep", "trial_id"])["budget_epochs"].nunique().max() < 2:
        return names
    return names + "@" + table["budget_epochs"].map("{:g}".format)


def trial_curves(table: pd.DataFrame, metric: str, mode: str) -> dict[str, pd.DataFrame]:
    """Returns what is drawn of each trial of a `curve_table`, by its name, the best trial first.

    Of a trial that finished several models these are joined, and not what it was between; of others all reports are.
    There are at most `MAX_LINES`; the first `MAX_TOLD` can be told apart in a picture.
    """
    curves = {str(name): rows.sort_values("epochs_trained") for name, rows in table.groupby(trial_names(table))}
    best = {name: signed_score(rows, metric, mode).max() for name, rows in curves.items()}
    names = sorted(curves, key=lambda name: -best[name])[:MAX_LINES]
    return {name: _joined(curves[name]) for name in names}


def _joined(rows: pd.DataFrame) -> pd.DataFrame:
    finished = rows[rows["is_finished"]]
    return finished if len(finished) > 1 else rows


def with_gaps(curves: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Puts curves below each other with a row of missing values after each, where a line is interrupted."""
    gap = pd.DataFrame({"epochs_trained": [float("nan")]})
    parts = [part for rows in curves for part in (rows, gap)]
    return pd.concat(parts, ignore_index=True) if parts else gap[:0]


def ledger_parts(table: pd.DataFrame) -> list[str]:
    """Returns the names of the parts that a `ledger_table` has."""
    return [str(name) for name in table.columns if name not in ("sweep", "trial_id", "status")]


def dearest(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the dearest trials of a `ledger_table`, the dearest first, as many as one picture has bars."""
    costs = table[ledger_parts(table)].sum(axis=1)
    return table.loc[costs.sort_values(ascending=False, kind="stable").index[:MAX_BARS]]
