import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qa_train.config import build_config
from qa_train.errors import DataError
from qa_train.storage import write_json
from sweeps.config import SweepConfig
from sweeps.lock import LOCK, locked
from sweeps.records import RECORDS, Manifest, Row, read_manifest, write_manifest
from sweeps.status import Driver, OpenTrial, SweepStatus, read_status
from sweeps.status_text import duration, format_status

NOW = 1_800_000_000.0
CREATED = "2027-01-15T07:00:00+00:00"  # an hour before
PRICE = {"cpu-core": {"usd_per_hour": 0.05, "date": "2026-11-01", "source": "a list"}}


def row(trial_id: str, status: str = "completed", score: float | None = None, ago: float = 60, **changes: Any) -> Row:
    """The last row of a trial; keyword arguments name columns with `__` for the dot."""
    done = status == "completed"
    own: Row = {"trial_id": trial_id, "status": status, "time": NOW - ago, "config.num_epochs": 3}
    own |= {
        "config.optim.learning_rate": 2.5e-5,
        "epochs_trained": 3 if done else 1,
        "budget_epochs": 3 if done else None,
    }
    own |= {"dev.f1": score, "dev.exact_match": None if score is None else score - 10, "cost.device_s": 1800.0}
    return own | {name.replace("__", "."): value for name, value in changes.items()}


def sweep(directory: Path, rows: list[Row], num_trials: int = 4, torn: str = "", **changes: Any) -> Path:
    config = {"train": {}, "search": {"num_trials": num_trials}}
    manifest = Manifest("first", "tiny", "", CREATED, config, "dev.f1", "max", "fp32", "cpu-core", 1, {}, **changes)
    write_manifest(directory, manifest)
    (directory / RECORDS).write_text("".join(json.dumps(item) + "\n" for item in rows) + torn)
    return directory


def hold(directory: Path, ago: float = 5, pid: int | None = None, host: str | None = None) -> None:
    lock = {"host": host or socket.gethostname(), "pid": pid or os.getpid(), "heartbeat": NOW - ago}
    write_json(directory / LOCK, lock)


def start(directory: Path, trial_id: str, ago: float) -> None:
    path = directory / "trials" / trial_id / "config.json"
    write_json(path, {})
    os.utime(path, (NOW - ago, NOW - ago))


def read(directory: Path) -> SweepStatus:
    return read_status(directory, NOW)


def dead_pid() -> int:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(done.stdout)


def test_a_running_sweep_is_told_in_a_few_lines(tmp_path: Path) -> None:
    rows = [
        *(row("00000", "running", 20.0, 3000), row("00000", score=41.5, ago=1000)),
        *(row("00001", score=54.0, ago=600), row("00002", "running", 30.0, 90), row("00003", "failed")),
    ]
    sweep(tmp_path, rows, 20, prices=PRICE)
    hold(tmp_path)
    assert format_status(read(tmp_path)).splitlines() == [
        f"sweep tiny in {tmp_path}: runs, process {os.getpid()} on {socket.gethostname()}",
        "trials: 4 of 20: 2 completed, 1 failed, 1 running",
        "best so far: trial 00001, dev.f1 54.00, dev.exact_match 44.00 (num_epochs=3, optim.learning_rate=2.5e-05)",
        "runs: trial 00002, epoch 1/3, silent for 1 min",
        "cost so far: 2.00 device-hours of cpu-core ($0.10)",
        f"started {CREATED}, 1 h 0 min ago, last record 1 min ago",
    ]


def test_a_trial_costs_what_its_last_row_says(tmp_path: Path) -> None:
    rows = [
        row("0", "running", cost__device_s=100.0),
        row("0", cost__device_s=3600.0),
        row("1", "failed", cost__device_s=None),
    ]
    status = read(sweep(tmp_path, rows))
    assert (status.device_hours, status.usd) == (1.0, None)
    assert "1.00 device-hours of cpu-core (no price is known)" in format_status(status)


