"""Chooses configurations: a Ray Tune searcher over Optuna's ask and tell."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sweeps.config import SearchConfig
from sweeps.history import PastTrial
from sweeps.space import Choice, Dimension, IntRange, LogUniformRange, Space

TRIAL_ID, VALUES = "trial_id", "values"


class StudySearcher(Searcher):
    """Asks an Optuna study for each trial's configuration and tells it what came of it.

    Ray's own `OptunaSearch` tells stopped trials as complete and cannot be rebuilt from records. The sampler of trial k
    is seeded by (search.seed, k), so that what it samples depends on the results told before and on nothing else.

    A suggestion is `{"trial_id": "00003", "values": {dotted name: value}}`: Tune's own random ids appear nowhere else.
    """

    def __init__(self, space: Space, search: SearchConfig, past: Sequence[PastTrial] = ()) -> None:
        """Creates a study, in memory, that knows the trials of earlier runs.

        Args:
            space: What is searched; may be empty.
            search: Searcher, metric, number of trials, seed.
            past: Trials of earlier runs of the sweep, by number. Those that have not ended are suggested again, before
                any new one. Those with values outside of the space do not inform the sampler.
        """
        super().__init__(metric=search.metric, mode=search.mode)
        self._search = search
        self._distributions = {key: distribution(dimension) for key, dimension in space.dimensions.items()}
        self._space = space
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(direction="maximize" if search.mode == "max" else "minimize")
        self._open: dict[str, optuna.Trial | None] = {}
        self._told: dict[str, set[Any]] = {}  # a trial that goes on from a checkpoint tells some epochs again
        for trial in past:
            if trial.has_ended:
                self._add(trial)
        self._interrupted = [trial for trial in past if not trial.has_ended]
        known = {trial.number for trial in past}
        self._numbers = [number for number in range(search.num_trials) if number not in known]

    @property
    def num_left(self) -> int:
        """Suggestions that are still to come."""
        return len(self._interrupted) + len(self._numbers)

    def suggest(self, trial_id: str) -> dict[str, Any] | Any:
        """Returns the next configuration, or `Searcher.FINISHED` after the last."""
        if self._interrupted:
            past = self._interrupted.pop(0)
            self._open[trial_id] = self._add(past)
            self._told[trial_id] = {row.get("epochs_trained") for row in past.rows}
            return {TRIAL_ID: past.trial_id, VALUES: dict(past.values)}
        if not self._numbers:
            return Searcher.FINISHED
        number = self._numbers.pop(0)
        if number < len(self._search.enqueue):
            self.study.enqueue_trial(dict(self._search.enqueue[number]))
        self.study.sampler = sampler(self._search, number)
        trial = self.study.ask(self._distributions)
        self._open[trial_id] = trial
        return {TRIAL_ID: f"{number:05d}", VALUES: dict(trial.params)}

    def _add(self, past: PastTrial) -> optuna.Trial | None:
        """Tells the study of a trial of an earlier run; returns it if that has not ended and lies in the space."""
        values = {key: value for key, value in past.values.items() if key in self._distributions}
        if not self._space.contains(values):
            return None
        scores = {row["epochs_trained"]: self._score(row) for row in past.rows if row.get("epochs_trained")}
        state, value = _state(past), self._score(past.rows[-1]) if past.rows else None
        if value is None and state.is_finished():
            state = TrialState.FAIL
        self.study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=value if state.is_finished() and state != TrialState.FAIL else None,
                params=values,
                distributions=self._distributions,
                intermediate_values={int(str(step)): score for step, score in scores.items() if score is not None},
            )
        )
        return None if past.has_ended else optuna.Trial(self.study, self.study.trials[-1]._trial_id)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Passes an intermediate score on, at the number of epochs trained."""
        value, trial = self._score(result), self._open[trial_id]
        if value is None or trial is None:
            return
        told, step = self._told.setdefault(trial_id, set()), int(result["epochs_trained"])
        if step not in told:
            told.add(step)
            trial.report(value, step=step)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study a trial's end: complete with the score of a finished model, pruned with another, else failed.

        Tune announces a trial's last result here and not in `on_trial_result`.
        """
        trial = self._open.get(trial_id)
        if trial is None:
            return
        result = result or {}
        value = self._score(result)
        if value is None or error:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.on_trial_result(trial_id, result)
            is_finished = bool(result.get("budget_epochs"))
            self.study.tell(trial, value if is_finished else None, None if is_finished else TrialState.PRUNED)
        del self._open[trial_id]
        self._told.pop(trial_id, None)

    def _score(self, result: Mapping[str, Any]) -> float | None:
        value = result.get(self._search.metric)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the records are the only truth, Tune's state is never read back."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuses: see `save`."""
        raise NotImplementedError("a sweep is rebuilt from its records, not from Tune's state")


def _state(past: PastTrial) -> TrialState:
    states = {"completed": TrialState.COMPLETE, "stopped_early": TrialState.PRUNED, "failed": TrialState.FAIL}
    return states[str(past.rows[-1]["status"])] if past.has_ended else TrialState.RUNNING


def sampler(search: SearchConfig, number: int) -> BaseSampler:
    """Returns the sampler of trial `number`.

    TPE samples at random until a third of the sweep's trials (3 to 10) are told: Optuna's fixed 10 would leave a small
    sweep all random.
    """
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    if search.searcher == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        num_random = min(10, max(3, search.num_trials // 3))
        return TPESampler(seed=seed, n_startup_trials=num_random, multivariate=True, constant_liar=True)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Returns Optuna's form of a dimension."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if isinstance(dimension, IntRange):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=isinstance(dimension, LogUniformRange))
