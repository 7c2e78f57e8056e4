"""What is kept of a sweep: the best few models, and of a trial that goes on all that it needs. Knows nothing of Ray.

Weights and checkpoints are all that is large of a trial. Scores, predictions, configuration and log stay, and
`python -m sweeps export` trains a model that was not kept again.
"""

import re
import shutil
from bisect import insort
from collections.abc import Callable, Iterable
from pathlib import Path

from qa_train.errors import SweepError
from sweeps.records import ENDED, TRIALS, Row, model_name, score

_TRIAL_ID = re.compile(r"[A-Za-z0-9_-]+")


def model_dir(directory: Path, trial_id: str, name: str = "model") -> Path:
    """Returns where a finished model of a trial is, unless it was not kept.

    Args:
        directory: Of the sweep.
        trial_id: Of the sweep.
        name: See `records.model_name`.

    Raises:
        SweepError: If `trial_id` could lead out of the sweep's directory, as no driver writes it.
    """
    return _trial_dir(directory, trial_id) / name


def model_of(directory: Path, row: Row) -> Path:
    """Returns where the finished model of a row is, unless it was not kept; see `model_dir`."""
    name = model_name(row.get("budget_epochs"), row.get("config.num_epochs", row.get("budget_epochs")))
    return model_dir(directory, str(row["trial_id"]), name)


def _trial_dir(directory: Path, trial_id: str) -> Path:
    if not _TRIAL_ID.fullmatch(trial_id):
        raise SweepError(f"{directory}: expected a trial id of letters, digits, _ and -, found {trial_id!r}")
    return directory / TRIALS / trial_id


def best_model(rows: Iterable[Row], metric: str, mode: str) -> Row | None:
    """Returns the row of the best finished model, the first of those that are equal; None if there is none."""
    finished = [row for row in rows if row.get("budget_epochs") is not None]
    return max(finished, key=lambda row: score(row, metric, mode), default=None)


class BestModels:
    """The best finished models so far. A row costs the same however many there are."""

    def __init__(self, directory: Path, keep: int | None, metric: str, mode: str) -> None:
        """Starts with no models.

        Args:
            directory: Of the sweep.
            keep: How many are kept, 1 or more; None keeps all.
            metric: The column that ranks, such as `dev.f1`.
            mode: `max` or `min`.
        """
        self._directory, self._keep, self._metric, self._mode = directory, keep, metric, mode
        self._best: list[tuple[float, int, Path]] = []  # best first; of equal ones that which was finished first
        self._num_finished = 0

    def add(self, row: Row) -> Path | None:
        """Takes note of a row, in the order of the records.

        Returns:
            A model that is of no use from now on: that of the row, or the one that it drove out. None if there is none.
        """
        # A row that is an answer from the records has no model of its own.
        if self._keep is None or row.get("budget_epochs") is None or "reused_from" in row:
            return None
        place = model_of(self._directory, row)
        insort(self._best, (-score(row, self._metric, self._mode), self._num_finished, place))
        self._num_finished += 1
        return self._best.pop()[-1] if len(self._best) > self._keep else None


def models_to_remove(directory: Path, rows: Iterable[Row], keep: int | None, metric: str, mode: str) -> list[Path]:
    """Returns the models that are not kept.

    Args:
        directory: Of the sweep.
        rows: All rows of the sweep, in their order.
        keep: How many models are kept, 1 or more; None keeps all.
        metric: The column that ranks, such as `dev.f1`.
        mode: `max` or `min`.
    """
    best = BestModels(directory, keep, metric, mode)
    return list(filter(None, map(best.add, rows)))


def remove_model(model: Path) -> None:
    """Removes a model; it is whole or gone, also if this is interrupted. One that is gone already is no mistake.

    Raises:
        SweepError: If it cannot be removed.
    """
    doomed = model.with_name(f".{model.name}.removed")
    try:
        _remove(doomed)  # left by a driver that was killed
        if model.is_dir():
            model.rename(doomed)
            _remove(doomed)
    except OSError as error:
        raise SweepError(f"{model}: cannot be removed: {error.strerror}") from error


def _remove(directory: Path) -> None:
    if directory.is_dir():
        shutil.rmtree(directory)


class Retention:
    """Removes what is not kept as trials end: models but the best few, and the checkpoints of the ended trials.

    To go on with a sweep, `record` its rows again: what an earlier driver did not live to remove is removed then.
    """

    def __init__(
        self,
        directory: Path,
        keep: int | None,
        metric: str,
        mode: str,
        say: Callable[[str], None],
        remove: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Starts with no trials.

        Args:
            directory: Of the sweep.
            keep: How many models are kept, 1 or more; None keeps all.
            metric: The column that ranks, such as `dev.f1`.
            mode: `max` or `min`.
            say: Called with one warning, should a model be impossible to remove.
            remove: Called with what is removed, as named in the sweep, to remove it from its store, too.
        """
        self._directory, self._say, self._remove = directory, say, remove
        self._best, self._keeps_all = BestModels(directory, keep, metric, mode), keep is None
        self._finished: set[str] = set()  # trials that have not ended
        self._has_warned = False

    def record(self, row: Row) -> None:
        """Takes note of a row, once it is written; an ended trial has no further rows."""
        trial_id = str(row["trial_id"])
        try:
            if doomed := self._best.add(row):
                self._remove_model(doomed)
            if row.get("budget_epochs") is not None:
                self._finished.add(trial_id)
            if row.get("status") in ENDED:
                self._clear(trial_id)
        except SweepError as error:
            if not self._has_warned:
                self._say(f"warning: {error}; the sweep goes on, and keeps what it cannot remove")
            self._has_warned = True

    def _clear(self, trial_id: str) -> None:
        """Removes what an ended trial needs no more."""
        if trial_id not in self._finished and not self._keeps_all:  # saved, but never told
            self._remove_model(model_dir(self._directory, trial_id))
        self._finished.discard(trial_id)
        # A stopped trial's process may still be writing there; what it leaves, the next driver removes.
        shutil.rmtree(_trial_dir(self._directory, trial_id) / "checkpoints", ignore_errors=True)
        self._remove(f"{TRIALS}/{trial_id}/checkpoints")

    def _remove_model(self, model: Path) -> None:
        remove_model(model)
        self._remove(model.relative_to(self._directory).as_posix())
