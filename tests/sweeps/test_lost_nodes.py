"""Sweeps on several nodes of which one is lost: its trials go on elsewhere, and the ledger says what that cost."""

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from sweeps import trial
from sweeps.records import Row, read_records
from sweeps.trial import TrialJob
from tests import commands
from tests.sweeps import fake_trials
from tests.tiny_models import tiny_model_dir, tiny_squad

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
LOSE, END = Path("lose a node"), Path("end")
"""Files that tell the cluster what to do."""


def number(row: Row, column: str) -> float:
    value = row[column]
    assert isinstance(value, int | float)
    return float(value)


def be_a_cluster(num_nodes: int) -> None:
    """Starts nodes of a core each and says where they are; loses one, on which something trains, when it is told to."""
    from qa_train import ray_session
    from qa_train.watchdog import watchdog_over

    # isort: split
    from ray.cluster_utils import Cluster

    ray_session._ensure_token()
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}
    node |= {"dashboard_agent_listen_port": None}  # any that is free
    cluster = Cluster()

    def start() -> None:
        # Ray Train inside a trial needs the dashboard, which frees the workers of a trial that has ended.
        cluster.add_node(**node, include_dashboard=num_nodes > 2, dashboard_port=0)
        for _ in range(num_nodes - 1):
            cluster.add_node(**node)

    with watchdog_over(start):
        print("up", cluster.address, *(node.node_id for node in cluster.worker_nodes), flush=True)
        wait_for(LOSE)
        lost = next(node for node in cluster.worker_nodes if trains(node))
        print("lost", lost.node_id, flush=True)
        cluster.remove_node(lost, allow_graceful=False)
        wait_for(END)
        cluster.shutdown()  # type: ignore[no-untyped-call]


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.1)


def trains(node: Any) -> bool:
    """Whether a worker of Ray Train, or the actor of a trial, runs on a node."""
    [raylet] = node.all_processes["raylet"]
    lines = [" ".join(child.cmdline()) for child in psutil.Process(raylet.process.pid).children(recursive=True)]
    return any("RayTrainWorker" in line or "ResourceTrainable" in line for line in lines)


@contextmanager
def nodes(room: Path, number: int) -> Iterator[tuple[commands.Command, dict[str, str]]]:
    """Runs a cluster; gives its command and the environment in which drivers join it."""
    more = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token"}
    code = f"from {__name__} import be_a_cluster; be_a_cluster({number})"
    with commands.running(room, "cluster", "-c", code, **more) as cluster:
        cluster.wait_for(lambda: re.search(r"^up .*\n", cluster.out, re.M))
        [address] = re.findall(r"^up (\S+)", cluster.out, re.M)
        yield cluster, more | {"RAY_ADDRESS": address}
        (room / END).touch()
        cluster.finish()


# A trial that trains nothing, on one of two nodes.

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


def test_a_trial_whose_node_is_lost_goes_on_elsewhere_from_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with nodes(tmp_path, 2) as (cluster, environment):
        [lost_node] = re.findall(r"^up \S+ (\S+)$", cluster.out, re.M)
        code = f"from {__name__} import run_slow_sweep; run_slow_sweep()"
        with commands.running(tmp_path, "driver", "-c", code, **environment) as driver:
            driver.wait_for(lambda: any(row["node"] == lost_node for row in read_records(tmp_path / "sweep")))
            (tmp_path / LOSE).touch()
            driver.finish()
    assert driver.status == 0, driver.err
    assert json.loads(driver.out) == {"completed": 3, "failed": 0}
    rows = read_records(tmp_path / "sweep")
    assert sorted(str(row["trial_id"]) for row in rows if row["status"] == "completed") == ["00000", "00001", "00002"]
    [moved] = {str(row["trial_id"]) for row in rows if row["node"] == lost_node}
    own = [row for row in rows if row["trial_id"] == moved]
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


# Trials of two workers that train, on three nodes.

NUM_EPOCHS = 6
TWO_WORKERS = {
    "name": "tiny",
    "train": {
        "data": {"train": "train.json", "dev": "dev.json"},
        "model": {"name": "./model", "max_seq_length": 128, "doc_stride": 32},
        "precision": "fp32",
        "num_epochs": NUM_EPOCHS,
        "scale": {"num_workers": 2, "cpus_per_worker": 1, "use_gpu": False},
    },
    "space": {"optim.learning_rate": {"loguniform": [1e-4, 1e-3]}},
    "search": {"num_trials": 2},
}


def test_trials_of_two_workers_outlive_a_node_on_which_one_of_them_trained(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    tiny_squad(tmp_path / "train.json", 250)  # an epoch of a second or two, in whose middle the node is lost
    tiny_squad(tmp_path / "dev.json", 10, seed=1)
    tiny_model_dir(tmp_path / "model")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(TWO_WORKERS))
    with nodes(tmp_path, 3) as (cluster, environment):
        command = ("-m", "sweeps", "run", "sweep.yaml", "--out", "sweep")
        with commands.running(tmp_path, "driver", *command, **environment) as driver:
            driver.wait_for(lambda: len(read_records(tmp_path / "sweep")) >= 2)
            time.sleep(0.7)
            (tmp_path / LOSE).touch()
            driver.finish()
        assert re.search("^lost ", cluster.out, re.M)
    assert driver.status == 0, driver.err
    assert "Traceback" not in driver.err
    rows = read_records(tmp_path / "sweep")
    for trial_id in ("00000", "00001"):
        own = [row for row in rows if row["trial_id"] == trial_id]
        assert [row["epochs_trained"] for row in own] == [*range(1, NUM_EPOCHS + 1)]
        assert own[-1]["status"] == "completed"
        parts = sum(number(own[-1], column) for column in own[-1] if re.fullmatch(r"cost\.(?!device)\w+_s", column))
        assert 2 * parts == pytest.approx(number(own[-1], "cost.device_s"), rel=0.02)
    first, second = ([row for row in rows if row["trial_id"] == trial_id][-1] for trial_id in ("00000", "00001"))
    print(f"lost {number(first, 'cost.lost_s'):.1f} of {number(first, 'cost.device_s') / 2:.1f} s", file=sys.stderr)
    assert number(first, "cost.lost_s") > 0 == number(second, "cost.lost_s")
    assert first["cost.tokens"] == second["cost.tokens"]
    log = (tmp_path / "sweep" / "trials" / "00000" / "log.txt").read_text()
    assert "started again" in log
