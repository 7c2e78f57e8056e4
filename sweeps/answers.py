"""Results of trials that trained the same before, in this sweep or in others: no model is trained twice."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_train.config import TrainConfig, with_values
from qa_train.errors import DataError
from sweeps.identity import identify
from sweeps.records import TRIALS, Row, read_manifest, read_records
from sweeps.space import Scalar
from sweeps.sweep_store import local_copy


@dataclass(frozen=True)
class Source:
    """A trial that finished its model.

    Attributes:
        name: `<sweep id>/<trial id>`.
        row: Of the finished model.
        directory: The trial's own.
    """

    name: str
    row: Row
    directory: Path


class Answers:
    """Knows trials by what they train, and answers for those that would train the same."""

    def __init__(self, train: TrainConfig, common: Mapping[str, Any], directory: Path, sweep_id: str) -> None:
        """Starts without any known trial.

        Args:
            train: What all trials of the sweep have in common, resolved.
            common: See `identity.surroundings`.
            directory: Of the sweep.
            sweep_id: Of the sweep.
        """
        self._train, self._common = train, common
        self._directory, self._sweep_id = directory, sweep_id
        self._known: dict[str, Source] = {}
        self._identities: dict[tuple[object, ...], str] = {}

    def identify(self, values: Mapping[str, Scalar], seed: int) -> str:
        """Returns the identity of a trial, see `identity.identify`.

        Args:
            values: Those searched, by dotted name.
            seed: Its `train.seed`.
        """
        key = (*values.items(), seed)
        if key not in self._identities:
            train = with_values(self._train, {**values, "seed": seed})
            self._identities[key] = identify(train, self._common)
        return self._identities[key]

    def record(self, row: Row) -> None:
        """Takes note of a row of the sweep's own records."""
        self._add(self._sweep_id, self._directory, row)

    def learn(self, directories: Iterable[str]) -> int:
        """Takes note of the finished trials of other sweeps.

        Returns:
            How many trials they have whose identity is known; rows of older versions have none.

        Raises:
            DataError: If one is no sweep, or its records are broken.
        """
        before = len(self._known)
        for directory in (local_copy(place, f"{TRIALS}/*/scores_*.parquet") for place in directories):
            sweep_id = read_manifest(directory).sweep_id
            for row in read_records(directory):
                self._add(sweep_id, directory, row)
        return len(self._known) - before

    def _add(self, sweep_id: str, directory: Path, row: Row) -> None:
        is_finished = row.get("status") == "completed" and row.get("budget_epochs") is not None
        if is_finished and "identity" in row and "reused_from" not in row:
            trial_id = str(row["trial_id"])
            source = Source(f"{sweep_id}/{trial_id}", row, directory / TRIALS / trial_id)
            self._known.setdefault(str(row["identity"]), source)

    def find(self, values: Mapping[str, Scalar], seed: int) -> Source | None:
        """Returns a finished trial that trained the same; None if there is none."""
        return self._known.get(self.identify(values, seed))


def copy_scores(source: Source, target: Path) -> None:
    """Copies the scores and predictions of a trial, so that they lie where those of any trial lie.

    Raises:
        DataError: If they cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for pattern in ("scores_*.parquet", "predictions_*.json"):
            for path in source.directory.glob(pattern):
                shutil.copy(path, target / path.name)
    except OSError as error:
        raise DataError(f"{target}: the scores of {source.name} cannot be copied there: {error.strerror}") from error
