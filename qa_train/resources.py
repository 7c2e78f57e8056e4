"""The CPU cores and GPUs of a run: how many there are, and what each worker gets."""

import os

import torch

from qa_train.config import TrainConfig, with_values
from qa_train.errors import ConfigError

_MAX_AUTO_CPUS = 8
"""Cores that `cpus_per_worker: auto` gives a worker at most; a training step gains little from more."""


def num_cpus() -> int:
    """Returns the CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Lets PyTorch use this many threads; more threads than cores make training several times slower."""
    torch.set_num_threads(count)


def place_workers(config: TrainConfig, cpus: int, gpus: int | None) -> tuple[TrainConfig, int]:
    """Decides what each worker of one run gets.

    Args:
        config: `scale` is what the user asks for.
        cpus: CPU cores of the machine or cluster.
        gpus: Its GPUs as Ray knows them; None where Ray is not asked.

    Returns:
        The configuration, with `use_gpu` decided if `gpus` is known, and the CPU cores of each worker.

    Raises:
        ConfigError: If there is not enough of something; the arithmetic is named.
    """
    scale, workers = config.scale, config.scale.num_workers
    auto = max(1, min(cpus // workers, _MAX_AUTO_CPUS))
    each = auto if scale.cpus_per_worker == "auto" else scale.cpus_per_worker
    problems = []
    if workers > 1 and scale.launcher == "local":
        problems.append(f"scale.num_workers: expected 1 with launcher local, found {workers}; use launcher=ray_train")
    if workers * each > cpus:
        problems.append(
            f"scale.num_workers: {workers} x {each} CPU need {workers * each} CPU, found {cpus}; "
            f"ask for at most {cpus // each} workers"
        )
    if gpus is not None and scale.use_gpu is True and gpus < workers:
        problems.append(f"scale.num_workers: {workers} workers need {workers} GPU, found {gpus}; set use_gpu=false")
    if problems:
        raise ConfigError(problems, "configuration")
    if gpus is None:
        return config, each
    return with_values(config, {"scale.use_gpu": scale.use_gpu is not False and gpus >= workers}), each
