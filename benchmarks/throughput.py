"""How many tokens a second three training loops train on: `python -m benchmarks.throughput`.

- `ours`: `qa_train.loop.TrainingLoop`.
- `study`: the loop of the study that this project starts from: plain PyTorch, AdamW, fp32, shuffled batches, every
  window padded to the longest of the data set.
- `trainer`: `transformers.Trainer` with `DataCollatorWithPadding`, its defaults otherwise: random batches, each padded
  to its longest window.

Each trains copies of one model on windows of one data set, in turns with the others, in one process with the same
threads. Tokens are counted without padding. Nobody evaluates, saves or logs while the clock runs.
"""

import copy
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from tabulate import tabulate
from torch import nn
from transformers import DistilBertConfig, DistilBertForQuestionAnswering, PreTrainedModel

from benchmarks.comparison import Result, measure
from benchmarks.loops import Task
from benchmarks.sampling import BATCH_SIZE
from qa_train.alignment import align_answers
from qa_train.config import find_data_file
from qa_train.data import read_squad
from qa_train.errors import QAError, run_command
from qa_train.evaluate import EvalSet
from qa_train.model import load_model, load_tokenizer
from qa_train.offline_model import OFFLINE_MINILM
from qa_train.precision import Precision, resolve_precision
from qa_train.resources import limit_threads, num_cpus
from qa_train.tokenization import encode
from qa_train.training import device_name, library_versions

DISTILBERT_BASE = "distilbert-base"
MAX_SEQ_LENGTH, DOC_STRIDE = 512, 128
"""Windows of all loops; the length is the study's."""


def open_model(name: str) -> tuple[PreTrainedModel, Any]:
    """Returns a model and its tokenizer.

    Args:
        name: `distilbert-base`, a DistilBERT of the usual sizes with random weights and the vocabulary of MiniLM, which
            is the same; `minilm`; or a directory.

    Raises:
        CheckpointError: If there is no such model.
    """
    if name == DISTILBERT_BASE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return DistilBertForQuestionAnswering(DistilBertConfig()), load_tokenizer(OFFLINE_MINILM)
    name = OFFLINE_MINILM if name == "minilm" else name
    return load_model(name), load_tokenizer(name)


def open_task(path: str, tokenizer: Any) -> Task:
    """Reads, aligns and tokenises a data set.

    Raises:
        DataError: If the file cannot be used.
        QAError: If several GPUs are visible: the Trainer would take all of them.
    """
    if torch.cuda.device_count() > 1:
        raise QAError(f"expected one GPU, found {torch.cuda.device_count()}; set CUDA_VISIBLE_DEVICES=0")
    examples = align_answers(read_squad(path).examples, path).examples
    window = (min(MAX_SEQ_LENGTH, tokenizer.model_max_length), DOC_STRIDE)
    dev = EvalSet("dev", examples[:1], encode(examples[:1], tokenizer, *window))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Task(encode(examples, tokenizer, *window), dev, tokenizer, device)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Returns what the figures depend on; the load is that of the minute before, 0 on an idle machine."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "load": round(os.getloadavg()[0], 2),
        "versions": library_versions(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def as_dict(result: Result) -> dict[str, Any]:
    """Returns rates and ratios as JSON knows them, by the names of the variants."""
    rates = {
        str(variant): {
            "tokens_per_s": _summary(result.rates(variant)),
            "padding": result.padding(variant),
            "epoch_padding": result.epoch_padding[variant.loop],
        }
        for variant in result.turns
    }
    ratios = {
        f"{ratio.ours} / {ratio.other}": _summary(ratio.values) | {"goal": ratio.goal} for ratio in result.ratios()
    }
    return {"rates": rates, "ratios": ratios}


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "values": list(values)}


def format_result(result: Result) -> str:
    """Returns a table of the rates and one of the ratios."""
    rates = [
        [
            str(variant),
            *_spread(result.rates(variant), ".0f"),
            result.padding(variant),
            result.epoch_padding[variant.loop],
        ]
        for variant in result.turns
    ]
    ratios = [[f"{ratio.ours} / {ratio.other}", *_spread(ratio.values, ".2f"), ratio.goal] for ratio in result.ratios()]
    padding = "tokens with padding\nper token"
    return "\n\n".join(
        [
            tabulate(rates, ["", "tokens/s", "min - max", padding, "in a whole\nepoch"], floatfmt=".2f"),
            tabulate(ratios, ["ratio", "median", "min - max", "goal"], missingval="-", floatfmt=".2f"),
        ]
    )


def _spread(values: Sequence[float], form: str) -> tuple[str, str]:
    return format(median(values), form), f"{min(values):{form}} - {max(values):{form}}"


@click.command()
@click.option("--data", required=True, metavar="F.json", help="Training questions in SQuAD form.")
@click.option("--steps", type=click.IntRange(1), default=4, show_default=True, help="Timed steps of a turn.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Turns of each loop.")
@click.option(
    "--model",
    "name",
    default=DISTILBERT_BASE,
    show_default=True,
    metavar="NAME",
    help=f"{DISTILBERT_BASE} (random weights), minilm, or a directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(data: str, steps: int, repeats: int, name: str, as_json: bool) -> int:
    """Compares training throughput: this project's loop, the study's, and transformers.Trainer.

    Takes about eight minutes with the defaults on two cores, which should have nothing else to do.

    \b
    Example:
      python -m benchmarks.throughput --data train_clean.json
    """  # noqa: D301 (click wants the backspace itself)
    limit_threads(num_cpus())
    model, tokenizer = open_model(name)
    task = open_task(find_data_file(data, Path.cwd()), tokenizer)
    machine = describe_machine(task.device)
    best = resolve_precision("auto", nn.Module.to(copy.deepcopy(model), task.device).train(), task.device)
    precisions: list[Precision] = ["fp32"] if best == "fp32" else ["fp32", best]
    result = measure(model, task, precisions, steps, repeats, progress=sys.stderr.isatty())
    lengths = task.features.lengths
    settings = {
        "model": name,
        "precision": best,
        "data": Path(data).name,
        "windows": len(lengths),
        "longest": int(lengths.max()),
        "mean_length": float(lengths.mean()),
        "batch_size": BATCH_SIZE,
        "steps": steps,
        "repeats": repeats,
    }
    if as_json:
        print(json.dumps({"machine": machine, "settings": settings, **as_dict(result)}, indent=2))
        return 0
    versions = machine["versions"]
    print(f"{machine['cpu']}, {machine['threads']} threads, device {machine['device']}, load before {machine['load']}")
    print(f"torch {versions['torch']}, transformers {versions['transformers']}; fastest precision here: {best}")
    print(f"{name}; {data}: {len(lengths):,} windows of {lengths.mean():.0f} tokens, the longest of {lengths.max()}")
    print(f"batches of {BATCH_SIZE}; {steps} steps timed after one that warms up; {repeats} repeats\n")
    print(format_result(result))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(command, "python -m benchmarks.throughput", argv)


if __name__ == "__main__":
    sys.exit(main())
