import json
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from analysis.load import load_sweeps
from analysis.report import write_report
from tests.analysis.fixtures import HOSTILE, HOSTILE_ID, full_sweep, manifest, model, row, write_sweep
from tests.analysis.pages import Page, check_page


def page_of(sweep: Path, rates: dict[str, float] | None = None) -> Page:
    report = write_report(load_sweeps(sweep), sweep / "report", word_error_rates=rates)
    return check_page(report.files[-1].read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(full_sweep(tmp_path_factory.mktemp("full")), {"clean": 22.7, "noise_v2": 54.8})


def test_it_says_what_the_text_says_with_charts_failures_errors_and_the_manifest(page: Page) -> None:
    assert page.texts["h1"] == ["Report on demo-1"]
    assert page.texts["p"][0].startswith("The best model is ")
    headings = page.texts["h2"]
    wanted = ["Charts", "Finished models", "What more compute buys", "Test sets", "What each hyperparameter did"]
    assert headings[:6] == [*wanted, "Failed trials"]
    assert headings[6].startswith("Where 0")
    assert headings[7:] == ["Questions answered worst", "Manifest"]
    assert list(page.charts) == [
        "pareto_front",
        "best_so_far",
        "score_over_epochs",
        "learning_rate_map",
        "importance",
        "f1_over_noise",
        "ledger",
    ]
    (shown,) = page.texts["pre"]
    assert json.loads(shown)["sweep_id"] == "demo-1"


def test_each_chart_has_data_labels_with_units_and_hover_texts(page: Page) -> None:
    for name, chart in page.charts.items():
        assert any(len(trace["x"]) for trace in chart["data"]), name
        assert chart["layout"]["xaxis"]["title"]["text"], name
    hovered = page.charts["pareto_front"]["data"][0]["text"][0]
    assert hovered.startswith("trial 0") and "device-hours<br>" in hovered and "learning rate: " in hovered


def test_every_heading_of_a_table_can_be_clicked(page: Page) -> None:
    assert len(page.texts["th"]) == len(page.texts["button"]) > 20
    assert {attributes.get("type") for tag, attributes in page.elements if tag == "button"} == {"button"}


def test_text_of_data_is_shown_as_text_wherever_it_comes_from(tmp_path: Path) -> None:
    rows = [
        model(HOSTILE_ID, 70.0, 1.0, config__optim__schedule=HOSTILE),
        model("b", 71.0, 2.0, test__x__f1=1.0),
        row("c", status="failed", budget_epochs=None, dev__f1=None, error__type=HOSTILE, error__message=HOSTILE),
    ]
    changes = {"note": HOSTILE, "device": HOSTILE, "name": HOSTILE}
    config = manifest().config | {"space": {"optim.schedule": {"choice": [HOSTILE]}}}
    write_sweep(tmp_path, rows, sweep_id=HOSTILE, config=config, baselines={f"{HOSTILE}.f1": 1.0}, **changes)
    page = page_of(tmp_path)
    assert len(page.scripts) == 2
    assert "b" not in {tag for tag, _ in page.elements}
    assert page.texts["title"] == [f"Report on {HOSTILE}"]
    assert page.texts["td"].count(HOSTILE) >= 4
    assert json.loads(page.texts["pre"][0])["note"] == HOSTILE
    hovered = [text for chart in page.charts.values() for trace in chart["data"] for text in trace.get("text") or ()]
    assert any("&lt;script&gt;" in text for text in hovered)
    assert not any("<script" in text or "<b>" in text for text in hovered)


def test_plotly_can_stand_in_a_script_element() -> None:
    assert "</script" not in get_plotlyjs().lower()


def test_a_sweep_in_which_nothing_was_finished_has_a_page_without_tables_of_models(tmp_path: Path) -> None:
    page = page_of(write_sweep(tmp_path, []))
    assert page.texts["h2"] == ["Manifest"]
    assert page.texts["p"][0] == "Nothing to recommend: no model has been finished."
