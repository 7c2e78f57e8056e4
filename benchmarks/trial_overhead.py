"""What a sweep costs beside its trainings: `python -m benchmarks.trial_overhead`.

Trains the same small model several times, with other learning rates, in three ways:

- `bare`: in one process, one training after the other, without Ray.
- `sweep`: `python -m sweeps run`, a trial at a time.
- `nested`: a trial of Ray Tune is a driver function that lets Ray Train start one worker, as Ray's documentation says.

All call the same training, with one thread. The first training of each pays for what is started once and is left out.
"""

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import torch
from tabulate import tabulate
from tqdm import tqdm
from transformers import DistilBertConfig, DistilBertForQuestionAnswering

from benchmarks import trainings
from benchmarks.throughput import describe_machine
from benchmarks.trainings import Timing, Way
from qa_train import demo_data
from qa_train.errors import run_command
from qa_train.model import load_tokenizer
from qa_train.offline_model import OFFLINE_MINILM
from qa_train.storage import read_json, write_json

GOAL_S = 1.5
"""What a trial of a sweep may take beyond the bare training."""
NUM_QUESTIONS = 20
WAYS: dict[str, Way] = {"bare": trainings.bare, "sweep": trainings.sweep, "nested": trainings.nested}


def prepare(directory: Path) -> dict[str, Any]:
    """Writes a model of two small layers and a few questions of the demo; returns what trains on them, as plain values.

    Raises:
        CheckpointError: If the package with the tokenizer is not installed.
    """
    tokenizer = load_tokenizer(OFFLINE_MINILM)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = DistilBertConfig(vocab_size=len(tokenizer), dim=64, hidden_dim=128, n_layers=2, n_heads=2)
        DistilBertForQuestionAnswering(sizes).save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    for name in ("train", "dev"):
        content = read_json(Path(demo_data.__path__[0]) / f"{name}.json")
        write_json(directory / f"{name}.json", first_questions(content, NUM_QUESTIONS))
    return {
        "data": {name: str(directory / f"{name}.json") for name in ("train", "dev")},
        "model": {"name": str(directory / "model"), "max_seq_length": 128, "doc_stride": 32},
        "num_epochs": 1,
        "precision": "fp32",
        "scale": {"num_workers": 1, "cpus_per_worker": 1, "use_gpu": False},
    }


