"""`python -m qa_train`: trains, scores and describes extractive question answering."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qa_train.cloze import synthesize as make_cloze_questions
from qa_train.config import TrainConfig, build_config, describe_config, find_data_file, load_config
from qa_train.confusions import read_confusions
from qa_train.convert import DELIMITERS, convert_csv
from qa_train.download import DATASETS
from qa_train.download import download as fetch_files
from qa_train.errors import ConfigError, DataError, QAError, run_command
from qa_train.inspection import format_reports, inspect_file, reports_as_dict
from qa_train.noise_files import confuse_files, write_noisy_copy
from qa_train.score_table import format_scores
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
@click.argument("source", metavar="IN.json")
@click.argument("out", metavar="OUT.json")
@click.option("--per-context", type=click.IntRange(1), default=5, show_default=True, help="Questions about it at most.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides what is asked for.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.json.")
@as_json
def synthesize(source: str, out: str, per_context: int, seed: int, overwrite: bool, as_json: bool) -> int:
    """Makes more questions about the contexts of a data file: a question word in place of a name, number or date.

    Make them of training data only: a model that has read the contexts of a dev or test set is scored too high.

    \b
    Example:
      python -m qa_train synthesize train.json synthetic.json --per-context 3
    """
    path = find_data_file(source, Path.cwd())
    counts = make_cloze_questions(path, out, per_context=per_context, seed=seed, overwrite=overwrite)
    if as_json:
        print(json.dumps(asdict(counts), indent=2))
        return 0
    kinds = ", ".join(f"{number:,} {kind}{'s' * (number != 1)}" for kind, number in counts.num_by_kind.items())
    print(
        f"{counts.num_questions:,} questions ({kinds}) about {counts.num_contexts - counts.num_without:,} contexts of "
        f"{counts.num_articles:,} articles; {counts.num_without:,} contexts gave none"
    )
    print(f"Wrote {out}")
    return 0


@commands.command()
@click.argument("written", metavar="WRITTEN.json")
@click.argument("transcript", metavar="TRANSCRIPT.json")
@click.argument("out", metavar="OUT.json")
@click.option("--overwrite", is_flag=True, help="Replace OUT.json.")
@as_json
def confusions(written: str, transcript: str, out: str, overwrite: bool, as_json: bool) -> int:
    """Learns what a recogniser makes of words, from a transcript and its written text whose questions share ids.

    Give files of training data, never of dev or test: a model that is trained with what was learned from them is not
    tested by them any more.

    \b
    Example:
      python -m qa_train confusions train-written.json train-transcript.json confusions.json
    """
    before, after = (find_data_file(path, Path.cwd()) for path in (written, transcript))
    learned = confuse_files(before, after, out, overwrite=overwrite)
    if as_json:
        names = ("word_error_rate", "num_words", "num_substitutions", "num_deletions", "num_insertions")
        print(json.dumps({name: getattr(learned, name) for name in names}, indent=2))
        return 0
    print(
        f"word error rate {100 * learned.word_error_rate:.1f} %: of {learned.num_words:,} words "
        f"{learned.num_substitutions:,} were heard as others and {learned.num_deletions:,} not at all, "
        f"{learned.num_insertions:,} came in"
    )
    for word, heard, count in learned.most_common(10):
        print(f"{count:>8,}  {word or '(nothing)'} -> {heard or '(nothing)'}")
    print(f"Wrote {out}")
    return 0


@commands.command()
@click.argument("path", metavar="IN.json")
@click.argument("out", metavar="OUT.json")
@click.option("--rate", required=True, type=float, metavar="R", help="Share of words to change, 0 to below 1.")
@click.option("--confusions", "confusions_path", metavar="C.json", help="What `confusions` wrote of training data.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another one, other changes.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.json.")
@as_json
def noise(
    path: str, out: str, rate: float, confusions_path: str | None, seed: int, overwrite: bool, as_json: bool
) -> int:
    """Writes a copy with the errors of a speech recogniser in its contexts; answers are spared, their offsets true.

    Words are replaced, dropped and inserted. What replaces a word is what a recogniser heard in its place (with
    --confusions) or a word of the file that sounds alike.

    \b
    Example:
      python -m qa_train noise train.json train-noisy.json --rate 0.2 --confusions confusions.json
    """
    known = read_confusions(confusions_path) if confusions_path else None
    source = find_data_file(path, Path.cwd())
    counts = write_noisy_copy(source, out, rate=rate, confusions=known, seed=seed, overwrite=overwrite)
    if as_json:
        print(json.dumps(asdict(counts), indent=2))
        return 0
    if counts.num_untrue:
        print(f"warning: {counts.num_untrue:,} answers are not at their offset and were not spared", file=sys.stderr)
    print(
        f"{counts.num_paragraphs:,} contexts of {counts.num_words:,} words, of which {counts.num_replaced:,} were "
        f"replaced and {counts.num_dropped:,} dropped; {counts.num_inserted:,} were inserted; "
        f"{counts.num_answers - counts.num_untrue:,} of {counts.num_answers:,} answers are as they were, offsets true"
    )
    print(f"Wrote {out}")
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
