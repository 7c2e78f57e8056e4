"""The Ray that a command uses: the cluster that the environment names, or an own one that ends with this process."""

import contextlib
import logging
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Ray reads these when it is imported or started; what the user has set stays.
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box even when it shall be silent
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray's monitor would kill the actor that waits for a trial, and with it Tune; the kernel kills the trial's process.
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray Train's controller looks at its workers every two seconds otherwise.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402 - after the environment is set

from qa_train.errors import QAError  # noqa: E402
from qa_train.watchdog import watchdog_over  # noqa: E402

_LOOPBACK = "127.0.0.1"
_CONNECT_TIMEOUT_S = 10.0
_OBJECT_STORE_BYTES = 80 * 1024**2
_GCS_PORT = "RAY_GCS_SERVER_PORT"


@contextlib.contextmanager
def ray_session(*, dashboard: bool = False) -> Iterator[None]:
    """Connects to the cluster of `RAY_ADDRESS`, or starts a Ray on this machine; leaves or ends it afterwards.

    An own Ray has token authentication and processes that die with this one.

    Args:
        dashboard: Whether an own Ray has its dashboard, on loopback. Ray Train inside a trial needs it: what frees the
            workers of a stopped trial asks the dashboard whether the trial still lives.
    """
    with contextlib.ExitStack() as stack:
        address = os.environ.get("RAY_ADDRESS")
        if address:
            _check_answers(address)
            ray.init(
                address=address,
                runtime_env=_runtime_env(None) or None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        else:
            _ensure_token()
            stack.enter_context(watchdog_over(lambda: _start(dashboard)))
        stack.callback(ray.shutdown)
        yield


def _check_answers(address: str) -> None:
    """Ray would try for minutes to reach a cluster that is gone.

    Raises:
        QAError: If nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # such as "auto"
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise QAError(
            f"RAY_ADDRESS: expected a running Ray at {address}, found none ({error}); "
            "unset it to start a Ray on this machine"
        ) from error


def _start(dashboard: bool) -> None:
    port = _free_port()
    before = os.environ.get(_GCS_PORT)
    os.environ[_GCS_PORT] = str(port)
    try:
        ray.init(
            address="local",  # an own one also where another Ray runs on this machine
            include_dashboard=dashboard,
            dashboard_host=_LOOPBACK,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address=_LOOPBACK,
            runtime_env=_runtime_env(port if dashboard else None),
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    finally:
        os.environ.pop(_GCS_PORT)
        if before is not None:
            os.environ[_GCS_PORT] = before


def _runtime_env(port: int | None) -> dict[str, Any]:
    """Returns what Ray's workers need to know; workers start faster where that is nothing."""
    environment: dict[str, Any] = {}
    if port is not None:
        # With two Rays on one host, processes that look for "the" Ray would find both.
        environment["env_vars"] = {"RAY_ADDRESS": f"{_LOOPBACK}:{port}"}
    quoted = shlex.quote(sys.executable)
    if quoted != sys.executable:
        # Ray starts a worker by a shell command, in which it quotes all but this path.
        environment["py_executable"] = quoted
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _ensure_token() -> None:
    """Creates the token that only this user can read; Ray itself would make it readable for all."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE") != "token":
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists():
        path.chmod(0o600)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        return  # another process was first
    except OSError as error:
        problem = f"Ray's token cannot be written: {error.strerror}"
        raise QAError(f"{path}: {problem}; name a place for it in RAY_AUTH_TOKEN_PATH") from error


def resources() -> tuple[int, int]:
    """Returns the CPU cores and the GPUs of the Ray that is connected."""
    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(found.get("CPU", 0)), int(found.get("GPU", 0))
