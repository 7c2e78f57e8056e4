"""How much faster than the usual loop answers are decoded: `python -m benchmarks.decoding`.

- `double loop`: what scripts for SQuAD usually do, a window at a time in Python: the `n_best` best start and end
  positions are paired, pairs that are no span of the context are dropped, the rest, a dictionary each, is sorted, and
  the texts of the `n_best` best are cut out of the context.
- `ours`: `qa_train.postprocess.distinct_spans` on batches of windows of the size in which `answering.best_answers`
  decodes them. It looks at every span of a window, and no two that it returns are the same characters. It ends with
  arrays of scores and characters, which is what our callers go on with.
- `ours, texts`: the same, and then a `Span` and a text for each, as many as the double loop ends with or more.
- `ours, best`: `best_spans` and `answer_span`, the best span of each window alone and its text, which is all that a
  score needs, in batches of the size in which `evaluate_model` decodes them.

All start from the logits on the CPU, arrays of PyTorch and of NumPy. Logits are random, or peaked as those of a trained
model. Seconds are CPU time, which other jobs on the machine disturb less than wall time; all have one thread.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import click
import numpy as np
import torch
from tabulate import tabulate

from benchmarks.throughput import describe_machine
from qa_train.answering import DECODED_AT_ONCE
from qa_train.errors import QAError, run_command
from qa_train.evaluate import BATCH_SIZE
from qa_train.postprocess import MAX_ANSWER_LENGTH, Span, SpanTable, answer_span, best_spans, distinct_spans
from qa_train.resources import limit_threads
from qa_train.tokenization import Ints

GOAL = 10.0
"""How many times as fast as the double loop ours shall be."""
SEQ_LEN = 384
OURS, TEXTS, BEST, LOOP = "ours", "ours, texts", "ours, best", "double loop"
_OURS = (OURS, TEXTS, BEST)
_NUM_QUESTION_TOKENS = 16
_NUM_CONTEXTS = 100

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Windows:
    """Scored windows of one length: question, context and a token that separates each.

    Attributes:
        start_logits: [num_windows, SEQ_LEN] float32.
        end_logits: The same.
        context_begin: First position of the context, in all windows.
        offsets: [num_windows] of [SEQ_LEN, 2] characters of each token.
        contexts: [num_windows].
    """

    start_logits: torch.Tensor
    end_logits: torch.Tensor
    context_begin: int
    offsets: list[Ints]
    contexts: list[str]

    @property
    def context_end(self) -> int:
        """Position after the last of the context, in all windows."""
        return SEQ_LEN - 1

    def scores(self, part: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the arguments with which the decoding of some windows begins."""
        start, end = self.start_logits[part], self.end_logits[part]
        return (
            start,
            end,
            torch.full(start.shape[:1], self.context_begin),
            torch.full(start.shape[:1], self.context_end),
        )


def make_windows(num_windows: int, peaked: bool, seed: int = 0) -> Windows:
    """Makes windows about contexts of random words.

    Args:
        num_windows: How many.
        peaked: Whether the logits are high at one answer and, less so, at another place, as those of a trained model;
            else all are noise.
        seed: Decides logits and contexts.
    """
    rng = np.random.default_rng(seed)
    context_begin = _NUM_QUESTION_TOKENS + 2
    num_words = SEQ_LEN - 1 - context_begin
    pairs = [_random_context(rng, num_words, context_begin) for _ in range(_NUM_CONTEXTS)]
    start, end = rng.normal(size=(2, num_windows, SEQ_LEN))
    if peaked:
        for height in (14.0, 8.0):
            first = rng.integers(context_begin, SEQ_LEN - 1, size=(num_windows, 1))
            start += height * _peak(first)
            end += height * _peak(first + rng.integers(0, 6, size=(num_windows, 1)))
    return Windows(
        torch.from_numpy(start.astype(np.float32)),
        torch.from_numpy(end.astype(np.float32)),
        context_begin,
        [pairs[index % _NUM_CONTEXTS][1] for index in range(num_windows)],
        [pairs[index % _NUM_CONTEXTS][0] for index in range(num_windows)],
    )


def _peak(centre: Ints) -> np.ndarray:
    peak: np.ndarray = np.exp(-np.abs(np.arange(SEQ_LEN) - centre) / 2)
    return peak


def _random_context(rng: np.random.Generator, num_words: int, context_begin: int) -> tuple[str, Ints]:
    """Returns a context of words, and the offsets of a window in which each is a token."""
    lengths = rng.integers(1, 10, size=num_words)
    words = ["".join(chr(letter) for letter in rng.integers(97, 123, size=length)) for length in lengths]
    begins = np.cumsum([0, *lengths[:-1] + 1])
    offsets = np.zeros((SEQ_LEN, 2), dtype=np.int32)
    offsets[context_begin:-1] = np.stack([begins, begins + lengths], axis=1)
    return " ".join(words), offsets


