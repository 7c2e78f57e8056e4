"""Pictures of a sweep in matplotlib: each function draws one table into one Axes, and returns the Axes.

They need `pip install -c constraints.txt -e ".[plots]"`. Beside the colours also lines, markers and hatches differ, so
that nothing is lost in grey.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from analysis.chart_style import (
    COLOURS,
    GREY,
    HIGHLIGHT,
    LEARNING_RATE,
    MAX_BARS,
    MAX_TOLD,
    axis_name,
    cost_label,
    dearest,
    is_wide,
    ledger_parts,
    model_names,
    score_label,
    trial_curves,
    trial_names,
    with_gaps,
)
from analysis.frontier import COST, numbers, signed_score
from analysis.tables import METRICS, unit_of

_MARKERS, _LINES, _HATCHES = "oDs^vPX", ("-", "--", "-.", ":"), ("", "///", "...", "xxx", "\\\\\\", "++", "oo", "**")

_MAX_VALUES = 40


def pareto_front(table: pd.DataFrame, axes: Axes, *, metric: str = "dev.f1", cost: str = COST) -> Axes:
    """Draws score over cost: the Pareto front as steps, what is best and what is recommended, and the others in grey.

    Args:
        table: [num_models, …] of `analysis.tables.report_table`; error bars where it has `<metric>.low` and `.high`.
        axes: Drawn into.
        metric: The column that ranks.
        cost: The column that costs are compared by.
    """
    known = table[numbers(table, metric).notna() & numbers(table, cost).notna()].sort_values(cost)
    unit = unit_of(cost)
    for on_front, colour, marker, label in ((False, GREY, "o", "others"), (True, COLOURS[0], "s", "Pareto front")):
        models = known[known["pareto"] == on_front]
        x, y = models[cost].to_numpy(float) / unit.scale, models[metric].to_numpy(float)
        face = colour if on_front else "white"
        style: dict[str, Any] = {"fmt": marker, "color": colour, "mfc": face, "ms": 6, "capsize": 3, "elinewidth": 1}
        if len(models):
            axes.errorbar(x, y, yerr=_reach(models, metric), label=label, **style)
        if on_front:
            axes.step(x, y, "--", where="post", color=colour, linewidth=1)
    for column, marker, size in (("recommended", "D", 150), ("best", "*", 260)):
        models = known[known[column]]
        x, y = models[cost].to_numpy(float) / unit.scale, models[metric].to_numpy(float)
        axes.scatter(x, y, s=size, marker=marker, facecolors="none", edgecolors=HIGHLIGHT, label=column, zorder=3)
    _log_if_wide(axes, known[cost] / unit.scale)
    return _finish(axes, cost_label(cost), score_label(metric), is_empty=known.empty)


def _reach(models: pd.DataFrame, metric: str) -> np.ndarray | None:
    """[2, num_models] how far the interval reaches below and above the score; NaN where there is none."""
    if f"{metric}.low" not in models:
        return None
    score = models[metric].to_numpy(float)
    below, above = score - models[f"{metric}.low"].to_numpy(float), models[f"{metric}.high"].to_numpy(float) - score
    return np.array([below.clip(0.0), above.clip(0.0)])


def score_over_epochs(table: pd.DataFrame, axes: Axes, *, metric: str = "dev.f1", mode: str = "max") -> Axes:
    """Draws the score of each trial over its epochs; of many trials, the best are told apart and the others are grey.

    Filled markers are finished models. Of a trial that finished several, these are joined, and not what it was between.
    Of thousands of trials only the best 200 are drawn.

    Args:
        table: [num_reports, …] of `analysis.chart_tables.curve_table`.
        axes: Drawn into.
        metric: The column that is drawn.
        mode: `max` or `min`: which trials are the best.
    """
    curves = trial_curves(table, metric, mode)
    others = with_gaps([*curves.values()][MAX_TOLD:])
    if len(others):
        x, y = others["epochs_trained"], others[metric]
        axes.plot(x, y, "-", color=GREY, marker=".", ms=4, linewidth=0.7, label="other trials")
    for (name, rows), (colour, marker, dashes) in zip(curves.items(), _styles(), strict=False):
        x, y, finished = rows["epochs_trained"], rows[metric], rows[rows["is_finished"]]
        axes.plot(x, y, dashes, color=colour, marker=marker, mfc="white", ms=5, linewidth=1.6, label=_plain(name))
        axes.plot(finished["epochs_trained"], finished[metric], marker, color=colour, ms=6)
    return _finish(axes, "epochs trained", score_label(metric), is_empty=table.empty)


def learning_rate_map(
    table: pd.DataFrame,
    axes: Axes,
    *,
    metric: str = "dev.f1",
    mode: str = "max",
    x: str = LEARNING_RATE,
    y: str = "budget_epochs",
) -> Axes:
    """Draws the score of each model over its learning rate and epochs, as a colour and, of few, as a number.

    Args:
        table: [num_models, …] finished models or configurations.
        axes: Drawn into; its figure gets a colour bar.
        metric: The column that is drawn.
        mode: `max` or `min`: which model is ringed as the best.
        x: Another column than the learning rate; on a log scale where its values span more than a factor of 20.
        y: Another column than the epochs.
    """
    known = pd.DataFrame({name: numbers(table, name) for name in (x, y, metric)}).dropna()
    if len(known):
        look: dict[str, Any] = {"cmap": "viridis", "s": 90, "edgecolors": "black", "linewidths": 0.6}
        points = axes.scatter(known[x], known[y], c=known[metric].to_numpy(float), **look)
        axes.figure.colorbar(points, ax=axes, label=score_label(metric))
        best = known.iloc[int(signed_score(known, metric, mode).argmax())]
        axes.scatter(best[x], best[y], s=240, marker="o", facecolors="none", edgecolors=HIGHLIGHT)
        _log_if_wide(axes, known[x])
        axes.margins(0.1)
    if len(known) <= _MAX_VALUES:
        in_turn = known.sort_values([y, x]).itertuples(index=False, name=None)
        for (px, py, value), height in zip(in_turn, cycle((9, -14)), strict=False):  # neighbours above and below
            axes.annotate(f"{value:.3g}", (px, py), (0, height), textcoords="offset points", ha="center", fontsize=7)
    return _finish(axes, _axis(x), _axis(y), is_empty=known.empty)


def importance(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draws how much each hyperparameter mattered, as bars.

    Args:
        table: [num_hyperparameters, 2] of `analysis.importance.importance_table`.
        axes: Drawn into.
    """
    names = [_plain(str(name)) for name in table["hyperparameter"]]
    bars = axes.barh(names, table["importance"].astype(float), color=COLOURS[0])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    return _finish(axes, "importance by PED-ANOVA (share)", "", is_empty=table.empty)


