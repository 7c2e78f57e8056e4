"""How the batches of a run pass through its model: in pieces, on several workers, each with its work counted."""

import contextlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from qa_train.batching import Batch, collate, padded_length, split_batch
from qa_train.cost import CostMeter, FlopModel, measure_flop
from qa_train.evaluate import qa_logits, span_loss
from qa_train.recipe import Recipe
from qa_train.tokenization import Features, Ints
from qa_train.workers import num_workers, rank

_GPU_MULTIPLE = 8
"""Windows are padded to a multiple of this on a GPU, whose matrix units work in such tiles."""
_COMPILED_MULTIPLE = 64
"""The same where each padded length is compiled once: 6 lengths up to 384, PyTorch's limit being 8."""


class Passes:
    """Passes global batches forward and backward through one model.

    Attributes:
        meter: The work is added to it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prepared: nn.Module,
        accelerator: Accelerator,
        recipe: Recipe,
        pad_token_id: int,
        meter: CostMeter,
        compiled: bool,
    ) -> None:
        """Takes over a model on its device.

        Args:
            model: Unwrapped.
            prepared: The same, as `accelerator` prepared it.
            accelerator: Device, precision and workers.
            recipe: What training does; batch size, accumulation and seed decide here.
            pad_token_id: Of the tokenizer.
            meter: Counts the work.
            compiled: See `TrainingLoop`.
        """
        self.meter = meter
        self._model, self._prepared, self._accelerator = model, prepared, accelerator
        self._recipe, self._pad_token_id = recipe, pad_token_id
        self._compiled = torch.compile(prepared, dynamic=False) if compiled else None
        on_gpu = accelerator.device.type == "cuda"
        self._pad_multiple = _COMPILED_MULTIPLE if compiled else _GPU_MULTIPLE if on_gpu else 1

    def backward(self, features: Features, indices: Ints, step: int) -> Tensor:
        """Adds the gradients of the mean loss over a global batch and returns that loss [].

        Args:
            features: The windows of the epoch.
            indices: [batch_size] those of the batch.
            step: Steps that the model has taken before; decides the dropout.
        """
        accelerator, pieces = self._accelerator, self._pieces(indices, rank())
        torch.manual_seed(int(np.random.SeedSequence([self._recipe.seed, step, rank()]).generate_state(1)[0]))
        total: Tensor = torch.zeros((), device=accelerator.device)
        for number, piece in enumerate(pieces):
            # Every worker must take every piece, or the others would wait for it for ever.
            taken = piece if len(piece) else indices[:1]
            batch = collate(features, taken, self._pad_token_id, accelerator.device, self._pad_multiple)
            is_last = number == len(pieces) - 1
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self._prepared):
                loss = self.loss(batch) * (len(piece) > 0) / len(indices)
                # Gradients are averaged over the workers, the loss is meant to be summed.
                accelerator.backward(loss * num_workers())
            total += loss.detach()
        if num_workers() > 1:
            torch.distributed.all_reduce(total)
        return total

    def _pieces(self, indices: Ints, worker: int) -> list[Ints]:
        """Returns what a worker passes through the model, piece by piece, of a global batch."""
        # A batch is sorted by length: taken in turn, the windows of all workers are alike long.
        return split_batch(indices[worker :: num_workers()], self._recipe.gradient_accumulation_steps)

    def loss(self, batch: Batch) -> Tensor:
        """Returns the mean loss of a piece []."""
        usual_size = -(-self._recipe.batch_size // (num_workers() * self._recipe.gradient_accumulation_steps))
        compiled = self._compiled if len(batch) == usual_size else None
        model: Any = self._prepared if compiled is None else compiled
        return span_loss(*qa_logits(model, batch), batch)

    def count(self, features: Features, indices: Ints) -> None:
        """Adds the work of all workers on a global batch."""
        self.meter.tokens += int(features.lengths[indices].sum())
        for worker in range(num_workers()):
            for piece in filter(len, self._pieces(indices, worker)):
                seq_len = padded_length(features, piece, self._pad_multiple)
                self.meter.flop += self.flop.count(len(piece), seq_len, training=True)

    @cached_property
    def flop(self) -> FlopModel:
        """The operations of a pass; measured at first use, which needs gradients."""

        def loss_of(input_ids: Tensor) -> Tensor:
            output = self._model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
            loss: Tensor = output.start_logits.float().sum() + output.end_logits.float().sum()
            return loss

        was_training = self._model.training
        self._model.train()
        try:
            return measure_flop(self._model, loss_of)
        finally:
            self._model.train(was_training)
