"""Chooses configurations: a Ray Tune searcher over Optuna's ask and tell."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sweeps.config import SearchConfig
from sweeps.space import Choice, Dimension, IntRange, LogUniformRange, Space

TRIAL_ID, VALUES = "trial_id", "values"


class StudySearcher(Searcher):
    """Asks an Optuna study for each trial's configuration and tells it what came of it.

    Ray's own `OptunaSearch` tells stopped trials as complete and cannot be rebuilt from records. The sampler of trial k
    is seeded by (search.seed, k), so that what it samples depends on the results told before and on nothing else.

    A suggestion is `{"trial_id": "00003", "values": {dotted name: value}}`: Tune's own random ids appear nowhere else.
    """

    def __init__(self, space: Space, search: SearchConfig) -> None:
        """Creates an empty study, in memory.

        Args:
            space: What is searched; may be empty.
            search: Searcher, metric, number of trials, seed.
        """
        super().__init__(metric=search.metric, mode=search.mode)
        self._search = search
        self._distributions = {key: distribution(dimension) for key, dimension in space.dimensions.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(direction="maximize" if search.mode == "max" else "minimize")
        for point in search.enqueue:
            self.study.enqueue_trial(dict(point))
        self._open: dict[str, optuna.Trial] = {}
        self._num_suggested = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | Any:
        """Returns the next configuration, or `Searcher.FINISHED` after the last."""
        if self._num_suggested >= self._search.num_trials:
            return Searcher.FINISHED
        number = self._num_suggested
        self._num_suggested += 1
        self.study.sampler = sampler(self._search, number)
        trial = self.study.ask(self._distributions)
        self._open[trial_id] = trial
        return {TRIAL_ID: f"{number:05d}", VALUES: dict(trial.params)}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Passes an intermediate score on, at the number of epochs trained."""
        value = self._score(result)
        if value is not None:
            self._open[trial_id].report(value, step=int(result["epochs_trained"]))

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study a trial's end: complete with the score of a finished model, else failed.

        Tune announces a trial's last result here and not in `on_trial_result`.
        """
        trial = self._open.get(trial_id)
        if trial is None:
            return
        result = result or {}
        value = self._score(result)
        if value is None or error or not result.get("budget_epochs"):
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.on_trial_result(trial_id, result)
            self.study.tell(trial, value)
        del self._open[trial_id]

    def _score(self, result: Mapping[str, Any]) -> float | None:
        value = result.get(self._search.metric)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the records are the only truth, Tune's state is never read back."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuses: see `save`."""
        raise NotImplementedError("a sweep is rebuilt from its records, not from Tune's state")


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
