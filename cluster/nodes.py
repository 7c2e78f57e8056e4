"""Checks before a sweep starts that every node of its cluster has what it needs: `python -m cluster.nodes`.

A node that comes later, started by an autoscaler, is not seen by it.
"""

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.entry import differences
from qa_train.config import load_config
from qa_train.errors import QAError, SweepError
from qa_train.ray_session import ray_session
from sweeps.config import SweepConfig

# isort: split
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

JOINING_S = 900.0
"""In which all nodes that a sweep waits for must have joined: machines of a cloud start in minutes."""
_LOOK_EVERY_S = 2.0
_PATIENCE_S = 120.0
"""For the answer of all nodes; the first task on one unpacks the job's files there."""


def paths_of(config: SweepConfig) -> list[str]:
    """Returns the absolute paths that trials of a sweep read."""
    data = config.train.data
    named = [data.train, data.dev, config.train.augment.confusions, config.train.model.name]
    paths = (path for path in (*named, *data.test.values(), *data.extra_train.values()) if path)
    return [path for path in paths if Path(path).is_absolute()]  # what is not is a model of the Hub


def lacking(paths: Sequence[str], pinned: Mapping[str, str]) -> list[str]:
    """Returns what this node lacks of paths and pinned versions."""
    return [path for path in paths if not os.path.exists(path)] + differences(pinned)


def living_nodes() -> list[dict[str, Any]]:
    """Returns what Ray tells of each node that lives."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def wait_for_nodes(number: int, joining_s: float = JOINING_S) -> None:
    """Waits until so many nodes have joined: how many trials run at once is decided when the sweep starts.

    Raises:
        SweepError: If they have not within `joining_s`.
    """
    deadline = time.monotonic() + joining_s
    while len(living_nodes()) < number:
        if time.monotonic() > deadline:
            raise SweepError(f"--nodes: expected {number} nodes within {joining_s:.0f} s, found {len(living_nodes())}")
        time.sleep(_LOOK_EVERY_S)


def check_nodes(paths: Sequence[str], out: str, pinned: Mapping[str, str]) -> None:
    """Asks every living node whether it sees the same as this one.

    Args:
        paths: Absolute paths that it must see.
        out: Where the results go; a directory must be one that all nodes share.
        pinned: Versions of libraries.

    Raises:
        SweepError: If a node lacks something, or does not answer; each is named.
    """
    nodes = living_nodes()
    with contextlib.ExitStack() as stack:
        if len(nodes) > 1 and not out.startswith(("s3://", "gs://")):
            paths = [*paths, str(stack.enter_context(_marker(out)))]
        task = ray.remote(num_cpus=0, max_retries=0)(lacking)
        asked = {_ask(task, node["NodeID"], paths, pinned): node for node in nodes}
        ended, silent = ray.wait([*asked], num_returns=len(asked), timeout=_PATIENCE_S)
        problems = [f"{_name(asked[answer])} does not answer" for answer in silent]
        problems += [f"{_name(asked[answer])} {text}" for answer in ended if (text := _problem(answer))]
    if problems:
        remedy = (
            "put inputs and --out on storage that all nodes share (or --out s3://…), and install the pinned versions"
        )
        raise SweepError(f"the cluster: {'; '.join(problems)}; {remedy}")


def _ask(task: Any, node_id: str, paths: Sequence[str], pinned: Mapping[str, str]) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return task.options(scheduling_strategy=there).remote(list(paths), dict(pinned))


def _problem(answer: Any) -> str:
    try:
        found = ray.get(answer)
    except RayError as error:  # it has just died, or cannot unpack the job's files
        return f"fails: {str(error).strip().splitlines()[-1]}"
    return f"lacks {', '.join(found)}" if found else ""


def _name(node: Mapping[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"


@contextlib.contextmanager
def _marker(place: str) -> Iterator[Path]:
    """Puts a file into a directory for a moment, by which a node that shares it is known.

    Raises:
        SweepError: If it cannot be written.
    """
    directory = Path(os.path.abspath(os.path.expanduser(place.removeprefix("file://"))))
    created = not directory.exists()
    marker = directory / f".shared-{secrets.token_hex(4)}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise SweepError(f"{directory}: cannot be written: {error.strerror}; give another --out") from error
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)
        if created:
            directory.rmdir()


def main(pinned: str, num_nodes: str, out: str, path: str, *overrides: str) -> int:
    """Checks the cluster that `RAY_ADDRESS` names for a sweep; returns 2 after a mistake, 130 after Ctrl-C.

    Args:
        pinned: Versions of libraries as JSON.
        num_nodes: How many nodes to wait for.
        out: See `check_nodes`.
        path: Of the configuration.
        overrides: See `load_config`.
    """
    try:
        config = load_config(SweepConfig, path, overrides)
        with ray_session():
            wait_for_nodes(int(num_nodes))
            check_nodes(paths_of(config), out, json.loads(pinned))
    except QAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # `entry` says so
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
