"""Turns what trials report into rows of the records and lines for the user; knows nothing of Ray."""

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qa_train.config import with_values
from sweeps.config import SweepConfig
from sweeps.history import PastTrial
from sweeps.journal import Journal
from sweeps.records import Row, TrialName, Value, score

Say = Callable[[str], None]

_COLUMNS = {"status", "epochs_trained", "budget_epochs", "train_loss", "eval_loss", "start_accuracy", "end_accuracy"}
_COLUMNS |= {"learning_rate", "node", "device", "launcher", "attempt"}
_PREFIXES = ("dev.", "test.", "cost.", "model_cost.", "error.")


@dataclass
class _OpenTrial:
    """A trial that has not ended: what all its rows have in common, and what there is of it so far."""

    columns: Row
    num_rows: int = 0
    status: Value = None
    device_s: float = 0.0
    attempt: int = 0
    epochs: set[int] = field(default_factory=set)
    finished: list[Row] = field(default_factory=list)

    def count(self, row: Row) -> None:
        """Takes note of one of its rows."""
        self.num_rows += 1
        self.status = row.get("status")
        if row.get("budget_epochs") is not None:
            self.finished.append(row)
        if isinstance(epoch := row.get("epochs_trained"), int):
            self.epochs.add(epoch)
        if "reused_from" in row:
            return
        self.device_s = _number(row.get("cost.device_s")) or self.device_s
        self.attempt = int(_number(row.get("attempt")))


