"""What a sweep will take: how many trials run at once, epochs of work, time, device-hours, dollars, disk."""

import contextlib
import math
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qa_train.trunk import trunk_epochs
from sweeps.config import SweepConfig
from sweeps.placement import Placement, place
from sweeps.pricing import check_max_usd, usd
from sweeps.speed import SLOWING, Measured, speed_of
from sweeps.stopping import SMALL_GROUP, group_sizes, small_groups


@dataclass(frozen=True)
class Estimate:
    """What a number of epochs takes; None where the speed, or the price, is not known.

    Attributes:
        epochs: Of all trials together.
        wall_s: From the first trial's start to the last one's end, in seconds.
        device_hours: Hours x devices held.
        usd: Dollars.
    """

    epochs: float
    wall_s: float | None = None
    device_hours: float | None = None
    usd: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a sweep will take if no trial is stopped and none fails.

    Attributes:
        num_trials: Models that will be trained: one for each configuration and seed, finalists too.
        placement: What each of them gets and how many run at once.
        expected: With `num_epochs` sampled at random; TPE soon prefers some.
        largest: With as many epochs as the space allows.
        disk_bytes: Of the models that are kept and of the running trials' checkpoints; None if not known.
        measured: What the estimates reckon with; None if nothing was measured.
        warnings: What speaks against running the sweep like that.
    """

    num_trials: int
    placement: Placement
    expected: Estimate
    largest: Estimate
    disk_bytes: int | None
    measured: Measured | None
    warnings: tuple[str, ...]


def plan_sweep(config: SweepConfig, like: Path | None = None) -> Plan:
    """Plans a sweep on this machine, or on the cluster of `RAY_ADDRESS`; no trial is run and no directory made.

    Args:
        config: What would be run.
        like: A sweep directory whose trials tell the speed; without it, it is measured here for some seconds.

    Raises:
        ConfigError: If it can never be scheduled; before anything is measured.
        QAError: If data or model cannot be used, or `like` tells no speed.
    """
    num_cpus, num_gpus = resources()
    placement = place(config, num_cpus, num_gpus)
    if like:
        measured = speed_of(like, config)
    else:
        from sweeps.speed_probe import measure  # imports torch

        measured = measure(config.train, placement)
    return make_plan(config, num_cpus, num_gpus, measured, shutil.disk_usage(Path.cwd()).free)


def resources() -> tuple[int, int]:
    """Returns the CPU cores and GPUs that there are for trials."""
    if os.environ.get("RAY_ADDRESS"):
        from qa_train.ray_session import ray_session
        from qa_train.ray_session import resources as ray_resources

        with contextlib.redirect_stdout(sys.stderr), ray_session():
            return ray_resources()
    import torch

    from qa_train.resources import num_cpus

    return num_cpus(), torch.cuda.device_count()


def make_plan(
    config: SweepConfig, num_cpus: int, num_gpus: int, measured: Measured | None, free_bytes: int | None = None
) -> Plan:
    """Reckons what a sweep will take.

    Trials are taken to be alike long and to run in waves, the last of which may not be full. Where they are not alike,
    the wall time comes out a little different, the device-hours do not.

    Args:
        config: What would be run.
        num_cpus: CPU cores of the machine or cluster.
        num_gpus: Its GPUs.
        measured: How long the parts of a trial take.
        free_bytes: Of the disk where the sweep's directory will be; None if not known.

    Raises:
        ConfigError: If it can never be scheduled, or dollars are limited and the device has no price.
    """
    placement = place(config, num_cpus, num_gpus)
    if measured and _is_alike(placement, measured):
        check_max_usd(config.stop.max_usd, measured.device, config.prices)
    expected = _estimate(expected_epochs(config), config, placement, measured)
    model_bytes = measured.model_bytes if measured else None
    disk = peak_disk_bytes(num_models_kept(config), placement.max_concurrent_trials, model_bytes)
    return Plan(
        num_trials=config.num_trainings,
        placement=placement,
        expected=expected,
        largest=_estimate(largest_epochs(config), config, placement, measured),
        disk_bytes=disk,
        measured=measured,
        warnings=(
            *_small_groups(config),
            *_early_ends(config, expected),
            *_full_disk(disk, free_bytes),
            *_doubts(config, placement, measured),
        ),
    )


def expected_epochs(config: SweepConfig) -> float:
    """Returns how many epochs all trials together train, given points exactly, others as expected."""
    if config.budgets:
        return config.num_trainings * trunk_epochs(config.budgets, config.train.optim.cooldown)
    searched = math.fsum(num_epochs * size for num_epochs, size in group_sizes(config).items())
    num_searched = config.num_trials * len(config.search.seeds)
    num_finalists = config.num_trainings - num_searched
    return searched * len(config.search.seeds) + num_finalists * searched / config.num_trials


def largest_epochs(config: SweepConfig) -> float:
    """Returns the same if all that is sampled, and all finalists, train for as many epochs as the space allows."""
    if config.budgets:
        return expected_epochs(config)
    points = (point.get("num_epochs", config.train.num_epochs) for point in config.search.enqueue)
    enqueued = [num_epochs for num_epochs in points if isinstance(num_epochs, int)]
    num_seeds, most = len(config.search.seeds), max(group_sizes(config))
    return sum(enqueued) * num_seeds + (config.num_trainings - len(enqueued) * num_seeds) * most


def num_models_kept(config: SweepConfig) -> int:
    """Returns how many models the sweep leaves on disk; a trial of several budgets has one of each."""
    num_models = config.num_trainings * (len(config.budgets) or 1)
    return min(num_models, config.keep.models or num_models)


def peak_disk_bytes(num_models: int, num_at_once: int, model_bytes: int | None) -> int | None:
    """Returns the disk space that a sweep needs at most: scores, predictions and logs, which are small, are left out.

    A checkpoint holds the weights and AdamW's two moments of each; while one is written, the one before is still there.
    """
    if model_bytes is None:
        return None
    checkpoint_bytes = 3 * model_bytes
    return num_models * model_bytes + num_at_once * 2 * checkpoint_bytes


def _estimate(epochs: float, config: SweepConfig, placement: Placement, measured: Measured | None) -> Estimate:
    if measured is None:
        return Estimate(epochs)
    num_trials = config.num_trainings
    num_models = len(config.budgets) or epochs / num_trials  # a trunk is evaluated where it has a finished model only
    trial_s = measured.start_s + epochs / num_trials * measured.training_s + num_models * measured.evaluated_s
    num_waves = -(-num_trials // placement.max_concurrent_trials)
    device_s = num_trials * trial_s * placement.num_devices
    cost = usd(device_s, measured.device, config.prices) if _is_alike(placement, measured) else None
    return Estimate(epochs, num_waves * trial_s, device_s / 3600, cost)


def _small_groups(config: SweepConfig) -> Iterator[str]:
    if config.stop.trial_scheduler == "none" or not (small := small_groups(config)):
        return
    yield (
        f"stop.trial_scheduler {config.stop.trial_scheduler} compares trials of the same num_epochs only, and fewer "
        f"than {SMALL_GROUP} are expected of {', '.join(map(str, small))} epochs; narrow space.num_epochs, or raise "
        "search.num_trials"
    )


def _early_ends(config: SweepConfig, expected: Estimate) -> Iterator[str]:
    reckoned = {"max_usd": expected.usd, "max_device_hours": expected.device_hours, "max_wall_s": expected.wall_s}
    for name, value in reckoned.items():
        limit = getattr(config.stop, name)
        if limit is not None and value is not None and value > limit:
            yield f"stop.{name} will end the sweep early: it is {limit:g}, and all trials take about {_number(value)}"


def _full_disk(disk: int | None, free: int | None) -> Iterator[str]:
    if disk is not None and free is not None and disk > free:
        yield f"the disk will be full: {_size(free)} are free, and the sweep needs up to {_size(disk)}"


def _doubts(config: SweepConfig, placement: Placement, measured: Measured | None) -> Iterator[str]:
    """Yields why the times may not hold."""
    if measured is None:
        return
    yield from measured.caveats
    if searched := [key for key in config.space.dimensions if key in SLOWING]:
        yield f"{', '.join(searched)} decides the speed and is searched, but one value was measured"
    if not _is_alike(placement, measured):
        yield f"trials will run on {_devices(placement, None)}, but {measured.device} was measured; use --like"
    elif measured.num_devices != placement.num_devices:
        yield f"trials will hold {placement.num_devices} devices, but with {measured.num_devices} was measured"


def _is_alike(placement: Placement, measured: Measured) -> bool:
    """Returns whether trials hold the kind of device that was measured."""
    return (measured.device != "cpu-core") == (placement.gpus_per_worker > 0)


def format_plan(plan: Plan, config: SweepConfig) -> str:
    """Returns a plan as a short text, without its warnings."""
    placement, measured = plan.placement, plan.measured
    at_once = "one at a time" if placement.max_concurrent_trials == 1 else f"{placement.max_concurrent_trials} at once"
    lines = {
        "trials": f"{plan.num_trials}{_parts(config)}, {at_once}, each on {_devices(placement, measured)}",
        "expected": _format_estimate(plan.expected),
        "at most": _format_estimate(plan.largest),
    }
    if config.budgets:
        separate = config.num_trainings * sum(config.budgets)
        share = f"{100 * plan.expected.epochs / separate:.0f} %"
        lines["budgets"] = f"{', '.join(map(str, config.budgets))}; trained each on its own {separate} epochs ({share})"
    if measured:
        times = f"{_duration(measured.training_s)} an epoch, {_duration(measured.evaluating_s)} to evaluate"
        price = config.prices.by_device.get(measured.device)
        lines |= {
            "disk": f"{_size(plan.disk_bytes)}, with {num_models_kept(config)} models kept"
            if plan.disk_bytes is not None
            else "not known, for no model was found",
            "speed": f"{times}, {_duration(measured.start_s)} to start ({measured.source})",
            "price": f"{price.usd_per_hour:g} USD per device-hour ({price.source}, {price.date})"
            if price
            else f"none of {measured.device} is given, see the key prices",
        }
    return "\n".join(f"{name + ':':10}{text}" for name, text in lines.items())


def _parts(config: SweepConfig) -> str:
    """Returns what the trials are, where that is not plain."""
    num_seeds, num_finalists = (
        len(config.search.seeds),
        config.num_trainings - config.num_trials * len(config.search.seeds),
    )
    parts = [f"{config.num_trials} configurations" + (f" x {num_seeds} seeds" if num_seeds > 1 else "")]
    parts += [f"{num_finalists} finalists"] if num_finalists else []
    return f" ({' + '.join(parts)})" if num_seeds > 1 or num_finalists else ""


def _devices(placement: Placement, measured: Measured | None) -> str:
    if not placement.gpus_per_worker:
        return f"{placement.num_devices} CPU core{'s' if placement.num_devices > 1 else ''}"
    kind = measured.device if measured and _is_alike(placement, measured) else "GPU"
    return f"{placement.num_devices} {kind}"


def _format_estimate(estimate: Estimate) -> str:
    parts = [f"{_number(estimate.epochs)} epochs"]
    if estimate.wall_s is not None and estimate.device_hours is not None:
        parts += [_duration(estimate.wall_s), f"{_number(estimate.device_hours)} device-hours"]
    if estimate.usd is not None:
        parts.append(f"{estimate.usd:.2f} USD" if estimate.usd >= 0.1 else f"{estimate.usd:.2g} USD")
    return ", ".join(parts)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 3:
        return f"{_number(seconds)} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
