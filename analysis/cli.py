"""`python -m analysis`: what sweeps found, and which configuration to train."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from analysis.frontier import COST, WITHIN_F1
from analysis.load import load_sweeps
from analysis.report import write_report
from qa_train.errors import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(commands, "python -m analysis", argv)


@click.group()
def commands() -> None:
    """Says what sweeps found, and which configuration to train."""


@commands.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR...")
@click.option("--out", metavar="OUT", help="Where the report is written.  [default: report in the first DIR]")
@click.option(
    "--within-f1",
    type=float,
    default=WITHIN_F1,
    show_default=True,
    metavar="F1",
    help="Points of dev F1 that the recommended model may be below the best.",
)
@click.option("--cost", default=COST, show_default=True, metavar="COLUMN", help="The cost to save on.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def report(directories: tuple[str, ...], out: str | None, within_f1: float, cost: str, as_json: bool) -> int:
    """Compares the finished models of one or several sweeps, running or not, and recommends one.

    It is the cheapest whose dev F1 is within a margin of the best. Writes table.csv, table.md and recommended.yaml.

    \b
    Example:
      python -m analysis report runs/first --out reports/first --within-f1 0.5
      python -m qa_train train --config reports/first/recommended.yaml
    """
    folder = Path(out) if out else Path(directories[0]) / "report"
    result = write_report(load_sweeps(directories), folder, within_f1=within_f1, cost=cost)
    if as_json:
        print(json.dumps(result.to_plain(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(result.text)
        print(f"Wrote {', '.join(path.name for path in result.files)} in {folder}")
    return 0
