"""What models score the tokens of contexts, chunk by chunk; the mean of several models; the answers these lead to."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from qa_train.batching import collate, padded_length, sorted_batches
from qa_train.config import ModelConfig
from qa_train.data import Example
from qa_train.errors import CheckpointError
from qa_train.evaluate import BATCH_SIZE, qa_logits
from qa_train.postprocess import MAX_ANSWER_LENGTH, SpanTable, context_log_sums, distinct_spans
from qa_train.precision import Precision
from qa_train.tokenization import Features, Ints
from qa_train.workers import num_workers, rank

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

DECODED_AT_ONCE = 256
"""Windows whose spans are searched at a time: more than a model reads at once, for each needs far less memory."""

_CHUNK_CHARACTERS = 2**18
"""Characters that are tokenised and scored at a time: some hundred windows, enough to find others of like length,
few enough to stay small in memory and to be shared out among workers."""


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


@dataclass(frozen=True, eq=False)
class Member:
    """A model that is ready to answer, alone or in an ensemble.

    Attributes:
        name: As it was asked for, for messages.
        model: In evaluation mode, on its device.
        tokenizer: Its own.
        windows: How it reads long contexts.
        device: Where it computes.
        precision: Of its matrix products.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    windows: ModelConfig
    device: torch.device
    precision: Precision


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores of all tokens of some windows; outside of the contexts they mean nothing.

    Attributes:
        start: [num_tokens] float32, on the device, in the order of `Features.input_ids`.
        end: [num_tokens] the same for the last token of an answer.
        log_denominators: [num_questions, 2] logarithm of the sum of exp(start), and of exp(end), over the context
            tokens of all windows of each question.
    """

    start: Tensor
    end: Tensor
    log_denominators: npt.NDArray[np.float64]


def chunks(examples: Sequence[Example]) -> Iterator[slice]:
    """Cuts the examples, in their order, where their texts would exceed `_CHUNK_CHARACTERS`."""
    first = size = 0
    for index, example in enumerate(examples):
        length = len(example.context) + len(example.question)
        if index > first and size + length > _CHUNK_CHARACTERS:
            yield slice(first, index)
            first, size = index, 0
        size += length
    if examples:
        yield slice(first, len(examples))


def own_chunks(examples: Sequence[Example]) -> Iterator[slice]:
    """Yields the chunks that are this worker's share; the chunks themselves do not depend on the number of workers."""
    return islice(chunks(examples), rank(), None, num_workers())


@torch.inference_mode()
def score_windows(member: Member, features: Features) -> TokenScores:
    """Lets a model score windows, in batches of like length.

    Args:
        member: The model.
        features: All windows of some questions, those of a question side by side.

    Raises:
        CheckpointError: If a score is not finite.
    """
    start, end = torch.zeros((2, len(features.input_ids)), device=member.device)
    log_sums = np.empty((len(features), 2))
    for indices in sorted_batches(features.lengths, BATCH_SIZE):
        batch = collate(features, indices, member.tokenizer.pad_token_id, member.device)
        enabled = member.precision != "fp32"
        with torch.autocast(member.device.type, DTYPES[member.precision], enabled=enabled):
            logits = qa_logits(member.model, batch)
        bounds = batch.context_begin, batch.context_end
        log_sums[indices] = torch.stack([context_log_sums(part, *bounds) for part in logits], dim=1).cpu().numpy()
        if not np.isfinite(log_sums[indices]).all():
            raise CheckpointError(
                f"{member.name}: expected finite scores, found others in {member.precision}; use fp32, or train again "
                "if it is that already"
            )
        places, inside = _places(features, indices)
        real, mask = (torch.from_numpy(part).to(member.device) for part in (places[inside], inside))
        start[real], end[real] = (part[mask] for part in logits)
    return TokenScores(start, end, np.logaddexp.reduceat(log_sums, _first_windows(features)))


