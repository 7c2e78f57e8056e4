"""A running cluster's job server: submits a directory as a job, follows its log, asks after it, stops it."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cluster.token_file import require_token, token_path
from qa_train.errors import QAError

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported

import requests
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

_LOOK_EVERY_S = 1.0
_PATIENCE_S = 10.0
"""In which a server must answer, and a job whose log has ended be over; else the connection was lost."""
_STARTING_S = 120.0
"""In which the agents of a head that has just been started must be there."""
_LOGGERS = (
    *("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"),
    "ray._private.runtime_env.packaging",
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def job_server_address(environment: Mapping[str, str]) -> str:
    """Returns the address of the job server that the environment names.

    Raises:
        QAError: If it names none, or something else.
    """
    name = "RAY_API_SERVER_ADDRESS" if environment.get("RAY_API_SERVER_ADDRESS") else "RAY_ADDRESS"
    address = environment.get(name, "")
    if "@" in address:  # it would be shown, and noted in the job's file
        remedy = "leave out user and password; the token goes by its file"
        raise QAError(f"{name}: expected a job server such as http://127.0.0.1:8265, found one with a user; {remedy}")
    try:
        parts = urlsplit(address)
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets or port
        is_server = False
    if not is_server:
        remedy = "open a tunnel to the cluster's head first: ssh -N -L 8265:127.0.0.1:8265 HEAD"
        found = address or "nothing"
        raise QAError(f"{name}: expected a job server such as http://127.0.0.1:8265, found {found}; {remedy}")
    return address.rstrip("/")


def shows_token(address: str, environment: Mapping[str, str]) -> bool:
    """Returns whether a token is sent there that can be read on the way."""
    parts = urlsplit(address)
    is_sent = environment.get("RAY_AUTH_MODE", "token") == "token"
    return is_sent and parts.scheme == "http" and parts.hostname not in _LOOPBACK


def _must_answer(address: str) -> None:
    """Ray would wait for ever for a server that takes connections and says nothing.

    Raises:
        ConnectionError: If there is no answer, of whatever kind, in time. What else is wrong Ray will say itself.
    """
    try:
        requests.get(f"{address}/api/version", timeout=_PATIENCE_S)
    except requests.Timeout as error:
        raise ConnectionError(address) from error
    except requests.RequestException:
        pass


class JobServer:
    """The job server at an address; the token comes from the environment or its file, and is never shown."""

    def __init__(self, address: str) -> None:
        """Connects.

        Raises:
            QAError: If there is no token, it is refused, or nothing answers.
        """
        require_token(os.environ)
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        self.address = address
        with self._explained():
            _must_answer(address)
            self._client = JobSubmissionClient(address)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what Ray raises, over many lines, into one."""
        try:
            yield
        except AuthenticationError as error:
            source = token_path(os.environ) or "RAY_AUTH_TOKEN"
            remedy = f"put the cluster's token into {source}, for this user alone (chmod 600)"
            raise QAError(f"{self.address}: the cluster refuses the token of {source}; {remedy}") from error
        except BrokenPipeError:
            raise  # of our own stdout, as in `attach ID | head`; it is a ConnectionError too
        except ConnectionError as error:
            raise QAError(
                f"{self.address}: expected a job server, found none that answers; is the tunnel open?"
            ) from error
        except (ClientError, RuntimeError, ValueError, OSError) as error:
            lines = [line for line in str(error).replace("\\n", "\n").splitlines() if line.strip()]
            raise QAError(f"{self.address}: {lines[-1].strip(' .') if lines else type(error).__name__}") from error

    def submit(self, directory: Path, job_id: str, entrypoint: str, metadata: Mapping[str, str]) -> None:
        """Submits a job.

        Args:
            directory: Copied to every node that works for the job; where its processes run.
            job_id: A new name.
            entrypoint: A shell command, run on the head.
            metadata: Kept with the job, for all to see who can use the cluster.

        Raises:
            QAError: If it is refused.
        """
        deadline = time.monotonic() + _STARTING_S
        with self._explained():
            while True:
                try:
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=job_id,
                        runtime_env={"working_dir": str(directory)},
                        metadata=dict(metadata),
                    )
                    return
                except RuntimeError as error:
                    if "No available agent" not in str(error) or time.monotonic() > deadline:
                        raise
                time.sleep(_LOOK_EVERY_S)

    def status(self, job_id: str) -> str:
        """Returns `PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`.

        Raises:
            QAError: If there is no such job, or the server does not answer.
        """
        with self._explained():
            return str(self._client.get_job_status(job_id).value)

    def message(self, job_id: str) -> str:
        """Returns in a line what Ray says of a job, without the end of the log, which `follow` has shown.

        Raises:
            QAError: See `status`.
        """
        with self._explained():
            said = self._client.get_job_info(job_id).message or ""
        return " ".join(said.partition(", last available logs")[0].split())

    def stop(self, job_id: str) -> bool:
        """Stops a job; returns whether it was running.

        Raises:
            QAError: See `status`.
        """
        with self._explained():
            return bool(self._client.stop_job(job_id))

    def follow(self, job_id: str, show: Callable[[str], object]) -> int:
        """Shows a job's log, from its beginning, until the job ends.

        Args:
            job_id: Of the job.
            show: Called with each piece of the log.

        Returns:
            Its exit status; 1 if it has none of its own.

        Raises:
            QAError: If the connection is lost; the job goes on.
        """

        async def tail() -> None:
            async for piece in self._client.tail_job_logs(job_id):
                show(piece)

        with self._explained():
            asyncio.run(tail())
        deadline = time.monotonic() + _PATIENCE_S
        while not JobStatus(self.status(job_id)).is_terminal():
            if time.monotonic() > deadline:
                raise QAError(f"{self.address}: the connection was lost; the job goes on")
            time.sleep(_LOOK_EVERY_S)
        with self._explained():
            info = self._client.get_job_info(job_id)
        if info.status == JobStatus.SUCCEEDED:
            return 0
        return info.driver_exit_code if info.driver_exit_code and info.driver_exit_code > 0 else 1
