"""Scores a model on a data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from qa_train.batching import Batch, collate, sorted_batches
from qa_train.data import Example
from qa_train.metrics import QAScores, score_predictions
from qa_train.postprocess import answer_texts, best_spans
from qa_train.tokenization import UNKNOWN, Features
from qa_train.workers import add_up, num_workers, rank

BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class EvalSet:
    """A data set ready to be evaluated: its questions and their windows."""

    name: str
    examples: Sequence[Example]
    features: Features


@dataclass(frozen=True)
class Evaluation:
    """How a model did on a data set.

    Attributes:
        scores: By the official rule.
        predictions: Answer text by question id.
        loss: Mean cross-entropy over the windows whose label is known; None where none is.
        start_accuracy: Share of the windows with an answer in which the best-scored first token is the label, 0 to
            100; None where no window has one.
        end_accuracy: The same of the last token.
    """

    scores: QAScores
    predictions: dict[str, str]
    loss: float | None
    start_accuracy: float | None
    end_accuracy: float | None

    def columns(self) -> dict[str, float | None]:
        """Returns the scores by the names that reports give them (without the set's name)."""
        return {"f1": self.scores.f1, "exact_match": self.scores.exact_match}


def qa_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns start and end logits [batch, seq_len] in float32; padding has the lowest score there is."""
    # Only models that tell the two texts apart know token types; for the others all are 0.
    types = {"token_type_ids": batch.token_type_ids} if _knows_token_types(model) else {}
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **types)
    padding = batch.attention_mask == 0
    lowest = torch.finfo(torch.float32).min
    return (
        output.start_logits.float().masked_fill(padding, lowest),
        output.end_logits.float().masked_fill(padding, lowest),
    )


def _knows_token_types(model: Any) -> bool:
    # Wrapped for several workers, or compiled.
    inner = getattr(model, "_orig_mod", model)
    config = getattr(inner, "module", inner).config
    return getattr(config, "type_vocab_size", 0) > 1


def span_loss(start_logits: Tensor, end_logits: Tensor, batch: Batch) -> Tensor:
    """Returns the cross-entropy of first and last token, their mean, summed over the windows with a known label."""
    start = nn.functional.cross_entropy(start_logits, batch.start_positions, ignore_index=UNKNOWN, reduction="sum")
    end = nn.functional.cross_entropy(end_logits, batch.end_positions, ignore_index=UNKNOWN, reduction="sum")
    return (start + end) / 2


@torch.inference_mode()
def evaluate_model(
    model: nn.Module,
    eval_set: EvalSet,
    pad_token_id: int,
    device: torch.device,
    *,
    on_batch: Callable[[int, int], None] = lambda _size, _length: None,
    progress: bool = False,
) -> Evaluation:
    """Predicts an answer to each question and scores them.

    Several workers share the batches; each returns the same evaluation, equal to that of one worker to the last bit.

    Args:
        model: The model, prepared for its device and precision; its mode is put back afterwards.
        eval_set: The questions.
        pad_token_id: Of the tokenizer.
        device: The model's device.
        on_batch: Called with the size and padded length of each batch of all workers, to count the cost.
        progress: Whether to show a progress bar on stderr.
    """
    features = eval_set.features
    scores = np.zeros(len(features), dtype=np.float32)
    starts, ends = (np.zeros(len(features), dtype=np.int64) for _ in range(2))
    batches = sorted_batches(features.lengths, BATCH_SIZE)
    totals = np.zeros((len(batches), 5))
    was_training = model.training
    model.eval()
    try:
        for number, indices in enumerate(
            tqdm(batches, f"evaluating {eval_set.name}", disable=not progress, leave=False)
        ):
            on_batch(len(indices), int(features.lengths[indices].max()))
            if number % num_workers() != rank():
                continue
            batch = collate(features, indices, pad_token_id, device)
            start_logits, end_logits = qa_logits(model, batch)
            totals[number] = _count(start_logits, end_logits, batch)
            found = best_spans(start_logits, end_logits, batch.context_begin, batch.context_end)
            scores[indices], starts[indices], ends[indices] = (tensor.cpu().numpy() for tensor in found)
    finally:
        model.train(was_training)
    add_up([scores, starts, ends, totals], device)
    loss, num_labelled, num_answers, num_starts, num_ends = totals.sum(axis=0).tolist()
    predictions = answer_texts(features, eval_set.examples, scores, starts, ends)
    references = {example.id: tuple(answer.text for answer in example.answers) for example in eval_set.examples}
    return Evaluation(
        scores=score_predictions(predictions, references),
        predictions=predictions,
        loss=loss / num_labelled if num_labelled else None,
        start_accuracy=100 * num_starts / num_answers if num_answers else None,
        end_accuracy=100 * num_ends / num_answers if num_answers else None,
    )


def _count(start_logits: Tensor, end_logits: Tensor, batch: Batch) -> npt.NDArray[np.float64]:
    """Returns [loss, windows with a label, windows with an answer, right first tokens, right last tokens]."""
    has_answer = batch.start_positions > 0
    right_start = (start_logits.argmax(dim=1) == batch.start_positions) & has_answer
    right_end = (end_logits.argmax(dim=1) == batch.end_positions) & has_answer
    labelled = batch.start_positions != UNKNOWN
    counts = [labelled.sum(), has_answer.sum(), right_start.sum(), right_end.sum()]
    return torch.stack([span_loss(start_logits, end_logits, batch), *counts]).double().cpu().numpy()