@torch.inference_mode()
def decode_ours(windows: Windows, n_best: int, batch_size: int = DECODED_AT_ONCE) -> SpanTable:
    """Returns the best spans of each window, `batch_size` windows decoded at a time."""
    return SpanTable.join(
        [
            distinct_spans(*windows.scores(part), windows.offsets[part], windows.contexts[part], n_best)
            for part in _parts(windows, batch_size)
        ]
    )


def decode_texts(windows: Windows, n_best: int, batch_size: int = DECODED_AT_ONCE) -> list[list[tuple[Span, str]]]:
    """Returns the same with the text of each span."""
    return [
        [(span, context[span[1] : span[2]]) for span in spans]
        for context, spans in zip(windows.contexts, decode_ours(windows, n_best, batch_size).as_lists(), strict=True)
    ]


@torch.inference_mode()
def decode_best(windows: Windows, batch_size: int = BATCH_SIZE) -> list[tuple[Span, str]]:
    """Returns the best span of each window alone, and its text."""
    found: list[tuple[Span, str]] = []
    for part in _parts(windows, batch_size):
        columns = (tensor.tolist() for tensor in best_spans(*windows.scores(part)))
        for context, offsets, score, start, end in zip(
            windows.contexts[part], windows.offsets[part], *columns, strict=True
        ):
            begin, past = answer_span(context, int(offsets[start, 0]), int(offsets[end, 1]))
            found.append((Span(score, begin, past), context[begin:past]))
    return found


def _parts(windows: Windows, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, len(windows.contexts), size))


def decode_by_double_loop(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    mapping: Sequence[tuple[int, int] | None],
    context: str,
    n_best: int,
) -> list[dict[str, Any]]:
    """Returns the best spans of one window among the pairs of its best start and end positions.

    Args:
        start_logits: [seq_len].
        end_logits: [seq_len].
        mapping: [seq_len] first and past-the-last character of each token; None outside the context.
        context: What the characters are of.
        n_best: Positions of each kind that are paired, and spans to return at most.

    Returns:
        Of each span, best first, `score`, `start_logit`, `end_logit`, `offsets` (first and past-the-last character) and
        `text`.
    """
    starts = np.argsort(start_logits)[-1 : -n_best - 1 : -1].tolist()
    ends = np.argsort(end_logits)[-1 : -n_best - 1 : -1].tolist()
    spans: list[dict[str, Any]] = []
    for start in starts:
        for end in ends:
            first, last = mapping[start], mapping[end]
            if first is None or last is None:
                continue
            if end < start or end - start + 1 > MAX_ANSWER_LENGTH:
                continue
            start_logit, end_logit = start_logits[start], end_logits[end]
            spans.append(
                {
                    "offsets": (first[0], last[1]),
                    "score": start_logit + end_logit,
                    "start_logit": start_logit,
                    "end_logit": end_logit,
                }
            )
    best = sorted(spans, key=lambda span: span["score"], reverse=True)[:n_best]
    for span in best:
        begin, past = span["offsets"]
        span["text"] = context[begin:past]
    return best


@dataclass(frozen=True)
class Result:
    """What decoding the same windows took.

    Attributes:
        seconds: CPU time of each repeat, by who decoded: `ours`, `ours, texts`, `ours, best` and `double loop`.
        num_better: Windows whose best span the double loop does not find.
    """

    seconds: dict[str, list[float]]
    num_better: int

    def ratios(self, who: str) -> list[float]:
        """Returns how many times as fast as the double loop it was in each repeat."""
        return [loop / own for own, loop in zip(self.seconds[who], self.seconds[LOOP], strict=True)]


