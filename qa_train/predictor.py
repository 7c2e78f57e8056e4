"""Answers questions with a trained model: what Transformers' question-answering pipeline was, without its loops."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from qa_train.batching import collate, sorted_batches
from qa_train.config import ModelConfig, build_config
from qa_train.data import Example, describe_value
from qa_train.errors import CheckpointError, ConfigError, DataError
from qa_train.evaluate import BATCH_SIZE, qa_logits
from qa_train.model import load_model, load_tokenizer
from qa_train.postprocess import MAX_ANSWER_LENGTH, Span, context_log_sums, distinct_spans
from qa_train.precision import Precision, resolve_precision
from qa_train.storage import read_json
from qa_train.tokenization import Features, encode
from qa_train.training import TRAINING_RECORD, check_window

Pair = tuple[str, str]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHUNK_CHARACTERS = 2**20
"""Characters of context that are tokenised at a time: a few thousand windows, whose tokens take some 100 MB."""


class Prediction(TypedDict):
    """An answer to a question.

    Attributes:
        score: Its probability, 0 to 1: that of its first token times that of its last, each a softmax over the context
            tokens of all windows of the question. Answers out of different windows are so compared on one scale. A
            token that stands in two windows is counted in both.
        start: Its first character in the context.
        end: The character after its last: `context[start:end] == answer`.
        answer: Its text; never blank, without white space at its edges.
        window: Index of the window it was found in, among those of its question.
    """

    score: float
    start: int
    end: int
    answer: str
    window: int


class Predictor:
    """A trained model that answers questions about contexts of any length.

    It gives the answers that `evaluate_model` scores. Long contexts are read in windows, all of them even where the
    model was trained on the first alone.

    Example:
        >>> predictor = Predictor("models/demo")
        >>> predictor(question="who built the mill ?", context="the mill was built by ada .")
        {'score': 0.93, 'start': 22, 'end': 25, 'answer': 'ada', 'window': 0}
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        precision: Literal["auto"] | Precision = "auto",
        *,
        max_seq_length: int | None = None,
        doc_stride: int | None = None,
    ) -> None:
        """Opens a model and its tokenizer.

        Args:
            model: The directory of a trained model, or a name on the Hub.
            device: As `torch.device` takes it; `auto` is the GPU if there is one, else the CPU.
            precision: Of matrix products; `auto` is fp32 on a CPU, on a GPU what it trains in (`resolve_precision`).
            max_seq_length: Tokens in a window, 16 to 8192; by default those the model was trained with
                (`training.json` in its directory), else 384.
            doc_stride: Tokens that two windows share, at most half a window; by default as in training, else 128.

        Raises:
            CheckpointError: If the model cannot be opened, or has no question-answering head yet, so that its answers
                would be random; or if `training.json` does not say what it should.
            ConfigError: If the device is not there, the precision unknown, or the windows are impossible.
        """
        self.name = str(model)
        given = {"max_seq_length": max_seq_length, "doc_stride": doc_stride}
        values = _saved_windows(Path(model)) | {key: value for key, value in given.items() if value is not None}
        windows = build_config(ModelConfig, {"name": self.name, **values}, "Predictor")
        self.max_seq_length, self.doc_stride = windows.max_seq_length, windows.doc_stride
        self.device = _find_device(device)
        if precision not in ("auto", *_DTYPES):
            raise ConfigError([f"precision: expected auto, {', '.join(_DTYPES)}, found {precision!r}"], "Predictor")
        self.tokenizer = load_tokenizer(self.name)
        self.model = load_model(self.name, require_head=True)
        check_window(self.model, windows)
        nn.Module.to(self.model, self.device)
        if precision == "auto" and self.device.type != "cuda":
            precision = "fp32"
        self.precision: Precision = resolve_precision(precision, self.model, self.device)

    def __call__(
        self,
        question: str | Mapping[str, str] | Sequence[str] | Sequence[Pair] | Sequence[Mapping[str, str]],
        context: str | Sequence[str] | None = None,
        *,
        n_best: int | None = None,
        max_answer_length: int = MAX_ANSWER_LENGTH,
    ) -> Any:
        """Answers one question or many.

        Args:
            question: A question, or a list of them. Without `context`: a mapping with the keys `question` and
                `context`, or a list of such mappings or of (question, context) pairs.
            context: The context; one for all questions, or a list with one for each.
            n_best: How many answers to give to each question; None gives the best one, not in a list.
            max_answer_length: Tokens in an answer at most.

        Returns:
            A `Prediction` for a single question and a list of them for a list, in its order. With `n_best`, a list of
            predictions stands in the place of each, as `n_best_answers` returns it.

        Raises:
            DataError: If there are not as many contexts as questions, or as `n_best_answers` does.
            ConfigError: As `n_best_answers` does.
        """
        answers = self.n_best_answers(_pairs(question, context), 1 if n_best is None else n_best, max_answer_length)
        results: list[Any] = [found[0] for found in answers] if n_best is None else [*answers]
        is_single = isinstance(question, str | Mapping) and (context is None or isinstance(context, str))
        return results[0] if is_single else results

    def n_best_answers(
        self, pairs: Sequence[Pair], n_best: int = 1, max_answer_length: int = MAX_ANSWER_LENGTH
    ) -> list[list[Prediction]]:
        """Returns the best answers to each (question, context) pair, in the order of the pairs.

        Args:
            pairs: Questions with their contexts.
            n_best: Answers to each at most, 1 or more.
            max_answer_length: Tokens in an answer at most, 1 or more.

        Returns:
            For each pair 1 to `n_best` predictions, best first, of different characters; fewer than `n_best` only
            where the context has no more spans.

        Raises:
            DataError: If a question or context is blank or not text.
            ConfigError: If `n_best` or `max_answer_length` is no positive integer.
            CheckpointError: If the model's scores are not finite.
        """
        for name, value in (("n_best", n_best), ("max_answer_length", max_answer_length)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError([f"{name}: expected an integer of at least 1, found {value!r}"], "Predictor")
        for number, pair in enumerate(pairs, 1):
            _check_pair(pair, f"question {number} of {len(pairs)}")
        return [answers for chunk in _chunks(pairs) for answers in self._answer_chunk(chunk, n_best, max_answer_length)]

    def _answer_chunk(self, pairs: list[Pair], n_best: int, max_answer_length: int) -> Iterator[list[Prediction]]:
        examples = [Example(str(index), "", context, question, ()) for index, (question, context) in enumerate(pairs)]
        features = encode(examples, self.tokenizer, self.max_seq_length, self.doc_stride)
        spans, log_sums = self._search_windows(features, examples, n_best, max_answer_length)
        # The windows of an example are neighbours, and each example has one.
        firsts = np.searchsorted(features.example_index, np.arange(len(examples)))
        log_denominators = np.logaddexp.reduceat(log_sums, firsts).sum(axis=1)
        for example, first, past, log_denominator in zip(
            examples, firsts, [*firsts[1:], len(features)], log_denominators, strict=True
        ):
            yield _best_predictions(spans[first:past], example.context, float(log_denominator), n_best)

    @torch.inference_mode()
    def _search_windows(
        self, features: Features, examples: Sequence[Example], n_best: int, max_answer_length: int
    ) -> tuple[list[list[Span]], npt.NDArray[np.float64]]:
        """Returns each window's best spans and [num_features, 2] log sums of its start and end scores."""
        spans: list[list[Span]] = [[] for _ in range(len(features))]
        log_sums = np.empty((len(features), 2))
        for indices in sorted_batches(features.lengths, BATCH_SIZE):
            batch = collate(features, indices, self.tokenizer.pad_token_id, self.device)
            with torch.autocast(self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"):
                logits = qa_logits(self.model, batch)
            bounds = batch.context_begin, batch.context_end
            log_sums[indices] = torch.stack([context_log_sums(part, *bounds) for part in logits], dim=1).cpu().numpy()
            if not np.isfinite(log_sums[indices]).all():
                raise CheckpointError(
                    f"{self.name}: expected finite scores, found others in {self.precision}; use fp32, or train again "
                    "if it is that already"
                )
            contexts = [examples[example].context for example in features.example_index[indices]]
            offsets = [features.offsets[features.splits[index] : features.splits[index + 1]] for index in indices]
            found = distinct_spans(*logits, *bounds, offsets, contexts, n_best, max_answer_length)
            for index, window_spans in zip(indices, found, strict=True):
                spans[index] = window_spans
        return spans, log_sums


def _best_predictions(windows: list[list[Span]], context: str, log_denominator: float, n_best: int) -> list[Prediction]:
    """Joins the spans of a question's windows: the best first, of equal ones that of the earlier window."""
    candidates = [(window, span) for window, spans in enumerate(windows) for span in spans]
    candidates.sort(key=lambda candidate: -candidate[1].logit)
    predictions: dict[tuple[int, int], Prediction] = {}
    for window, (logit, start, end) in candidates:
        score = math.exp(min(0.0, logit - log_denominator))  # rounding can lift it above 0
        prediction = Prediction(score=score, start=start, end=end, answer=context[start:end], window=window)
        predictions.setdefault((start, end), prediction)
    return list(predictions.values())[:n_best]


def _pairs(question: Any, context: Any) -> list[Pair]:
    """Returns (question, context) pairs out of any of the forms that `Predictor` takes."""
    if context is None:
        items = [question] if isinstance(question, str | Mapping) else _as_list(question, "questions")
        return [_as_pair(item, f"question {number} of {len(items)}") for number, item in enumerate(items, 1)]
    questions = question if isinstance(question, str) else _as_list(question, "questions")
    contexts = context if isinstance(context, str) else _as_list(context, "contexts")
    if isinstance(questions, str):
        questions = [questions] * (1 if isinstance(contexts, str) else len(contexts))
    if isinstance(contexts, str):
        contexts = [contexts] * len(questions)
    if len(questions) != len(contexts):
        raise DataError(
            f"expected a context for each question, or one for all; found {len(questions)} questions and "
            f"{len(contexts)} contexts"
        )
    return list(zip(questions, contexts, strict=True))


def _as_list(value: Any, what: str) -> list[Any]:
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise DataError(f"{what}: expected a string or a list, found {_describe(value)}")
    return list(value)


def _as_pair(item: Any, place: str) -> Pair:
    if isinstance(item, Mapping) and {"question", "context"} <= item.keys():
        return item["question"], item["context"]
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2:
        return item[0], item[1]
    found = f"only {', '.join(map(repr, item)) or 'no keys'}" if isinstance(item, Mapping) else _describe(item)
    raise DataError(
        f"{place}: expected a (question, context) pair or a mapping with 'question' and 'context', found {found}; "
        "pass context=… where there is one for all"
    )


def _check_pair(pair: Pair, place: str) -> None:
    for name, text in zip(("question", "context"), pair, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{place}: expected a {name} with words, found {_describe(text)}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{place}: expected the {name} as Unicode text, found half of a surrogate pair in it"
            ) from None


def _describe(value: object) -> str:
    return describe_value(value) if isinstance(value, str | int | float | list | dict | None) else type(value).__name__


def _chunks(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Yields the pairs, in their order, so many at a time that their tokens fit in memory."""
    chunk: list[Pair] = []
    size = 0
    for pair in pairs:
        if chunk and size + len(pair[1]) > _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
        chunk.append(pair)
        size += len(pair[1])
    if chunk:
        yield chunk


def _saved_windows(directory: Path) -> dict[str, Any]:
    """Returns the window arguments that a model was trained with, if its directory has a record of that."""
    path = directory.expanduser() / TRAINING_RECORD
    if not path.is_file():
        return {}
    record = read_json(path)
    try:
        return {name: record["config"]["model"][name] for name in ("max_seq_length", "doc_stride")}
    except (KeyError, TypeError):
        raise CheckpointError(
            f"{path}: expected config.model.max_seq_length and doc_stride, as `train` writes them, found none; "
            "remove the file if it is not this project's"
        ) from None


def _find_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = shorten(str(error), 100, placeholder=" …")
        raise ConfigError(
            [f"device: expected auto or one that is here, found {device!r} ({reason})"], "Predictor"
        ) from error
    return found
