"""The pictures of `analysis.plots` as interactive charts of plotly, for `report.html`: one function for each.

They need `pip install -c constraints.txt -e ".[plots]"`. Plotly takes texts for HTML: text of data is escaped here.
"""

import html
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any

import pandas as pd
import plotly.graph_objects as go

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
from analysis.load import columns_of
from analysis.tables import METRICS, format_number, format_score, unit_of

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dashdot", "dot")
_PATTERNS = ("", "/", ".", "x", "\\", "+", "-", "|")
_HOVER = "%{text}<extra></extra>"


def pareto_front(table: pd.DataFrame, *, metric: str = "dev.f1", cost: str = COST) -> go.Figure:
    """See `analysis.plots.pareto_front`."""
    known = table[numbers(table, metric).notna() & numbers(table, cost).notna()].sort_values(cost)
    names, scale = model_names(table), unit_of(cost).scale
    figure = _figure(cost_label(cost), score_label(metric))
    for on_front, colour, name in ((False, GREY, "others"), (True, COLOURS[0], "Pareto front")):
        models = known[known["pareto"] == on_front]
        symbol = "square" if on_front else "circle-open"
        figure.add_scatter(
            x=(models[cost] / scale).tolist(),
            y=models[metric].tolist(),
            error_y=_error_bars(models, metric),
            mode="lines+markers" if on_front else "markers",
            line={"shape": "hv", "width": 1, "color": colour},
            marker={"size": 9, "symbol": symbol, "color": colour},
            name=name,
            text=_hover_texts(models, names, metric, cost),
            hovertemplate=_HOVER,
        )
    for column, symbol in (("recommended", "diamond-open"), ("best", "star-open")):
        models = known[known[column]]
        x, y = (models[cost] / scale).tolist(), models[metric].tolist()
        marker = {"size": 18, "symbol": symbol, "color": HIGHLIGHT, "line": {"width": 2}}
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=column, hoverinfo="skip")
    if is_wide(known[cost]):
        figure.update_xaxes(type="log")
    return figure


def _error_bars(models: pd.DataFrame, metric: str) -> dict[str, Any] | None:
    if f"{metric}.low" not in models:
        return None
    above = (models[f"{metric}.high"] - models[metric]).fillna(0.0).clip(lower=0.0)
    below = (models[metric] - models[f"{metric}.low"]).fillna(0.0).clip(lower=0.0)
    return {"array": above.tolist(), "arrayminus": below.tolist(), "thickness": 1, "width": 3}


def _hover_texts(models: pd.DataFrame, names: pd.Series, metric: str, cost: str) -> list[str]:
    """What is shown of each model where the mouse is: its name, score, cost and configuration."""
    searched = [name for name in columns_of(models, "config.") if name != "config.seed"]
    unit, texts = unit_of(cost), []
    for name, (_, model) in zip(names[models.index], models.iterrows(), strict=True):
        lines = [f"trial {name}", f"{METRICS.get(metric, metric)} {format_score(model[metric])}"]
        lines += [f"{format_number(model[cost] / unit.scale)} {unit.many}"]
        lines += [f"{axis_name(name)}: {_shown(model[name])}" for name in searched if pd.notna(model[name])]
        texts.append(_lines(lines))
    return texts


def score_over_epochs(table: pd.DataFrame, *, metric: str = "dev.f1", mode: str = "max") -> go.Figure:
    """See `analysis.plots.score_over_epochs`; a click on a name hides a trial."""
    figure = _figure("epochs trained", score_label(metric))
    curves = trial_curves(table, metric, mode)
    others = with_gaps([*curves.values()][MAX_TOLD:])
    if len(others):
        style: dict[str, Any] = {"line": {"color": GREY, "width": 1}, "marker": {"size": 4}, "name": "other trials"}
        _add_curve(figure, others, metric, style)
    for (name, rows), (colour, symbol, dash) in zip(curves.items(), _styles(), strict=False):
        symbols = [symbol if done else f"{symbol}-open" for done in rows["is_finished"]]
        marker = {"symbol": symbols, "size": 8, "color": colour}
        line = {"color": colour, "dash": dash, "width": 2}
        _add_curve(figure, rows, metric, {"line": line, "marker": marker, "name": _text(name)})
    return figure


def _add_curve(figure: go.Figure, rows: pd.DataFrame, metric: str, style: dict[str, Any]) -> None:
    told = zip(trial_names(rows), rows["epochs_trained"], rows[metric], strict=True)
    hover = [
        _lines([f"trial {name}", f"epochs {format_number(x)}", f"{METRICS.get(metric, metric)} {format_score(y)}"])
        for name, x, y in told
    ]
    x, y = _nullable(rows["epochs_trained"]), _nullable(rows[metric])
    figure.add_scatter(x=x, y=y, mode="lines+markers", text=hover, hovertemplate=_HOVER, **style)


def _nullable(values: pd.Series) -> list[float | None]:
    """The values as JSON has them: a missing one, at which a line is interrupted, is null."""
    return [None if pd.isna(value) else float(value) for value in values]


