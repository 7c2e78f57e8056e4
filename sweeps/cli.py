"""`python -m sweeps`: samples many training configurations and records what each cost and scored."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from qa_train.cli import as_json, config_options
from qa_train.config import describe_config, load_config
from qa_train.errors import run_command
from sweeps.config import SweepConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(commands, "python -m sweeps", argv)


@click.group()
def commands() -> None:
    """Samples many training configurations and records what each cost and scored."""


@commands.command()
@click.argument("path", metavar="C.yaml")
@config_options
@click.option("--out", metavar="DIR", help="A new directory.  [default: runs/<name>-<time>]")
@as_json
def run(path: str, overrides: tuple[str, ...], print_config: bool, out: str | None, as_json: bool) -> int:
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

    result = run_sweep(config, Path(out) if out else None)
    if as_json:
        summary = {"directory": str(result.directory), "completed": result.num_completed, "failed": result.num_failed}
        print(json.dumps(summary | {"best": result.best}, indent=2))
    else:
        print(f"{result.num_completed} trials completed, {result.num_failed} failed")
        print(f"Wrote manifest.json, records.jsonl and trials/ in {result.directory}")
    if result.num_failed:
        print(f"warning: {result.num_failed} trials failed; see error.log in their records", file=sys.stderr)
    return 1 if result.num_failed or not result.num_completed else 0
