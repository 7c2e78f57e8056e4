"""What a sweep's rows add up to, kept row by row: what `status` and the live view both show."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from sweeps.records import ENDED, Row, Value, score

STATUSES = ("completed", "stopped_early", "failed", "interrupted", "running")
"""Of trials, in the order in which they are shown."""


@dataclass
class Tally:
    """What is known of a sweep after some of its rows; a row more costs the same however many there were.

    Attributes:
        metric: The column that ranks finished models, such as `dev.f1`.
        mode: `max` or `min`.
        last: Each trial's last row.
        counts: Trials by the status of their last row.
        best: Row of the best finished model, the first of those that are equal; None if there is none.
        last_failure: Row of the trial that failed last; None if none did.
        device_s: Seconds x devices that all trials held, as far as reported; none for one that was answered from the
            records of another (`reused_from`).
        num_trained: Trials that trained until they completed or were stopped early.
        trained_epochs: Epochs of those.
        trained_device_s: Seconds x devices that those held, for whatever it was.
    """

    metric: str
    mode: str
    last: dict[str, Row] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    best: Row | None = None
    last_failure: Row | None = None
    device_s: float = 0.0
    num_trained: int = 0
    trained_epochs: float = 0.0
    trained_device_s: float = 0.0
    _held: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Row], metric: str, mode: str) -> "Tally":
        """Returns the tally of rows in the order of the records."""
        tally = cls(metric, mode)
        for row in rows:
            tally.add(row)
        return tally

    @property
    def num_ended(self) -> int:
        """Trials that are not gone on with."""
        return sum(self.counts[status] for status in ENDED)

    def add(self, row: Row) -> None:
        """Takes note of a row, in the order of the records; an ended trial has no further rows."""
        trial_id, status = str(row["trial_id"]), str(row.get("status"))
        if before := self.last.get(trial_id):
            self.counts[str(before.get("status"))] -= 1
        self.counts[status] += 1
        self.last[trial_id] = row
        is_reused = "reused_from" in row
        if not is_reused and (held := number(row.get("cost.device_s"))):  # it counts all attempts of the trial
            self.device_s += held - self._held.get(trial_id, 0.0)
            self._held[trial_id] = held
        if row.get("budget_epochs") is not None and (self.best is None or self._score(row) > self._score(self.best)):
            self.best = row
        if status == "failed":
            self.last_failure = row
        elif status in ENDED and not is_reused:
            self.num_trained += 1
            self.trained_epochs += number(row.get("epochs_trained"))
            self.trained_device_s += self._held.get(trial_id, 0.0)

    def _score(self, row: Row) -> float:
        return score(row, self.metric, self.mode)


def number(value: Value) -> float:
    """Returns a column's value, 0 where it has none."""
    return float(value) if isinstance(value, int | float) else 0.0
