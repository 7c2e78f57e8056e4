import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from qa_train.model import load_model
from qa_train.optim import Schedule, build_optimizer, num_warmup_steps, schedule_factor, set_learning_rate
from tests.tiny_models import Kind, tiny_model_dir


def linear(optimizer: torch.optim.Optimizer, num_warmup: int, num_steps: int) -> Any:
    return get_linear_schedule_with_warmup(optimizer, num_warmup, num_steps)  # type: ignore[no-untyped-call]


def constant(optimizer: torch.optim.Optimizer, num_warmup: int, num_steps: int) -> Any:
    return get_constant_schedule_with_warmup(optimizer, num_warmup)


@pytest.mark.parametrize(("schedule", "theirs"), [("linear", linear), ("constant", constant)])
@pytest.mark.parametrize(("num_steps", "num_warmup"), [(1, 0), (1, 1), (10, 0), (17, 5), (20, 19), (20, 20)])
def test_learning_rate_and_weights_are_those_of_transformers_at_each_step(
    schedule: Schedule, theirs: Callable[..., Any], num_steps: int, num_warmup: int
) -> None:
    layers = [nn.Linear(3, 1), nn.Linear(3, 1)]
    layers[1].load_state_dict(layers[0].state_dict())
    ours, reference = (build_optimizer(layer, 2e-3, 0.1) for layer in layers)
    scheduler = theirs(reference, num_warmup, num_steps)
    for step in range(num_steps):
        set_learning_rate(ours, 2e-3 * schedule_factor(step, num_steps, num_warmup, schedule))
        assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in reference.param_groups]
        for layer, optimizer in zip(layers, (ours, reference), strict=True):
            layer(torch.full((1, 3), step + 1.0)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
    assert torch.equal(layers[0].weight, layers[1].weight)


@pytest.mark.parametrize(
    ("num_steps", "ratio", "expected"), [(100, 0.06, 6), (101, 0.06, 7), (10, 0.0, 0), (1, 0.06, 1)]
)
def test_the_warm_up_is_rounded_up_to_whole_steps(num_steps: int, ratio: float, expected: int) -> None:
    assert num_warmup_steps(num_steps, ratio) == expected


def test_the_warm_up_is_never_longer_than_the_run() -> None:
    for num_steps, ratio in itertools.product(range(1, 50), (0.0, 0.2, 0.99, math.nextafter(1, 0))):
        assert 0 <= num_warmup_steps(num_steps, ratio) <= num_steps


@pytest.mark.parametrize("kind", ["distilbert", "bert", "roberta"])
def test_each_parameter_is_in_one_group_and_biases_and_layer_norms_are_not_decayed(kind: Kind, tmp_path: Path) -> None:
    model = load_model(str(tiny_model_dir(tmp_path, kind)))
    optimizer = build_optimizer(model, 1e-3, 0.01)
    decay_of = {
        id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        exempt = name.endswith("bias") or "layernorm" in name.lower().replace("_", "")
        assert decay_of[id(parameter)] == (0.0 if exempt else 0.01), name


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = build_optimizer(model, 1e-3, 0.01).param_groups
    assert {id(parameter) for group in groups for parameter in group["params"]} == set(map(id, model[1].parameters()))


def test_a_parameter_that_several_modules_share_is_trained_once() -> None:
    shared, head = nn.Embedding(5, 3), nn.Linear(3, 2)
    model = nn.ModuleDict({"shared": shared, "encoder": nn.Embedding(5, 3), "head": head})
    model["encoder"].weight = shared.weight  # as in BART, whose modules share their embeddings
    groups = build_optimizer(model, 1e-3, 0.01).param_groups
    assert [list(map(id, group["params"])) for group in groups] == [
        [id(shared.weight), id(head.weight)],
        [id(head.bias)],
    ]


def test_the_trunk_warms_up_stays_and_cools_down() -> None:
    factors = [schedule_factor(step, 10, 2, "trunk", 6, "1-sqrt") for step in range(10)]
    assert factors[:6] == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert factors[6:] == pytest.approx([1.0, 1 - 0.25**0.5, 1 - 0.5**0.5, 1 - 0.75**0.5])
    factors = [schedule_factor(step, 10, 2, "trunk", 6, "linear") for step in range(10)]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(("num_steps", "num_warmup"), [(1, 0), (17, 5), (20, 19)])
def test_a_linear_cool_down_from_the_warm_up_on_is_the_linear_schedule(num_steps: int, num_warmup: int) -> None:
    for step in range(num_steps):
        found = schedule_factor(step, num_steps, num_warmup, "trunk", num_warmup, "linear")
        assert found == schedule_factor(step, num_steps, num_warmup, "linear")
