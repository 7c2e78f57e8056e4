"""A trial's own files, kept in step with an object store, so that it can go on from another node or another day."""

import contextlib
import os
import shutil
from functools import cache
from pathlib import Path

from filelock import FileLock

from sweeps.object_store import WAITS_S, ObjectStore, cache_dir, is_address
from sweeps.records import TRIAL_CONFIG, TRIALS

REPORTS, ATTEMPTS = "reports.jsonl", "attempts.json"
"""As `sweeps.trial` and `sweeps.attempts` name them; importing the former loads torch."""
_CHECKPOINTS, _MODEL, _PROGRESS, _LOG = "checkpoints", "model", "progress.json", "log.txt"
_LOCAL = ("tensorboard",)
"""Directories that stay where they were written."""


class TrialStore:
    """A trial's place as its actor and its processes see it, each with an object of its own.

    Attributes:
        directory: Where the trial works.
    """

    def __init__(self, address: str, directory: Path, objects: ObjectStore | None = None) -> None:
        """Opens a trial's place.

        Args:
            address: Of the sweep, as `SweepStore.address` has it.
            directory: The trial's own, on this machine; its name is the trial's id.
            objects: Of the sweep; by default connected to anew, and only when it is needed.
        """
        self.directory = directory
        self._address, self._objects = address, objects
        self._pushed: dict[str, tuple[int, int]] = {}

    @staticmethod
    @cache
    def of(address: str, trial_id: str) -> "TrialStore":
        """Returns a trial's place on this machine, the same object each time; `address` is the sweep's."""
        sweep = cache_dir(address, "sweeps") if is_address(address) else Path(address)
        return TrialStore(address, sweep / TRIALS / trial_id)

    def _store(self) -> ObjectStore | None:
        # Not before it is needed: threads that pyarrow starts would not survive a fork.
        if self._objects is None and is_address(self._address):
            self._objects = ObjectStore(self._address, WAITS_S)
        return self._objects

    def _at(self, name: str) -> str:
        return f"{TRIALS}/{self.directory.name}/{name}"

    def _sizes(self, objects: ObjectStore) -> dict[str, int]:
        """Returns the size of each of the trial's objects, by its name in the trial's directory."""
        prefix = self._at("")
        return {name[len(prefix) :]: entry.size for name, entry in objects.entries(prefix[:-1]).items()}

    def pull(self) -> None:
        """Makes the local directory what the store holds, but for models; called before an attempt starts.

        Raises:
            DataError: If the store cannot be read, or a file cannot be written.
        """
        objects = self._store()
        if objects is None:
            return
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory.parent / f".{self.directory.name}.lock"):  # workers of one node come together
            self._pull(objects)

    def _pull(self, objects: ObjectStore) -> None:
        sizes = self._sizes(objects)
        if TRIAL_CONFIG not in sizes:
            shutil.rmtree(self.directory, ignore_errors=True)  # of a sweep that did not come to tell the store
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in (REPORTS, ATTEMPTS):
            if name not in sizes:
                (self.directory / name).unlink(missing_ok=True)
        checkpoints = {
            name.rpartition("/")[0] for name in sizes if _is_in_checkpoint(name) and name.endswith(_PROGRESS)
        }
        for path in self.directory.glob(f"{_CHECKPOINTS}/*"):
            if str(path.relative_to(self.directory)) not in checkpoints:
                shutil.rmtree(path, ignore_errors=True)
        for checkpoint in checkpoints:
            self._pull_checkpoint(objects, checkpoint, sizes)
        for name in sizes:
            skipped = name.startswith(f"{_MODEL}/") or _is_in_checkpoint(name)
            is_longer = name == _LOG and _size(self.directory / name) >= sizes[name]
            if not skipped and not is_longer:
                objects.download(self._at(name), self.directory / name)

    def _pull_checkpoint(self, objects: ObjectStore, checkpoint: str, sizes: dict[str, int]) -> None:
        """Fetches a checkpoint, whole or not at all, unless it is here: its progress tells it from all others."""
        final = self.directory / checkpoint
        names = [name for name in sizes if name.startswith(f"{checkpoint}/")]
        progress = objects.read(self._at(f"{checkpoint}/{_PROGRESS}"))
        with contextlib.suppress(OSError):
            same = (final / _PROGRESS).read_bytes() == progress
            if same and all(_size(self.directory / name) == sizes[name] for name in names):
                return
        partial = final.with_name(f"{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name in names:
            objects.download(self._at(name), partial / Path(name).name)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)

    def push(self, *names: str) -> None:
        """Copies what has changed to the store: called before a report is written and announced.

        A checkpoint's progress comes after its other files, and the reports after everything, so that what is cut off
        in between is not taken for whole. Checkpoints that are no longer here are removed there.

        Args:
            names: Of files in the trial's directory; all of them by default.

        Raises:
            StoreUnavailableError: If the store does not answer, for minutes.
            DataError: If it refuses.
        """
        objects = self._store()
        if objects is None:
            return
        if names:
            for name in names:
                objects.upload(self._at(name), self.directory / name)
            return
        remote = self._sizes(objects)
        local = _files(self.directory)
        for name in sorted(local, key=lambda name: (_rank(name), name)):
            is_same = _is_in_checkpoint(name) and not name.endswith(_PROGRESS) and remote.get(name) == local[name][1]
            if self._pushed.get(name) != local[name] and not is_same:
                objects.upload(self._at(name), self.directory / name)
            self._pushed[name] = local[name]
        kept = {name.rpartition("/")[0] for name in local if _is_in_checkpoint(name)}
        for old in sorted({name.rpartition("/")[0] for name in remote if _is_in_checkpoint(name)} - kept):
            objects.remove(self._at(f"{old}/{_PROGRESS}"))  # first, or a cut would leave one that looks whole
            objects.remove(self._at(old))

    def drop_weights(self) -> None:
        """Removes local weights that the store has, so that nodes do not fill up; called when an attempt is over."""
        if is_address(self._address):
            for name in (_CHECKPOINTS, _MODEL):
                shutil.rmtree(self.directory / name, ignore_errors=True)


def _is_in_checkpoint(name: str) -> bool:
    return name.startswith(f"{_CHECKPOINTS}/") and name.count("/") == 2


def _rank(name: str) -> int:
    if _is_in_checkpoint(name):
        return 1 if name.endswith(_PROGRESS) else 0
    return 3 if name == REPORTS else 2


def _files(directory: Path) -> dict[str, tuple[int, int]]:
    """Returns time and size of each file that is to be stored, by its name; what is being written is not."""
    found: dict[str, tuple[int, int]] = {}
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not _is_passing(name) and name not in _LOCAL]
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(FileNotFoundError):
                if not _is_passing(name):
                    stat = path.stat()
                    found[str(path.relative_to(directory))] = (stat.st_mtime_ns, stat.st_size)
    return found


def _is_passing(name: str) -> bool:
    return name.startswith(".") or name.endswith((".partial", ".tmp"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
