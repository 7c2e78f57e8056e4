"""What became of a sweep's trials so far, read from its records and from what the trials themselves wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qa_train.storage import read_json
from sweeps.records import ENDED, TRIAL_CONFIG, TRIALS, Row, read_records
from sweeps.space import Scalar
from sweeps.trial import read_reports


@dataclass(frozen=True)
class PastTrial:
    """A trial of an earlier run of the sweep.

    Attributes:
        trial_id: Of the sweep.
        values: What the searcher chose, by dotted name.
        recorded: Its rows, in their order.
        unrecorded: What it reported and the driver did not live to record.
    """

    trial_id: str
    values: dict[str, Scalar]
    recorded: tuple[Row, ...] = ()
    unrecorded: tuple[Row, ...] = ()

    @property
    def number(self) -> int:
        """The trial's number in the sweep, from 0."""
        return int(self.trial_id)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All of its rows."""
        return self.recorded + self.unrecorded

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing to go on with."""
        return bool(self.rows) and self.rows[-1].get("status") in ENDED


def read_history(directory: Path) -> list[PastTrial]:
    """Returns all trials that were ever started, by their numbers.

    A trial is known by its directory, which the driver makes before the trial starts. Its own reports that the driver
    did not live to record are taken over from `reports.jsonl`.

    Raises:
        DataError: If a file cannot be read; a torn last line is left out.
    """
    rows: dict[str, list[Row]] = {}
    for row in read_records(directory):
        rows.setdefault(str(row["trial_id"]), []).append(row)
    places = {path.parent.name: path.parent for path in (directory / TRIALS).glob(f"*/{TRIAL_CONFIG}")}
    return [
        _past_trial(trial_id, places.get(trial_id), rows.get(trial_id, [])) for trial_id in sorted({*rows, *places})
    ]


def _past_trial(trial_id: str, place: Path | None, rows: list[Row]) -> PastTrial:
    values = _values_of(rows) if place is None else read_json(place / TRIAL_CONFIG)["values"]
    recorded = {row.get("epochs_trained") for row in rows}
    unrecorded: list[Row] = []
    if place is not None and not (rows and rows[-1].get("status") in ENDED):
        unrecorded = [row for row in read_reports(place) if row["epochs_trained"] not in recorded]
    return PastTrial(trial_id, values, tuple(rows), tuple(unrecorded))


def _values_of(rows: Sequence[Row]) -> dict[str, Scalar]:
    return {key.removeprefix("config."): value for key, value in rows[0].items() if key.startswith("config.")}
