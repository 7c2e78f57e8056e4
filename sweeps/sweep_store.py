"""A sweep whose truth is in an object store: worked on in a local directory that is kept in step with it.

What the store holds is what happened: rows, reports and checkpoints are there before anything depends on them, and who
goes on with a sweep or a trial takes its files from there. Local files are a cache. For a sweep in a local directory
nothing of this does anything.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from qa_train.errors import DataError, SweepError
from qa_train.storage import write_bytes
from sweeps.lock import LOCAL_LOCK, LOCK, locked
from sweeps.object_store import (
    WAITS_S,
    Entry,
    ObjectStore,
    cache_dir,
    checked_address,
    is_address,
    local_path,
    write_if_changed,
)
from sweeps.records import MANIFEST, RECORDS, TRIAL_CONFIG, TRIALS
from sweeps.store_lock import CLAIMS, StoreLock, newest_claim
from sweeps.trial_store import ATTEMPTS, REPORTS

SEGMENTS = "records"
"""Of the records in a store: each object holds some rows and is named by the number of rows before it."""


class SweepStore:
    """A sweep's place as its driver sees it.

    Attributes:
        address: Of the store, or the local directory as text; names the sweep to the user and to its trials.
        directory: Where the driver works.
    """

    def __init__(self, place: str | os.PathLike[str], opened: tuple[Any, str] | None = None) -> None:
        """Opens a place; nothing is read or written yet.

        Args:
            place: A directory, `s3://bucket/prefix` or `gs://bucket/prefix`.
            opened: See `ObjectStore`.

        Raises:
            DataError: If the address cannot be used.
        """
        self._objects: ObjectStore | None = None
        self._lock: StoreLock | None = None
        self._num_rows, self._broken = 0, ""
        if is_address(place):
            self.address = checked_address(str(place))
            self.directory = cache_dir(self.address, "sweeps")
            self._objects = ObjectStore(self.address, WAITS_S, opened)
        else:
            self.directory = Path(os.path.abspath(local_path(place)))
            self.address = str(self.directory)

    @property
    def is_remote(self) -> bool:
        """Whether it is in an object store."""
        return self._objects is not None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the sweep against other drivers, on this machine and, in a store, on all.

        Raises:
            SweepError: If another driver lives, or the directory cannot be written.
            DataError: If the store cannot be used.
        """
        if self._objects is None:
            with locked(self.directory):
                yield
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SweepError(f"{self.directory}: cannot be created: {error.strerror}") from error
        with locked(self.directory), StoreLock(self._objects) as self._lock:
            yield

    def start(self) -> None:
        """Makes sure that a new sweep starts from nothing; what another one left in the local cache is removed.

        Raises:
            DataError: If the store holds something at this address.
        """
        if self._objects is None:
            return
        if [name for name in self._objects.entries() if not name.startswith(f"{CLAIMS}/")]:
            raise DataError(f"{self.address}: exists and is not empty; give another --out")
        for path in self.directory.iterdir():
            if not path.name.startswith((LOCK, LOCAL_LOCK)):  # a heartbeat may be writing `.lock.json.….tmp`
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def pull(self) -> None:
        """Brings the local directory to where the store is: manifest, records, and what the trials say of themselves.

        Raises:
            DataError: If the store holds no sweep, a segment of its records is missing, or it cannot be read.
        """
        if self._objects is None:
            return
        entries = self._objects.entries()
        _fetch_manifest(self._objects, self.directory)
        records = _records(self._objects, entries, cache_dir(self.address, "segments"))
        write_bytes(self.directory / RECORDS, records)
        self._num_rows = records.count(b"\n")
        known = {name.split("/")[1] for name in entries if name.startswith(f"{TRIALS}/")}
        for path in self.directory.glob(f"{TRIALS}/*"):
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)  # it never began, as far as the store knows
        own = [name for name in entries if fnmatch(name, f"{TRIALS}/*") and name.count("/") == 2]
        told = [name for name in own if name.rpartition("/")[2] in (TRIAL_CONFIG, REPORTS, ATTEMPTS)]
        for path in self.directory.glob(f"{TRIALS}/*/{REPORTS}"):
            if str(path.relative_to(self.directory)) not in entries:
                path.unlink()
        self._objects.download_all(told, self.directory)

    def append(self, lines: bytes) -> None:
        """Writes whole lines of the records as a further segment; they are durable when this returns.

        Raises:
            SweepError: If they cannot be written, or another driver wrote there.
        """
        if self._objects is None:
            return
        if self._broken:
            raise SweepError(self._broken)
        if self._lock:
            self._lock.check()
        name = f"{SEGMENTS}/{self._num_rows:06d}.jsonl"
        try:
            if self._objects.read(name) not in (None, lines):  # equal: an earlier try whose answer was lost
                raise SweepError(f"{self.address}: {name} was written by another process; this process ends")
            self._objects.write(name, lines)
        except DataError as error:
            self._broken = (
                f"{error}; the rows before are in the store, local files in {self.directory}; when the store answers "
                f"again: python -m sweeps resume {self.address}"
            )
            raise SweepError(self._broken) from error
        self._num_rows += lines.count(b"\n")

    def push(self, name: str) -> None:
        """Copies a file of the local directory to the store, or the files in a directory.

        Raises:
            DataError: If one cannot be copied.
        """
        if self._objects is not None:
            path = self.directory / name
            for file in (item for item in path.rglob("*") if item.is_file()) if path.is_dir() else (path,):
                self._objects.upload(file.relative_to(self.directory).as_posix(), file)

    def remove(self, name: str) -> None:
        """Removes a file or a directory of the sweep from the store, such as a trial's model.

        Raises:
            SweepError: If it cannot be removed.
        """
        if self._objects is not None:
            try:
                self._objects.remove(name)
            except DataError as error:
                raise SweepError(str(error)) from error

    def fetch(self, pattern: str) -> None:
        """Copies files from the store to the local directory; that there are none is no mistake.

        Args:
            pattern: Such as `trials/00003/scores_*`; without `*` in its directory.

        Raises:
            DataError: If one cannot be read.
        """
        if self._objects is not None:
            names = self._objects.entries(pattern.rpartition("/")[0])
            self._objects.download_all([name for name in names if fnmatch(name, pattern)], self.directory)


