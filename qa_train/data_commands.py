"""The commands that look at data files, fetch them and make others of them."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qa_train.cloze import synthesize as make_cloze_questions
from qa_train.config import find_data_file
from qa_train.confusions import read_confusions
from qa_train.convert import DELIMITERS, convert_csv
from qa_train.download import DATASETS
from qa_train.download import download as fetch_files
from qa_train.errors import QAError
from qa_train.flite_sphinx import MAX_STRETCH, MIN_STRETCH, FliteSphinx
from qa_train.inspection import compare_files, format_reports, format_transcript, inspect_file, reports_as_dict
from qa_train.noise_files import confuse_files, write_noisy_copy
from qa_train.spoken import SpeechFiles, describe_speech, speak_file

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="F.json...")
@click.option("--tokenizer", metavar="MODEL", help="Also count in this model's tokens.")
@click.option("--articles", is_flag=True, help="List the articles with their questions.")
@as_json
def inspect(files: tuple[str, ...], tokenizer: str | None, articles: bool, as_json: bool) -> int:
    """Describes data files: counts, alignment of the answers, answerable share, lengths.

    Of two files that share questions the first is taken for a transcript of the second, and its word errors are shown.

    \b
    Examples:
      python -m qa_train inspect train.json dev.json --tokenizer offline-minilm --articles
      python -m qa_train inspect spoken.json written.json
    """
    opened = None
    if tokenizer:
        from qa_train.model import load_tokenizer  # imports torch, which the other reports do not need

        opened = load_tokenizer(tokenizer)
    paths = [find_data_file(path, Path.cwd()) for path in files]
    reports = [inspect_file(path, opened) for path in paths]
    transcript = None
    if len(paths) == 2:
        try:
            transcript = compare_files(*paths)
        except QAError as error:  # what two files of another kind lack is no reason to show nothing of them
            print(f"warning: no word errors: {error}", file=sys.stderr)
    if as_json:
        described = reports_as_dict(reports, articles)
        if transcript:
            described[str(paths[0])]["word_errors"] = {"written": str(paths[1]), **transcript.as_dict()}
        print(json.dumps(described, indent=2, ensure_ascii=False))
        return 0
    print(format_reports(reports, articles))
    if transcript:
        print(f"\n{format_transcript(transcript, *paths)}")
    return 0


@click.command()
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
    directory = Path(os.path.expanduser(to or dataset.directory))
    paths = fetch_files(dataset.files, directory, progress=sys.stderr.isatty())
    about = {"source": dataset.source, "licence": dataset.licence, "citation": dataset.citation}
    if as_json:
        print(json.dumps({"directory": str(directory), "files": [path.name for path in paths], **about}, indent=2))
        return 0
    for key, text in about.items():
        print(f"{key}: {text}")
    print(f"Wrote {', '.join(path.name for path in paths)} in {directory}")
    return 0


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
@click.argument("path", metavar="IN.json")
@click.argument("out", metavar="OUT.json")
@click.option("--voice", default="rms", show_default=True, help="One of `flite -lv`.")
@click.option(
    "--duration-stretch",
    type=click.FloatRange(MIN_STRETCH, MAX_STRETCH),
    default=1.15,
    show_default=True,
    metavar="F",
    help="How much slower flite speaks than by itself.",
)
@click.option("--snr-db", type=float, metavar="X", help="Add white noise at this signal-to-noise ratio.")
@click.option("--target-wer", type=float, metavar="W", help="Find the noise for this word error rate, in percent.")
@click.option(
    "--form",
    type=click.Choice(["training", "test"]),
    default="training",
    show_default=True,
    help="training: answers as heard, lost ones dropped. test: all questions, answers as written.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another one, other noise.")
@click.option("--num-workers", type=click.IntRange(1), help="Processes.  [default: all cores]")
@click.option("--keep-audio", metavar="DIR", help="Write a WAV file for each paragraph.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.json.")
@as_json
def speak(
    path: str,
    out: str,
    voice: str,
    duration_stretch: float,
    num_workers: int | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Writes what a recogniser hears of the contexts when they are read aloud, with or without noise.

    Flite speaks, PocketSphinx writes down; what became of each question is in OUT.fates.jsonl, settings, versions and
    word error rate are in OUT.manifest.json.

    \b
    Examples:
      python -m qa_train speak train.json train-spoken.json
      python -m qa_train speak test.json test-noise.json --form test --target-wer 44.2
    """
    source = find_data_file(path, Path.cwd())
    engines = FliteSphinx(voice, duration_stretch)
    manifest = speak_file(source, out, engines, num_workers=num_workers, progress=sys.stderr.isatty(), **options)
    if as_json:
        print(json.dumps(manifest, indent=2, ensure_ascii=False))
        return 0
    if manifest["unspoken"]:
        shown = " ".join(list(manifest["unspoken"])[:20])
        number = sum(manifest["unspoken"].values())
        print(f"warning: {number:,} characters have no spoken form and were left out: {shown}", file=sys.stderr)
    print(describe_speech(manifest))
    files = SpeechFiles(Path(out))
    print(f"Wrote {out}, {files.fates} and {files.manifest}")
    return 0


DATA_COMMANDS = (inspect, download, convert, synthesize, confusions, noise, speak)
