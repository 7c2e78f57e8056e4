"""Opens report.html in a headless Chromium, as a person would: Debian's `chromium`, or the tests are skipped."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from analysis.load import load_sweeps
from analysis.report import write_report
from tests.analysis.fixtures import full_sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@dataclass(frozen=True)
class Opened:
    """A page, what went wrong in it, and what it asked for."""

    page: Page
    problems: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    sweep = full_sweep(tmp_path_factory.mktemp("full"))
    rates = {"clean": 22.7, "noise_v2": 54.8}
    file = write_report(load_sweeps(sweep), sweep / "report", word_error_rates=rates).files[-1]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        found = Opened(page, [], [])
        page.on("console", lambda message: found.problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: found.problems.append(str(error)))
        page.on("dialog", lambda dialog: found.problems.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: found.requests.append(request.url))
        page.goto(file.as_uri())
        page.locator(".js-plotly-plot").nth(6).wait_for()
        yield found
        browser.close()


def cells(table: Locator, heading: str) -> list[str]:
    """The texts of a column, from top to bottom."""
    names = table.locator("th").all_inner_texts()
    place = next(number for number, name in enumerate(names) if name.rstrip(" ▲▼") == heading)
    return table.locator(f"tbody td:nth-child({place + 1})").all_inner_texts()


def test_every_chart_is_drawn(opened: Opened) -> None:
    figures = opened.page.locator("figure")
    assert figures.count() == 7
    for number in range(7):
        figure = figures.nth(number)
        marks = figure.locator(".scatterlayer .point, .barlayer .point")
        assert marks.count() > 0, figure.get_attribute("id")
        box = figure.locator(".main-svg").first.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 250


def test_a_mark_says_what_it_is_where_the_mouse_is(opened: Opened) -> None:
    figure = opened.page.locator("#pareto_front")
    figure.scroll_into_view_if_needed()
    box = figure.locator(".scatterlayer .point").first.bounding_box()
    assert box is not None
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = figure.locator(".hoverlayer .hovertext")
    label.wait_for()
    shown = label.first.text_content() or ""
    assert shown.startswith("trial 0")
    assert "device-hours" in shown


def test_a_click_sorts_a_table_and_a_second_one_the_other_way(opened: Opened) -> None:
    table = opened.page.locator("section", has=opened.page.get_by_role("heading", name="Finished models")).locator(
        "table"
    )
    first = [float(text) for text in cells(table, "dev F1")]
    assert first == sorted(first, reverse=True)
    head = table.get_by_role("button", name="device-hours")
    head.click()
    hours = [float(text) for text in cells(table, "device-hours")]
    assert hours == sorted(hours)
    assert [float(text) for text in cells(table, "dev F1")] != first
    head.click()
    assert [float(text) for text in cells(table, "device-hours")] == sorted(hours, reverse=True)
    table.get_by_role("button", name="test.clean.f1").click()
    texts = cells(table, "test.clean.f1")
    known = [float(text) for text in texts if text != "-"]
    assert known == sorted(known)
    assert texts[len(known) :] == ["-"] * (len(texts) - len(known))


def test_a_click_on_a_name_hides_its_marks(opened: Opened) -> None:
    figure = opened.page.locator("#ledger")
    figure.scroll_into_view_if_needed()
    marks = figure.locator(".barlayer .trace")
    before = marks.count()
    figure.locator(".legendtoggle").first.click()
    expect(marks).to_have_count(before - 1, timeout=30_000)


def test_on_paper_everything_is_open_and_no_table_is_wider_than_the_page(opened: Opened) -> None:
    assert len(opened.page.pdf(format="A4")) > 50_000
    assert opened.page.locator("details").first.get_attribute("open") is not None
    opened.page.set_viewport_size({"width": 760, "height": 1075})
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 760


def test_it_asked_for_nothing_and_nothing_went_wrong(opened: Opened) -> None:
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == opened.requests[:1]
    assert opened.problems == []