@dataclass(eq=False)
class Recorder:
    """Writes a row for each report and says a line for each event.

    Attributes:
        config: Of the sweep.
        journal: Where rows go.
        say: Where lines go.
        device_time: Returns the device-seconds that a trial held so far, by its id; asked of one that cannot report any
            more. None if that is not known.
        identify: Returns a trial's identity by its searched values and seed, for its rows; None leaves it out.
        observers: Called with each row once it is written.
        start_observers: Called with the id and the searched values of each trial that starts, or starts again.
        num_completed: Trials with a finished model so far.
        num_stopped: Trials that were stopped early so far.
        num_failed: Trials that failed so far.
        best: Row of the best finished model so far, by `search.metric`.
    """

    config: SweepConfig
    journal: Journal
    say: Say
    device_time: Callable[[str], float | None] = lambda trial_id: None
    identify: Callable[[Mapping[str, Value], int], str | None] = lambda values, seed: None
    observers: list[Callable[[Row], None]] = field(default_factory=list)
    start_observers: list[Callable[[str, Mapping[str, Value]], None]] = field(default_factory=list)
    num_completed: int = 0
    num_stopped: int = 0
    num_failed: int = 0
    best: Row | None = None
    _running: dict[str, _OpenTrial] = field(default_factory=dict)
    _interrupted: dict[str, _OpenTrial] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _ended_device_s: float = 0.0

    @property
    def device_s(self) -> float:
        """Device-seconds of all trials so far."""
        return self._ended_device_s + sum(
            trial.device_s for trial in (*self._running.values(), *self._interrupted.values())
        )

    def knows(self, trial_id: str) -> bool:
        """Returns whether a trial has started, ended ones included."""
        return trial_id in self._running or trial_id in self._ended

    def resume(self, past: Iterable[PastTrial]) -> None:
        """Takes over the trials of earlier runs; writes the rows that they left and that no driver recorded."""
        for trial in past:
            found = self._new(trial.trial_id, trial.values, trial.seed)
            for row in trial.recorded:
                found.count(row)
                self._rank(row)
            last = trial.recorded[-1] if trial.recorded else None
            for message in trial.unrecorded:
                last = self._append(found, self._columns(message) | self._held(trial.trial_id))
            if trial.has_ended and last:
                self._end(trial.trial_id, found, last)
            else:
                self._interrupted[trial.trial_id] = found

    def started(self, trial_id: str, values: Mapping[str, Value], seed: int | None = None) -> None:
        """Notes that a trial runs; again, if its actor died.

        Args:
            trial_id: Of the sweep.
            values: Those searched, by dotted name.
            seed: Its `train.seed`; by default the sweep's.
        """
        if trial_id not in self._running:
            interrupted = self._interrupted.pop(trial_id, None)
            self._running[trial_id] = interrupted or self._new(trial_id, values, seed)
            for observer in self.start_observers:
                observer(trial_id, values)

    def reported(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Writes the row of a report; what is no column of a record is left out.

        A trial that goes on from a checkpoint tells again what it told before: that is not written twice.
        """
        running = self._running[trial_id]
        if result["status"] == "running" and result.get("epochs_trained") in running.epochs:
            return
        row = self._append(running, self._columns(result))
        if row["status"] != "running":
            del self._running[trial_id]
            self._end(trial_id, running, row)
            self._tell_end(row, running)
        elif "error.type" in row:
            self.say(f"trial {trial_id}: {_error(row)}; started again")
        else:
            self.say(f"trial {trial_id}: {_progress(row)}")

    def answered(
        self, trial_id: str, values: Mapping[str, Value], seed: int, rows: Sequence[Row], source: str
    ) -> list[Row]:
        """Writes the rows of a trial that need not run, for another one has trained the same.

        Those that a driver wrote before it was killed are not written twice.

        Args:
            trial_id: Of the sweep.
            values: Those searched, by dotted name.
            seed: Its `train.seed`.
            rows: Of the other trial's finished models, the last one completed. What they cost is not counted again.
            source: `<sweep id>/<trial id>` of the other trial.

        Returns:
            The rows as they were written.
        """
        trial = self._interrupted.pop(trial_id, None) or self._new(trial_id, values, seed)
        known = {row["budget_epochs"] for row in trial.finished}
        for row in (row for row in rows if row["budget_epochs"] not in known):
            self._append(trial, self._columns(row) | {"reused_from": source})
        self._end(trial_id, trial, last := trial.finished[-1])
        self.say(f"trial {trial_id}: {_metric(last, self.config.search.metric)}, as trained by {source}")
        self._tell_curve(trial_id, trial)
        return trial.finished

    def failed(self, trial_id: str, error_type: str, message: str) -> None:
        """Writes the row of a trial that could not report its own end; does nothing for one that has ended."""
        if trial_id in self._running:
            error = {"error.type": error_type, "error.message": message}
            self.reported(trial_id, {"status": "failed", **error, **self._held(trial_id)})

    def close(self) -> None:
        """Records the trials that have not ended as interrupted, those that earlier runs left and none started too."""
        self._interrupted |= self._running
        self._running = {}
        for trial_id, trial in self._interrupted.items():
            if trial.status != "interrupted":
                self._append(trial, {"status": "interrupted", **self._held(trial_id)})

    def _new(self, trial_id: str, values: Mapping[str, Value], seed: int | None) -> _OpenTrial:
        train = with_values(self.config.train, values if seed is None else {**values, "seed": seed})
        searched = {f"config.{key}": value for key, value in values.items()}
        common: Row = {"trial_id": trial_id, "seed": train.seed}
        if identity := self.identify(values, train.seed):
            common["identity"] = identity
        if TrialName.parse(trial_id).is_final:
            common["final"] = True
        return _OpenTrial({**common, **searched, "config.num_epochs": train.num_epochs})

    def _columns(self, result: Mapping[str, Any]) -> Row:
        return {key: value for key, value in result.items() if key in _COLUMNS or key.startswith(_PREFIXES)}

    def _held(self, trial_id: str) -> Row:
        held = self.device_time(trial_id)
        return {} if held is None else {"cost.device_s": held}

    def _append(self, trial: _OpenTrial, columns: Mapping[str, Any]) -> Row:
        place: Row = {"report": trial.num_rows, "time": time.time(), "host": socket.gethostname()}
        row = self.journal.append({**trial.columns, "attempt": trial.attempt, **place, **columns})
        trial.count(row)
        self._rank(row)
        for observer in self.observers:
            observer(row)
        return row

    def _end(self, trial_id: str, trial: _OpenTrial, row: Row) -> None:
        self._ended.add(trial_id)
        self._ended_device_s += trial.device_s
        if row["status"] == "failed":
            self.num_failed += 1
        elif row["status"] == "stopped_early":
            self.num_stopped += 1
        elif row["status"] == "completed":
            self.num_completed += 1

    def _rank(self, row: Row) -> None:
        ranking = self.config.search.metric, self.config.search.mode
        if row.get("budget_epochs") is None:
            return
        if self.best is None or score(row, *ranking) > score(self.best, *ranking):
            self.best = row

    def _tell_end(self, row: Row, trial: _OpenTrial) -> None:
        name = f"trial {row['trial_id']}"
        if row["status"] == "failed":
            log = f" (log: {row['error.log']})" if row.get("error.log") else ""
            self.say(f"{name}: {_error(row)}{log}")
        elif row["status"] == "stopped_early":
            self.say(f"{name}: {_progress(row)}, stopped early")
        elif self.best:
            best = f"best so far: trial {self.best['trial_id']}, {_metric(self.best, self.config.search.metric)}"
            self.say(f"{name}: {_progress(row)}, finished ({best})")
        self._tell_curve(str(row["trial_id"]), trial)

    def _tell_curve(self, trial_id: str, trial: _OpenTrial) -> None:
        if len(trial.finished) > 1:
            metric = self.config.search.metric
            curve = ", ".join(f"{item['budget_epochs']}: {_shown(item.get(metric))}" for item in trial.finished)
            self.say(f"trial {trial_id}: {metric} by epochs: {curve}")


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _error(row: Row) -> str:
    return f"failed: {row['error.type']}: {row['error.message']}"


def _progress(row: Row) -> str:
    """Returns how far a trial is and, with its first report, what it trains."""
    text = f"epoch {row['epochs_trained']}/{row['config.num_epochs']}, {_metric(row, 'dev.f1')}"
    searched = ", ".join(
        f"{key.removeprefix('config.')}={f'{value:.3g}' if isinstance(value, float) else value}"
        for key, value in row.items()
        if key.startswith("config.") and key != "config.num_epochs"
    )
    return f"{text} ({searched})" if searched and row["epochs_trained"] == 1 else text


def _metric(row: Row, metric: str) -> str:
    return f"{metric} {_shown(row.get(metric))}"


def _shown(value: Value) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "-"
