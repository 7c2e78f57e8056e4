"""Turns what trials report into rows of the records and lines for the user; knows nothing of Ray."""

import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qa_train.config import with_values
from sweeps.config import SweepConfig
from sweeps.journal import Journal
from sweeps.records import Row, Value

Say = Callable[[str], None]

_COLUMNS = {"status", "epochs_trained", "budget_epochs", "train_loss", "eval_loss", "start_accuracy", "end_accuracy"}
_COLUMNS |= {"learning_rate", "node", "device", "launcher"}
_PREFIXES = ("dev.", "test.", "cost.", "error.")


@dataclass
class _RunningTrial:
    """A trial between its start and its end: what all its rows have in common, and how many there are."""

    columns: Row
    num_rows: int = 0
    device_s: float = 0.0


@dataclass(eq=False)
class Recorder:
    """Writes a row for each report and says a line for each event.

    Attributes:
        config: Of the sweep.
        journal: Where rows go.
        say: Where lines go.
        num_completed: Trials with a finished model so far.
        num_failed: Trials that failed so far.
        best: Row of the best finished model so far, by `search.metric`.
    """

    config: SweepConfig
    journal: Journal
    say: Say
    num_completed: int = 0
    num_failed: int = 0
    best: Row | None = None
    _running: dict[str, _RunningTrial] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _ended_device_s: float = 0.0

    @property
    def device_s(self) -> float:
        """Device-seconds of all trials so far."""
        return self._ended_device_s + sum(trial.device_s for trial in self._running.values())

    def knows(self, trial_id: str) -> bool:
        """Returns whether a trial has started, ended ones included."""
        return trial_id in self._running or trial_id in self._ended

    def started(self, trial_id: str, values: Mapping[str, Value]) -> None:
        """Notes a trial's configuration: the searched `values` by dotted name."""
        train = with_values(self.config.train, values)
        searched = {f"config.{key}": value for key, value in values.items()}
        common: Row = {"trial_id": trial_id, "attempt": 0, "seed": train.seed}
        self._running[trial_id] = _RunningTrial({**common, **searched, "config.num_epochs": train.num_epochs})

    def reported(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Writes the row of a report; what is no column of a record is left out."""
        running = self._running[trial_id]
        columns = {key: value for key, value in result.items() if key in _COLUMNS or key.startswith(_PREFIXES)}
        running.device_s = columns.get("cost.device_s") or running.device_s
        row = self._append(running, columns)
        if row["status"] == "running":
            self.say(f"trial {trial_id}: {_progress(row)}")
            return
        del self._running[trial_id]
        self._ended.add(trial_id)
        self._ended_device_s += running.device_s
        self._tell_end(row)

    def failed(self, trial_id: str, error_type: str, message: str) -> None:
        """Writes the row of a trial that could not report its own end; does nothing for one that has ended."""
        if trial_id in self._running:
            self.reported(trial_id, {"status": "failed", "error.type": error_type, "error.message": message})

    def close(self) -> None:
        """Records the trials that still run as interrupted."""
        for running in self._running.values():
            self._append(running, {"status": "interrupted"})
            self._ended_device_s += running.device_s
        self._running.clear()

    def _append(self, running: _RunningTrial, columns: Mapping[str, Any]) -> Row:
        place: Row = {"report": running.num_rows, "time": time.time(), "host": socket.gethostname()}
        running.num_rows += 1
        return self.journal.append({**running.columns, **place, **columns})

    def _tell_end(self, row: Row) -> None:
        name = f"trial {row['trial_id']}"
        if row["status"] == "failed":
            self.num_failed += 1
            log = f" (log: {row['error.log']})" if row.get("error.log") else ""
            self.say(f"{name}: failed: {row['error.type']}: {row['error.message']}{log}")
            return
        self.num_completed += 1
        if self.best is None or self._score(row) > self._score(self.best):
            self.best = row
        best = f"best so far: trial {self.best['trial_id']}, {_metric(self.best, self.config.search.metric)}"
        self.say(f"{name}: {_progress(row)}, finished ({best})")

    def _score(self, row: Row) -> float:
        value = row.get(self.config.search.metric)
        if not isinstance(value, int | float):
            return -math.inf
        return -value if self.config.search.mode == "min" else float(value)


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
    value = row.get(metric)
    return f"{metric} {value:.2f}" if isinstance(value, int | float) else f"{metric} -"
