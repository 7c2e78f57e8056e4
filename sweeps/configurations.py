"""The configurations of a sweep in an Optuna study: asked for, trained with one or several seeds, told as one."""

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from sweeps.history import PastTrial
from sweeps.hypervolume import hypervolume
from sweeps.records import score
from sweeps.samplers import distribution, sampler
from sweeps.search_config import SearchConfig, grid_points, num_configurations
from sweeps.space import Scalar, Space

_STATES = {"completed": TrialState.COMPLETE, "stopped_early": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass
class _Configuration:
    """What has come of the trials of a configuration, one for each seed."""

    trial: optuna.Trial | None  # the study's; None of one outside of the space, which does not inform the sampler
    waiting: set[int]  # seeds whose trials have not ended
    states: set[TrialState] = field(default_factory=set)
    objectives: list[tuple[float, ...]] = field(default_factory=list)
    told: set[int] = field(default_factory=set)  # epochs with an intermediate score

    @property
    def state(self) -> TrialState:
        """Of the whole: one trial that fails or is stopped decides it."""
        if self.waiting:
            return TrialState.RUNNING
        worst = (TrialState.FAIL, TrialState.PRUNED)
        return next((state for state in worst if state in self.states), TrialState.COMPLETE)

    @property
    def means(self) -> list[float] | None:
        """The mean of each objective over the seeds, if all of them have finished a model."""
        if self.state != TrialState.COMPLETE:
            return None
        return [statistics.fmean(values) for values in zip(*self.objectives, strict=True)]


class Configurations:
    """Asks a study for configurations and tells it what came of them.

    The sampler of configuration k is seeded by (search.seed, k), so that what it samples depends on the results told
    before and on nothing else.

    Attributes:
        study: In memory, never stored.
    """

    def __init__(self, space: Space, search: SearchConfig, budgets: Sequence[int] = ()) -> None:
        """Creates a study without any configuration.

        Args:
            space: What is searched; may be empty.
            search: Searcher, metric, number of trials, seeds.
            budgets: After which epochs each trial has a finished model, ascending, if it has several.
        """
        self._search, self._space = search, space
        self._largest_cost = float(budgets[-1] + budgets[0]) if budgets else 0.0  # the largest budget counts too
        self._distributions = {key: distribution(dimension) for key, dimension in space.dimensions.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        first = StudyDirection.MAXIMIZE if search.mode == "max" else StudyDirection.MINIMIZE
        directions = [first, StudyDirection.MINIMIZE] if search.cost_metric else [first]
        self.study = optuna.create_study(directions=directions)
        self._open: dict[int, _Configuration] = {}
        self._known: set[int] = set()
        self._points = list(search.enqueue)
        if search.searcher == "grid":
            self._points += [point for point in grid_points(space) if point not in self._points]

    def left(self) -> deque[int]:
        """Returns the numbers of the configurations that are still to be sampled."""
        total = num_configurations(self._search, self._space)
        if self._search.searcher not in ("grid", "list"):
            return deque(number for number in range(total) if number not in self._known)
        # A grid may have been another one before: what counts is which points were tried, not which numbers are taken.
        num_left = len(self._points)
        if self._search.num_trials:
            num_left = max(0, min(num_left, total - len(self._known)))
        free = (number for number in itertools.count() if number not in self._known)
        return deque(itertools.islice(free, num_left))

    def sample(self, number: int) -> dict[str, Scalar]:
        """Asks for a new configuration, to be trained with each of `search.seeds`."""
        if self._points:
            self.study.enqueue_trial(self._points.pop(0))
        total = num_configurations(self._search, self._space)
        self.study.sampler = sampler(self._search, total, number)
        trial = self.study.ask(self._distributions)
        self._open[number] = _Configuration(trial, set(self._search.seeds))
        return dict(trial.params)

    def take_over(self, number: int, past: Sequence[PastTrial]) -> set[int]:
        """Tells the study of a configuration of an earlier run.

        Args:
            number: Of the configuration.
            past: Its trials, at least one.

        Returns:
            The seeds with which it is still to be trained; those of its trials that have not ended are not among them.
            Outside of the space, or after a trial that failed or was stopped, there are none.
        """
        values = {key: value for key, value in past[0].values.items() if key in self._distributions}
        if values in self._points:
            self._points.remove(values)
        self._known.add(number)
        found = _Configuration(None, set())
        for trial in (trial for trial in past if trial.has_ended):
            last = trial.rows[-1]
            self._note_end(found, self.outcome(trial.rows) or last, _STATES[str(last["status"])])
        is_inside, all_went_well = self._space.contains(values), found.states <= {TrialState.COMPLETE}
        missing = set(self._search.seeds) - {trial.seed for trial in past} if is_inside and all_went_well else set()
        found.waiting = missing | {trial.seed for trial in past if trial.seed is not None and not trial.has_ended}
        if is_inside:
            self._add(found, values, [row for row in past[0].rows if row.get("epochs_trained")])
        if found.waiting:
            self._open[number] = found
        return missing

    def _add(self, found: _Configuration, values: dict[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
        scores = {int(row["epochs_trained"]): self._score(row) for row in rows}
        known = {} if self._search.cost_metric else {step: score for step, score in scores.items() if score is not None}
        self.study.add_trial(
            optuna.trial.create_trial(
                state=found.state,
                values=found.means,
                params=values,
                distributions=self._distributions,
                intermediate_values=known,
            )
        )
        found.told |= known.keys()
        if found.waiting:
            found.trial = optuna.Trial(self.study, self.study.get_trials(deepcopy=False)[-1]._trial_id)

    def report(self, number: int, seed: int, result: Mapping[str, Any]) -> None:
        """Passes an intermediate score of a configuration's first trial on, at the number of epochs trained."""
        found, value = self._open[number], self._score(result)
        if value is None or found.trial is None or self._search.cost_metric or seed != self._search.seeds[0]:
            return
        step = int(result["epochs_trained"])
        if step not in found.told:  # a trial that goes on from a checkpoint tells some epochs again
            found.told.add(step)
            found.trial.report(value, step=step)

    def end(self, number: int, seed: int, result: Mapping[str, Any], status: str) -> bool:
        """Notes the end of a trial; after the last one of its configuration the study is told.

        Args:
            number: Of the configuration.
            seed: Of the trial.
            result: Its last report.
            status: Of the trial: `completed`, `stopped_early` or `failed`.

        Returns:
            Whether the configuration is worth further trials.
        """
        found = self._open[number]
        found.waiting.discard(seed)
        self._note_end(found, result, _STATES[status])
        self._tell_if_done(number)
        return found.states <= {TrialState.COMPLETE}

    def give_up(self, number: int, seed: int) -> None:
        """Notes that a trial will not be started."""
        self._open[number].waiting.discard(seed)
        self._tell_if_done(number)

    def outcome(self, reports: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """Returns what stands for a trial: the report of its best finished model; None if there is none.

        With `search.curve: hypervolume` the score in it is that of the curve: the mean over epochs, up to the largest
        budget and as many again as the smallest one has, of the best score of a model that costs no more.
        """
        finished = [report for report in reports if report.get("budget_epochs")]
        metric = self._search.metric
        best = max(finished, key=lambda report: score(report, metric, self._search.mode), default=None)
        if best is None or self._search.curve == "best" or self._score(best) is None:
            return best
        points = [(float(row["budget_epochs"]), value) for row in finished if (value := self._score(row)) is not None]
        return {**best, metric: hypervolume(points, self._largest_cost)}

    def _note_end(self, found: _Configuration, result: Mapping[str, Any], state: TrialState) -> None:
        objectives = self._objectives(result)
        if state == TrialState.COMPLETE and objectives is None:
            state = TrialState.FAIL  # its model has no score
        found.states.add(state)
        if objectives:
            found.objectives.append(objectives)

    def _tell_if_done(self, number: int) -> None:
        found = self._open[number]
        if found.waiting:
            return
        del self._open[number]
        if found.trial is not None:
            self.study.tell(found.trial, found.means, None if found.means else found.state)

    def _score(self, result: Mapping[str, Any]) -> float | None:
        return _finite(result.get(self._search.metric))

    def _objectives(self, result: Mapping[str, Any]) -> tuple[float, ...] | None:
        """Returns the score of a finished model and, if that is an objective, its cost; None if one is missing."""
        names = (self._search.metric, self._search.cost_metric) if self._search.cost_metric else (self._search.metric,)
        values = tuple(value for value in (_finite(result.get(name)) for name in names) if value is not None)
        return values if result.get("budget_epochs") and len(values) == len(names) else None


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
