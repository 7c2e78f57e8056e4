"""Sweeps whose driver is killed at random moments and that are then gone on with: nothing lost, nothing doubled."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.records import Row, read_records
from tests.commands import running
from tests.sweeps.shared_ray import TIMEOUT_S, finish, ray_env, start
from tests.tiny_models import tiny_model_dir, tiny_squad

KINDS: dict[str, dict[str, Any]] = {
    "random": {"searcher": "random", "num_trials": 6, "max_concurrent_trials": 2},
    "tpe": {"searcher": "tpe", "num_trials": 6, "max_concurrent_trials": 1},
    "grid": {"searcher": "grid", "max_concurrent_trials": 2},
    "list": {
        "searcher": "list",
        "max_concurrent_trials": 2,
        "enqueue": [{"num_epochs": epochs, "optim.learning_rate": 1e-4} for epochs in (3, 1, 5, 2)],
    },
}

NUM_TRIALS = {"random": 6, "tpe": 6, "grid": 7, "list": 4}

__all__ = ["ray_env"]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def sections(kind: str) -> dict[str, Any]:
    """Returns the sections of a sweep of this kind."""
    space = {"num_epochs": {"int": [1, 7]}, "optim.learning_rate": {"choice": [1e-4]}}
    return {"search": KINDS[kind]} | ({"space": space} if kind == "grid" else {})


def kill_after_rows(driver: subprocess.Popen[str], directory: Path, num_rows: int, more_s: float) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while driver.poll() is None and (not directory.exists() or len(read_records(directory)) < num_rows):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(more_s)
    driver.kill()
    driver.wait()


def finished(rows: list[Row]) -> dict[str, tuple[Any, ...]]:
    keys = ("config.num_epochs", "config.optim.learning_rate", "dev.f1", "budget_epochs")
    return {str(row["trial_id"]): tuple(row[key] for key in keys) for row in rows if row["status"] == "completed"}


@pytest.fixture(scope="module")
def undisturbed(ray_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Row]]:
    """Returns the rows of a sweep of a kind to which nothing happens; it runs when it is first asked for."""
    room = tmp_path_factory.mktemp("undisturbed")
    return cache(lambda kind: finish(room / kind, sections(kind), ray_env))


def case(seed: int) -> Any:
    marks = [pytest.mark.slow] if seed >= 5 else []  # each takes half a minute to two
    return pytest.param(seed, list(KINDS)[seed % len(KINDS)], marks=marks)


@pytest.mark.parametrize(("seed", "kind"), [case(seed) for seed in range(20)])
def test_a_sweep_whose_driver_was_killed_ends_as_if_it_had_not_been(
    seed: int, kind: str, undisturbed: Callable[[str], list[Row]], ray_env: dict[str, str], tmp_path: Path
) -> None:
    chance, directory = random.Random(seed), tmp_path / "sweep"
    driver = start(directory, sections(kind), ray_env)
    kill_after_rows(driver, directory, chance.randrange(1, 12), chance.uniform(0, 0.3))
    if chance.random() < 0.5 and (directory / "records.jsonl").exists():
        with open(directory / "records.jsonl", "a") as file:
            file.write('{"trial_id": "000')  # a torn last line
    if chance.random() < 0.5:
        shutil.rmtree(directory / "study", ignore_errors=True)
    rows = finish(directory, {}, ray_env)
    assert finished(rows) == finished(undisturbed(kind))
    assert len(finished(rows)) == NUM_TRIALS[kind]
    assert max(Counter((row["trial_id"], row["epochs_trained"]) for row in rows).values()) == 1
    assert max(Counter((row["trial_id"], row["attempt"], row["report"]) for row in rows).values()) == 1
    last = {row["trial_id"]: row["status"] for row in rows}
    assert {*last.values()} == {"completed"}
    for trial in (directory / "trials").iterdir():
        trained = Counter((trial / "epochs.txt").read_text().split())
        assert sum(trained.values()) <= len(trained) + 1  # at most one epoch is trained twice


# With real training, as a user starts it.

REAL = {
    "name": "tiny",
    "train": {
        "data": {"train": "train.json", "dev": "dev.json"},
        "model": {"name": "./model", "max_seq_length": 128, "doc_stride": 32},
        "precision": "fp32",
        "scale": {"cpus_per_worker": 1, "use_gpu": False},
    },
    "space": {"num_epochs": {"int": [15, 20]}, "optim.learning_rate": {"loguniform": [1e-4, 5e-3]}},
    "search": {"num_trials": 3, "max_concurrent_trials": 1},
}


def has_rows(directory: Path, num_rows: int) -> bool:
    return len(read_records(directory)) >= num_rows


@pytest.mark.slow
def test_a_real_sweep_killed_twice_ends_with_the_scores_of_an_undisturbed_one_and_its_ledger_closes(
    tmp_path: Path,
) -> None:
    (tmp_path / "home").mkdir()
    tiny_squad(tmp_path / "train.json", 40)
    tiny_squad(tmp_path / "dev.json", 10, seed=1)
    tiny_model_dir(tmp_path / "model")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(REAL))
    with running(tmp_path, "undisturbed", "-m", "sweeps", "run", "sweep.yaml", "--out", "undisturbed") as command:
        assert command.finish().status == 0
    commands = [["run", "sweep.yaml", "--out", "killed"], ["resume", "killed"], ["resume", "killed"]]
    for number, (arguments, num_rows) in enumerate(zip(commands, (3, 25, None), strict=True)):
        with running(tmp_path, f"killed {number}", "-m", "sweeps", *arguments) as command:
            if num_rows:
                command.wait_for(partial(has_rows, tmp_path / "killed", num_rows))
                os.kill(command.process.pid, signal.SIGKILL)
                command.finish()
            else:
                assert command.finish().status == 0, command.err
    rows = read_records(tmp_path / "killed")
    assert finished(rows) == finished(read_records(tmp_path / "undisturbed"))
    assert max(Counter((row["trial_id"], row["epochs_trained"]) for row in rows).values()) == 1
    lasts = [row for row in rows if row["status"] == "completed"]
    assert [row["attempt"] for row in lasts] != [0] * len(lasts)
    for row in lasts:
        assert float(str(row["cost.lost_s"])) >= 0
        assert abs(float(str(row["cost.unexplained_s"]))) < 0.1 * float(str(row["cost.device_s"]))
