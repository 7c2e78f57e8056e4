"""Which searcher and trial scheduler would serve a sweep best: compared on the learning curves of an earlier one."""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from qa_train.config import TrainConfig, build_config, flatten
from qa_train.errors import ConfigError, DataError
from sweeps.config import SweepConfig
from sweeps.curves import MIN_CURVES, NUM_NEIGHBOURS, Curve, Recorded, Surrogate, coordinates, read_curves
from sweeps.records import MANIFEST, Manifest, read_manifest, read_records
from sweeps.search_config import grid_values
from sweeps.simulate import Devices, Outcome, simulate
from sweeps.space import Choice, Scalar

NUM_SEEDS = 10
FEW_CURVES = 20
"""Recorded trials below which a comparison says little."""


@dataclass(frozen=True)
class Variant:
    """One searcher with one trial scheduler, and what came of it with each seed of the sampling."""

    searcher: str
    trial_scheduler: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Comparison:
    """How searchers and trial schedulers do on the same recorded curves.

    Attributes:
        source: Which curves, in words.
        metric: What ranks.
        mode: `max` or `min`.
        best_recorded: The best score of a recorded configuration; nothing simulated is better.
        num_trials: Configurations that each simulated sweep samples, but for a grid of fewer points.
        num_at_once: Trials that run at once.
        variants: In the order of the table.
        caveats: Why the numbers may not hold for a real sweep.
    """

    source: str
    metric: str
    mode: str
    best_recorded: float
    num_trials: int
    num_at_once: int
    variants: tuple[Variant, ...]
    caveats: tuple[str, ...]

    def regrets(self, variant: Variant) -> list[float]:
        """Returns by how much each seed's best model falls short of the best recorded one; 0 or more."""
        return [abs(self.best_recorded - each.best) for each in variant.outcomes if each.best is not None]

    def to_plain(self) -> dict[str, Any]:
        """Returns all of it for `--json`."""
        variants = [asdict(each) | {"regrets": self.regrets(each)} for each in self.variants]
        return asdict(self) | {"variants": variants}


def compare_searchers(
    config: SweepConfig, directory: Path, num_at_once: int, num_seeds: int = NUM_SEEDS, *, progress: bool = False
) -> Comparison:
    """Lets every searcher and every trial scheduler run the planned sweep in virtual time, on recorded curves.

    Searchers are tpe, random, a grid where the space has one, and a list where that is configured. The limits of `stop`
    hold in virtual time; `search.seeds` and finalists are left out.

    Args:
        config: Of the planned sweep.
        directory: Of an earlier sweep, whose finished trials are the curves.
        num_at_once: Trials that run at once, 1 or more.
        num_seeds: How often each is simulated, with `search.seed` and the seeds after it.
        progress: Whether to show a bar on stderr.

    Raises:
        ConfigError: If the sweep has no space to search, or one of both has a trunk with branches.
        DataError: If it is no sweep's directory, or fewer than 4 of its trials finished within the space.
        SweepError: If there is no room for temporary files.
    """
    if not config.space.dimensions:
        raise ConfigError(["space: expected at least one field to search with --simulate, found none"], "configuration")
    manifest = read_manifest(directory)
    fixed = flatten(build_config(TrainConfig, manifest.config["train"], f"{directory / MANIFEST}: train"))
    _refuse_trunk(config, fixed, directory)
    search, rows = config.search, read_records(directory)
    recorded = read_curves(rows, config.space, fixed, search.metric)
    _check_enough(recorded, directory)
    untrained = manifest.baselines.get(f"untrained.{search.metric.removeprefix('dev.')}")
    surrogate = Surrogate(recorded.curves, config.space, untrained)
    devices = Devices(manifest.device, manifest.devices_per_trial)
    pairs = list(itertools.product(_searchers(config), _trial_schedulers(config)))
    outcomes: dict[tuple[str, str], list[Outcome]] = {pair: [] for pair in pairs}
    with tqdm(desc="simulated sweeps", total=len(pairs) * num_seeds, disable=not progress, leave=False) as bar:
        for pair, offset in itertools.product(pairs, range(num_seeds)):
            varied = _varied(config, *pair, search.seed + offset)
            outcomes[pair].append(simulate(varied, surrogate.curve, num_at_once, devices))
            bar.update()
    return Comparison(
        source=f"{len(recorded.curves)} finished trials in {directory}",
        metric=search.metric,
        mode=search.mode,
        best_recorded=surrogate.best_recorded(search.mode),
        num_trials=config.num_trials,
        num_at_once=num_at_once,
        variants=tuple(Variant(*pair, tuple(found)) for pair, found in outcomes.items()),
        caveats=tuple(_caveats(config, manifest, recorded)),
    )


def _refuse_trunk(config: SweepConfig, fixed: Mapping[str, Scalar], directory: Path) -> None:
    dimension = config.space.dimensions.get("optim.schedule")
    searched = dimension.values if isinstance(dimension, Choice) else ()
    if "trunk" in (config.train.optim.schedule, fixed["optim.schedule"], *searched):
        problem = f"expected no trunk with --simulate, neither here nor in {directory}: its branches are not simulated"
        raise ConfigError([f"train.optim.schedule: {problem}; plan without --simulate"], "configuration")


