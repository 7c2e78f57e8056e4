"""`python -m sweeps`: samples many training configurations and records what each cost and scored."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qa_train.cli import config_options
from qa_train.config import describe_config, load_config, with_overrides
from qa_train.data_commands import as_json
from qa_train.errors import ConfigError, run_command
from sweeps.config import SweepConfig
from sweeps.export import export_model
from sweeps.status import read_status
from sweeps.status_text import format_status
from sweeps.sweep_store import local_copy

if TYPE_CHECKING:
    from sweeps.runner import SweepResult


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(commands, "python -m sweeps", argv)


@click.group()
def commands() -> None:
    """Samples many training configurations and records what each cost and scored."""


_quiet = click.option("--quiet", is_flag=True, help="No live view, only a line for each event.")


@commands.command()
@click.argument("path", metavar="C.yaml")
@config_options
@click.option("--out", metavar="DIR", help="A new directory, or s3://bucket/prefix.  [default: runs/<name>-<time>]")
@_quiet
@as_json
def run(path: str, overrides: tuple[str, ...], print_config: bool, out: str | None, quiet: bool, as_json: bool) -> int:
    """Runs a sweep to its end; exits with 1 if a trial failed.

    \b
    Example:
      python -m sweeps run sweeps/configs/demo.yaml search.num_trials=4 --out runs/first
      python -m analysis report runs/first
    """
    config = load_config(SweepConfig, path, overrides)
    if print_config:
        print(describe_config(config), end="")
        return 0
    from sweeps.runner import run_sweep  # imports Ray, which the other paths do not need

    return _tell(run_sweep(config, out, live=not quiet), as_json)


@commands.command()
@click.argument("directory", metavar="DIR")
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--num-trials", type=click.IntRange(1), metavar="N", help="Trials in all, those that ended included.")
@_quiet
@as_json
def resume(directory: str, overrides: tuple[str, ...], num_trials: int | None, quiet: bool, as_json: bool) -> int:
    """Goes on with a sweep that was interrupted or killed, or extends one; exits with 1 if a trial failed.

    Trials that ended are not run again, others go on from their last checkpoint. The search, the space and the limits
    may change; what is trained may not.

    \b
    Examples:
      python -m sweeps resume runs/first
      python -m sweeps resume runs/first --num-trials 8 stop.max_wall_s=600
    """
    from sweeps.runner import resume_sweep  # imports Ray, which the other paths do not need

    more = [f"search.num_trials={num_trials}"] if num_trials else []
    change = partial(with_overrides, overrides=[*overrides, *more], source=f"{directory}: resume")
    return _tell(resume_sweep(directory, change, live=not quiet), as_json)


@commands.command()
@click.argument("directory", metavar="DIR")
@as_json
def status(directory: str, as_json: bool) -> int:
    """Says how far a sweep is, while it runs and after it ended or died.

    \b
    Example:
      python -m sweeps status runs/first
    """
    found = read_status(local_copy(directory))
    print(json.dumps(found.to_plain(), indent=2, ensure_ascii=False) if as_json else format_status(found))
    return 0


@commands.command()
@click.argument("directory", metavar="DIR")
@click.option("--trial", metavar="T", help="Whose model.  [default: the best trial's]")
@click.option("--to", required=True, metavar="MODEL", help="A new directory.")
@as_json
def export(directory: str, trial: str | None, to: str, as_json: bool) -> int:
    """Copies a model out of a sweep, or trains it again from its record where it was not kept.

    A training that is interrupted goes on with `python -m qa_train train --resume MODEL`.

    \b
    Examples:
      python -m sweeps export runs/first --to models/best
      python -m sweeps export runs/first --trial 00003 --to models/third
    """
    found = export_model(directory, Path(to), trial, progress=sys.stderr.isatty())
    if as_json:
        print(json.dumps(asdict(found) | {"directory": str(found.directory)}, indent=2))
        return 0
    scores = ", ".join(f"{name} {value:.2f}" for name, value in found.scores.items() if value is not None)
    recorded = ", ".join(f"{value:.2f}" for value in found.recorded.values() if value is not None)
    print(f"trial {found.trial_id}: {scores}{f' (in the sweep: {recorded})' if found.retrained else ''}")
    print(f"Wrote the model in {found.directory}")
    return 0


@commands.command()
@click.argument("path", metavar="C.yaml")
@config_options
@click.option("--like", metavar="DIR", help="Take the speed from this sweep's records instead of measuring it here.")
@click.option("--simulate", metavar="DIR", help="Compare searchers and trial schedulers on this sweep's curves.")
@as_json
def plan(
    path: str, overrides: tuple[str, ...], print_config: bool, like: str | None, simulate: str | None, as_json: bool
) -> int:
    """Says what a sweep would run and take, without running it; refuses what can never fit.

    The speed is measured with some training steps on this machine. With --simulate, sweeps of each searcher and trial
    scheduler are replayed in virtual time on the learning curves of an earlier sweep.

    \b
    Examples:
      python -m sweeps plan sweeps/configs/demo.yaml search.num_trials=4
      python -m sweeps plan sweeps/configs/demo.yaml --like runs/first
      python -m sweeps plan sweeps/configs/demo.yaml --simulate runs/first
    """
    if simulate and like:
        raise ConfigError(["--like: expected one of --like and --simulate, found both"], "command line")
    config = load_config(SweepConfig, path, overrides)
    if print_config:
        print(describe_config(config), end="")
        return 0
    if simulate:
        return _compare(config, Path(os.path.expanduser(simulate)), as_json)
    from sweeps.plan import format_plan, plan_sweep

    found = plan_sweep(config, Path(os.path.expanduser(like)) if like else None)
    print(json.dumps(asdict(found), indent=2) if as_json else format_plan(found, config))
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _compare(config: SweepConfig, directory: Path, as_json: bool) -> int:
    from sweeps.placement import place
    from sweeps.plan import resources
    from sweeps.searcher_comparison import compare_searchers, format_comparison  # imports Ray

    asked = config.search.max_concurrent_trials
    num_at_once = asked if isinstance(asked, int) else place(config, *resources()).max_concurrent_trials
    found = compare_searchers(config, directory, num_at_once, progress=sys.stderr.isatty())
    print(json.dumps(found.to_plain(), indent=2) if as_json else format_comparison(found))
    for caveat in found.caveats:
        print(f"warning: {caveat}", file=sys.stderr)
    return 0


def _tell(result: "SweepResult", as_json: bool) -> int:
    if as_json:
        counts = {"completed": result.num_completed, "stopped_early": result.num_stopped, "failed": result.num_failed}
        print(json.dumps({"directory": str(result.directory), **counts, "best": result.best}, indent=2))
    else:
        stopped = f"{result.num_stopped} stopped early, " if result.num_stopped else ""
        print(f"{result.num_completed} trials completed, {stopped}{result.num_failed} failed")
        print(f"Wrote manifest.json, records.jsonl and trials/ in {result.directory}")
    if result.num_failed:
        print(f"warning: {result.num_failed} trials failed; see error.log in their records", file=sys.stderr)
    return 1 if result.num_failed or not result.num_completed else 0