def f1_over_noise(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draws F1 over the word error rate of the transcripts, one line for each of the first models.

    Args:
        table: [num_scores, 6] of `analysis.chart_tables.noise_table`.
        axes: Drawn into.
    """
    names = model_names(table)
    for name, (colour, marker, dashes) in zip(names.unique(), _styles(), strict=False):
        rows = table[names == name]
        label = _plain(str(name))
        axes.plot(rows["word_error_rate"], rows["f1"], dashes, color=colour, marker=marker, label=label)
    return _finish(axes, "word error rate of the transcripts (%)", "F1 (points)", is_empty=table.empty)


def ledger(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draws what each trial cost as a bar of its parts, the dearest on top; of many trials the 30 dearest.

    Args:
        table: [num_trials, 3 + num_parts] of `analysis.chart_tables.ledger_table`.
        axes: Drawn into.
    """
    parts, shown = ledger_parts(table), dearest(table)
    places, left = np.arange(len(shown)), np.zeros(len(shown))
    names = [_plain(f"{name} ({status})") for name, status in zip(trial_names(shown), shown["status"], strict=True)]
    for part, colour, hatch in zip(parts, cycle(COLOURS), cycle(_HATCHES), strict=False):
        widths = shown[part].to_numpy(float)
        axes.barh(places, widths, left=left, color=colour, hatch=hatch, edgecolor="white", label=part)
        left = left + widths
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    if len(table) > MAX_BARS:
        axes.text(1.0, 0.0, f"the {MAX_BARS} dearest of {len(table):,} trials ", transform=axes.transAxes, ha="right")
    return _finish(axes, "cost (device-hours)", "", is_empty=table.empty)


def best_so_far(table: pd.DataFrame, axes: Axes, *, metric: str = "dev.f1", cost: str = COST) -> Axes:
    """Draws the best score so far over all that each sweep had spent, and every model in grey.

    Args:
        table: [num_scored_models, 6] of `analysis.summaries.best_so_far`.
        axes: Drawn into.
        metric: The column that is followed.
        cost: The column that was added up.
    """
    scale = unit_of(cost).scale
    axes.plot(table["spent"] / scale, table[metric], ".", color=GREY, label="each finished model")
    for (sweep, rows), (colour, _, dashes) in zip(table.groupby("sweep", sort=False), cycle(_styles()), strict=False):
        label = f"best so far, {sweep}" if table["sweep"].nunique() > 1 else "best so far"
        axes.step(rows["spent"] / scale, rows["best"], dashes, where="post", color=colour, label=_plain(label))
    return _finish(axes, f"spent by all trials ({unit_of(cost).many})", score_label(metric), is_empty=table.empty)


def parallel_coordinates(
    table: pd.DataFrame, axes: Axes, *, columns: Sequence[str], metric: str = "dev.f1", mode: str = "max"
) -> Axes:
    """Draws each model as a line through its hyperparameters, each from its smallest value to its largest.

    Args:
        table: [num_models, …] finished models or configurations.
        axes: Drawn into.
        columns: Of hyperparameters that are numbers; one that spans more than a factor of 20 is on a log scale.
        metric: The column that ranks; the lines of the best fifth are thick and blue.
        mode: `max` or `min`.
    """
    score = signed_score(table, metric, mode).dropna()
    used = [name for name in columns if numbers(table.loc[score.index], name).nunique() > 1]
    heights = pd.DataFrame({name: _height(numbers(table.loc[score.index], name)) for name in used})
    ranks, places = score.rank(pct=True).sort_values(), np.arange(len(used))
    lines = [np.column_stack([places, heights.loc[label]]) for label in ranks.index]
    widths = [1.8 if rank > 0.8 else 0.7 for rank in ranks]
    axes.add_collection(LineCollection(lines if used else [], colors=[*map(_grade, ranks)], linewidths=widths))
    axes.autoscale_view()
    axes.set_xticks(places, [f"{_axis(name)}\n{_span(numbers(table, name))}" for name in used])
    axes.set_yticks([0, 1], ["smallest", "largest"])
    return _finish(axes, f"thick: the best fifth by {METRICS.get(metric, metric)}", "", is_empty=not used)


def _grade(rank: float) -> str:
    """A grey for a rank from 0 to 1, or for the best fifth a colour that is darker than all greys."""
    return COLOURS[0] if rank > 0.8 else str(round(0.85 - 0.3 * rank, 2))


def _height(values: pd.Series) -> pd.Series:
    """The values from 0, the smallest, to 1, the largest."""
    scaled: pd.Series = values.transform(np.log) if is_wide(values) else values
    heights: pd.Series = (scaled - scaled.min()) / (scaled.max() - scaled.min())
    return heights


def _span(values: pd.Series) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"


def _log_if_wide(axes: Axes, values: pd.Series) -> None:
    if is_wide(values):
        axes.set_xscale("log")


def _styles() -> Iterator[tuple[str, str, str]]:
    """Colours, markers and lines that differ from each other, in this order."""
    return zip(COLOURS, _MARKERS, cycle(_LINES), strict=False)


def _axis(column: str) -> str:
    return _plain(axis_name(column))


def _plain(text: str) -> str:
    """Text of data as matplotlib shows it unchanged: dollars begin no formula, and a first `_` hides no label."""
    shown = " ".join(text.split()).replace("$", r"\$")
    shown = shown if len(shown) <= 40 else f"{shown[:39]}…"
    return f" {shown}" if shown.startswith("_") else shown


def _finish(axes: Axes, x_label: str, y_label: str, *, is_empty: bool) -> Axes:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both" if y_label else "x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if is_empty:
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", va="center", color=GREY)
    elif axes.get_legend_handles_labels()[0]:
        look: dict[str, Any] = {"fontsize": 8, "frameon": False, "labelspacing": 0.8, "markerscale": 0.8}
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, **look)
    return axes
