"""How many trials fit beside each other on a machine or cluster, and what each of them holds."""

from dataclasses import dataclass
from typing import Literal

from qa_train.config import ScaleConfig
from qa_train.errors import ConfigError
from sweeps.config import SweepConfig

_MAX_AUTO_CPUS = 4
"""Cores that `cpus_per_worker: auto` gives a trial without a GPU at most: beyond, several trials make better use."""


@dataclass(frozen=True)
class Placement:
    """What each trial holds and how many run at once.

    Attributes:
        num_workers: Processes of one trial.
        cpus_per_worker: CPU cores of each.
        gpus_per_worker: 1 with GPUs, else 0.
        max_concurrent_trials: Trials that run at once, 1 or more.
        launcher: `local` trains in a process of the trial's actor, `ray_train` in workers under Ray Train.
    """

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    max_concurrent_trials: int
    launcher: Literal["local", "ray_train"] = "local"

    @property
    def trial_resources(self) -> dict[str, float]:
        """What Tune reserves for a trial's actor.

        Workers under Ray Train hold the trial's CPU cores and GPUs themselves. Had their actor a core too, two trials
        on two cores would wait for each other for ever; it may not ask for 0 cores, so it asks for a sliver of what
        every head node has.
        """
        if self.launcher == "ray_train":
            return {"node:__internal_head__": 0.001}
        return {"cpu": self.cpus_per_worker, "gpu": self.gpus_per_worker}

    @property
    def num_devices(self) -> int:
        """Devices that a trial holds: GPUs, or on a CPU cores."""
        return self.num_workers * (self.gpus_per_worker or self.cpus_per_worker)


def needs_ray_train(config: SweepConfig) -> bool:
    """Returns whether the trials run under Ray Train."""
    scale = config.train.scale
    return scale.launcher == "ray_train" or scale.num_workers > 1


def place(config: SweepConfig, num_cpus: int, num_gpus: int) -> Placement:
    """Decides what each trial gets.

    Args:
        config: `train.scale` and `search.max_concurrent_trials` are what the user asks for.
        num_cpus: CPU cores of the machine or cluster.
        num_gpus: Its GPUs.

    Raises:
        ConfigError: If it can never be scheduled; the arithmetic and the largest concurrency that fits are named.
    """
    scale, asked = config.train.scale, config.search.max_concurrent_trials
    if scale.num_workers > 1 and scale.launcher == "local":
        problem = f"expected auto or ray_train with {scale.num_workers} workers, found local"
        raise ConfigError([f"train.scale.launcher: {problem}"], "configuration")
    if scale.use_gpu is True and not num_gpus:
        raise ConfigError(["train.scale.use_gpu: true, but Ray finds no GPU; set auto or false"], "configuration")
    gpus = 1 if num_gpus and scale.use_gpu is not False else 0
    concurrent = asked if isinstance(asked, int) else 1
    cpus = _cpus_per_worker(scale, concurrent, num_cpus, num_gpus if gpus else 0)
    fits = num_cpus // (scale.num_workers * cpus)
    if gpus:
        fits = min(fits, num_gpus // scale.num_workers)
    if fits < concurrent:
        raise ConfigError([_too_much(scale, cpus, gpus, concurrent, fits, num_cpus, num_gpus)], "configuration")
    wanted = fits if asked == "auto" else concurrent
    launcher: Literal["local", "ray_train"] = "ray_train" if needs_ray_train(config) else "local"
    return Placement(scale.num_workers, cpus, gpus, min(wanted, config.num_trainings), launcher)


def _cpus_per_worker(scale: ScaleConfig, concurrent: int, num_cpus: int, num_gpus: int) -> int:
    if scale.cpus_per_worker != "auto":
        return scale.cpus_per_worker
    share = num_cpus // (num_gpus or concurrent * scale.num_workers)
    return max(1, min(share, _MAX_AUTO_CPUS))


def _too_much(
    scale: ScaleConfig, cpus: int, gpus: int, concurrent: int, fits: int, num_cpus: int, num_gpus: int
) -> str:
    each = f"{scale.num_workers} x {cpus} CPU" + (f" and {scale.num_workers} GPU" if gpus else "")
    total = f"{concurrent * scale.num_workers * cpus} CPU" + (
        f" and {concurrent * scale.num_workers} GPU" if gpus else ""
    )
    found = f"{num_cpus} CPU and {num_gpus} GPU"
    if fits:
        remedy = f"set search.max_concurrent_trials to at most {fits}"
        return f"search.max_concurrent_trials: {concurrent} trials of {each} need {total}, found {found}; {remedy}"
    return (
        f"train.scale.num_workers: one trial of {each} can never be scheduled, found {found}; "
        "lower num_workers or cpus_per_worker"
    )
