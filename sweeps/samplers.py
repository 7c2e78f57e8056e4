"""What samples configurations: Optuna's samplers, seeded by trial, and its form of a search space."""

import warnings

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from sweeps.search_config import SearchConfig
from sweeps.space import Choice, Dimension, IntRange, LogUniformRange


def sampler(search: SearchConfig, num_configurations: int, number: int) -> BaseSampler:
    """Returns the sampler of configuration `number` out of so many; points of a grid or list are not sampled.

    TPE samples at random until a third of the sweep's configurations (3 to 10) are told: Optuna's fixed 10 would leave
    a small sweep all random.
    """
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    if search.searcher != "tpe":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        num_random = min(10, max(3, num_configurations // 3))
        return TPESampler(seed=seed, n_startup_trials=num_random, multivariate=True, constant_liar=True)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Returns Optuna's form of a dimension."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if isinstance(dimension, IntRange):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=isinstance(dimension, LogUniformRange))
