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
from sweeps.records import ENDED, TRIALS, Row, score

_TRIAL_ID = re.compile(r"[A-Za-z0-9_-]+")


def model_dir(directory: Path, trial_id: str) -> Path:
    """Returns where a trial's finished model is, unless it was not kept.

    Args:
        directory: Of the sweep.
        trial_id: Of the sweep.

    Raises:
        SweepError: If `trial_id` could lead out of the sweep's directory, as no driver writes it.
    """
    return _trial_dir(directory, trial_id) / "model"


def _trial_dir(directory: Path, trial_id: str) -> Path:
    if not _TRIAL_ID.fullmatch(trial_id):
        raise SweepError(f"{directory}: expected a trial id of letters, digits, _ and -, found {trial_id!r}")
    return directory / TRIALS / trial_id


def best_model(rows: Iterable[Row], metric: str, mode: str) -> Row | None:
    """Returns the row of the best finished model, the first of those that are equal; None if there is none."""
    finished = [row for row in rows if row.get("budget_epochs") is not None]
    return max(finished, key=lambda row: score(row, metric, mode), default=None)


class BestModels:
    """The best finished models so far. A row costs the same however many trials there are."""

    def __init__(self, keep: int | None, metric: str, mode: str) -> None:
        """Starts with no models.

        Args:
            keep: How many are kept, 1 or more; None keeps all.
            metric: The column that ranks, such as `dev.f1`.
            mode: `max` or `min`.
        """
        self._keep, self._metric, self._mode = keep, metric, mode
        self._finished: dict[str, float] = {}  # of trials that have not ended
        self._best: list[tuple[float, int, str]] = []  # best first; of equal ones that which ended first
        self._num_ended = 0

    def add(self, row: Row) -> list[str]:
        """Takes note of a row, in the order of the records; an ended trial has no further rows.

        Returns:
            The trials whose models are of no use from now on, at most one: the ended trial itself if it finished no
            model or none of the best, else the one that it drove out. Never one that runs or was interrupted.
        """
        if self._keep is None or "reused_from" in row:  # such a trial has no model of its own
            return []
        trial_id = str(row["trial_id"])
        if row.get("budget_epochs") is not None:
            self._finished[trial_id] = score(row, self._metric, self._mode)
        if row.get("status") not in ENDED:
            return []
        if trial_id not in self._finished:
            return [trial_id]
        insort(self._best, (-self._finished.pop(trial_id), self._num_ended, trial_id))
        self._num_ended += 1
        return [self._best.pop()[-1]] if len(self._best) > self._keep else []


def models_to_remove(rows: Iterable[Row], keep: int | None, metric: str, mode: str) -> list[str]:
    """Returns the trials whose models are not kept.

    Args:
        rows: All rows of the sweep, in their order.
        keep: How many models are kept, 1 or more; None keeps all.
        metric: The column that ranks, such as `dev.f1`.
        mode: `max` or `min`.
    """
    best = BestModels(keep, metric, mode)
    return [trial_id for row in rows for trial_id in best.add(row)]


def remove_models(directory: Path, trial_ids: Iterable[str]) -> None:
    """Removes models; a model is whole or gone, also if this is interrupted. One that is gone already is no mistake.

    Args:
        directory: Of the sweep.
        trial_ids: Whose models.

    Raises:
        SweepError: If one cannot be removed.
    """
    for trial_id in trial_ids:
        model = model_dir(directory, trial_id)
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

    def __init__(self, directory: Path, keep: int | None, metric: str, mode: str, say: Callable[[str], None]) -> None:
        """Starts with no trials.

        Args:
            directory: Of the sweep.
            keep: How many models are kept, 1 or more; None keeps all.
            metric: The column that ranks, such as `dev.f1`.
            mode: `max` or `min`.
            say: Called with one warning, should a model be impossible to remove.
        """
        self._directory, self._say = directory, say
        self._best = BestModels(keep, metric, mode)
        self._has_warned = False

    def record(self, row: Row) -> None:
        """Takes note of a row, once it is written."""
        try:
            remove_models(self._directory, self._best.add(row))
            if row.get("status") in ENDED:
                # A stopped trial's process may still be writing there; what it leaves, the next driver removes.
                shutil.rmtree(_trial_dir(self._directory, str(row["trial_id"])) / "checkpoints", ignore_errors=True)
        except SweepError as error:
            if not self._has_warned:
                self._say(f"warning: {error}; the sweep goes on, and keeps what it cannot remove")
            self._has_warned = True
