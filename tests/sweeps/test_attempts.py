import json
import time
from pathlib import Path

import pytest

from qa_train.errors import DataError
from sweeps import attempts
from sweeps.attempts import ATTEMPTS, Attempt, held_times


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows; nothing is noted between start and end."""
    now = [100.0]
    monkeypatch.setattr(attempts, "ALIVE_EVERY_S", 1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_trial_that_never_started_held_nothing(tmp_path: Path) -> None:
    assert held_times(tmp_path) == []


def test_each_attempt_is_noted_with_the_time_it_took(tmp_path: Path, clock: list[float]) -> None:
    with Attempt(tmp_path) as first:
        assert (first.number, first.earlier_s) == (0, 0)
        clock[0] += 7
        assert first.held_s == 7
    clock[0] += 1000  # nobody holds anything
    with Attempt(tmp_path) as second:
        assert (second.number, second.earlier_s) == (1, 7)
        clock[0] += 3
        assert second.held_s == 10
    assert held_times(tmp_path) == [7, 3]


def test_an_end_is_noted_once(tmp_path: Path, clock: list[float]) -> None:
    attempt = Attempt(tmp_path)
    clock[0] += 5
    attempt.end()
    clock[0] += 5
    attempt.end()
    assert held_times(tmp_path) == [5]


def test_an_attempt_that_is_killed_has_been_noted_shortly_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "ALIVE_EVERY_S", 0.01)
    attempt = Attempt(tmp_path)
    deadline = time.monotonic() + 60
    while not held_times(tmp_path)[0] > 0.03:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert held_times(tmp_path)[0] <= attempt.held_s
    attempt.end()


@pytest.mark.parametrize("content", [{"a": 1}, ["x"], 3])
def test_a_note_of_another_form_is_named(tmp_path: Path, content: object) -> None:
    (tmp_path / ATTEMPTS).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"attempts.json: expected a list of seconds, found "):
        held_times(tmp_path)
