"""Sweeps of trials that train nothing, whose drivers join one Ray of two CPUs, so that none has to start its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeps.records import Row, read_records
from tests.commands import environment

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240.0


@pytest.fixture(scope="module")
def ray_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which drivers join that Ray; import it into the module of the tests."""
    home = tmp_path_factory.mktemp("home")
    code = (
        "import os, time; from qa_train.ray_session import ray_session\n"
        "with ray_session():\n"
        "    import ray; print(ray.get_runtime_context().gcs_address, flush=True); time.sleep(3000)\n"
    )
    env = environment(home) | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as head:
        assert head.stdout
        yield env | {"RAY_ADDRESS": head.stdout.readline().strip(), "RAY_AUTH_MODE": "token"}
        head.terminate()


def start(directory: Path, sections: dict[str, Any], env: dict[str, str]) -> subprocess.Popen[str]:
    """Starts a driver; `sections` are of the configuration, of a sweep that is gone on with those that change."""
    command = [sys.executable, "-m", "tests.sweeps.fake_trials", str(directory), json.dumps(sections)]
    with open(directory.parent / f"{directory.name}.log", "a") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, text=True, cwd=ROOT)


def finish(directory: Path, sections: dict[str, Any], env: dict[str, str]) -> list[Row]:
    """Runs a driver to its end and returns the records."""
    driver = start(directory, sections, env)
    assert driver.wait(TIMEOUT_S) == 0, (directory.parent / f"{directory.name}.log").read_text()
    return read_records(directory)
