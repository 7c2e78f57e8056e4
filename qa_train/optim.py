"""The optimizer and the learning rate at each step."""

import math
from typing import Literal

import torch
from torch import nn

Schedule = Literal["linear", "constant", "trunk"]
CooldownShape = Literal["1-sqrt", "linear"]


def build_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Returns fused AdamW; biases and the weights of layer norms are not decayed.

    Args:
        model: Its parameters are on the device where they will be trained.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay (Loshchilov and Hutter 2019), of matrices only.
    """
    exempt: dict[nn.Parameter, bool] = {}  # each parameter once, also where several modules share it
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                exempt.setdefault(parameter, isinstance(module, nn.LayerNorm) or name == "bias")
    groups = [
        {"params": [parameter for parameter in exempt if not exempt[parameter]], "weight_decay": weight_decay},
        {"params": [parameter for parameter in exempt if exempt[parameter]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def num_warmup_steps(num_steps: int, warmup_ratio: float) -> int:
    """Returns the number of warm-up steps, rounded up."""
    return math.ceil(num_steps * warmup_ratio)


def schedule_factor(
    step: int,
    num_steps: int,
    num_warmup: int,
    schedule: Schedule,
    cooldown_start: int = 0,
    cooldown_shape: CooldownShape = "1-sqrt",
) -> float:
    """Returns the share of the peak learning rate that a step uses.

    A pure function: where a run stands in its schedule is the number of its steps, so that nothing else need be saved.

    Args:
        step: Optimizer steps taken before, 0 to `num_steps` - 1.
        num_steps: Steps of the whole run.
        num_warmup: Steps over which it rises from 0.
        schedule: `linear` then falls to 0 at `num_steps`, `constant` stays, `trunk` stays up to `cooldown_start` and
            then falls to 0 at `num_steps`.
        cooldown_start: Of `trunk`, less than `num_steps`; its first step still has the full learning rate.
        cooldown_shape: Of `trunk`: with x the share of the cool-down that is over, 1 - x or 1 - sqrt(x) (Hägele et al.
            2024, arXiv 2405.18392, who find the latter better).

    Returns:
        0.0 to 1.0, the same as `transformers.get_linear_schedule_with_warmup` and its constant sister.
    """
    if step < num_warmup:
        return step / num_warmup
    if schedule == "constant" or (schedule == "trunk" and step < cooldown_start):
        return 1.0
    start = cooldown_start if schedule == "trunk" else num_warmup
    if schedule == "trunk" and cooldown_shape == "1-sqrt":
        return 1.0 - math.sqrt((step - start) / (num_steps - start))
    return max(0.0, (num_steps - step) / max(1, num_steps - start))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
