"""What became of a sweep's trials so far, read from its records and from what the trials themselves wrote."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from qa_train.storage import read_json
from sweeps.records import ENDED, TRIAL_CONFIG, TRIALS, Row, TrialName, read_records
from sweeps.space import Scalar
from sweeps.stopping import Stopping
from sweeps.trial import read_reports


@dataclass(frozen=True)
class PastTrial:
    """A trial of an earlier run of the sweep.

    Attributes:
        trial_id: Of the sweep.
        values: What the searcher chose, by dotted name.
        recorded: Its rows, in their order.
        unrecorded: What it reported and the driver did not live to record.
        seed: Its `train.seed`; None if it is not known.
    """

    trial_id: str
    values: dict[str, Scalar]
    recorded: tuple[Row, ...] = ()
    unrecorded: tuple[Row, ...] = ()
    seed: int | None = None

    @property
    def name(self) -> TrialName:
        """What its id says."""
        return TrialName.parse(self.trial_id)

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
    own = read_json(place / TRIAL_CONFIG) if place else None
    values = own["values"] if own else values_of(rows[0])
    seed = own.get("train", {}).get("seed") if own else rows[0].get("seed")
    seed = seed if isinstance(seed, int) else None
    recorded = {row.get("epochs_trained") for row in rows}
    unrecorded: list[Row] = []
    if place is not None and not (rows and rows[-1].get("status") in ENDED):
        unrecorded = [row for row in read_reports(place) if row["epochs_trained"] not in recorded]
    return PastTrial(trial_id, values, tuple(rows), tuple(unrecorded), seed)


def values_of(row: Row) -> dict[str, Scalar]:
    """Returns what the searcher chose for a row's trial, and its `num_epochs`, by dotted name.

    It is what the trial was trained with also where the sweep has another space by now.
    """
    return {key.removeprefix("config."): value for key, value in row.items() if key.startswith("config.")}


def end_stopped(past: Iterable[PastTrial], stopping: Stopping, metric: str, num_epochs: int) -> list[PastTrial]:
    """Ends the trials that the trial scheduler has stopped, or would have, had their driver lived to hear of it.

    Args:
        past: In the order in which their reports are taken note of.
        stopping: Knows the rows that were recorded.
        metric: The column that is compared.
        num_epochs: Of trials of a sweep that does not search them.

    Returns:
        The same trials; the unrecorded rows of one that is stopped end where it is, with `stopped_early`. Finalists run
        without a trial scheduler, so that none is stopped.
    """
    return [
        trial if trial.has_ended or trial.name.is_final else _end_if_stopped(trial, stopping, metric, num_epochs)
        for trial in past
    ]


def _end_if_stopped(trial: PastTrial, stopping: Stopping, metric: str, num_epochs: int) -> PastTrial:
    stopped: Row = {"status": "stopped_early"}
    if stopping.has_stopped(trial.trial_id):
        return replace(trial, unrecorded=(stopped,))
    budget = trial.values.get("num_epochs", num_epochs)
    for count, row in enumerate(trial.unrecorded):
        epochs = row.get("epochs_trained")
        if row.get("status") != "running" or not (isinstance(budget, int) and isinstance(epochs, int)):
            continue
        if stopping.decide(trial.trial_id, budget, epochs, row.get(metric)):
            return replace(trial, unrecorded=(*trial.unrecorded[:count], row | stopped))
    return trial
