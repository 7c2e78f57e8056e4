"""Results of trials that trained the same before, in this sweep or in others: no model is trained twice."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qa_train.config import TrainConfig, with_values
from qa_train.errors import DataError
from sweeps.identity import identify
from sweeps.records import ENDED, TRIALS, Row, Value, read_manifest, read_records
from sweeps.space import Scalar
from sweeps.sweep_store import local_copy


@dataclass(frozen=True)
class Source:
    """A trial that finished its models.

    Attributes:
        name: `<sweep id>/<trial id>`.
        rows: Of the finished models, one for each budget, in their order.
        directory: The trial's own.
        tests: Test sets, such as `test.clean`, that are the same file in the sweep that asks: only theirs are the test
            scores in `rows`, and only those are copied.
    """

    name: str
    rows: tuple[Row, ...]
    directory: Path
    tests: frozenset[str] = frozenset()


class Answers:
    """Knows trials by what they train, and answers for those that would train the same."""

    def __init__(
        self,
        train: TrainConfig,
        common: Mapping[str, Any],
        directory: Path,
        sweep_id: str,
        data: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        needs_tests: bool = False,
    ) -> None:
        """Starts without any known trial.

        Args:
            train: What all trials of the sweep have in common, resolved.
            common: See `identity.surroundings`.
            directory: Of the sweep.
            sweep_id: Of the sweep.
            data: Of the sweep's manifest. The identity leaves test sets out, for they take no part in a training.
            needs_tests: Whether a trial only answers with scores on all test sets of `data`.
        """
        self._train, self._common = train, common
        self._directory, self._sweep_id = directory, sweep_id
        self._tests = {name: entry["sha256"] for name, entry in data.items() if name.startswith("test.")}
        self._needs_tests = needs_tests
        self._known: dict[str, Source] = {}
        self._finished: dict[Path, dict[Value, Row]] = {}  # rows by budget of trials that have not ended
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
        self._add(self._sweep_id, self._directory, row, frozenset(self._tests))

    def learn(self, directories: Iterable[str]) -> int:
        """Takes note of the finished trials of other sweeps.

        Returns:
            How many of their trials can answer; rows of older versions have no identity.

        Raises:
            DataError: If one is no sweep, or its records are broken.
        """
        before = len(self._known)
        for directory in (local_copy(place, f"{TRIALS}/*/scores_*.parquet") for place in directories):
            manifest = read_manifest(directory)
            hashes = {name: entry.get("sha256") for name, entry in manifest.data.items()}
            tests = frozenset(name for name, sha256 in self._tests.items() if hashes.get(name) == sha256)
            for row in read_records(directory):
                self._add(manifest.sweep_id, directory, row, tests)
        return len(self._known) - before

    def _add(self, sweep_id: str, directory: Path, row: Row, tests: frozenset[str]) -> None:
        trial_id, budget = str(row["trial_id"]), row.get("budget_epochs")
        place = directory / TRIALS / trial_id
        if budget is not None:
            self._finished.setdefault(place, {})[budget] = _without_other_tests(row, tests)
        if row.get("status") not in ENDED:
            return
        rows = tuple(self._finished.pop(place, {}).values())
        is_finished = row["status"] == "completed" and budget is not None and "identity" in row
        if is_finished and self._has_tests(rows) and not any("reused_from" in each for each in rows):
            self._known.setdefault(str(row["identity"]), Source(f"{sweep_id}/{trial_id}", rows, place, tests))

    def _has_tests(self, rows: Iterable[Row]) -> bool:
        return not self._needs_tests or all(f"{name}.f1" in row for row in rows for name in self._tests)

    def find(self, values: Mapping[str, Scalar], seed: int) -> Source | None:
        """Returns a finished trial that trained the same; None if there is none."""
        return self._known.get(self.identify(values, seed))


def _without_other_tests(row: Row, tests: frozenset[str]) -> Row:
    """Returns a row without scores on other test sets than these."""
    return {key: value for key, value in row.items() if not key.startswith("test.") or key.rpartition(".")[0] in tests}


def copy_scores(source: Source, target: Path) -> None:
    """Copies the scores and predictions of a trial, so that they lie where those of any trial lie.

    Of test sets only those of `source.tests` are copied.

    Raises:
        DataError: If they cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for pattern in ("scores_*.parquet", "predictions_*.json"):
            for path in source.directory.glob(pattern):
                data_set = path.name.partition("_")[2].rpartition("_")[0]  # <what>_<set>_<budget>
                if not data_set.startswith("test.") or data_set in source.tests:
                    shutil.copy(path, target / path.name)
    except OSError as error:
        raise DataError(f"{target}: the scores of {source.name} cannot be copied there: {error.strerror}") from error
