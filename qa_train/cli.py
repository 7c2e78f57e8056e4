"""`python -m qa_train`: trains, scores and describes extractive question answering."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qa_train.config import TrainConfig, build_config, describe_config, find_data_file, load_config
from qa_train.convert import DELIMITERS, convert_csv
from qa_train.download import DATASETS
from qa_train.download import download as fetch_files
from qa_train.errors import ConfigError, DataError, QAError, run_command
from qa_train.inspection import format_reports, inspect_file, reports_as_dict
from qa_train.scoring import score_files
from qa_train.storage import parse_yaml, read_text

DEFAULT_OUTPUT = "~/models/distilbert-custom"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(commands, "python -m qa_train", argv)


@click.group()
def commands() -> None:
    """Trains, scores and describes extractive question answering."""


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds overrides of a configuration and `--print-config` to a command."""
    command = click.argument("overrides", nargs=-1, metavar="[key=value]...")(command)
    return click.option("--print-config", is_flag=True, help="Print the resolved configuration and end.")(command)


as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@commands.command()
@click.option("--config", "path", metavar="C.yaml", help="The configuration.")
@config_options
@click.option("--to", metavar="DIR", help=f"Where the model goes.  [default: {DEFAULT_OUTPUT}]")
@click.option("--resume", metavar="DIR", help="Go on with an interrupted training; takes no configuration.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier training left in DIR.")
@as_json
def train(
    path: str | None,
    overrides: tuple[str, ...],
    print_config: bool,
    to: str | None,
    resume: str | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Fine-tunes one model and saves it with its scores and cost.

    \b
    Examples:
      python -m qa_train train --config qa_train/configs/demo.yaml --to models/demo num_epochs=2
      python -m qa_train train --resume models/demo
    """
    if resume:
        if path or overrides or to or overwrite:
            raise ConfigError(["takes no configuration: the run goes on as it was configured"], "--resume")
        return _finish_training(*_interrupted(Path(resume).expanduser()), as_json)
    if not path:
        raise ConfigError(["expected --config C.yaml, or --resume DIR"], "train")
    config = load_config(TrainConfig, path, overrides)
    if print_config:
        print(describe_config(config), end="")
        return 0
    from qa_train.output import claim_output, release_output  # imports torch, which the other paths do not need

    directory = claim_output(Path(to or DEFAULT_OUTPUT), config, overwrite=overwrite)
    try:
        return _finish_training(directory, config, as_json)
    except QAError:
        release_output(directory)
        raise


def _interrupted(directory: Path) -> tuple[Path, TrainConfig]:
    """Returns the directory and the configuration of a training that was interrupted there."""
    from qa_train.output import RUN_CONFIG
    from qa_train.training import TRAINING_RECORD

    path = directory / RUN_CONFIG
    if not path.is_file():
        found = "a training that has ended" if (directory / TRAINING_RECORD).is_file() else f"no {RUN_CONFIG}"
        raise DataError(f"{directory}: expected an interrupted training, found {found} there")
    values, problems = parse_yaml(read_text(path))
    if problems or not isinstance(values, dict):
        raise ConfigError(problems or ["expected a mapping"], str(path))
    return directory, build_config(TrainConfig, values, str(path))


def _finish_training(directory: Path, config: TrainConfig, as_json: bool) -> int:
    from qa_train.output import train_into

    summary = train_into(directory, config, progress=sys.stderr.isatty())
    if as_json:
        print(json.dumps(summary, indent=2))
        return 0
    for name, scores in summary["scores"].items():
        print(f"{name}: F1 {scores['f1']:.2f}, exact match {scores['exact_match']:.2f}")
    print(f"Wrote the model and {', '.join(summary['files'])} in {directory}")
    return 0


@commands.command()
@click.option("--data", required=True, metavar="F.json", help="The questions, in SQuAD form.")
@click.option("--predictions", required=True, metavar="P.json", help="{question id: answer text}")
@as_json
def score(data: str, predictions: str, as_json: bool) -> int:
    """Scores predictions by the official rule of SQuAD 1.1: exact match and F1, 0 to 100.

    \b
    Example:
      python -m qa_train score --data dev.json --predictions predictions.json --json
    """
    result = score_files(find_data_file(data, Path.cwd()), predictions)
    for name, scores in result.items():
        if scores["num_unknown"]:
            print(f"warning: {scores['num_unknown']} predictions belong to no question of {name}", file=sys.stderr)
        if not as_json:
            print(
                f"{name}: F1 {scores['f1']:.2f}, exact match {scores['exact_match']:.2f} on {scores['num_questions']} "
                f"questions, {scores['num_missing']} of them without a prediction (counted as wrong)"
            )
    if as_json:
        print(json.dumps(result, indent=2))
    return 0


@commands.command()
@click.argument("files", nargs=-1, required=True, metavar="F.json...")
@click.option("--tokenizer", metavar="MODEL", help="Also count in this model's tokens.")
@click.option("--articles", is_flag=True, help="List the articles with their questions.")
@as_json
def inspect(files: tuple[str, ...], tokenizer: str | None, articles: bool, as_json: bool) -> int:
    """Describes data files: counts, alignment of the answers, answerable share, lengths.

    \b
    Example:
      python -m qa_train inspect train.json dev.json --tokenizer offline-minilm --articles
    """
    opened = None
    if tokenizer:
        from qa_train.model import load_tokenizer  # imports torch, which the other reports do not need

        opened = load_tokenizer(tokenizer)
    reports = [inspect_file(find_data_file(path, Path.cwd()), opened) for path in files]
    if as_json:
        print(json.dumps(reports_as_dict(reports, articles), indent=2, ensure_ascii=False))
    else:
        print(format_reports(reports, articles))
    return 0


@commands.command()
@click.option(
    "--set", "name", type=click.Choice(list(DATASETS)), default="spoken-squad", show_default=True, help="Which."
)
@click.option("--to", metavar="DIR", help="Where it goes.  [default: ~/data/spoken-squad, ~/data/squad]")
@as_json
def download(name: str, to: str | None, as_json: bool) -> int:
    """Fetches a public data set, checking every file; goes on where an earlier download was interrupted.

    \b
    Examples:
      python -m qa_train download
      python -m qa_train download --set squad-1.1 --to data/squad
    """
    dataset = DATASETS[name]
    directory = (Path(to) if to else dataset.directory).expanduser()
    paths = fetch_files(dataset.files, directory, progress=sys.stderr.isatty())
    about = {"source": dataset.source, "licence": dataset.licence, "citation": dataset.citation}
    if as_json:
        print(json.dumps({"directory": str(directory), "files": [path.name for path in paths], **about}, indent=2))
        return 0
    for key, text in about.items():
        print(f"{key}: {text}")
    print(f"Wrote {', '.join(path.name for path in paths)} in {directory}")
    return 0


@commands.command()
@click.argument("table", metavar="IN.csv")
@click.argument("out", metavar="OUT.json")
@click.option("--delimiter", type=click.Choice(list(DELIMITERS)), help="Between cells.  [default: seen in the header]")
@click.option("--drop-unfound", is_flag=True, help="Leave out answers that do not occur in their context.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.json.")
@as_json
def convert(table: str, out: str, delimiter: str | None, drop_unfound: bool, overwrite: bool, as_json: bool) -> int:
    """Makes a data file of a table with the columns context, question, answer (and id, title, answer_start).

    \b
    Example:
      python -m qa_train convert questions.csv questions.json
    """
    given = DELIMITERS[delimiter] if delimiter else None
    counts = convert_csv(table, out, delimiter=given, drop_unfound=drop_unfound, overwrite=overwrite)
    if as_json:
        print(json.dumps(asdict(counts), indent=2))
        return 0
    if counts.ignored_columns:
        print(f"warning: ignored the columns {', '.join(counts.ignored_columns)}", file=sys.stderr)
    print(
        f"{counts.num_questions:,} questions with {counts.num_answers:,} answers about {counts.num_paragraphs:,} "
        f"contexts of {counts.num_articles:,} articles; {counts.num_moved:,} answers stood beside their offset, "
        f"{counts.num_searched:,} had none, {counts.num_dropped:,} rows left out"
    )
    print(f"Wrote {out}")
    return 0


@commands.command()
@click.option("--model", required=True, metavar="DIR", help="A trained model.")
@click.option("--question", required=True, metavar="Q", help="What to ask.")
@click.option("--context", metavar="TEXT", help="The text that holds the answer.")
@click.option("--context-file", metavar="F", help="The same, from a file.")
@click.option("--n-best", default=1, show_default=True, metavar="N", help="Answers to give, best first.")
@as_json
def predict(
    model: str, question: str, context: str | None, context_file: str | None, n_best: int, as_json: bool
) -> int:
    """Answers a question with a span of a text.

    \b
    Example:
      python -m qa_train predict --model models/demo --question "who built it ?" --context "ada built the mill"
    """
    if (context is None) == (context_file is None):
        raise ConfigError(["expected either --context or --context-file"], "predict")
    text = read_text(context_file) if context is None and context_file else context or ""
    from qa_train.predictor import Predictor  # imports torch, which the other paths do not need

    answers = Predictor(model)(question=question, context=text, n_best=n_best)
    if as_json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
        return 0
    for answer in answers:
        print(
            f"{answer['answer']}  (probability {answer['score']:.3g}, characters {answer['start']} to {answer['end']})"
        )
    return 0
