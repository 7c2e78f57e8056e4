"""How far a sweep is, read from its directory while it runs and after it ended or died; needs neither torch nor Ray."""

import datetime
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qa_train.errors import DataError
from qa_train.storage import read_json
from sweeps.lock import DEAD_AFTER_S, LOCK
from sweeps.pricing import parse_prices, usd
from sweeps.records import (
    ENDED,
    MANIFEST,
    RECORDS,
    TRIAL_CONFIG,
    TRIALS,
    Manifest,
    Row,
    read_manifest,
    read_records,
)
from sweeps.tally import STATUSES, Tally, number


@dataclass(frozen=True)
class Driver:
    """The process that runs a sweep, or did, as `lock.json` tells.

    Attributes:
        host: Where it runs.
        pid: Its number there.
        silent_s: Seconds since its last heartbeat.
        lives: Whether it is taken to live: the heartbeat is recent and, on this host, so is the process.
    """

    host: str
    pid: int
    silent_s: float
    lives: bool


@dataclass(frozen=True)
class OpenTrial:
    """A trial that runs, or did when the driver died.

    Attributes:
        trial_id: Of the sweep.
        epochs_trained: Reported so far, 0 before the first report.
        num_epochs: That it trains for; None before the first report.
        silent_s: Seconds since its last report, or since it was started (again).
    """

    trial_id: str
    epochs_trained: int
    num_epochs: int | None
    silent_s: float


@dataclass(frozen=True)
class SweepStatus:
    """How far a sweep is.

    Attributes:
        directory: Of the sweep.
        name: The configuration's.
        metric: What models are ranked by.
        num_trials: That were asked for, one for each configuration and seed and those of finalists; None where the
            manifest does not tell.
        counts: Trials by status.
        open_trials: Those that run, or did when the driver died.
        best: Row of the best finished model; None if there is none.
        last_failure: Row of the trial that failed last; None if none did.
        device: The kind of device that trials hold.
        device_hours: Held by all trials so far, as far as reported.
        usd: What they cost; None without a price of this device.
        created: When the sweep was started, ISO 8601.
        ended: When all of it was done; None until then, and for sweeps of older versions.
        elapsed_s: Seconds since then; None where `created` cannot be read.
        silent_s: Seconds since the last row; None without rows.
        driver: None without `lock.json`: the sweep ended, or is older than these files.
        is_torn: Whether the last line of the records is incomplete: being written, or left so by a driver that died.
    """

    directory: str
    name: str
    metric: str
    num_trials: int | None
    counts: dict[str, int]
    open_trials: tuple[OpenTrial, ...]
    best: Row | None
    last_failure: Row | None
    device: str
    device_hours: float
    usd: float | None
    created: str
    ended: str | None
    elapsed_s: float | None
    silent_s: float | None
    driver: Driver | None
    is_torn: bool

    @property
    def runs(self) -> bool:
        """Whether a driver lives."""
        return self.driver is not None and self.driver.lives

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to do: there may be fewer trials than asked for, for some need not be run."""
        num_ended = sum(self.counts.get(status, 0) for status in ENDED)
        return self.ended is not None or (self.num_trials is not None and num_ended >= self.num_trials)

    def to_plain(self) -> dict[str, Any]:
        """Returns all of it as JSON's types."""
        return asdict(self) | {"runs": self.runs, "has_ended": self.has_ended}


def read_status(directory: Path, now: float | None = None) -> SweepStatus:
    """Reads how far a sweep is.

    Args:
        directory: Of the sweep.
        now: Seconds since the epoch; the clock's by default.

    Raises:
        DataError: If it is no sweep directory, or its manifest, records or lock are broken.
    """
    now = time.time() if now is None else now
    manifest, rows = read_manifest(directory), read_records(directory)
    tally = Tally.of(rows, manifest.metric, manifest.mode)
    open_trials = tuple(_open_trials(directory, tally.last, now))
    statuses = {trial_id: str(row.get("status")) for trial_id, row in tally.last.items()}
    counts = Counter((statuses | {trial.trial_id: "running" for trial in open_trials}).values())
    return SweepStatus(
        directory=str(directory),
        name=manifest.name,
        metric=manifest.metric,
        num_trials=_num_trials(manifest),
        counts={status: counts[status] for status in STATUSES if counts[status]},
        open_trials=open_trials,
        best=tally.best,
        last_failure=tally.last_failure,
        device=manifest.device,
        device_hours=tally.device_s / 3600,
        usd=_usd(directory, manifest, tally.device_s),
        created=manifest.created,
        ended=manifest.ended,
        elapsed_s=_seconds_since(manifest.created, now),
        silent_s=now - number(rows[-1].get("time")) if rows else None,
        driver=read_driver(directory, now),
        is_torn=_is_torn(directory),
    )


def _num_trials(manifest: Manifest) -> int | None:
    if manifest.num_trials is not None:
        return manifest.num_trials
    found = (manifest.config.get("search") or {}).get("num_trials")  # such old sweeps had one seed and no finalists
    return None if found is None else int(found)


def read_driver(directory: Path, now: float) -> Driver | None:
    """Returns who holds a sweep's lock, dead or alive; None if nobody does.

    Raises:
        DataError: If the lock cannot be read.
    """
    path = directory / LOCK
    if not path.exists():
        return None
    found = read_json(path)
    try:
        host, pid, silent_s = str(found["host"]), int(found["pid"]), now - float(found["heartbeat"])
    except (KeyError, TypeError, ValueError) as error:
        problem = f"expected host, pid and heartbeat, found {str(found)[:60]}"
        raise DataError(f"{path}: {problem}; remove it if no driver runs") from error
    is_there = host != socket.gethostname() or _is_process(pid)
    return Driver(host, pid, silent_s, is_there and silent_s < DEAD_AFTER_S)


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # another user's
    except (OSError, OverflowError):
        return False
    return True


def _open_trials(directory: Path, last: Mapping[str, Row], now: float) -> Iterator[OpenTrial]:
    """Yields the trials that have not ended; one started (again) that did not report yet is known by its file."""
    started = {path.parent.name: path.stat().st_mtime for path in (directory / TRIALS).glob(f"*/{TRIAL_CONFIG}")}
    for trial_id in sorted({*last, *started}):
        row = last.get(trial_id, {"status": "running"})
        reported_at, started_at = number(row.get("time")), started.get(trial_id, 0.0)
        goes_on = row.get("status") == "interrupted" and started_at > reported_at
        if row.get("status") == "running" or goes_on:
            num_epochs = int(number(row.get("config.num_epochs"))) or None
            silent_s = now - max(reported_at, started_at)
            yield OpenTrial(trial_id, int(number(row.get("epochs_trained"))), num_epochs, silent_s)


def _usd(directory: Path, manifest: Manifest, device_s: float) -> float | None:
    try:
        return usd(device_s, manifest.device, parse_prices(manifest.prices))
    except ValueError as error:
        raise DataError(f"{directory / MANIFEST}: prices: {error}") from error


def _seconds_since(created: str, now: float) -> float | None:
    try:
        return now - datetime.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return None


def _is_torn(directory: Path) -> bool:
    try:
        with open(directory / RECORDS, "rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except FileNotFoundError:
        return False
