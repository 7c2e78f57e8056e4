import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from analysis import plots
from analysis.chart_style import COLOURS, MAX_BARS, MAX_LINES, MAX_TOLD
from analysis.chart_tables import curve_table, ledger_table, noise_table
from analysis.importance import importance_table
from analysis.load import Sweeps, load_sweeps
from analysis.report import make_report
from analysis.summaries import best_so_far, searched_columns
from tests.analysis.fixtures import HOSTILE_ID, full_sweep, model, write_sweep

SEARCHED = ["config.num_epochs", "config.optim.learning_rate", "config.optim.warmup_ratio"]
DRAWN: dict[Callable[..., Axes], tuple[Callable[[Sweeps, pd.DataFrame], pd.DataFrame], dict[str, Any], str, str]] = {
    plots.pareto_front: (lambda sweeps, table: table, {}, "cost (device-hours)", "dev F1 (points)"),
    plots.best_so_far: (
        lambda sweeps, table: best_so_far(sweeps),
        {},
        "spent by all trials (device-hours)",
        "dev F1 (points)",
    ),
    plots.score_over_epochs: (lambda sweeps, table: curve_table(sweeps), {}, "epochs trained", "dev F1 (points)"),
    plots.learning_rate_map: (lambda sweeps, table: table, {}, "learning rate", "epochs of the model"),
    plots.importance: (
        lambda sweeps, table: importance_table(table, SEARCHED, sweeps.manifests, "dev.f1", "max"),
        {},
        "importance by PED-ANOVA (share)",
        "",
    ),
    plots.parallel_coordinates: (
        lambda sweeps, table: table,
        {"columns": SEARCHED},
        "thick: the best fifth by dev F1",
        "",
    ),
    plots.f1_over_noise: (
        lambda sweeps, table: noise_table(table, {"clean": 22.7, "noise_v2": 54.8}),
        {},
        "word error rate of the transcripts (%)",
        "F1 (points)",
    ),
    plots.ledger: (lambda sweeps, table: ledger_table(sweeps), {}, "cost (device-hours)", ""),
}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    return load_sweeps(full_sweep(tmp_path_factory.mktemp("full")))


@pytest.fixture(scope="module")
def table(sweeps: Sweeps) -> pd.DataFrame:
    return make_report(sweeps).table


def axes() -> Axes:
    return Figure().subplots()


def look_at(drawn: Axes) -> None:
    """Renders the picture, which is when a name that is taken for a formula fails."""
    assert isinstance(drawn.figure, Figure)
    drawn.figure.savefig(io.BytesIO(), format="png", dpi=40)


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_a_picture_is_drawn_into_the_axes_given_with_units(
    draw: Callable[..., Axes], sweeps: Sweeps, table: pd.DataFrame
) -> None:
    make, options, x_label, y_label = DRAWN[draw]
    given, content = axes(), make(sweeps, table)
    assert len(content)
    assert draw(content, given, **options) is given
    assert (given.get_xlabel(), given.get_ylabel()) == (x_label, y_label)
    assert given.has_data()
    assert "nothing to draw" not in [text.get_text() for text in given.texts]
    look_at(given)


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_of_an_empty_table_the_picture_says_so(draw: Callable[..., Axes], sweeps: Sweeps, table: pd.DataFrame) -> None:
    make, options, *_ = DRAWN[draw]
    drawn = draw(make(sweeps, table)[:0], axes(), **options)
    assert "nothing to draw" in [text.get_text() for text in drawn.texts]
    look_at(drawn)


def test_the_front_is_where_the_table_says_with_its_intervals(table: pd.DataFrame) -> None:
    drawn = plots.pareto_front(table, axes())
    (bars,) = [each for each in drawn.containers if each.get_label() == "Pareto front"]
    front = table[table["pareto"]].sort_values("cost.device_s")
    x, y = bars.lines[0].get_data()  # type: ignore[attr-defined]
    assert x.tolist() == pytest.approx((front["cost.device_s"] / 3600).tolist())
    assert y.tolist() == pytest.approx(front["dev.f1"].tolist())
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])  # type: ignore[attr-defined]
    assert ends == pytest.approx(front[["dev.f1.low", "dev.f1.high"]].to_numpy())
    assert [each.get_label() for each in drawn.collections if each.get_label() in {"best", "recommended"}] == [
        "recommended",
        "best",
    ]