def first_questions(content: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Returns the first questions of data in SQuAD form, each with its paragraph."""
    articles: list[dict[str, Any]] = []
    for article in content["data"]:
        paragraphs = []
        for paragraph in article["paragraphs"]:
            paragraphs.append(paragraph | {"qas": paragraph["qas"][:count]})
            count -= len(paragraphs[-1]["qas"])
            if count == 0:
                return {**content, "data": [*articles, article | {"paragraphs": paragraphs}]}
        articles.append(article | {"paragraphs": paragraphs})
    return {**content, "data": articles}


def measure(
    config: dict[str, Any], num_trials: Mapping[str, int], num_repeats: int, *, progress: bool = False
) -> dict[str, list[Timing]]:
    """Lets the ways take turns, each time in a new process and in another order.

    Args:
        config: What is trained, as plain values.
        num_trials: Trainings of each way, 2 or more; a way that is not named is left out.
        num_repeats: Turns of each.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The turns of each way.
    """
    found: dict[str, list[Timing]] = {name: [] for name in num_trials}
    with tqdm(total=num_repeats * len(found), desc="turns", disable=not progress, leave=False) as bar:
        for repeat in range(num_repeats):
            first = repeat % len(found)  # nobody is always first
            for name in [*found][first:] + [*found][:first]:
                bar.set_postfix_str(name)
                rates = [1e-4 * (1 + number / 10) for number in range(num_trials[name])]
                found[name].append(_in_a_new_process(WAYS[name], config, rates))
                bar.update()
    return found


def _in_a_new_process(way: Way, config: dict[str, Any], rates: Sequence[float]) -> Timing:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, config, rates).result()


def overheads(found: Mapping[str, Sequence[Timing]], name: str) -> list[float]:
    """Returns what a trial took beyond the bare training of the same repeat, in seconds."""
    return [other.mean_s - bare.mean_s for other, bare in zip(found[name], found["bare"], strict=True)]


def mean_parts(timings: Sequence[Timing]) -> dict[str, float]:
    """Returns the mean seconds of each part over all repeats."""
    return {name: sum(timing.parts[name] for timing in timings) / len(timings) for name in timings[0].parts}


def as_dict(found: Mapping[str, Sequence[Timing]]) -> dict[str, Any]:
    """Returns the result as JSON knows it."""
    return {
        name: {
            "first_s": [timing.first_s for timing in timings],
            "seconds": [timing.mean_s for timing in timings],
            "overhead_s": overheads(found, name),
            "parts": mean_parts(timings),
        }
        for name, timings in found.items()
    } | {"goal_s": GOAL_S}


def format_result(found: Mapping[str, Sequence[Timing]]) -> str:
    """Returns a table of the totals and one of the parts."""
    totals = [
        [name, _mean([timing.mean_s for timing in timings]), *_spread(overheads(found, name)), goal, first]
        for name, timings in found.items()
        for goal, first in [(GOAL_S if name == "sweep" else None, _mean([timing.first_s for timing in timings]))]
    ]
    parts = {name: mean_parts(timings) for name, timings in found.items()}
    names = dict.fromkeys(part for own in parts.values() for part in own)
    rows = [[name, *(own.get(name) for own in parts.values())] for name in names]
    head = ["", "seconds\na trial", "more than\nbare", "min - max", "goal", "until the first\nhas ended"]
    return "\n\n".join(
        [
            tabulate(totals, head, missingval="-", floatfmt=".2f"),
            tabulate(rows, ["seconds a trial", *parts], missingval="-", floatfmt=".3f"),
        ]
    )


def _spread(values: Sequence[float]) -> tuple[float, str]:
    return _mean(values), f"{min(values):.2f} - {max(values):.2f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@click.command()
@click.option("--trials", type=click.IntRange(2), default=8, show_default=True, help="Trainings, bare and in a sweep.")
@click.option(
    "--nested",
    "num_nested",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Trainings in Ray Train inside of Ray Tune, 10 to 30 seconds each; 2 or more, or 0: none.",
)
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Turns of each way.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(trials: int, num_nested: int, repeats: int, as_json: bool) -> int:
    """Measures what a trial of a sweep takes beyond its training.

    Takes about two minutes with the defaults on two cores, which should have nothing else to do.

    \b
    Example:
      python -m benchmarks.trial_overhead --repeats 3
    """  # noqa: D301 (click wants the backspace itself)
    if num_nested == 1:
        raise click.BadParameter("expected 0, or 2 or more: the first one is left out, found 1", param_hint="--nested")
    machine = describe_machine(torch.device("cpu"))
    num_trials = {"bare": trials, "sweep": trials} | ({"nested": num_nested} if num_nested else {})
    with tempfile.TemporaryDirectory() as directory:
        found = measure(prepare(Path(directory)), num_trials, repeats, progress=sys.stderr.isatty())
    if as_json:
        print(json.dumps({"machine": machine, "trials": num_trials, **as_dict(found)}, indent=2))
        return 0
    versions = machine["versions"]
    print(f"{machine['cpu']}, load before {machine['load']}, torch {versions['torch']}, ray {versions['ray']}")
    counts = ", ".join(f"{count} {name}" for name, count in num_trials.items())
    print(f"{NUM_QUESTIONS} questions, 1 epoch, a model of two layers; trainings: {counts}; {repeats} repeats\n")
    print(format_result(found))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(command, "python -m benchmarks.trial_overhead", argv)


if __name__ == "__main__":
    sys.exit(main())
