"""`python -m qa_train`: trains, scores and describes extractive question answering."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from qa_train.config import TrainConfig, build_config, describe_config, find_data_file, load_config
from qa_train.errors import ConfigError, DataError, run_command
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
    from qa_train.output import claim_output  # imports torch, which the other paths do not need

    return _finish_training(claim_output(Path(to or DEFAULT_OUTPUT), config, overwrite=overwrite), config, as_json)


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
