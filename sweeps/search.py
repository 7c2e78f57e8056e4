"""Chooses trials: Ray Tune searchers over Optuna's ask and tell, or over a list."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ray.tune.search import Searcher

from sweeps.configurations import Configurations
from sweeps.history import PastTrial
from sweeps.records import Row, TrialName
from sweeps.search_config import SearchConfig
from sweeps.space import Scalar, Space

TRIAL_ID, VALUES, SEED, IS_FINAL = "trial_id", "values", "seed", "is_final"


@dataclass(frozen=True)
class Suggestion:
    """A trial that shall run.

    Attributes:
        name: What its id says.
        values: Those searched, by dotted name.
        seed: Its `train.seed`.
        has_begun: Whether it goes on with a trial of an earlier run.
    """

    name: TrialName
    values: Mapping[str, Scalar]
    seed: int
    has_begun: bool = False

    def to_plain(self) -> dict[str, Any]:
        """Returns what Tune passes on to the trial; Tune's own random ids appear nowhere else."""
        return {TRIAL_ID: str(self.name), VALUES: dict(self.values), SEED: self.seed, IS_FINAL: self.name.is_final}


class Duplicates(Protocol):
    """Knows trials that trained exactly the same before."""

    def identify(self, suggestion: Suggestion) -> str:
        """Returns what two trials have in common if and only if they train the same."""

    def answer(self, suggestion: Suggestion) -> list[Row]:
        """Returns the rows of the finished models of a trial that trained the same, recorded as this one's, if any."""


class _Unsaved(Searcher):
    """Leaves Tune's snapshots of a searcher empty: the records are the only truth, and open files cannot be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: Tune's state is never read back."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuses: see `save`."""
        raise NotImplementedError("a sweep is rebuilt from its records, not from Tune's state")


