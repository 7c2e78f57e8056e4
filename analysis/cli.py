"""`python -m analysis`: what sweeps found, and which configuration to train."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pandas as pd

from analysis.compare import compare_files, compare_sweeps, compare_trials, find_model, format_comparison
from analysis.configurations import configuration_table
from analysis.error_analysis import NUM_WORST, analyze_errors
from analysis.frontier import COST, best_model
from analysis.load import Sweeps, load_sweeps
from analysis.report import make_report, write_report
from analysis.sections import error_sections, sections_to_markdown
from analysis.summaries import best_so_far, hyperparameter_table, searched_columns, test_set_table
from analysis.tables import as_texts, model_name, to_latex, to_markdown, to_text
from qa_train.errors import DataError, run_command
from qa_train.storage import write_text


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
    metavar="F1",
    help="Points of dev F1 that the recommended model may be below the best.  [default: as far as the two cannot be "
    "told apart on the same questions; 1 where that cannot be tested]",
)
@click.option("--cost", default=COST, show_default=True, metavar="COLUMN", help="The cost to save on.")
@click.option(
    "--wer",
    "rates",
    multiple=True,
    metavar="SET=PERCENT",
    callback=lambda _context, _option, texts: dict(map(_parse_rate, texts)),
    help="Word error rate of a data set's transcripts, such as clean=22.7.  [default: of Spoken-SQuAD's own test sets]",
)
@click.option("--plots/--no-plots", "with_plots", default=True, help="Whether pictures and report.html are written.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def report(
    directories: tuple[str, ...],
    out: str | None,
    within_f1: float | None,
    cost: str,
    rates: dict[str, float],
    with_plots: bool,
    as_json: bool,
) -> int:
    """Compares the finished models of one or several sweeps, running or not, and recommends one.

    It is the cheapest that cannot be told from the best on the same questions (paired, over articles), or whose dev F1
    is within a margin of the best. Writes table.csv, table.md, recommended.yaml, pictures as *.png and report.html, one
    file that any browser opens.

    \b
    Example:
      python -m analysis report runs/first --out reports/first --within-f1 0.5 --wer clean=22.7 --wer noisy=44.2
      python -m qa_train train --config reports/first/recommended.yaml
    """
    if "://" in (place := out or directories[0]):
        raise click.UsageError(f"expected a local directory for the report, found {place}; name one by --out")
    if within_f1 is not None and not math.isfinite(within_f1):
        raise click.UsageError(f"--within-f1: expected a finite number of points, 0 or more, found {within_f1}")
    folder = Path(out) if out else Path(directories[0]) / "report"
    sweeps = load_sweeps(directories)
    result = write_report(sweeps, folder, within_f1=within_f1, cost=cost, with_plots=with_plots, word_error_rates=rates)
    if result.omitted:
        print(f"warning: {result.omitted}", file=sys.stderr)
    if as_json:
        print(json.dumps(result.to_plain(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(result.text)
        print(f"Wrote {', '.join(path.name for path in result.files)} in {folder}")
    return 0


def _parse_rate(text: str) -> tuple[str, float]:
    name, _, rate = text.rpartition("=")
    try:
        return name, float(rate)
    except ValueError as error:
        raise click.BadParameter(f"expected SET=PERCENT, such as clean=22.7, found {text!r}") from error


_TABLES: dict[str, Callable[[Sweeps], pd.DataFrame]] = {
    "models": lambda sweeps: sweeps.models,
    "configurations": lambda sweeps: make_report(sweeps).table,
    "hyperparameters": lambda sweeps: _hyperparameters(sweeps),
    "tests": lambda sweeps: test_set_table(configuration_table(sweeps.models, sweeps.manifests)),
    "best-so-far": best_so_far,
    "trials": lambda sweeps: sweeps.trials,
    "reports": lambda sweeps: sweeps.reports,
}
_FORMATS: dict[str, Callable[[pd.DataFrame], str]] = {
    "text": lambda table: to_text(as_texts(table)) + "\n",
    "markdown": lambda table: to_markdown(as_texts(table)) + "\n",
    "latex": lambda table: to_latex(as_texts(table)) + "\n",
    "csv": lambda table: table.to_csv(index=False, lineterminator="\n"),
}


def _hyperparameters(sweeps: Sweeps) -> pd.DataFrame:
    table = configuration_table(sweeps.models, sweeps.manifests)
    return hyperparameter_table(table, searched_columns(table, sweeps.manifests), sweeps.metric, sweeps.mode)


@commands.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR...")
@click.option("--of", "kind", type=click.Choice(list(_TABLES)), default="configurations", show_default=True)
@click.option("--format", "form", type=click.Choice(list(_FORMATS)), default="text", show_default=True)
@click.option("--out", metavar="FILE", help="Where the table is written.  [default: stdout]")
def table(directories: tuple[str, ...], kind: str, form: str, out: str | None) -> int:
    """Prints a table of one or several sweeps; csv has all digits.

    \b
    Examples:
      python -m analysis table runs/first --of hyperparameters
      python -m analysis table runs/first --of best-so-far --format csv --out progress.csv
    """
    text = _FORMATS[form](_TABLES[kind](load_sweeps(directories)))
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
        print(f"Wrote {out}")
    return 0


@commands.command()
@click.argument("directories", nargs=-1, metavar="[DIR...]")
@click.option("--trials", nargs=2, metavar="A B", help="Two models: TRIAL, TRIAL@EPOCHS or SWEEP/TRIAL.")
@click.option("--all-seeds", is_flag=True, help="With --trials: each question's mean over the seeds of A, and of B.")
@click.option("--scores", nargs=2, metavar="A.parquet B.parquet", help="Two files of question scores, in place of DIR.")
@click.option("--set", "data_set", default="dev", show_default=True, metavar="SET", help="dev, or test.<name>.")
@click.option("--data", metavar="F.json", help="With --scores: the data file, for the questions' texts.")
@click.option("--questions", metavar="OUT.csv", help="Where the questions are written on which the two differ.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, those questions included.")
def compare(
    directories: tuple[str, ...],
    trials: tuple[str, str] | None,
    all_seeds: bool,
    scores: tuple[str, str] | None,
    data_set: str,
    data: str | None,
    questions: str | None,
    as_json: bool,
) -> int:
    """Compares two models question by question, paired over articles; or the best models of two sweeps.

    \b
    Examples:
      python -m analysis compare runs/first --trials 00002 00005 --all-seeds
      python -m analysis compare runs/first runs/second --questions differences.csv
      python -m analysis compare --scores a/scores_dev_3.parquet b/scores_dev_3.parquet
    """
    if bool(directories) == bool(scores) or (scores and trials):
        raise click.UsageError("give either sweep directories or --scores A.parquet B.parquet")
    if all_seeds and not trials:
        raise click.UsageError("--all-seeds goes with --trials A B; the best of two sweeps are means over seeds anyway")
    if scores:
        found = compare_files(Path(scores[0]), Path(scores[1]), Path(data) if data else None)
    else:
        sweeps = load_sweeps(directories)
        if trials:
            found = compare_trials(sweeps, *trials, data_set, all_seeds=all_seeds)
        else:
            found = compare_sweeps(sweeps, data_set)
    if questions:
        write_text(questions, found.questions.to_csv(index=False, lineterminator="\n"))
    if as_json:
        print(json.dumps(found.to_plain(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(format_comparison(found))
        if questions:
            print(f"Wrote {questions}")
    return 0


@commands.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR...")
@click.option("--trial", metavar="T", help="A model: TRIAL, TRIAL@EPOCHS or SWEEP/TRIAL.  [default: the best]")
@click.option("--set", "data_set", default="dev", show_default=True, metavar="SET", help="dev, or test.<name>.")
@click.option("--data", metavar="F.json", help="The questions.  [default: the file that the sweep used, if unchanged]")
@click.option("--worst", type=click.IntRange(min=0), default=NUM_WORST, show_default=True, help="Questions shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def errors(
    directories: tuple[str, ...], trial: str | None, data_set: str, data: str | None, worst: int, as_json: bool
) -> int:
    """Says which questions a model gets wrong: by type, length of answer and context, and words misheard.

    \b
    Examples:
      python -m analysis errors runs/first
      python -m analysis errors runs/first --trial 00002 --data dev.json --worst 50
    """
    sweeps = load_sweeps(directories)
    label = find_model(sweeps, trial) if trial else best_model(sweeps.models, sweeps.metric, sweeps.mode)
    if label is None:
        raise DataError(f"{directories[0]}: no finished model has a score ({sweeps.metric}) to look into")
    model = sweeps.models.loc[label]
    found = analyze_errors(sweeps, model, data_set, Path(data) if data else None, worst)
    name = model_name(sweeps.models, label)
    if as_json:
        print(json.dumps({"model": name, **found.to_plain()}, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(sections_to_markdown(error_sections(found, name)), end="")
    return 0