def test_a_trial_that_was_answered_from_other_records_costs_nothing(tmp_path: Path) -> None:
    status = read(sweep(tmp_path, [row("0"), row("1", reused_from="another/0")]))
    assert (status.device_hours, status.counts) == (0.5, {"completed": 2})


def test_a_manifest_that_counts_seeds_and_finalists_is_believed(tmp_path: Path) -> None:
    search = {"num_trials": 4, "seeds": [0, 1, 2]}
    sections = {"search": search, "finalists": {"top": 1, "seeds": [0, 1, 2]}}
    config = build_config(SweepConfig, {"train": {"data": {"train": "x"}}, **sections}, "test")
    rows = [row(f"{number:05d}-seed{seed}") for number in range(4) for seed in range(3)]
    sweep(tmp_path, rows)
    manifest = replace(read_manifest(tmp_path), config=config.model_dump(mode="json"), num_trials=config.num_trainings)
    write_manifest(tmp_path, manifest)
    status = read(tmp_path)
    assert (status.num_trials, status.has_ended) == (15, False)
    finalists = [row(f"final-00002-seed{seed}") for seed in range(3)]
    (tmp_path / RECORDS).write_text("".join(json.dumps(item) + "\n" for item in [*rows, *finalists]))
    assert read(tmp_path).has_ended


@pytest.mark.parametrize(("search", "expected"), [({"num_trials": 9}, 9), ({"num_trials": None}, None), (None, None)])
def test_of_an_older_sweep_the_configuration_tells_how_many_trials_were_asked_for(
    tmp_path: Path, search: dict[str, Any] | None, expected: int | None
) -> None:
    sweep(tmp_path, [row("0")])
    write_manifest(tmp_path, replace(read_manifest(tmp_path), config={"train": {}, "search": search}))
    assert read(tmp_path).num_trials == expected


def test_a_trial_runs_from_its_start_on_and_again_once_it_was_started_again(tmp_path: Path) -> None:
    rows = [row("00000", "interrupted", ago=500), row("00001", "interrupted", ago=500), row("00002", score=1.0)]
    sweep(tmp_path, rows)
    for trial_id, ago in (("00000", 900), ("00001", 40), ("00002", 900), ("00003", 30)):
        start(tmp_path, trial_id, ago)
    status = read(tmp_path)
    assert status.open_trials == (OpenTrial("00001", 1, 3, 40.0), OpenTrial("00003", 0, None, 30.0))
    assert status.counts == {"completed": 1, "interrupted": 1, "running": 2}
    assert "trial 00003, no report yet, started 30 s ago" in format_status(status)


def test_before_the_first_report_there_is_nothing_to_tell_of_trials(tmp_path: Path) -> None:
    status = read(sweep(tmp_path, []))
    assert (status.counts, status.best, status.silent_s, status.device_hours) == ({}, None, None, 0.0)
    (tmp_path / RECORDS).unlink()
    assert read(tmp_path) == status
    assert "trials: 0 of 4, none was started yet" in format_status(status).splitlines()


def test_where_all_failed_the_last_failure_is_told(tmp_path: Path) -> None:
    errors: list[Row] = [
        {"error.type": "QAError", "error.message": text, "error.log": f"trials/{text}"} for text in ("a", "b")
    ]
    rows = [row(str(number), "failed") | error for number, error in enumerate(errors)]
    lines = format_status(read(sweep(tmp_path, rows, 2))).splitlines()
    assert lines[1:4] == [
        "trials: 2 of 2: 2 failed",
        "best so far: no trial has finished a model",
        "last failure: trial 1: QAError: b (log: trials/b)",
    ]
    assert lines[0].endswith("ended, all trials have")


def test_a_torn_last_line_is_left_out_and_told_unless_it_is_being_written(tmp_path: Path) -> None:
    status = read(sweep(tmp_path, [row("0", score=1.0)], torn='{"trial_id": "1", "sta'))
    assert (status.counts, status.is_torn) == ({"completed": 1}, True)
    assert format_status(status).splitlines()[-1].startswith("the last line of records.jsonl is incomplete")
    hold(tmp_path)
    assert "incomplete" not in format_status(read(tmp_path))


