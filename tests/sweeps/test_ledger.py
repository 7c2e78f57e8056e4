"""The ledger of trials to which something happens, with a real Ray: what was lost is known, and the sums close."""

import json
import re
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps import trial
from sweeps.records import Row, read_records
from sweeps.trial import TrialJob
from tests import commands
from tests.sweeps import fake_trials
from tests.sweeps.test_real_sweeps import SweepCommand, running
from tests.tiny_models import tiny_model_dir, tiny_squad

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
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


# A trial's node is lost.

EPOCH_S = 2.0
POINTS = [{"num_epochs": 5, "optim.learning_rate": rate} for rate in (1e-4, 2e-4, 3e-4)]


def train_slowly(job: TrialJob, connection: Connection) -> None:
    """Takes the place of `run_trial`; dies with its node, as that does."""
    threading.Thread(target=trial._die_with_parent, daemon=True).start()
    fake_trials.EPOCH_S = EPOCH_S
    fake_trials.train_nothing(job, connection)


def run_slow_sweep() -> None:
    """Runs a sweep of trials that take ten seconds, on the cluster of `RAY_ADDRESS`."""
    from sweeps import runner
    from sweeps.probe import Probe

    data = {"train": {"path": "none.json", "sha256": "0", "questions": 1}}
    runner._probe = lambda config, placement: Probe("fp32", "cpu-core", data, {}, {})
    config = fake_trials.config(search={"searcher": "random", "num_trials": len(POINTS), "enqueue": POINTS})
    result = runner.run_sweep(config, Path("sweep"), body=train_slowly)
    print(json.dumps({"completed": result.num_completed, "failed": result.num_failed}))


def be_a_cluster() -> None:
    """Starts two nodes of a core each, says where they are, and loses the second one when it is told to."""
    from qa_train import ray_session
    from qa_train.watchdog import watchdog_over

    # isort: split
    from ray.cluster_utils import Cluster

    ray_session._ensure_token()
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}
    node |= {"dashboard_agent_listen_port": None}  # any that is free
    cluster = Cluster()

    def start() -> None:
        cluster.add_node(**node, include_dashboard=False)
        cluster.add_node(**node)

    with watchdog_over(start):
        [second] = cluster.worker_nodes
        print("up", cluster.address, second.node_id, flush=True)
        while not Path("lose a node").exists():
            time.sleep(0.1)
        cluster.remove_node(second, allow_graceful=False)
        while not Path("end").exists():
            time.sleep(0.1)
        cluster.shutdown()  # type: ignore[no-untyped-call]


def calling(function: str) -> str:
    return f"from {__name__} import {function}; {function}()"


def test_a_trial_whose_node_is_lost_goes_on_elsewhere_from_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    more = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token"}
    with commands.running(tmp_path, "cluster", "-c", calling("be_a_cluster"), **more) as cluster:
        cluster.wait_for(lambda: re.search(r"^up .*\n", cluster.out, re.M))
        [(address, lost_node)] = re.findall(r"^up (\S+) (\S+)$", cluster.out, re.M)
        more["RAY_ADDRESS"] = address
        with commands.running(tmp_path, "driver", "-c", calling("run_slow_sweep"), **more) as driver:
            driver.wait_for(lambda: any(row["node"] == lost_node for row in read_records(tmp_path / "sweep")))
            (tmp_path / "lose a node").touch()
            driver.finish()
        (tmp_path / "end").touch()
        cluster.finish()
    assert driver.status == 0, driver.err
    assert json.loads(driver.out) == {"completed": 3, "failed": 0}
    rows = read_records(tmp_path / "sweep")
    assert sorted(str(row["trial_id"]) for row in rows if row["status"] == "completed") == ["00000", "00001", "00002"]
    [moved] = {str(row["trial_id"]) for row in rows if row["node"] == lost_node}
    own = rows_of(tmp_path / "sweep", moved)
    assert [row["epochs_trained"] for row in own] == [1, 2, 3, 4, 5]
    assert own[-1]["node"] != lost_node
    assert (own[0]["attempt"], own[-1]["attempt"]) == (0, 1)
    place = tmp_path / "sweep" / "trials" / moved
    first, second = json.loads((place / "attempts.json").read_text())
    # What the first attempt held its device for counts, up to its last sign of life.
    assert first > EPOCH_S / 2
    num_later = sum(row["attempt"] == 1 for row in own)
    assert first + EPOCH_S * num_later <= number(own[-1], "cost.device_s") <= first + second
    trained = (place / "epochs.txt").read_text().split()
    assert len(trained) <= 5 + 1  # at most one epoch is trained twice
    assert {*trained} == {"1", "2", "3", "4", "5"}