def learning_rate_map(
    table: pd.DataFrame,
    *,
    metric: str = "dev.f1",
    mode: str = "max",
    x: str = LEARNING_RATE,
    y: str = "budget_epochs",
) -> go.Figure:
    """See `analysis.plots.learning_rate_map`."""
    known = table[numbers(table, metric).notna() & numbers(table, x).notna() & numbers(table, y).notna()]
    figure = _figure(_text(axis_name(x)), _text(axis_name(y)))
    hover = [
        _lines([f"trial {name}", f"{axis_name(x)} {_shown(px)}", f"{axis_name(y)} {_shown(py)}", format_score(score)])
        for name, px, py, score in zip(model_names(known), known[x], known[y], known[metric], strict=True)
    ]
    bar = {"title": {"text": score_label(metric), "side": "right"}}
    line = {"width": 1, "color": "black"}
    figure.add_scatter(
        x=known[x].astype(float).tolist(),
        y=known[y].astype(float).tolist(),
        mode="markers",
        marker={"size": 13, "color": known[metric].tolist(), "colorscale": "Viridis", "colorbar": bar, "line": line},
        text=hover,
        hovertemplate=_HOVER,
        showlegend=False,
    )
    if len(known):
        best = known.iloc[int(signed_score(known, metric, mode).argmax())]
        marker = {"size": 22, "symbol": "circle-open", "color": HIGHLIGHT, "line": {"width": 2}}
        figure.add_scatter(x=[float(best[x])], y=[float(best[y])], mode="markers", marker=marker, hoverinfo="skip")
        figure.update_traces(showlegend=False)
    if is_wide(known[x]):
        figure.update_xaxes(type="log")
    return figure


def importance(table: pd.DataFrame) -> go.Figure:
    """See `analysis.plots.importance`."""
    figure = _figure("importance by PED-ANOVA (share)", "")
    names = [_text(str(name)) for name in table["hyperparameter"]]
    figure.add_bar(x=table["importance"].tolist(), y=names, orientation="h", marker_color=COLOURS[0])
    figure.update_traces(texttemplate="%{x:.2f}", hovertemplate="%{y}: %{x:.3f}<extra></extra>")
    return figure.update_yaxes(autorange="reversed")


def f1_over_noise(table: pd.DataFrame) -> go.Figure:
    """See `analysis.plots.f1_over_noise`."""
    figure = _figure("word error rate of the transcripts (%)", "F1 (points)")
    names = model_names(table)
    for name, (colour, symbol, dash) in zip(names.unique(), _styles(), strict=False):
        rows = table[names == name]
        told = zip(rows["data_set"], rows["word_error_rate"], rows["f1"], strict=True)
        figure.add_scatter(
            x=rows["word_error_rate"].tolist(),
            y=rows["f1"].tolist(),
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol, "size": 9},
            name=_text(str(name)),
            text=[_lines([f"trial {name}", f"{each}, {rate:g} %", f"F1 {f1:.2f}"]) for each, rate, f1 in told],
            hovertemplate=_HOVER,
        )
    return figure


def ledger(table: pd.DataFrame) -> go.Figure:
    """See `analysis.plots.ledger`."""
    figure, shown = _figure("cost (device-hours)", ""), dearest(table)
    places = list(range(len(shown)))
    names = [_text(f"{name} ({status})") for name, status in zip(trial_names(shown), shown["status"], strict=True)]
    for part, colour, pattern in zip(ledger_parts(table), cycle(COLOURS), cycle(_PATTERNS), strict=False):
        marker = {"color": colour, "pattern": {"shape": pattern, "fgcolor": "white", "size": 6}}
        hours = shown[part].tolist()
        hover = [
            f"{name}<br>{part} {format_number(each)} device-hours" for name, each in zip(names, hours, strict=True)
        ]
        style = {"orientation": "h", "name": part, "marker": marker, "textposition": "none"}
        figure.add_bar(x=hours, y=places, text=hover, hovertemplate=_HOVER, **style)
    figure.update_layout(barmode="stack", height=max(320, 110 + 18 * len(shown)))
    figure.update_yaxes(autorange="reversed", tickvals=places, ticktext=names)
    if len(table) > MAX_BARS:
        figure.update_layout(title={"text": f"the {MAX_BARS} dearest of {len(table):,} trials", "font": {"size": 13}})
    return figure


def best_so_far(table: pd.DataFrame, *, metric: str = "dev.f1", cost: str = COST) -> go.Figure:
    """See `analysis.plots.best_so_far`."""
    unit = unit_of(cost)
    figure = _figure(f"spent by all trials ({unit.many})", score_label(metric))
    names = trial_names(table)
    spent = table["spent"] / unit.scale
    hover = [
        _lines([f"trial {name}", f"{METRICS.get(metric, metric)} {format_score(score)}", f"after {format_number(at)}"])
        for name, score, at in zip(names, table[metric], spent, strict=True)
    ]
    style: dict[str, Any] = {"mode": "markers", "marker": {"color": GREY}, "name": "each finished model"}
    figure.add_scatter(x=spent.tolist(), y=table[metric].tolist(), text=hover, hovertemplate=_HOVER, **style)
    for (sweep, rows), (colour, _, dash) in zip(table.groupby("sweep", sort=False), cycle(_styles()), strict=False):
        name = f"best so far, {sweep}" if table["sweep"].nunique() > 1 else "best so far"
        line = {"shape": "hv", "color": colour, "dash": dash}
        x, y = spent[rows.index].tolist(), rows["best"].tolist()
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=_text(name), hoverinfo="skip")
    return figure


def _figure(x_label: str, y_label: str) -> go.Figure:
    layout = {
        "template": "simple_white",
        "height": 380,
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "xaxis": {"title": {"text": x_label}, "automargin": True, "showgrid": True, "exponentformat": "power"},
        "yaxis": {"title": {"text": y_label}, "automargin": True, "showgrid": True},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "hovermode": "closest",
    }
    return go.Figure(layout=layout)


def _styles() -> Iterator[tuple[str, str, str]]:
    return zip(COLOURS, _SYMBOLS, cycle(_DASHES), strict=False)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(text: str) -> str:
    """Text of data such that plotly, which takes it for HTML, shows it unchanged."""
    shown = " ".join(text.split())
    return html.escape(shown if len(shown) <= 60 else f"{shown[:59]}…", quote=False)


def _lines(texts: Iterable[str]) -> str:
    return "<br>".join(map(_text, texts))
