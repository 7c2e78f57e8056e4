"""Shows a sweep in optuna-dashboard: its trials as an Optuna study on disk, which no driver ever reads back."""

import contextlib
import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.records import Row, Value

STUDY, JOURNAL = "study", "journal.log"

_STATES = {
    "completed": TrialState.COMPLETE,
    "stopped_early": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "interrupted": TrialState.FAIL,
}
_ATTRIBUTES = ("cost.device_s", "error.type", "error.message")
"""Columns of a trial's last row that the dashboard shows beside its parameters."""
_LOCK_GRACE_S = 3
"""After which the lock of a dashboard that was killed in the act is broken, so that a sweep does not wait for it."""


class StudyMirror:
    """Writes a sweep's trials into `study/journal.log` as they start, report and end.

    A picture of a sweep must never end it: after the first failure there is one warning and nothing more is written.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        metric: str,
        mode: str,
        distributions: Mapping[str, BaseDistribution],
        say: Callable[[str], None],
        rows: Iterable[Row] = (),
        cost_metric: str | None = None,
    ) -> None:
        """Starts a new study in place of an older one.

        Args:
            directory: Of the sweep.
            name: Of the study.
            metric: The column that ranks, such as `dev.f1`.
            mode: `max` or `min`.
            distributions: Of the searched values, by dotted name.
            say: Called with a warning.
            rows: The records so far. Trials that have not ended, the interrupted ones too, are shown as running.
            cost_metric: The column that is minimized too; None if there is one objective.
        """
        self._path = directory / STUDY / JOURNAL
        self._metric, self._cost_metric = metric, cost_metric
        self._distributions, self._say = dict(distributions), say
        self._storage: JournalStorage | None = None
        self._study = -1
        self._running: dict[str, int] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._harmless():
            self._storage = self._new_storage()
            direction = StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE
            directions = [direction, StudyDirection.MINIMIZE] if cost_metric else [direction]
            self._study = self._storage.create_new_study(directions, name)
            for trial_id, own in _by_trial(rows).items():
                self._copy(self._storage, trial_id, own)

    def _new_storage(self) -> JournalStorage:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for old in self._path.parent.glob(f"{JOURNAL}*"):  # the lock of a driver that was killed, too
            old.unlink()
        lock = JournalFileSymlinkLock(str(self._path), grace_period=_LOCK_GRACE_S)
        return JournalStorage(JournalFileBackend(str(self._path), lock_obj=lock))

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # what Optuna raises depends on its version
            self._storage = None
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            self._say(f"warning: {self._path}: cannot be written: {reason}; optuna-dashboard will not show this sweep")

    def started(self, trial_id: str, values: Mapping[str, Value]) -> None:
        """Shows a trial; does nothing for one that runs.

        Args:
            trial_id: Of the sweep.
            values: Those searched, by dotted name.
        """
        if self._storage is not None and trial_id not in self._running:
            with self._harmless():
                trial = self._frozen(trial_id, values, TrialState.RUNNING)
                self._running[trial_id] = self._storage.create_new_trial(self._study, trial)

    def record(self, row: Row) -> None:
        """Shows what a row adds to a trial that was `started`: a score, its end, or both."""
        trial = self._running.get(str(row["trial_id"]))
        if self._storage is None or trial is None:
            return
        with self._harmless():
            value, epochs, status = self._value(row), row.get("epochs_trained"), str(row.get("status"))
            if value is not None and isinstance(epochs, int):
                self._storage.set_trial_intermediate_value(trial, epochs, value)
            if status in _STATES:
                for name, attribute in _attributes(row).items():
                    self._storage.set_trial_user_attr(trial, name, attribute)
                self._storage.set_trial_state_values(trial, *self._end(row))
                del self._running[str(row["trial_id"])]

    def _copy(self, storage: JournalStorage, trial_id: str, rows: list[Row]) -> None:
        """Writes a trial with all that it reported at once, at the times at which it did."""
        first, last = rows[0], rows[-1]
        has_ended = last.get("status") in _STATES and last.get("status") != "interrupted"
        state, finals = self._end(last) if has_ended else (TrialState.RUNNING, None)
        values = {key: value for key in self._distributions if (value := first.get(f"config.{key}")) is not None}
        told = [(row.get("epochs_trained"), self._value(row)) for row in rows]
        reports = {epochs: value for epochs, value in told if isinstance(epochs, int) and value is not None}
        trial = self._frozen(trial_id, values, state, values=finals, intermediate_values=reports)
        trial.user_attrs = {**trial.user_attrs, **(_attributes(last) if has_ended else {})}
        trial.datetime_start = _time(first, -_seconds(first))
        trial.datetime_complete = _time(last) if has_ended else None
        number = storage.create_new_trial(self._study, trial)
        if not has_ended:
            self._running[trial_id] = number

    def _frozen(self, trial_id: str, searched: Mapping[str, Value], state: TrialState, **more: Any) -> FrozenTrial:
        """Returns a trial; values from a space that the sweep had before are left out, as Optuna would refuse them."""
        known = {key: item for key, item in self._distributions.items() if _holds(item, searched.get(key))}
        params = {key: searched[key] for key in known}
        attributes = {"trial_id": trial_id}
        return create_trial(state=state, params=params, distributions=known, user_attrs=attributes, **more)

    def _value(self, row: Row) -> float | None:
        return _finite(row.get(self._metric))

    def _end(self, row: Row) -> tuple[TrialState, list[float] | None]:
        """Returns the state and values of a trial whose last row this is; a model without a score counts as failed."""
        state, score = _STATES[str(row["status"])], self._value(row)
        values = [score, _finite(row.get(self._cost_metric))] if self._cost_metric else [score]
        known = [value for value in values if value is not None]
        is_whole = len(known) == len(values)
        if state == TrialState.COMPLETE and not (is_whole and row.get("budget_epochs") is not None):
            return TrialState.FAIL, None
        return state, known if is_whole and state != TrialState.FAIL else None


def _finite(value: Value) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _holds(distribution: BaseDistribution, value: Value) -> bool:
    if isinstance(distribution, IntDistribution | FloatDistribution):
        return isinstance(value, int | float) and distribution.low <= value <= distribution.high
    return isinstance(distribution, CategoricalDistribution) and value in distribution.choices


def _by_trial(rows: Iterable[Row]) -> dict[str, list[Row]]:
    trials: dict[str, list[Row]] = {}
    for row in rows:
        trials.setdefault(str(row["trial_id"]), []).append(row)
    return trials


def _attributes(row: Row) -> Row:
    return {name: row[name] for name in _ATTRIBUTES if row.get(name) is not None}


def _time(row: Row, offset_s: float = 0.0) -> datetime.datetime:
    seconds = row.get("time")
    return datetime.datetime.fromtimestamp((seconds if isinstance(seconds, int | float) else 0.0) + offset_s)


def _seconds(row: Row) -> float:
    """Returns how long a trial took until this row, as far as its parts tell: `cost.device_s` counts each device."""
    parts = (value for key, value in row.items() if key.startswith("cost.") and key.endswith("_s"))
    total = sum(value for value in parts if isinstance(value, int | float))
    held = row.get("cost.device_s")
    return total - (held if isinstance(held, int | float) else 0.0)