@pytest.mark.parametrize("num_trials", [1, 2])
def test_without_a_lock_the_sweep_ended_or_can_be_resumed(tmp_path: Path, num_trials: int) -> None:
    status = read(sweep(tmp_path, [row("0", score=1.0)], num_trials))
    assert (status.driver, status.runs, status.has_ended) == (None, False, num_trials == 1)
    first = format_status(status).partition("\n")[0].partition(": ")[2]
    assert first == (
        "ended, all trials have" if num_trials == 1 else f"not running; resume with python -m sweeps resume {tmp_path}"
    )


def test_a_sweep_that_ended_with_fewer_trials_than_asked_for_has_ended(tmp_path: Path) -> None:
    status = read(sweep(tmp_path, [row("0", "failed")], num_trials=3, ended="2027-01-15T08:00:00+00:00"))
    assert status.has_ended
    assert format_status(status).splitlines()[0].endswith("ended, all trials have")


def test_a_driver_is_dead_if_it_is_silent_or_its_process_is_gone(tmp_path: Path) -> None:
    sweep(tmp_path, [row("0", "running")])
    hold(tmp_path, ago=61)
    assert not read(tmp_path).runs
    hold(tmp_path, pid=dead_pid())
    assert not read(tmp_path).runs
    hold(tmp_path, pid=dead_pid(), host="another")  # which only its heartbeat can tell
    assert read(tmp_path).driver == Driver("another", read(tmp_path).driver.pid, 5.0, True)  # type: ignore[union-attr]
    hold(tmp_path, ago=300, pid=7, host="another")
    first, *rest = format_status(read(tmp_path)).splitlines()
    assert first.endswith(
        "not running, its process 7 on another gave its last sign of life 5 min ago; "
        f"resume with python -m sweeps resume {tmp_path}"
    )
    assert "ran last: trial 0, epoch 1/3, silent for 1 min" in rest


def test_the_lock_of_a_driver_is_understood(tmp_path: Path) -> None:
    sweep(tmp_path, [])
    with locked(tmp_path):
        while not (tmp_path / LOCK).exists():
            pass
        assert read_status(tmp_path).runs
    assert read_status(tmp_path).driver is None


@pytest.mark.parametrize("content", ["[]", "{}", '{"host": "h", "pid": "x", "heartbeat": 1}', "3"])
def test_a_broken_lock_is_named(tmp_path: Path, content: str) -> None:
    (sweep(tmp_path, []) / LOCK).write_text(content)
    with pytest.raises(DataError, match=r"lock\.json: expected host, pid and heartbeat, found "):
        read(tmp_path)


def test_where_no_sweep_is_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a sweep directory, found no manifest\.json in it"):
        read(tmp_path)


def test_the_status_for_machines_is_json(tmp_path: Path) -> None:
    sweep(tmp_path, [row("0", score=1.0), row("1", "running")])
    hold(tmp_path)
    found = json.loads(json.dumps(read(tmp_path).to_plain(), allow_nan=False))
    assert found["counts"] == {"completed": 1, "running": 1}
    assert (found["best"]["trial_id"], found["runs"], found["has_ended"]) == ("0", True, False)
    assert found["open_trials"] == [{"trial_id": "1", "epochs_trained": 1, "num_epochs": 3, "silent_s": 60.0}]
    assert found["driver"]["lives"] is True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-3, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "59 min"), (3660, "1 h 1 min")),
        *((47.99 * 3600, "47 h 59 min"), (50 * 3600, "2 d 2 h")),
    ],
)
def test_a_time_span_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_reading_a_status_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = (
        "import sys; from sweeps.cli import main; status = main(['status', sys.argv[1]]); "
        "assert status == 0 and not {'ray', 'torch', 'optuna', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code, str(sweep(tmp_path, []))], check=True, capture_output=True, timeout=120)
