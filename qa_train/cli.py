"""`python -m qa_train`: trains, scores and describes extractive question answering."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from qa_train.config import TrainConfig, build_config, describe_config, find_data_file, load_config
from qa_train.data_commands import DATA_COMMANDS, as_json
from qa_train.errors import ConfigError, DataError, QAError, run_command
from qa_train.score_table import format_scores
from qa_train.storage import parse_yaml, read_text

DEFAULT_OUTPUT = "~/models/distilbert-custom"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(commands, "python -m qa_train", argv)


@click.group()
def commands() -> None:
    """Trains, scores and describes extractive question answering."""


for data_command in DATA_COMMANDS:
    commands.add_command(data_command)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds overrides of a configuration and `--print-config` to a command."""
    command = click.argument("overrides", nargs=-1, metavar="[key=value]...")(command)
    return click.option("--print-config", is_flag=True, help="Print the resolved configuration and end.")(command)


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

    With optim.schedule=trunk one run gives a finished model for each of budgets; DIR holds the last one,
    DIR/budgets/EPOCHS the others.

    \b
    Examples:
      python -m qa_train train --config qa_train/configs/demo.yaml --to models/demo num_epochs=2
      python -m qa_train train --config qa_train/configs/demo_budgets.yaml --to models/budgets budgets=[1,2,4]
      python -m qa_train train --resume models/demo
    """
    if resume:
        if path or overrides or to or overwrite:
            raise ConfigError(["takes no configuration: the run goes on as it was configured"], "--resume")
        return _finish_training(*_interrupted(Path(os.path.expanduser(resume))), as_json)
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
    for budget in summary.get("budgets", []):
        print(f"{budget['budget_epochs']} epochs: dev F1 {budget['f1']:.2f}, exact match {budget['exact_match']:.2f}")
    for name, scores in summary["scores"].items():
        print(f"{name}: F1 {scores['f1']:.2f}, exact match {scores['exact_match']:.2f}")
    print(f"Wrote the model and {', '.join(summary['files'])} in {directory}")
    return 0


@commands.command()
@click.option("--data", required=True, metavar="F.json", help="The questions, in SQuAD form.")
@click.option("--predictions", required=True, metavar="P.json", help="{question id: answer text}")
@click.option("--tokenizer", metavar="MODEL", help="Also give F1 as the study computed it, with this model's tokens.")
@click.option("--overlap", is_flag=True, help="Also give BLEU and ROUGE-L.")
@click.option("--articles", is_flag=True, help="List the articles with their scores.")
@click.option("--question-scores", metavar="OUT.parquet", help="Write the score of each question.")
@as_json
def score(
    data: str,
    predictions: str,
    tokenizer: str | None,
    overlap: bool,
    articles: bool,
    question_scores: str | None,
    as_json: bool,
) -> int:
    """Scores predictions by the official rule of SQuAD 1.1: exact match and F1, 0 to 100; and by others.

    \b
    Example:
      python -m qa_train score --data dev.json --predictions predictions.json --articles --json
    """
    if question_scores and Path(question_scores).suffix != ".parquet":
        raise ConfigError([f"expected a name that ends with .parquet, found {question_scores}"], "--question-scores")
    path = find_data_file(data, Path.cwd())
    from qa_train.scoring import score_files  # imports scipy, which takes a second

    opened = None
    if tokenizer:
        from qa_train.model import load_tokenizer  # imports torch, which the other scores do not need

        opened = load_tokenizer(tokenizer)
    result = score_files(path, predictions, tokenizer=opened, overlap=overlap, question_scores=question_scores)
    for name, scores in result.items():
        if scores["num_unknown"]:
            print(f"warning: {scores['num_unknown']} predictions belong to no question of {name}", file=sys.stderr)
        if not as_json:
            print(format_scores(name, scores, articles))
        elif not articles:
            del scores["articles"]
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    elif question_scores:
        print(f"Wrote {question_scores}")
    return 0


@commands.command()
@click.option("--model", "models", multiple=True, required=True, metavar="DIR", help="A trained model; again for more.")
@click.option("--data", multiple=True, required=True, metavar="F.json", help="Questions in SQuAD form; again for more.")
@click.option("--ensemble", is_flag=True, help="Let the models also answer together, by their mean probabilities.")
@click.option(
    "--fit-weights", metavar="DEV.json", help="Weigh the ensemble by what fits this dev set; never a test set."
)
@click.option("--predictions", metavar="OUT.json", help="Write the answers; a directory for several models or files.")
@click.option("--n-best", type=click.IntRange(1), metavar="N", help="Write so many answers, with their probabilities.")
@click.option("--question-scores", metavar="DIR", help="Write the score of each question, for paired comparisons.")
@click.option("--tokenizer", metavar="MODEL", help="For study_f1.  [default: each model's own]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Of matrix products; auto: the fastest here, measured on a CPU.",
)
@click.option(
    "--num-workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the work."
)
@click.option("--max-seq-length", type=int, metavar="N", help="Tokens in a window.  [default: as each was trained]")
@click.option("--doc-stride", type=int, metavar="N", help="Tokens two windows share.  [default: as each was trained]")
@as_json
def evaluate(models: tuple[str, ...], data: tuple[str, ...], num_workers: int, as_json: bool, **options: Any) -> int:
    """Scores models, of any kinds, on data files, by the official rule and others, and says what that took.

    \b
    Examples:
      python -m qa_train evaluate --model models/demo --data test.json --predictions predictions.json
      python -m qa_train evaluate --model models/a --model models/b --data test.json --fit-weights dev.json
    """
    from qa_train.evaluation_job import plan_evaluation  # imports torch, which the other paths do not need
    from qa_train.evaluation_run import format_results, run_evaluation

    job = plan_evaluation(models, data, **options)
    if job.fit_weights in job.data.values():
        print("warning: the weights are fitted to a file that is scored, too high for the ensemble", file=sys.stderr)
    results = run_evaluation(job, num_workers, progress=sys.stderr.isatty())
    if as_json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return 0
    print(format_results(job, results))
    if written := [*job.predictions.values(), *job.question_scores.values()]:
        print(f"Wrote {', '.join(written)}")
    return 0


@commands.command()
@click.option(
    "--model", "models", multiple=True, required=True, metavar="DIR", help="A trained model; several: their mean."
)
@click.option("--question", required=True, metavar="Q", help="What to ask.")
@click.option("--context", metavar="TEXT", help="The text that holds the answer.")
@click.option("--context-file", metavar="F", help="The same, from a file.")
@click.option("--n-best", default=1, show_default=True, metavar="N", help="Answers to give, best first.")
@as_json
def predict(
    models: tuple[str, ...], question: str, context: str | None, context_file: str | None, n_best: int, as_json: bool
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

    answers = Predictor(models)(question=question, context=text, n_best=n_best)
    if as_json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
        return 0
    for answer in answers:
        print(
            f"{answer['answer']}  (probability {answer['score']:.3g}, characters {answer['start']} to {answer['end']})"
        )
    return 0
