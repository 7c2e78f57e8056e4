"""For CI (`-p tests.ci_plugin`): what must not be skipped fails if it is."""

from collections.abc import Generator

import pytest

Reports = Generator[None, pytest.TestReport, pytest.TestReport]
CollectReports = Generator[None, pytest.CollectReport, pytest.CollectReport]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Reports:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("ray"):
        report.outcome, report.longrepr = "failed", f"a test marked ray must not be skipped here: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> CollectReports:
    report = yield
    if report.skipped:  # a whole file, whose tests and their marks are not known then
        report.outcome, report.longrepr = "failed", f"a file of tests must not be skipped here: {report.longrepr}"
    return report
