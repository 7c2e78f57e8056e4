import math
from typing import Any

import pytest

from qa_train.config import build_config
from sweeps.config import SweepConfig
from sweeps.placement import Placement
from sweeps.progress import Progress
from sweeps.records import Row

PRICE = {"cpu-core": {"usd_per_hour": 36.0, "date": "2026-11-01", "source": "a list"}}


def progress(
    at_once: int = 1, cpus: int = 1, num_trials: int = 4, rows: list[Row] | None = None, **more: Any
) -> Progress:
    """Of a sweep that begins at 1,000 s, whose trials train 4 epochs if nothing else is said."""
    plain = {"train": {"data": {"train": "x"}, "num_epochs": 4}, "search": {"num_trials": num_trials}} | more
    config = build_config(SweepConfig, plain, "test")
    return Progress(config, Placement(1, cpus, 0, at_once), "cpu-core", 1000.0, rows or [])


def row(trial_id: str, epochs: int, of: int = 4, device_s: float | None = None, **changes: Any) -> Row:
    """A report of a trial of a core whose epochs take 10 s."""
    done = epochs == of
    own: Row = {"trial_id": trial_id, "status": "completed" if done else "running", "config.num_epochs": of}
    own |= {"epochs_trained": epochs, "budget_epochs": epochs if done else None, "dev.f1": 10.0 * epochs}
    return own | {"cost.device_s": 10.0 * epochs if device_s is None else device_s} | changes


def test_all_that_is_worth_knowing_is_told_in_a_few_lines() -> None:
    found = progress(at_once=2, prices=PRICE)
    found.started("00000", {"optim.learning_rate": 2.5e-5}, 1000)
    found.started("00001", {"num_epochs": 5}, 1000)
    for epochs in range(1, 5):
        found.record(row("00000", epochs) | {"config.optim.learning_rate": 2.5e-5}, 1000 + 10 * epochs)
    found.record(row("00001", 2, 5), 1040)
    found.started("00002", {"num_epochs": 3}, 1040)
    assert found.lines(1045) == [
        "best so far: trial 00000, dev.f1 40.00 (num_epochs=4, optim.learning_rate=2.5e-05)",
        "runs: trial 00001, epoch 2/5, dev.f1 20.00",
        "runs: trial 00002, started 5 s ago",
        "trials: 3 of 4: 1 completed, 2 running",
        # 3 epochs of 00001, 3 of 00002 and 4 of one to come, less the 5 s that both are in their epochs: 90 s of two
        "cost so far: 0.02 device-hours of cpu-core ($0.60), 45 s elapsed, about 45 s left",
    ]


def test_before_anything_is_known_nothing_is_claimed() -> None:
    found = progress()
    assert found.lines(1003) == [
        "trials: 0 of 4, none was started yet",
        "cost so far: 0.00 device-hours of cpu-core (no price is known), 3 s elapsed",
    ]
    found.started("00000", {}, 1003)
    found.record(row("00000", 3), 1033)
    assert found.left_s(1033) is None


def test_no_time_left_is_estimated_from_trials_that_failed() -> None:
    found = progress()
    found.started("00000", {}, 1000)
    found.record(row("00000", 2), 1020)
    found.record({"trial_id": "00000", "status": "failed", "cost.device_s": 21.0, "config.num_epochs": 4}, 1021)
    assert found.left_s(1021) is None
    assert found.lines(1021)[0] == "trials: 1 of 4: 1 failed"


def test_time_left_counts_down_within_an_epoch_but_not_below_its_end() -> None:
    found = progress(num_trials=2)
    found.record(row("00000", 4), 1040)
    found.started("00001", {}, 1040)
    assert [found.left_s(1040 + after) for after in (0, 4, 10, 25)] == [40.0, 36.0, 30.0, 30.0]
    found.record(row("00001", 1), 1070)
    assert found.left_s(1070) == 30.0


def test_a_trial_that_is_alone_at_the_end_takes_as_long_as_if_others_ran() -> None:
    found = progress(at_once=4, num_trials=2)
    found.record(row("00000", 1, 1), 1010)
    found.started("00001", {"num_epochs": 8}, 1010)
    assert found.left_s(1010) == 80.0


