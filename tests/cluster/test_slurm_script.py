"""The script for sbatch, run on this machine: srun and Ray are played, bash and its signals are real."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.entry import parse
from cluster.render import SBATCH, fill

# Takes the place of Python: as Ray's head it listens on the port, as another node it waits, as the driver it
# does what DRIVER says.
PYTHON = """\
import os, signal, socket, sys, time
from pathlib import Path
arguments = sys.argv[1:]
options = dict(part.partition("=")[::2] for part in arguments)
with open("calls.txt", "a") as calls:
    print(os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_ADDRESS"), *arguments, file=calls)
if "--head" in arguments:
    if os.environ["DRIVER"] == "no head":
        sys.exit("no head")
    Path("token_mode.txt").write_text(oct(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o777))
    Path("token.txt").write_text(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text())
    listening = socket.create_server((options["--node-ip-address"], int(options["--port"])))
    time.sleep(60)
elif "start" in arguments:
    time.sleep(60)
elif os.environ["DRIVER"] == "waits":
    try:
        Path("driver.txt").write_text("waits")
        time.sleep(60)
    except KeyboardInterrupt:
        Path("driver.txt").write_text("interrupted")
        sys.exit(130)
else:
    while len(Path("calls.txt").read_text().splitlines()) < 3:  # the other nodes start in their own time
        time.sleep(0.05)
    sys.exit(int(os.environ["DRIVER"]))
"""
SRUN = """\
#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
HOSTNAME = """\
#!/bin/bash
if [ "$1" = --ip-address ]; then echo "127.0.0.1 ::1"; else echo node-0; fi
"""


def free_job_id() -> int:
    """Returns the number of a job whose port is free."""
    for number in range(os.getpid() % 10_000, 20_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 20_000 + number)):
                return number
    raise AssertionError("no port is free")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A job's directory, with a space in its name, and its environment."""
    directory, tools = tmp_path / "a job", tmp_path / "bin"
    directory.mkdir()
    tools.mkdir()
    (tools / "python.py").write_text(PYTHON)
    python = f'#!/bin/bash\nexec "{sys.executable}" "{tools}/python.py" "$@"\n'
    for name, text in {"srun": SRUN, "hostname": HOSTNAME, "python": python}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    values = {"ID": "a-1", "DIRECTORY": f"'{directory}'", "PYTHON": str(tools / "python"), "NODES": "3"}
    (directory / "sweep.sbatch").write_text(fill(SBATCH, values | {"ARGUMENTS": "run sweep.yaml --out '/a b'"}, str))
    slurm = {"SLURM_JOB_ID": str(free_job_id()), "SLURM_JOB_NUM_NODES": "3"}
    yield directory, {**os.environ, **slurm, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}


def start(job: tuple[Path, dict[str, str]], driver: str) -> subprocess.Popen[bytes]:
    directory, environment = job
    return subprocess.Popen(["bash", directory / "sweep.sbatch"], env=environment | {"DRIVER": driver})


def test_a_head_that_does_not_start_ends_the_job(job: tuple[Path, dict[str, str]]) -> None:
    directory, _ = job
    assert start(job, "no head").wait(60) == 1
    assert len((directory / "calls.txt").read_text().splitlines()) == 1


@pytest.mark.parametrize("status", [0, 1])
def test_the_sweep_runs_on_a_cluster_that_ends_with_it(job: tuple[Path, dict[str, str]], status: int) -> None:
    directory, environment = job
    assert start(job, str(status)).wait(240) == status
    head, others, driver = sorted((directory / "calls.txt").read_text().splitlines(), key=order)
    address = f"127.0.0.1:{20_000 + int(environment['SLURM_JOB_ID'])}"
    assert all(line.startswith("token ") for line in (head, others, driver))
    assert "--dashboard-host=127.0.0.1" in head
    assert f"--address={address}" in others
    assert driver == f"token {address} cluster/entry.py run sweep.yaml --out /a b --nodes 3"
    assert (directory / "token_mode.txt").read_text() == "0o600"
    token = (directory / "token.txt").read_text()
    assert len(token) == 64
    assert token not in (directory / "calls.txt").read_text()
    assert not [*directory.glob("token-*")]
    assert stat.S_IMODE(directory.stat().st_mode) & 0o700


def test_the_sweep_waits_for_the_nodes_that_slurm_allotted_not_for_those_asked_for(
    job: tuple[Path, dict[str, str]],
) -> None:
    directory, environment = job
    script = directory / "sweep.sbatch"
    script.write_text(script.read_text().replace("--out '/a b'", "--nodes 8"))
    assert start((directory, environment | {"SLURM_JOB_NUM_NODES": "2"}), "0").wait(240) == 0
    (driver,) = (line for line in (directory / "calls.txt").read_text().splitlines() if "entry.py" in line)
    assert parse(driver.split()[3:]).num_nodes == 2


def order(line: str) -> int:
    return ["--head" in line, "--address" in line, "entry.py" in line].index(True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_time_limit_interrupts_the_sweep_in_order(
    job: tuple[Path, dict[str, str]], number: signal.Signals
) -> None:
    directory, _ = job
    process = start(job, "waits")
    deadline = time.monotonic() + 240
    while not (directory / "driver.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(240) == 130
    assert (directory / "driver.txt").read_text() == "interrupted"
    assert not [*directory.glob("token-*")]