def measure(windows: Windows, n_best: int, num_repeats: int, batch_size: int = DECODED_AT_ONCE) -> Result:
    """Lets all decode the same windows in turns.

    Raises:
        QAError: If our best span of a window has a lower score than that of the double loop, or is not the first of
            several.
    """
    start_logits, end_logits = windows.start_logits.numpy(), windows.end_logits.numpy()
    mappings = [_as_mapping(offsets, windows) for offsets in windows.offsets[:_NUM_CONTEXTS]]

    def loop() -> list[list[dict[str, Any]]]:
        return [
            decode_by_double_loop(start, end, mappings[index % len(mappings)], context, n_best)
            for index, (start, end, context) in enumerate(zip(start_logits, end_logits, windows.contexts, strict=True))
        ]

    seconds: dict[str, list[float]] = {OURS: [], TEXTS: [], BEST: [], LOOP: []}
    for _ in range(num_repeats):
        ours_s, ours = _timed(lambda: decode_ours(windows, n_best, batch_size))
        texts_s, texts = _timed(lambda: decode_texts(windows, n_best, batch_size))
        best_s, best = _timed(lambda: decode_best(windows))
        loop_s, theirs = _timed(loop)
        for who, value in ((OURS, ours_s), (TEXTS, texts_s), (BEST, best_s), (LOOP, loop_s)):
            seconds[who].append(value)
    if best != [spans[0] for spans in texts] or [[span for span, _ in spans] for spans in texts] != ours.as_lists():
        raise QAError("expected the best span alone to be the first of several, found another")
    return Result(seconds, _count_better(best, theirs))


def _as_mapping(offsets: Ints, windows: Windows) -> list[tuple[int, int] | None]:
    inside = range(windows.context_begin, windows.context_end)
    return [(first, past) if index in inside else None for index, (first, past) in enumerate(offsets.tolist())]


def _timed(call: Callable[[], _T]) -> tuple[float, _T]:
    gc.collect()
    gc.disable()  # as timeit does: else the objects of one can be collected in the time of the other
    try:
        start = time.process_time()
        result = call()
        return time.process_time() - start, result
    finally:
        gc.enable()


def _count_better(ours: list[tuple[Span, str]], theirs: list[list[dict[str, Any]]]) -> int:
    best = [
        (span.logit, float(other[0]["score"]) if other else -np.inf)
        for (span, _), other in zip(ours, theirs, strict=True)
    ]
    if lower := sum(mine < other for mine, other in best):
        raise QAError(f"expected our best span to be the best, found a better one in {lower} windows")
    return sum(mine > other for mine, other in best)


@click.command()
@click.option("--features", type=click.IntRange(1), default=5000, show_default=True, help="Windows to decode.")
@click.option("--n-best", type=click.IntRange(1), default=20, show_default=True, help="Spans of each.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=DECODED_AT_ONCE,
    show_default=True,
    help="Windows at a time, of ours; of the best span alone always those that evaluation decodes at a time.",
)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Turns of each.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of PyTorch; the loop has one.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(features: int, n_best: int, batch: int, repeats: int, threads: int, as_json: bool) -> int:
    r"""Compares decoding a batch at once with a loop over pairs of start and end positions.

    Takes about half a minute with the defaults.

    \b
    Example:
      python -m benchmarks.decoding --repeats 9
    """
    limit_threads(threads)
    machine = describe_machine(torch.device("cpu"))
    results = {
        name: measure(make_windows(features, peaked=name == "peaked"), n_best, repeats, batch)
        for name in ("random", "peaked")
    }
    settings = {"features": features, "seq_len": SEQ_LEN, "n_best": n_best, "repeats": repeats, "batch": batch}
    if as_json:
        print(json.dumps({"machine": machine, "settings": settings, **_as_dict(results)}, indent=2))
        return 0
    print(f"{machine['cpu']}, {machine['threads']} threads, load before {machine['load']}, torch {torch.__version__}")
    print(f"{features:,} windows of {SEQ_LEN} tokens in batches of {batch}, {n_best} spans of each\n")
    print(format_results(results))
    return 0


def _as_dict(results: dict[str, Result]) -> dict[str, Any]:
    return {
        name: {
            "seconds": result.seconds,
            "ratios": {who: median(result.ratios(who)) for who in _OURS},
            "goal": GOAL,
            "num_better": result.num_better,
        }
        for name, result in results.items()
    }


def format_results(results: dict[str, Result]) -> str:
    """Returns a table of the seconds and one of the ratios."""
    times = [
        [f"{name}, {who}", median(values), min(values), max(values)]
        for name, result in results.items()
        for who, values in result.seconds.items()
    ]
    ratios = [
        [f"{name}, {who}", median(values), min(values), max(values), GOAL, result.num_better]
        for name, result in results.items()
        for who, values in ((who, result.ratios(who)) for who in _OURS)
    ]
    found = "windows whose best span\nthe double loop misses"
    return "\n\n".join(
        [
            tabulate(times, ["CPU seconds", "median", "min", "max"], floatfmt=".3f"),
            tabulate(ratios, ["times as fast as the loop", "median", "min", "max", "goal", found], floatfmt=".1f"),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(command, "python -m benchmarks.decoding", argv)


if __name__ == "__main__":
    sys.exit(main())
