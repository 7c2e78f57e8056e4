"""A whole sweep in an S3 bucket: its driver is killed, and another machine goes on with it."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from qa_train.errors import DataError
from sweeps.object_store import ObjectStore
from sweeps.records import Row, read_records
from sweeps.sweep_store import local_copy
from tests.commands import environment
from tests.sweeps.s3_server import credentials, s3_server

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600.0
SEARCH = {"searcher": "random", "num_trials": 5, "max_concurrent_trials": 2}

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of drivers that each start a Ray of their own; this process can read the bucket, too."""
    with s3_server() as endpoint:
        for name, value in credentials(endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path / "reader"))
        yield {**environment(tmp_path / "home"), **credentials(endpoint), "PYTHONPATH": str(ROOT)}


def start(address: str, env: dict[str, str], machine: Path) -> subprocess.Popen[str]:
    """Starts a driver on a machine, which is a cache of its own."""
    command = [sys.executable, "-m", "tests.sweeps.fake_trials", address, json.dumps({"search": SEARCH})]
    with open(machine.with_suffix(".log"), "a") as log:
        env = env | {"SPANSWEEP_CACHE_DIR": str(machine)}
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, text=True, cwd=ROOT)


def rows_of(address: str) -> list[Row]:
    try:
        return read_records(local_copy(address))
    except DataError:
        return []  # not yet


def forget_claims(address: str) -> None:
    """Does what waiting for a minute would: lets the killed driver count as dead."""
    ObjectStore(address).remove("lock")


def test_a_sweep_whose_driver_was_killed_is_finished_by_another_machine(env: dict[str, str], tmp_path: Path) -> None:
    address = "s3://bucket/sweeps/killed"
    deadline = time.monotonic() + TIMEOUT_S
    with start(address, env, tmp_path / "first") as first:
        while len(rows_of(address)) < 5 and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        first.kill()
    before = rows_of(address)
    assert len(before) >= 5, (tmp_path / "first.log").read_text()
    refused = start(address, env, tmp_path / "second")
    assert refused.wait(TIMEOUT_S) != 0
    assert "ran this sweep" in (tmp_path / "second.log").read_text()
    forget_claims(address)
    second = start(address, env, tmp_path / "second")
    assert second.wait(TIMEOUT_S) == 0, (tmp_path / "second.log").read_text()

    rows = rows_of(address)
    assert rows[: len(before)] == before
    assert {*({row["trial_id"]: row["status"] for row in rows}).values()} == {"completed"}
    assert len({row["trial_id"] for row in rows}) == SEARCH["num_trials"]
    assert max(Counter((row["trial_id"], row["epochs_trained"]) for row in rows).values()) == 1
    copy = local_copy(address, "trials/*/epochs.txt")
    for path in copy.glob("trials/*/epochs.txt"):
        trained = Counter(path.read_text().split())
        assert sum(trained.values()) <= len(trained) + 1  # at most one epoch is trained twice
    status = subprocess.run(
        [sys.executable, "-m", "sweeps", "status", address, "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(status.stdout)["counts"] == {"completed": SEARCH["num_trials"]}