def test_trials_to_come_are_as_long_as_those_that_ended_or_run() -> None:
    found = progress(at_once=2, num_trials=3)
    found.started("00000", {"num_epochs": 1}, 1000)
    found.started("00001", {"num_epochs": 9}, 1000)
    found.record(row("00000", 1, 1), 1010)
    # (80 of the one that runs, 50 of a trial of (1 + 9) / 2 epochs) on two devices, but at least the longest alone
    assert found.left_s(1010) == 80.0
    found = progress(at_once=1, num_trials=3)
    found.record(row("00000", 1, 1), 1010)
    found.started("00001", {"num_epochs": 9}, 1010)
    assert found.left_s(1010) == 90.0 + 50.0


def test_a_stopped_trial_tells_how_long_trials_are() -> None:
    found = progress(num_trials=3)
    found.record(row("00000", 4), 1040)
    found.record(row("00001", 2, status="stopped_early"), 1060)
    assert found.left_s(1060) == 30.0
    assert found.lines(1060)[1] == "trials: 2 of 3: 1 completed, 1 stopped early"


def test_a_trial_that_was_answered_from_the_records_costs_nothing_and_tells_no_speed() -> None:
    found = progress(num_trials=2)
    found.record(row("00000", 4, reused_from="an-earlier-sweep/00007"), 1000)
    assert found.left_s(1001) is None
    assert found.lines(1001)[1:] == [
        "trials: 1 of 2: 1 completed",
        "cost so far: 0.00 device-hours of cpu-core (no price is known), 1 s elapsed",
    ]


def test_several_devices_a_trial_do_not_make_the_sweep_longer() -> None:
    found = progress(cpus=4, num_trials=2)
    found.record(row("00000", 4, device_s=160.0), 1040)
    assert found.left_s(1040) == 40.0


@pytest.mark.parametrize(
    ("stop", "left_s"),
    [
        ({"max_wall_s": 50}, 10.0),
        ({"max_wall_s": 30}, 0.0),
        ({"max_wall_s": 5000}, 120.0),
        ({"max_device_hours": 1 / 60}, 20.0),
        ({"max_usd": 0.5}, 10.0),
    ],
)
def test_a_limit_ends_the_sweep_sooner(stop: dict[str, float], left_s: float) -> None:
    found = progress(stop=stop, prices=PRICE)
    found.record(row("00000", 4), 1040)
    remaining = found.left_s(1040)
    assert remaining is not None
    assert math.isclose(remaining, left_s)


def test_a_resumed_sweep_knows_its_earlier_runs_and_a_trial_goes_on_in_it() -> None:
    rows = [
        row("00000", 4),
        row("00001", 2),
        row("00001", 2, status="interrupted"),
        row("00002", 1, status="interrupted"),
    ]
    found = progress(rows=rows)
    assert found.lines(1000)[1] == "trials: 3 of 4: 1 completed, 2 interrupted"
    found.started("00001", {}, 1000)
    assert found.lines(1002)[1:3] == [
        "runs: trial 00001, epoch 2/4, started 2 s ago",
        "trials: 3 of 4: 1 completed, 1 interrupted, 1 running",
    ]
    assert found.left_s(1000) == 20.0 + 2 * 40.0  # one trial that was interrupted may start from its beginning


def test_a_trial_that_is_started_again_after_a_failure_runs_on_where_it_was() -> None:
    found = progress()
    found.started("00000", {}, 1000)
    found.record(row("00000", 2), 1020)
    again: Row = {"trial_id": "00000", "status": "running", "config.num_epochs": 4, "error.type": "TrialProcessDied"}
    found.record(again, 1025)
    found.started("00000", {}, 1026)
    assert found.lines(1030)[:2] == ["runs: trial 00000, epoch 2/4, dev.f1 20.00", "trials: 1 of 4: 1 running"]


def test_of_many_that_run_at_once_some_are_shown() -> None:
    found = progress(at_once=20, num_trials=30)
    for number in range(20):
        found.started(f"{number:05d}", {}, 1000)
    lines = found.lines(1000)
    assert lines[0].startswith("runs: trial 00000")
    assert lines[8:10] == ["runs: 12 more", "trials: 20 of 30: 20 running"]
