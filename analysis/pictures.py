"""Draws the panels of a report into files: PNG pictures by matplotlib, data for interactive charts by plotly."""

import io
import warnings
from collections.abc import Callable, Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import charts, plots
from analysis.panels import Panel

_DPI = 150
_PLOTS: dict[str, Callable[..., Axes]] = {
    "pareto_front": plots.pareto_front,
    "best_so_far": plots.best_so_far,
    "score_over_epochs": plots.score_over_epochs,
    "learning_rate_map": plots.learning_rate_map,
    "importance": plots.importance,
    "parallel_coordinates": plots.parallel_coordinates,
    "f1_over_noise": plots.f1_over_noise,
    "ledger": plots.ledger,
}
_CHARTS = {
    "pareto_front": charts.pareto_front,
    "best_so_far": charts.best_so_far,
    "score_over_epochs": charts.score_over_epochs,
    "learning_rate_map": charts.learning_rate_map,
    "importance": charts.importance,
    "f1_over_noise": charts.f1_over_noise,
    "ledger": charts.ledger,
}


def draw_png(panel: Panel) -> bytes:
    """Returns a panel as a PNG picture."""
    height = max(4.2, 1.2 + 0.2 * min(len(panel.table), 30)) if panel.name == "ledger" else 4.2
    figure = Figure(figsize=(7.2, height), layout="constrained")
    _PLOTS[panel.name](panel.table, figure.subplots(), **panel.options)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing")  # a name in a script that the font lacks
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def chart_json(panels: Iterable[Panel]) -> dict[str, str]:
    """Returns the panels that are interactive, by name, as plotly's JSON."""
    return {
        panel.name: str(_CHARTS[panel.name](panel.table, **panel.options).to_json())
        for panel in panels
        if panel.name in _CHARTS
    }
