"""The ledger of trials to which something happens, with a real Ray: what was lost is known, and the sums close."""

import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from sweeps.records import Row, read_records
from tests.sweeps.test_real_sweeps import SweepCommand, running
from tests.tiny_models import tiny_model_dir, tiny_squad

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

PARTS = ("starting", "loading", "training", "evaluating", "checkpointing", "lost")
UNEXPLAINED = 0.02
"""Of what a trial held its devices for; design, section 7."""


def number(row: Row, column: str) -> float:
    value = row[column]
    assert isinstance(value, int | float)
    return float(value)


def rows_of(directory: Path, trial_id: str) -> list[Row]:
    return [row for row in read_records(directory) if row["trial_id"] == trial_id]


# A trial's process is killed.

NUM_EPOCHS = 8
KILLED = {
    "name": "tiny",
    "train": {
        "data": {"train": "train.json", "dev": "dev.json"},
        "model": {"name": "./model", "max_seq_length": 128, "doc_stride": 32},
        "precision": "fp32",
        "num_epochs": NUM_EPOCHS,
        "scale": {"cpus_per_worker": 1, "use_gpu": False},
    },
    "space": {"optim.learning_rate": {"loguniform": [1e-4, 1e-3]}},
    "search": {"num_trials": 2, "max_concurrent_trials": 1},
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepCommand, float]:
    """A sweep whose first trial was killed within its fourth epoch or a later one, and when that trial began."""
    room = tmp_path_factory.mktemp("killed")
    (room / "home").mkdir()
    tiny_squad(room / "train.json", 250)  # an epoch of a second or two, in whose middle it can be met
    tiny_squad(room / "dev.json", 10, seed=1)
    tiny_model_dir(room / "model")
    (room / "sweep.yaml").write_text(yaml.safe_dump(KILLED))
    with running(room, "sweep", "sweeps", "run", "sweep.yaml", "--out", "sweep") as command:
        command.wait_for((room / "sweep" / "trials" / "00000" / "config.json").exists)
        began = time.time()
        command.wait_for(lambda: len(command.rows) >= 3)
        second, third = (number(row, "time") for row in command.rows[1:3])
        time.sleep((third - second) / 3)
        [process] = command.trial_processes()
        process.send_signal(signal.SIGKILL)
        return command.finish(), began


def test_a_trial_whose_process_is_killed_goes_on_and_completes(killed: tuple[SweepCommand, float]) -> None:
    command, _ = killed
    assert command.status == 0, command.err
    assert "TrialProcessDied: killed by signal 9" in command.err
    for trial_id, attempts in (("00000", {0, 1}), ("00001", {0})):
        rows = [row for row in rows_of(command.directory, trial_id) if "error.type" not in row]
        assert [row["epochs_trained"] for row in rows] == [*range(1, NUM_EPOCHS + 1)]
        assert {row["attempt"] for row in rows} == attempts
        assert rows[-1]["status"] == "completed"


def test_what_a_kill_cost_is_lost_and_all_else_is_explained(killed: tuple[SweepCommand, float]) -> None:
    command, began = killed
    first, second = (rows_of(command.directory, trial_id)[-1] for trial_id in ("00000", "00001"))
    for row in (first, second):
        explained = sum(number(row, f"cost.{part}_s") for part in PARTS)
        unexplained, device_s = number(row, "cost.unexplained_s"), number(row, "cost.device_s")
        assert device_s == pytest.approx(explained + unexplained)
        assert abs(unexplained) < UNEXPLAINED * device_s, (row["trial_id"], unexplained, device_s)
        print(f"trial {row['trial_id']}: unexplained {unexplained:.3f} s of {device_s:.1f} s", file=sys.stderr)
    assert number(first, "cost.lost_s") > 0
    assert number(second, "cost.lost_s") == 0
    epoch_s = number(second, "cost.training_s") / NUM_EPOCHS
    assert number(first, "cost.lost_s") < 3 * epoch_s  # a part of one epoch
    # By a clock of our own.
    assert number(first, "cost.device_s") == pytest.approx(number(first, "time") - began, rel=0.05)


def test_work_that_is_done_twice_counts_once_as_training_and_once_as_lost(killed: tuple[SweepCommand, float]) -> None:
    command, _ = killed
    first, second = (rows_of(command.directory, trial_id)[-1] for trial_id in ("00000", "00001"))
    assert first["cost.tokens"] == second["cost.tokens"]
