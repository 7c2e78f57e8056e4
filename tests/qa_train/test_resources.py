import os
from typing import Any

import pytest
import torch

from qa_train.config import TrainConfig, build_config
from qa_train.errors import ConfigError
from qa_train.resources import limit_threads, num_cpus, place_workers


def config(batch_size: int = 64, **scale: Any) -> TrainConfig:
    values = {"data": {"train": "train.json"}, "optim": {"batch_size": batch_size}, "scale": scale}
    return build_config(TrainConfig, values, "test")


def test_the_cores_of_this_process_are_counted() -> None:
    assert 1 <= num_cpus() <= (os.cpu_count() or 1)


def test_threads_are_limited() -> None:
    before = torch.get_num_threads()
    try:
        limit_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("num_workers", "asked", "cpus", "expected"),
    [(1, "auto", 6, 6), (2, "auto", 6, 3), (4, "auto", 6, 1), (1, "auto", 64, 8), (2, 3, 6, 3), (1, 1, 6, 1)],
)
def test_cores_are_shared_out_among_the_workers(num_workers: int, asked: Any, cpus: int, expected: int) -> None:
    asked_for = config(num_workers=num_workers, cpus_per_worker=asked, launcher="ray_train")
    assert place_workers(asked_for, cpus, None)[1] == expected


@pytest.mark.parametrize(
    ("scale", "cpus", "problem"),
    [
        ({"num_workers": 64}, 2, r"64 x 1 CPU need 64 CPU, found 2; ask for at most 2 workers"),
        ({"num_workers": 2, "cpus_per_worker": 4}, 6, r"2 x 4 CPU need 8 CPU, found 6; ask for at most 1 workers"),
        ({"num_workers": 2, "launcher": "local"}, 4, r"expected 1 with launcher local, found 2"),
    ],
)
def test_more_than_there_is_is_refused_with_the_arithmetic(scale: dict[str, Any], cpus: int, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        place_workers(config(**scale), cpus, None)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("use_gpu", "gpus", "expected"),
    [("auto", 0, False), ("auto", 1, False), ("auto", 2, True), (False, 2, False), (True, 2, True)],
)
def test_gpus_are_used_if_each_worker_gets_one(use_gpu: Any, gpus: int, expected: bool) -> None:
    placed, _ = place_workers(config(num_workers=2, use_gpu=use_gpu), 8, gpus)
    assert placed.scale.use_gpu is expected


def test_a_demanded_gpu_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="2 workers need 2 GPU, found 1"):
        place_workers(config(num_workers=2, use_gpu=True), 8, 1)
