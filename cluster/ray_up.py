"""Clusters that `ray up` started: Ray's own command line, run as a user would."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.unpack import JOBS
from qa_train.errors import QAError


def submit_command(cluster_yaml: Path, archive: Path, *, start: bool) -> list[str]:
    """Returns the arguments of `ray` that copy one file to the head and run it.

    Args:
        cluster_yaml: Of the cluster.
        archive: The file; its name needs no quoting, for Ray does not quote it.
        start: Whether the cluster is started first, as by `ray up`.
    """
    return ["submit", *(["--start"] if start else []), str(cluster_yaml), str(archive)]


def head_command(cluster_yaml: Path, job_id: str, verb: str) -> list[str]:
    """Returns the arguments of `ray` that run `python -m cluster VERB ID` on the head, where a job was unpacked."""
    return ["exec", str(cluster_yaml), f"cd {JOBS}/{job_id} && python -m cluster {shlex.join([verb, job_id])}"]


def fetch_command(cluster_yaml: Path, place: str, directory: Path) -> list[str]:
    """Returns the arguments of `ray` that copy a directory of the head to one here."""
    return ["rsync-down", str(cluster_yaml), f"{place.rstrip('/')}/", f"{directory}/"]


def run_ray(arguments: Sequence[str]) -> int:
    """Runs `ray` with this Python's installation; returns its exit status.

    Raises:
        QAError: If it cannot be started.
    """
    try:
        return subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *arguments], check=False).returncode
    except OSError as error:
        raise QAError(f"ray {arguments[0]}: cannot be started: {error.strerror}") from error
