"""What this machine remembers of the jobs that it submitted, so that they can be found again; no secret is among it."""

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from qa_train.errors import DataError, QAError
from qa_train.storage import read_json, write_json

ON_RAY_UP = ("local", "aws", "gcp")
"""Targets that are clusters of `ray up`."""
TARGETS = (*ON_RAY_UP, "jobs", "kuberay", "slurm")
"""Where a sweep can be started."""
MAX_NAME = 30


@dataclass(frozen=True)
class Job:
    """A sweep that was started elsewhere.

    Attributes:
        id: Begins with the sweep's name; lower case, so that Kubernetes takes it too.
        target: One of `TARGETS`.
        place: What leads there: a job server's address, or the path of a cluster's YAML.
        out: Where the sweep's results lie, as seen from there.
    """

    id: str
    target: str
    place: str
    out: str


def new_id(name: str, time: str) -> str:
    """Returns a job's id: at most 46 of `a-z`, `0-9` and `-`.

    Args:
        name: Of the sweep.
        time: Of the submission, as `20261127-031500`.
    """
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower())[:MAX_NAME].strip('-') or 'sweep'}-{time}"


def _directory() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "spansweep" / "jobs"


def remember(job: Job) -> None:
    """Notes a job in `$XDG_STATE_HOME/spansweep/jobs`.

    Raises:
        DataError: If that cannot be written.
    """
    write_json(_directory() / f"{job.id}.json", asdict(job))


def recall(job_id: str) -> Job:
    """Returns a job that this machine submitted.

    Raises:
        QAError: If it knows of none by this name.
    """
    try:
        return Job(**read_json(_directory() / f"{job_id}.json"))
    except (DataError, TypeError) as error:
        known = sorted((path.stem for path in _directory().glob("*.json")), key=lambda name: name[-15:])
        last = f"the last ones are {', '.join(known[-3:])}" if known else "none was submitted from here"
        raise QAError(f"{job_id}: expected the id of a job submitted from this machine; {last}") from error
