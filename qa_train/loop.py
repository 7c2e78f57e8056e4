"""The training loop: one model, one recipe, one report an epoch. It knows of neither Ray nor configuration files.

Everything random is a function of (seed, step, rank): the order of the batches and, since the generators are seeded
anew at each step, the dropout. The learning rate is a function of the step. So a checkpoint needs no random states, and
a run that is resumed continues bit for bit as if it had not been interrupted (on a CPU, or with deterministic kernels).
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from qa_train.batching import Batch, collate, epoch_batches, split_batch
from qa_train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from qa_train.cost import CostMeter, FlopModel, measure_flop
from qa_train.errors import CheckpointError, QAError
from qa_train.evaluate import EvalSet, Evaluation, evaluate_model, qa_logits, span_loss
from qa_train.optim import Schedule, build_optimizer, num_warmup_steps, schedule_factor, set_learning_rate
from qa_train.tokenization import Features, Ints

CHECKPOINT_EVERY_S = 600.0
_LOOK_AT_LOSS_EVERY = 10
"""Steps between two looks at the loss; each look waits for the device."""


@dataclass(frozen=True)
class Recipe:
    """What training does, whatever it runs on; the fields are those of the configuration of the same names."""

    num_epochs: int
    batch_size: int
    learning_rate: float
    schedule: Schedule = "linear"
    warmup_ratio: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """Where a run stands after an epoch; plain values, as they go into records.

    Attributes:
        epochs_trained: Epochs trained so far, 1 or more.
        budget_epochs: Epochs the model is trained for if this is the finished model, else None.
        step: Optimizer steps taken.
        learning_rate: Of the last step.
        train_loss: Mean over the epoch's windows.
        eval_loss: Mean over the dev windows with a known answer; None if there is none.
        f1: Official dev F1, 0 to 100.
        exact_match: Official dev exact match, 0 to 100.
        start_accuracy: See `Evaluation`.
        end_accuracy: See `Evaluation`.
        cost: Columns of `CostMeter`, since the run began.
    """

    epochs_trained: int
    budget_epochs: int | None
    step: int
    learning_rate: float
    train_loss: float
    eval_loss: float | None
    f1: float
    exact_match: float
    start_accuracy: float | None
    end_accuracy: float | None
    cost: dict[str, float | int]


class TrainingLoop:
    """Trains one model; iterate over `reports()`.

    Attributes:
        model: The model being trained, unwrapped.
        meter: The cost so far.
        evaluation: The last evaluation on dev, with its predictions; None before the first epoch ends and after a
            resume.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        features: Features,
        dev: EvalSet,
        recipe: Recipe,
        accelerator: Accelerator,
        pad_token_id: int,
        *,
        checkpoint_dir: Path | None = None,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        meter: CostMeter | None = None,
        on_step: Callable[[int, float], None] | None = None,
        progress: bool = False,
    ) -> None:
        """Puts the model on its device and, if `checkpoint_dir` holds a checkpoint, continues from it.

        Args:
            model: A question-answering model.
            features: Training windows, each with a known label.
            dev: Evaluated after each epoch.
            recipe: What to do.
            accelerator: Device, precision and workers.
            pad_token_id: Of the tokenizer.
            checkpoint_dir: Where checkpoints go, one after each epoch; none are written without it.
            checkpoint_every_s: Seconds after which there is one within an epoch.
            meter: The cost so far, such as that of loading; a resumed run adds its own earlier cost.
            on_step: Called after each step with the number of steps taken and the loss; makes every step wait for
                the device.
            progress: Whether to show a progress bar on stderr.

        Raises:
            CheckpointError: If the checkpoint cannot be read or belongs to another recipe.
        """
        self.recipe, self.accelerator, self.dev = recipe, accelerator, dev
        self.features, self.pad_token_id = features, pad_token_id
        self.checkpoint_dir, self.checkpoint_every_s = checkpoint_dir, checkpoint_every_s
        self.meter = meter or CostMeter()
        self.evaluation: Evaluation | None = None
        self._on_step, self._progress = on_step, progress and accelerator.is_main_process
        self.steps_per_epoch = -(-len(features) // recipe.batch_size)
        self.num_steps = self.steps_per_epoch * recipe.num_epochs
        self._num_warmup = num_warmup_steps(self.num_steps, recipe.warmup_ratio)
        self._step, self._epoch_loss = 0, torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self._past_reports: list[Report] = []
        self.model = model
        nn.Module.to(model, accelerator.device)
        self._optimizer = build_optimizer(self.model, recipe.learning_rate, recipe.weight_decay)
        tensors = self._restore(checkpoint_dir and latest_checkpoint(checkpoint_dir))
        self._prepared, self._optimizer = accelerator.prepare(self.model, self._optimizer)
        if tensors.get("scaler") and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(tensors["scaler"])

    def reports(self) -> Iterator[Report]:
        """Trains to the end; yields a report after each epoch, those of epochs before a resume included.

        Raises:
            QAError: If the loss is no longer finite.
            CheckpointError: If a checkpoint cannot be written.
        """
        yield from self._past_reports
        if self._step < self.num_steps:
            with self.meter.part("loading"):
                self._try_longest_batch()
        while self._step < self.num_steps:
            with self.meter.part("training"):
                self._train_epoch()
            with self.meter.part("evaluating"):
                self.evaluation = self.evaluate(self.dev)
            report = self._report(self.evaluation)
            self._past_reports.append(report)
            self._epoch_loss.zero_()
            self._save_checkpoint()
            yield report

    def evaluate(self, eval_set: EvalSet) -> Evaluation:
        """Scores the model as it is on a data set."""
        flop = self._flop  # measured now: it needs gradients, which an evaluation turns off

        def count(batch_size: int, seq_len: int) -> None:
            self.meter.flop += flop.count(batch_size, seq_len, training=False)

        return evaluate_model(
            self._prepared,
            eval_set,
            self.pad_token_id,
            self.accelerator.device,
            on_batch=count,
            progress=self._progress,
        )

    def _train_epoch(self) -> None:
        """Trains from the present position to the end of its epoch."""
        epoch, position = divmod(self._step, self.steps_per_epoch)
        batches = epoch_batches(self.features.lengths, self.recipe.batch_size, self.recipe.seed, epoch)
        saved = time.monotonic()
        self._prepared.train()
        with tqdm(
            total=self.steps_per_epoch,
            initial=position,
            desc=f"epoch {epoch + 1}/{self.recipe.num_epochs}",
            disable=not self._progress,
            leave=False,
        ) as bar:
            for batch in batches[position:]:
                loss = self._train_step(batch)
                self._epoch_loss += loss.double() * len(batch)
                self._step += 1
                self._look_at(loss, bar)
                bar.update()
                is_last = self._step % self.steps_per_epoch == 0
                if not is_last and time.monotonic() - saved >= self.checkpoint_every_s:
                    self._save_checkpoint()
                    saved = time.monotonic()

    def _train_step(self, indices: Ints) -> Tensor:
        """Takes one optimizer step on a global batch and returns its mean loss over all workers []."""
        recipe = self.recipe
        factor = schedule_factor(self._step, self.num_steps, self._num_warmup, recipe.schedule)
        set_learning_rate(self._optimizer, recipe.learning_rate * factor)
        loss = self._backward(indices)
        self.accelerator.clip_grad_norm_(self._prepared.parameters(), recipe.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss

    def _backward(self, indices: Ints) -> Tensor:
        """Adds the gradients of the mean loss over a global batch and returns that loss []."""
        accelerator, rank = self.accelerator, self.accelerator.process_index
        torch.manual_seed(int(np.random.SeedSequence([self.recipe.seed, self._step, rank]).generate_state(1)[0]))
        # A batch is sorted by length: taken in turn, the windows of all workers are alike long.
        own = indices[rank :: accelerator.num_processes]
        pieces = split_batch(own, self.recipe.gradient_accumulation_steps)
        total: Tensor = torch.zeros((), device=accelerator.device)
        for number, piece in enumerate(pieces):
            # Every worker must take every piece, or the others would wait for it for ever.
            batch = collate(self.features, piece if len(piece) else indices[:1], self.pad_token_id, accelerator.device)
            is_last = number == len(pieces) - 1
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self._prepared):
                loss = self._loss(batch) * (len(piece) > 0) / len(indices)
                # Gradients are averaged over the workers, the loss is meant to be summed.
                accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
            if len(piece):
                self._count(batch)
        if accelerator.num_processes > 1:
            torch.distributed.all_reduce(total)
        return total

    def _loss(self, batch: Batch) -> Tensor:
        return span_loss(*qa_logits(self._prepared, batch), batch)

    def _count(self, batch: Batch) -> None:
        self.meter.tokens += batch.num_tokens
        self.meter.flop += self._flop.count(len(batch), batch.input_ids.shape[1], training=True)

    @cached_property
    def _flop(self) -> FlopModel:
        def loss_of(input_ids: Tensor) -> Tensor:
            output = self.model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
            loss: Tensor = output.start_logits.float().sum() + output.end_logits.float().sum()
            return loss

        was_training = self.model.training
        self.model.train()
        try:
            return measure_flop(self.model, loss_of)
        finally:
            self.model.train(was_training)

    def _try_longest_batch(self) -> None:
        """Passes the largest batch of the first epoch once through the model, so that memory fails early."""
        _ = self._flop
        meter = self.meter
        self.meter = CostMeter()  # this pass trains nothing
        batches = epoch_batches(self.features.lengths, self.recipe.batch_size, self.recipe.seed, 0)
        self._prepared.train()
        self._backward(max(batches, key=lambda batch: len(batch) * int(self.features.lengths[batch].max())))
        self._optimizer.zero_grad()
        self.meter = meter

    def _look_at(self, loss: Tensor, bar: Any) -> None:
        is_due = self._step % _LOOK_AT_LOSS_EVERY == 0 or self._step % self.steps_per_epoch == 0
        if not (is_due or self._on_step):
            return
        value = float(loss)
        if not np.isfinite(value):
            raise QAError(
                f"step {self._step} of {self.num_steps}: the training loss is {value}; "
                f"lower optim.learning_rate ({self.recipe.learning_rate:g}), or use precision=fp32"
            )
        bar.set_postfix(loss=f"{value:.3f}", lr=f"{self._learning_rate:.2e}", refresh=False)
        if self._on_step:
            self._on_step(self._step, value)

    @property
    def _learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def _report(self, evaluation: Evaluation) -> Report:
        epoch = self._step // self.steps_per_epoch
        self.meter.note_memory(self.accelerator.device)
        return Report(
            epochs_trained=epoch,
            budget_epochs=epoch if epoch == self.recipe.num_epochs else None,
            step=self._step,
            learning_rate=self._learning_rate,
            train_loss=float(self._epoch_loss) / len(self.features),
            eval_loss=evaluation.loss,
            f1=evaluation.scores.f1,
            exact_match=evaluation.scores.exact_match,
            start_accuracy=evaluation.start_accuracy,
            end_accuracy=evaluation.end_accuracy,
            cost=self.meter.columns(),
        )

    def _save_checkpoint(self) -> None:
        if self.checkpoint_dir is None:
            return
        with self.meter.part("checkpointing"):
            if self.accelerator.is_main_process:
                scaler = self.accelerator.scaler
                save_checkpoint(
                    self.checkpoint_dir,
                    self._step,
                    self.model.state_dict(),
                    {
                        "optimizer": self._optimizer.state_dict(),
                        "scaler": scaler.state_dict() if scaler is not None else {},
                    },
                    {
                        "recipe": asdict(self.recipe),
                        "num_windows": len(self.features),
                        "step": self._step,
                        "epoch_loss": float(self._epoch_loss),
                        "reports": [asdict(report) for report in self._past_reports],
                        "meter": self.meter.to_json(),
                    },
                )
            self.accelerator.wait_for_everyone()

    def _restore(self, path: Path | None) -> dict[str, Any]:
        """Takes over a checkpoint's state, if there is one; returns its tensors."""
        if path is None:
            return {}
        weights, tensors, progress = load_checkpoint(path)
        expected = {"recipe": asdict(self.recipe), "num_windows": len(self.features)}
        found = {key: progress.get(key) for key in expected}
        if found != expected:
            raise CheckpointError(f"{path}: expected the checkpoint of a run with {expected}, found one with {found}")
        self.model.load_state_dict(weights)
        self._optimizer.load_state_dict(tensors["optimizer"])
        self._step = progress["step"]
        self._epoch_loss += progress["epoch_loss"]
        self._past_reports = [Report(**report) for report in progress["reports"]]
        before = CostMeter.from_json(progress["meter"])
        self.meter.add(before)
        return tensors
