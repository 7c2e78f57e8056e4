import itertools
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from benchmarks import sweep_scale
from benchmarks.sweep_scale import (
    DISK,
    EVENTS,
    GOAL,
    NUM_TENTHS,
    SAMPLER,
    Result,
    Stopwatch,
    as_dict,
    format_result,
    growth,
    main,
    measure,
)
from sweeps.records import Row, read_records
from sweeps.retention import Retention

OURS = {
    "answers",
    "curve files",
    "journal",
    "kept models",
    "limits",
    "recorder",
    "searcher",
    "stopping",
    "study mirror",
}
NUM_TRIALS, AT_ONCE = 100, 4


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Lines:
    """A clock that counts the lines of Python that are executed, so that no other job disturbs it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> float:
        return float(self.count)

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.count += event == "line"
        return self.trace

    def measure(self, directory: Path) -> Result:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            return measure(NUM_TRIALS, AT_ONCE, "random", directory, clock=self)
        finally:
            sys.settrace(before)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Result, Path]]:
    directory = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield Lines().measure(directory), directory


def test_our_work_does_not_grow_with_the_number_of_trials(counted: tuple[Result, Path]) -> None:
    result, _ = counted
    for event in EVENTS:
        assert growth(result.work(event)) < 1.1, (event, result.work(event))
    for part in OURS:
        values = result.per_report(part)
        assert min(values) > 0, part


def test_every_part_of_a_real_sweep_is_measured_and_the_records_are_whole(counted: tuple[Result, Path]) -> None:
    result, directory = counted
    assert {*result.parts} == OURS | {SAMPLER, DISK}
    rows = read_records(directory)
    assert result.num_reports == len(rows)
    assert result.count("start of a trial") == result.count("end of a trial") == NUM_TRIALS
    last = {row["trial_id"]: row for row in rows}
    assert {row["status"] for row in last.values()} == {"completed", "stopped_early"}
    assert "identity" in rows[0]
    assert len([*directory.glob("trials/*/tensorboard/*")]) == NUM_TRIALS
    assert len([*directory.glob("trials/*/model")]) == 3
    assert not [*directory.glob("trials/*/checkpoints")]
    assert (directory / "study" / "journal.log").stat().st_size > 0


def test_work_that_grows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, seen = Retention.record, list[Row]()

    def looks_at_all_rows(self: Retention, row: Row) -> None:
        seen.append(row)
        for each in seen:
            _ = each["trial_id"]
        record(self, row)

    monkeypatch.setattr(Retention, "record", looks_at_all_rows)
    result = Lines().measure(tmp_path)
    assert growth(result.work("report")) > GOAL
    assert growth(result.per_report("kept models")) > 3


def test_the_time_of_a_part_is_without_that_of_parts_within() -> None:
    ticks = itertools.count()  # each look at the clock takes a second
    watch = Stopwatch(lambda: float(next(ticks)))
    inner = watch.wrap("inner", lambda: None)
    outer = watch.wrap("outer", lambda: [inner(), inner()])
    outer()
    assert watch.take() == {"outside": 2, "outer": 3, "inner": 2}
    assert watch.take() == {"outside": 1}


def test_tenths_are_those_of_the_reports() -> None:
    result = Result()
    result.add("start of a trial", {"recorder": 9.0})
    for number in range(19):
        result.add("report", {"recorder": float(number), DISK: 1.0, "outside": 5.0})
    result.add("end of a trial", {"recorder": 40.0, SAMPLER: 2.0})
    assert result.tenths.tolist() == [0, *(number // 2 for number in range(20))]
    assert result.work("report") == [2 * tenth + 0.5 for tenth in range(9)] + [18.0]
    assert math.isnan(result.work("end of a trial")[0])
    assert result.work("end of a trial")[9] == 40.0
    assert result.per_report("recorder")[0] == (9 + 0 + 1) / 2
    assert result.per_report(SAMPLER) == [0.0] * 9 + [1.0]
    assert result.parts == ["recorder", SAMPLER, DISK]


def test_the_result_is_printed_as_tables_or_json(counted: tuple[Result, Path]) -> None:
    result, _ = counted
    text = format_result(result)
    assert all(name in text for name in (*EVENTS, *OURS, SAMPLER, DISK, "KiB for each trial"))
    plain = json.loads(json.dumps(as_dict(result), allow_nan=False))
    assert plain["events"]["report"]["growth"] == growth(result.work("report"))
    assert len(plain["parts_per_report_s"]["journal"]) == NUM_TENTHS
    assert plain["records_bytes"] > 0


def test_the_command_measures_what_was_asked_for(
    counted: tuple[Result, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def measured(*arguments: Any) -> Result:
        asked.append(arguments[:3])
        assert arguments[3].is_dir()
        return counted[0]

    monkeypatch.setattr(sweep_scale, "measure", measured)
    assert main(["--trials", "300", "--at-once", "5", "--searcher", "tpe", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert asked == [(300, 5, "tpe")]
    assert printed["settings"] == {"trials": 300, "at_once": 5, "searcher": "tpe"}
    assert main([]) == 0
    assert asked[1] == (2000, 64, "random")
    assert "our work, ms" in capsys.readouterr().out