def local_copy(place: str | os.PathLike[str], *patterns: str, opened: tuple[Any, str] | None = None) -> Path:
    """Returns a local directory with what a sweep's readers need; that of a local sweep as it is.

    Of a sweep in a store these are its manifest, records, lock and trials' configurations; what was fetched before is
    not fetched again. No driver works in that directory.

    Args:
        place: A directory or an address.
        patterns: Of further files, such as `trials/*/scores_*.parquet` or `trials/00003/model/*`.
        opened: See `ObjectStore`.

    Raises:
        DataError: If the store holds no sweep there or cannot be read.
    """
    if not is_address(place):
        return local_path(place)
    address = checked_address(str(place))
    directory, objects = cache_dir(address, "read"), ObjectStore(address, opened=opened)
    entries = objects.entries()
    if _fetch_manifest(objects, directory):  # of another sweep than before
        for stale in (directory / TRIALS, directory / LOCK):
            shutil.rmtree(stale, ignore_errors=True)
    write_if_changed(directory / RECORDS, _records(objects, entries, cache_dir(address, "segments")))
    claim = newest_claim({name: entry for name, entry in entries.items() if name.startswith(f"{CLAIMS}/")})
    content = objects.read(claim) if claim else None
    if content is None:
        (directory / LOCK).unlink(missing_ok=True)
    else:
        write_if_changed(directory / LOCK, content)
    wanted = [
        name for name in entries if any(fnmatch(name, item) for item in (f"{TRIALS}/*/{TRIAL_CONFIG}", *patterns))
    ]
    missing = [name for name in wanted if not _is_there(directory / name, entries[name])]
    objects.download_all(missing, directory)
    for name in missing:
        os.utime(directory / name, (entries[name].written, entries[name].written))
    return directory


def _is_there(path: Path, entry: Entry) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_size == entry.size and abs(found.st_mtime - entry.written) < 1e-3


def _fetch_manifest(objects: ObjectStore, directory: Path) -> bool:
    """Fetches the manifest; returns whether the one before was another sweep's.

    Raises:
        DataError: If there is none.
    """
    content = objects.read(MANIFEST)
    if content is None:
        raise DataError(f"{objects.address}: expected a sweep, found no {MANIFEST} there")
    path = directory / MANIFEST
    before = path.read_bytes() if path.exists() else content
    write_if_changed(path, content)
    return before != content


def _records(objects: ObjectStore, entries: dict[str, Entry], cache: Path) -> bytes:
    """Returns all rows; segments are immutable, so that those fetched before are not fetched again.

    Raises:
        DataError: If one is missing: their names tell how many rows are before them.
    """
    names = sorted(name for name in entries if fnmatch(name, f"{SEGMENTS}/*.jsonl"))
    missing = [name for name in names if not _is_there(cache / name, entries[name])]
    objects.download_all(missing, cache)
    for name in missing:  # a sweep that was removed and another one in its place may have segments of equal size
        os.utime(cache / name, (entries[name].written, entries[name].written))
    records = b""
    num_rows = 0
    for name in names:
        first = int(Path(name).stem)
        if first != num_rows:
            raise DataError(
                f"{objects.address}: expected {SEGMENTS}/{num_rows:06d}.jsonl, found {name} next; the rows between are "
                "missing, so that the sweep cannot be gone on with"
            )
        content = (cache / name).read_bytes()
        records += content
        num_rows += content.count(b"\n")
    return records