class ListSearcher(_Unsaved):
    """Suggests given trials and learns nothing."""

    def __init__(self, suggestions: Iterable[Suggestion]) -> None:
        super().__init__()
        self._left = deque(suggestions)

    @property
    def num_left(self) -> int:
        """Suggestions that are still to come."""
        return len(self._left)

    def suggest(self, trial_id: str) -> dict[str, Any] | Any:
        """Returns the next trial, or `Searcher.FINISHED` after the last."""
        return self._left.popleft().to_plain() if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing."""


class StudySearcher(_Unsaved):
    """Asks an Optuna study for each configuration and tells it what came of its trials.

    Ray's own `OptunaSearch` tells stopped trials as complete and cannot be rebuilt from records.

    With several `search.seeds` each configuration is trained once with each, and the study is told the mean. After a
    trial that failed or was stopped early its configuration gets no further ones.

    A trial that would train what another one has trained is not suggested: `duplicates` gives its result. One that
    would train what a running one trains waits for that.
    """

    def __init__(
        self,
        space: Space,
        search: SearchConfig,
        past: Sequence[PastTrial] = (),
        own_seed: int | None = None,
        duplicates: Duplicates | None = None,
        budgets: Sequence[int] = (),
    ) -> None:
        """Creates a study that knows the trials of earlier runs.

        Args:
            space: What is searched; may be empty.
            search: Searcher, metric, number of trials, seeds.
            past: Trials of earlier runs of the sweep, by number. Those that have not ended are suggested again, before
                any new one. Those with values outside of the space do not inform the sampler.
            own_seed: The sweep's `train.seed`, which the ids of its trials leave out; by default the first of
                `search.seeds`.
            duplicates: Knows what was trained before; by default nothing is known.
            budgets: After which epochs each trial has a finished model, ascending, if it has several.
        """
        super().__init__(metric=search.metric, mode=search.mode)
        self._seeds, self._duplicates = search.seeds, duplicates
        self._own_seed = search.seeds[0] if own_seed is None else own_seed
        self._configurations = Configurations(space, search, budgets)
        self._queue: deque[Suggestion] = deque()
        self._open: dict[str, Suggestion] = {}
        self._running: set[str] = set()  # identities
        self._finished: dict[str, list[Mapping[str, Any]]] = {}  # reports of models of trials with several
        self._twins: list[Suggestion] = []
        searched = (trial for trial in past if not trial.name.is_final)
        for number, trials in itertools.groupby(searched, key=lambda trial: trial.name.number):
            self._take_over(number, [self._with_seed(trial) for trial in trials])
        self._queue = deque(sorted(self._queue, key=lambda suggestion: not suggestion.has_begun))
        self._numbers = self._configurations.left()

    @property
    def study(self) -> Any:
        """The Optuna study."""
        return self._configurations.study

    @property
    def num_left(self) -> int:
        """Suggestions that are still to come, at most."""
        return len(self._queue) + len(self._twins) + len(self._numbers) * len(self._seeds)

    def _with_seed(self, trial: PastTrial) -> PastTrial:
        return replace(trial, seed=self._own_seed) if trial.seed is None else trial

    def _take_over(self, number: int, past: list[PastTrial]) -> None:
        missing = self._configurations.take_over(number, past)
        for trial in past:
            if not trial.has_ended and trial.seed is not None:
                has_begun = not any("reused_from" in row for row in trial.rows)  # else an answer was cut off
                self._queue.append(Suggestion(trial.name, dict(trial.values), trial.seed, has_begun))
        self._enqueue(number, past[0].values, missing)

    def _enqueue(self, number: int, values: Mapping[str, Scalar], seeds: Iterable[int]) -> None:
        for seed in (seed for seed in self._seeds if seed in seeds):
            name = TrialName(number, None if seed == self._own_seed else seed)
            self._queue.append(Suggestion(name, dict(values), seed))

    def suggest(self, trial_id: str) -> dict[str, Any] | Any:
        """Returns the next trial, `Searcher.FINISHED` after the last, or None while it must wait for another."""
        self._release_twins()
        for suggestion in self._next():
            if suggestion.has_begun or not self._is_answered(suggestion):
                self._open[trial_id] = suggestion
                if self._duplicates:
                    self._running.add(self._duplicates.identify(suggestion))
                return suggestion.to_plain()
        return None if self._twins else Searcher.FINISHED

    def _next(self) -> Iterator[Suggestion]:
        while self._queue or self._numbers:
            if not self._queue:
                number = self._numbers.popleft()
                self._enqueue(number, self._configurations.sample(number), self._seeds)
            yield self._queue.popleft()

    def _is_answered(self, suggestion: Suggestion) -> bool:
        """Returns whether a trial need not run, or not now."""
        if self._duplicates is None:
            return False
        if self._duplicates.identify(suggestion) in self._running:
            self._twins.append(suggestion)
            return True
        rows = self._duplicates.answer(suggestion)
        if rows:
            self._end(suggestion, self._configurations.outcome(rows) or rows[-1], "completed")
        return bool(rows)

    def _release_twins(self) -> None:
        """Lets trials that waited for an equal one be answered, now that it has ended; or run, if it failed."""
        if self._duplicates and self._twins:
            identify, running = self._duplicates.identify, self._running
            self._queue.extendleft([twin for twin in reversed(self._twins) if identify(twin) not in running])
            self._twins = [twin for twin in self._twins if identify(twin) in running]

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Passes an intermediate score on, at the number of epochs trained."""
        suggestion = self._open[trial_id]
        if result.get("budget_epochs"):
            self._finished.setdefault(trial_id, []).append(result)
        self._configurations.report(suggestion.name.number, suggestion.seed, result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Notes a trial's end: complete with a finished model, stopped with another score, else failed.

        Tune announces a trial's last result here and not in `on_trial_result`.
        """
        if trial_id not in self._open:
            return
        result = result or {}
        if not error:
            self.on_trial_result(trial_id, result)
        suggestion = self._open.pop(trial_id)
        if self._duplicates:
            self._running.discard(self._duplicates.identify(suggestion))
        finished = self._finished.pop(trial_id, [])
        is_last = result.get("budget_epochs") and result.get("status") != "running"
        has_score = result.get(self.metric) is not None
        status = "completed" if is_last else "stopped_early" if has_score else "failed"
        self._end(suggestion, self._configurations.outcome(finished) or result, "failed" if error else status)

    def _end(self, suggestion: Suggestion, result: Mapping[str, Any], status: str) -> None:
        number = suggestion.name.number
        if self._configurations.end(number, suggestion.seed, result, status):
            return
        given_up = [other for other in self._queue if other.name.number == number and not other.has_begun]
        for other in given_up:
            self._queue.remove(other)
            self._configurations.give_up(number, other.seed)
