"""Ray heads with token authentication, in temporary directories of their own, started as on a cluster."""

import contextlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.commands import running

ROOT = Path(__file__).parents[2]
SWEEP_YAML = """\
name: tiny
train:
  data: {train: train.json, dev: dev.json}
  model: {name: ./model, max_seq_length: 64, doc_stride: 16}
  precision: fp32
  scale: {cpus_per_worker: 1, use_gpu: false}
space: {optim.learning_rate: {loguniform: [1e-4, 1e-3]}, num_epochs: {int: [1, 1]}}
search: {num_trials: 1, max_concurrent_trials: 1}
"""


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        address: Of its job server.
        token_path: The file with its token.
        environment: In which its user's commands run.
    """

    address: str
    token_path: Path
    environment: dict[str, str]


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_options(temporary: Path, dashboard_port: int) -> list[str]:
    """Returns the options of `ray start --head` of a small head that keeps out of the way of others."""
    ports = (f"--{name}={free_port()}" for name in ("port", "dashboard-agent-listen-port"))
    sizes = ["--num-cpus=2", "--num-gpus=0", "--object-store-memory=80000000"]
    place = [f"--temp-dir={temporary}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
    return [*ports, *sizes, *place, "--node-ip-address=127.0.0.1", "--disable-usage-stats"]


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Makes a directory whose name is short enough for Ray's sockets, and removes it."""
    directory = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def running_head(room: Path) -> Iterator[Head]:
    """Starts a head whose user lives in `room / "home"`, and ends it."""
    token_path = room / "home" / ".ray" / "auth_token"
    token_path.parent.mkdir(parents=True)
    token_path.write_text(secrets.token_hex(32))
    token_path.chmod(0o644)  # as Ray's own are; the command makes it private
    port = free_port()
    with short_directory() as temporary:
        start = ("-m", "ray.scripts.scripts", "start", "--head", "--block", *start_options(temporary, port))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"RAY_AUTH_MODE": "token", "PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment["RAY_worker_niceness"] = "0"  # by default 15: starved by whatever else runs here
        with running(room, "head", *start, **environment) as head:
            address = f"http://127.0.0.1:{port}"
            head.wait_for(lambda: serves_jobs(address, token_path.read_text()))
            yield Head(address, token_path, {"RAY_ADDRESS": address})
            head.process.terminate()
            head.finish()


def serves_jobs(address: str, token: str) -> bool:
    """Whether a job server answers; a busy machine's listens some time before that."""
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
        return bool(answer.status == 200)
    return False


def listens(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