def _places(features: Features, indices: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Returns [batch, seq_len] where each token of padded windows stands in `input_ids`, and which are no padding."""
    positions = np.arange(padded_length(features, indices))
    inside = positions < features.lengths[indices][:, None]
    return np.where(inside, features.splits[indices][:, None] + positions, 0), inside


def _first_windows(features: Features) -> Ints:
    """Returns [num_questions] the first window of each question; the windows of a question are neighbours."""
    return np.searchsorted(features.example_index, np.arange(features.example_index[-1] + 1))


@torch.inference_mode()
def mix_scores(scores: Sequence[TokenScores], weights: Sequence[float], features: Features) -> TokenScores:
    """Returns the logarithms of the mean start and the mean end probabilities of several models.

    The probabilities of each model are normalised over all windows of a question before they are averaged. The scores
    of a single model are returned as they are.

    Args:
        scores: Of each model, for the same windows.
        weights: Of each model, 0 or more; they sum to 1.
        features: The windows.
    """
    if len(scores) == 1:
        return scores[0]
    device = scores[0].start.device
    question_of_token = torch.from_numpy(np.repeat(features.example_index, features.lengths)).to(device)

    def mix(column: int) -> Tensor:
        shares = []
        for member, weight in zip(scores, weights, strict=True):
            denominators = torch.from_numpy(member.log_denominators[:, column]).to(device, torch.float32)
            log_weight = math.log(weight) if weight else -math.inf
            shares.append((member.start, member.end)[column] - denominators[question_of_token] + log_weight)
        return torch.stack(shares).logsumexp(dim=0)

    return TokenScores(mix(0), mix(1), np.zeros_like(scores[0].log_denominators))


def best_answers(
    scores: TokenScores,
    features: Features,
    examples: Sequence[Example],
    n_best: int = 1,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> list[list[Prediction]]:
    """Returns the best answers to each question.

    Args:
        scores: Of the windows' tokens.
        features: All windows of the examples.
        examples: The questions.
        n_best: Answers to each at most, 1 or more.
        max_answer_length: Tokens in an answer at most, 1 or more.

    Returns:
        For each question 1 to `n_best` predictions, best first, of different characters; fewer than `n_best` only
        where the context has no more spans.
    """
    windows, spans = _window_spans(scores, features, examples, n_best, max_answer_length)
    questions, firsts = features.example_index[windows], _first_windows(features)
    # By question, best first, of equal ones that of the earlier window.
    order = np.lexsort((windows, -spans.logits, questions))
    columns = (spans.logits, spans.starts, spans.ends, windows - firsts[questions])
    candidates = zip(*(column[order].tolist() for column in columns), strict=True)
    counts = np.bincount(questions, minlength=len(examples)).tolist()
    log_denominators = scores.log_denominators.sum(axis=1).tolist()
    return [
        _predictions(islice(candidates, count), example.context, log_denominator)[:n_best]
        for count, example, log_denominator in zip(counts, examples, log_denominators, strict=True)
    ]


@torch.inference_mode()
def _window_spans(
    scores: TokenScores, features: Features, examples: Sequence[Example], n_best: int, max_answer_length: int
) -> tuple[Ints, SpanTable]:
    """Returns [num_spans] the windows of the best spans of each window, and these spans."""
    device = scores.start.device

    def move(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(device)

    windows, tables = [], []
    for indices in sorted_batches(features.lengths, DECODED_AT_ONCE):
        places = move(_places(features, indices)[0])
        bounds = move(features.context_begin[indices]), move(features.context_end[indices])
        offsets = [features.offsets[features.splits[index] : features.splits[index + 1]] for index in indices]
        contexts = [examples[example].context for example in features.example_index[indices]]
        found = distinct_spans(
            scores.start[places], scores.end[places], *bounds, offsets, contexts, n_best, max_answer_length
        )
        tables.append(found)
        windows.append(np.repeat(indices, found.counts))
    return np.concatenate(windows), SpanTable.join(tables)


def _predictions(
    candidates: Iterable[tuple[float, int, int, int]], context: str, log_denominator: float
) -> list[Prediction]:
    """Returns an answer for each (logit, start, end, window); of those with the same characters, for the first."""
    predictions: dict[tuple[int, int], Prediction] = {}
    for logit, start, end, window in candidates:
        if (start, end) not in predictions:
            score = math.exp(min(0.0, logit - log_denominator))  # rounding can lift it above 0
            prediction = Prediction(score=score, start=start, end=end, answer=context[start:end], window=window)
            predictions[start, end] = prediction
    return [*predictions.values()]
