import os

import pytest

from qa_train.openmp import let_threads_sleep, sleeping_threads


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "0"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {}),
    ],
)
def test_waiting_threads_sleep_unless_the_user_decided(environment: dict[str, str], expected: dict[str, str]) -> None:
    assert sleeping_threads(environment) == expected


def test_processes_started_later_inherit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    let_threads_sleep()
    assert os.environ["GOMP_SPINCOUNT"] == "0"