def test_lines_differ_by_more_than_their_colour(sweeps: Sweeps) -> None:
    drawn = plots.score_over_epochs(curve_table(sweeps), axes())
    told = [line for line in drawn.lines if not str(line.get_label()).startswith("_")]
    assert len(told) == MAX_TOLD + 1
    assert len({(line.get_marker(), line.get_linestyle()) for line in told}) == len(told)


def test_of_thousands_of_trials_the_best_are_drawn_and_the_others_are_one_line() -> None:
    count = MAX_LINES + 50
    table = pd.DataFrame(
        {
            "sweep": "s",
            "trial_id": [f"{number:05d}" for number in range(count) for _ in range(2)],
            "epochs_trained": [1.0, 2.0] * count,
            "is_finished": [False, True] * count,
            "dev.f1": [float(number) for number in range(count) for _ in range(2)],
        }
    )
    drawn = plots.score_over_epochs(table, axes())
    (others,) = [line for line in drawn.lines if line.get_label() == "other trials"]
    heights = np.asarray(others.get_ydata(), float)
    assert len(heights) == 3 * (MAX_LINES - MAX_TOLD)
    assert np.isnan(heights[2::3]).all()
    assert np.nanmin(heights) == 50.0
    assert next(line.get_label() for line in drawn.lines if line is not others) == f"{count - 1:05d}"


def test_a_trial_that_finished_several_models_is_a_line_through_these() -> None:
    table = pd.DataFrame({"sweep": "s", "trial_id": "a", "epochs_trained": [1.0, 2.0, 3.0, 4.0]})
    table = table.assign(is_finished=[False, True, False, True], **{"dev.f1": [1.0, 2.0, 0.5, 3.0]})
    line, points = plots.score_over_epochs(table, axes()).lines
    assert np.asarray(line.get_ydata()).tolist() == np.asarray(points.get_ydata()).tolist() == [2.0, 3.0]


def test_colours_differ_also_in_grey() -> None:
    def grey(colour: str) -> float:
        red, green, blue = to_rgb(colour)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    assert min(abs(grey(one) - grey(other)) for one, other in pairwise(COLOURS)) > 0.1


def test_the_parts_of_a_trial_add_up_along_its_bar_and_only_the_dearest_are_shown() -> None:
    count = MAX_BARS + 5
    trials = {"sweep": "s", "trial_id": [f"{n:05d}" for n in range(count)], "status": "completed"}
    table = pd.DataFrame({**trials, "training": np.arange(count, dtype=float), "evaluating": 1.0})
    drawn = plots.ledger(table, axes())
    training, evaluating = drawn.containers
    assert [bar.get_width() for bar in training] == [float(n) for n in range(count - 1, 4, -1)]
    assert [bar.get_x() for bar in evaluating] == [bar.get_width() for bar in training]
    assert any(f"the {MAX_BARS} dearest of {count} trials" in text.get_text() for text in drawn.texts)


@pytest.mark.parametrize("name", [HOSTILE_ID, "$x^$", "_hidden", "a\nb", "x" * 300])
def test_a_name_is_shown_as_it_is(name: str, tmp_path: Path) -> None:
    rows = [model(name, 70.0, 1.0, test__a__f1=1.0, test__b__f1=2.0), model("b", 71.0, 2.0, test__a__f1=1.0)]
    sweeps = load_sweeps(write_sweep(tmp_path, rows))
    table = make_report(sweeps).table
    for drawn in (
        plots.score_over_epochs(curve_table(sweeps), axes()),
        plots.f1_over_noise(noise_table(table, {"a": 1.0, "b": 2.0}), axes()),
        plots.ledger(ledger_table(sweeps), axes()),
    ):
        look_at(drawn)
    legend = plots.f1_over_noise(noise_table(table, {"a": 1.0, "b": 2.0}), axes()).get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text().replace(r"\$", "$").strip()[:20] == " ".join(name.split())[:20]


def test_a_loss_is_best_where_it_is_lowest(tmp_path: Path) -> None:
    rows = [model(name, 70.0, 1.0, eval_loss=loss) for name, loss in (("a", 1.0), ("b", 2.0))]
    sweeps = load_sweeps(write_sweep(tmp_path, rows, metric="eval_loss", mode="min"))
    drawn = plots.learning_rate_map(make_report(sweeps).table, axes(), metric="eval_loss", mode="min")
    assert drawn.figure.axes[1].get_ylabel() == "dev loss (nats)"
    assert searched_columns(sweeps.models, sweeps.manifests) == SEARCHED[:2]