def _check_enough(recorded: Recorded, directory: Path) -> None:
    if len(recorded.curves) < MIN_CURVES:
        raise DataError(
            f"{directory}: expected at least {MIN_CURVES} trials that finished within the space of this sweep, found "
            f"{len(recorded.curves)}{_left_out(recorded)}; give the directory of a larger sweep, run without a trial "
            "scheduler, best with search.searcher=random"
        )


def _left_out(recorded: Recorded) -> str:
    parts = ", ".join(f"{count} with {reason}" for reason, count in recorded.left_out.items())
    return f" ({parts})" if parts else ""


def _searchers(config: SweepConfig) -> list[str]:
    has_grid = all(grid_values(config.space).values())
    return ["tpe", "random"] + ["grid"] * has_grid + ["list"] * (config.search.searcher == "list")


def _trial_schedulers(config: SweepConfig) -> list[str]:
    """Returns those that may run: trials with different schedules are not compared before their ends."""
    return ["none"] if "optim.schedule" in config.space.dimensions else ["none", "asha", "median"]


def _varied(config: SweepConfig, searcher: str, trial_scheduler: str, seed: int) -> SweepConfig:
    """Returns the configuration with another searcher, trial scheduler and seed, and one training a configuration."""
    search = {"searcher": searcher, "num_trials": config.num_trials, "seed": seed}
    single = {"seeds": (config.train.seed,), "reuse_from": (), "cost_metric": None}
    return config.model_copy(
        update={
            "search": config.search.model_copy(update=search | single),
            "stop": config.stop.model_copy(update={"trial_scheduler": trial_scheduler}),
        }
    )


def _caveats(config: SweepConfig, manifest: Manifest, recorded: Recorded) -> Iterator[str]:
    """Yields why the numbers may not hold for a real sweep."""
    curves, search = recorded.curves, config.search
    if len(curves) < FEW_CURVES:
        yield (
            f"only {len(curves)} recorded trials stand for the whole space: differences that are small beside the "
            f"spread over seeds mean nothing; {FEW_CURVES} or more are better"
        )
    if recorded.left_out:
        yield (
            f"recorded trials are left out{_left_out(recorded)}; without those that were stopped early the space looks "
            "better than it is"
        )
    if unsearched := [key for key in config.space.dimensions if len({curve.values[key] for curve in curves}) == 1]:
        yield f"all recorded trials have the same {', '.join(unsearched)}, which therefore has no effect here"
    if outside := [key for key in config.space.dimensions if _is_wider(config, key, curves)]:
        yield f"space reaches far beyond the recorded {', '.join(outside)}: there the nearest recorded trials stand in"
    other = {curve.num_epochs for curve in curves} - {config.train.num_epochs}
    if "num_epochs" not in config.space.dimensions and other:
        yield f"recorded trials of {_listed(other)} epochs are stretched to {config.train.num_epochs}"
    fixed_now = flatten(config.train)
    if searched := [key for key in manifest.config.get("space") or {} if key not in config.space.dimensions]:
        values = ", ".join(f"train.{key} = {fixed_now.get(key)}" for key in searched if key != "num_epochs")
        if values:
            yield f"recorded trials vary what is fixed here: {values}"
    if len(search.seeds) > 1 or search.cost_metric or search.reuse_from or config.finalists.top:
        yield "each configuration is trained once here: no search.seeds, reuse_from, cost_metric and finalists"


def _is_wider(config: SweepConfig, key: str, curves: Sequence[Curve]) -> bool:
    """Returns whether more than a quarter of a range lies outside of what was recorded."""
    dimension = config.space.dimensions[key]
    if isinstance(dimension, Choice) or dimension.low == dimension.high:
        return False
    places = [coordinates(dimension, curve.values[key])[0] for curve in curves]
    return len({*places}) > 1 and max(places) - min(places) < 0.75


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def format_comparison(comparison: Comparison) -> str:
    """Returns the comparison as a table with its settings above it, without its caveats."""
    num_seeds = len(comparison.variants[0].outcomes)
    rows = [_cells(variant, comparison) for variant in comparison.variants]
    header = ["searcher", "trial\nscheduler", f"best {comparison.metric}", "min - max", "regret", "device-\nhours",
              "hours", "trials", "stopped\nearly"]  # fmt: skip
    table = tabulate(rows, header, disable_numparse=True, colalign=("left", "left", *["right"] * (len(header) - 2)))
    return (
        f"curves:   {comparison.source}; the best scored {comparison.best_recorded:.2f}\n"
        f"sweeps:   {comparison.num_trials} trials, {comparison.num_at_once} at once, means over {num_seeds} seeds\n"
        f"training: each configuration is guessed from its {NUM_NEIGHBOURS} nearest recorded trials, without noise\n\n"
        f"{table}"
    )


def _cells(variant: Variant, comparison: Comparison) -> list[str]:
    outcomes = variant.outcomes
    best = [each.best for each in outcomes if each.best is not None]
    regrets = comparison.regrets(variant)
    return [
        variant.searcher,
        variant.trial_scheduler,
        f"{statistics.fmean(best):.2f}" if best else "-",
        f"{min(best):.2f} - {max(best):.2f}" if best else "-",
        f"{statistics.fmean(regrets):.2f}" if regrets else "-",
        f"{statistics.fmean(each.device_hours for each in outcomes):.3g}",
        f"{statistics.fmean(each.wall_s for each in outcomes) / 3600:.3g}",
        f"{statistics.fmean(each.num_trials for each in outcomes):.3g}",
        f"{statistics.fmean(each.num_stopped for each in outcomes):.3g}",
    ]
