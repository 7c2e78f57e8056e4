"""The training loop: one model, one recipe, one report an epoch. It knows of neither Ray nor configuration files.

Everything random is a function of (seed, step, rank): the order of the batches and, since the generators are seeded
anew at each step, the dropout. The learning rate is a function of the step. So a checkpoint needs no random states, and
a run that is resumed continues bit for bit as if it had not been interrupted (on a CPU, or with deterministic kernels).

With the schedule `trunk` there is one report for each budget, while the model is the finished one of that budget; then
model, optimizer and scaler are put back to where the trunk was left. See `trunk` for the order of the work.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from qa_train.batching import epoch_batches
from qa_train.checkpoint import checkpoint_path, copy_to_cpu, latest_checkpoint, load_checkpoint, save_checkpoint
from qa_train.cost import CostMeter, peak_memory_bytes
from qa_train.errors import CheckpointError, QAError
from qa_train.evaluate import EvalSet, Evaluation, evaluate_model
from qa_train.optim import build_optimizer, set_learning_rate
from qa_train.passes import Passes
from qa_train.precision import Precision
from qa_train.recipe import Progress, Recipe, Report
from qa_train.tokenization import Features, Ints
from qa_train.trunk import leg_at, next_leg
from qa_train.workers import largest, rank

__all__ = ["CHECKPOINT_EVERY_S", "Progress", "Recipe", "Report", "TrainingLoop"]

CHECKPOINT_EVERY_S = 600.0
_CHECK_LOSS_EVERY = 10
_PROGRESS_EVERY_S = 1.0


class TrainingLoop:
    """Trains one model; iterate over `reports()`.

    Attributes:
        model: The model being trained, unwrapped.
        features: Training windows of the present epoch.
        meter: The cost so far, that of all branches included.
        evaluation: The evaluation on dev, with its predictions, of the report told last. None where that report was
            told before a resume and the model has moved on since: it was there to be saved when it was told first.
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
        windows_of_epoch: Callable[[int], Features] | None = None,
        compiled: bool = False,
        checkpoint_dir: Path | None = None,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        meter: CostMeter | None = None,
        on_step: Callable[[int, float], None] | None = None,
        on_progress: Callable[["Progress"], None] | None = None,
    ) -> None:
        """Puts the model on its device and, if `checkpoint_dir` holds a checkpoint, continues from it.

        Args:
            model: A question-answering model.
            features: Training windows of the first epoch, each with a known label.
            dev: Evaluated after each epoch.
            recipe: What to do.
            accelerator: Device, precision and workers.
            pad_token_id: Of the tokenizer.
            windows_of_epoch: Gives the windows of an epoch, counted from 0, as many as `features`; these themselves by
                default.
            compiled: Whether training passes go through `torch.compile`; windows are then padded to few lengths, and
                batches of another size than the usual one are not compiled, so that it compiles a few times only.
            checkpoint_dir: Where checkpoints go, one after each epoch; none are written without it. Where a branch
                leaves the trunk there is one more, which stays until the run has gone back to it; without the
                directory, that state is held in the memory of the CPU.
            checkpoint_every_s: Seconds after which there is one within an epoch.
            meter: The cost so far, such as that of loading; a resumed run adds its own earlier cost.
            on_step: Called after each step with the number of steps that the run has taken and the loss; makes every
                step wait for the device.
            on_progress: Called in the first worker, about once a second and at the end of each epoch.

        Raises:
            CheckpointError: If the checkpoint cannot be read or belongs to another recipe.
        """
        self.recipe, self.accelerator, self.dev = recipe, accelerator, dev
        self.features, self.pad_token_id = features, pad_token_id
        self._windows_of_epoch = windows_of_epoch or (lambda _epoch: features)
        self.checkpoint_dir, self.checkpoint_every_s = checkpoint_dir, checkpoint_every_s
        self.meter = meter or CostMeter()
        self.evaluation: Evaluation | None = None
        self._on_step, self._on_progress = on_step, on_progress if rank() == 0 else None
        self._last_progress = 0.0
        self.steps_per_epoch = -(-len(features) // recipe.batch_size)
        self._legs = recipe.legs(self.steps_per_epoch)
        self.num_steps = self._legs[-1].taken
        self._num_warmup = recipe.num_warmup(self.steps_per_epoch)
        self._leg, self._taken = self._legs[0], 0
        self._epoch_loss = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self._past_reports: list[Report] = []
        self._at_branch, self._of_others = CostMeter(), CostMeter()
        self._trunk: tuple[dict[str, Any], dict[str, Any]] | None = None
        self.model = model
        nn.Module.to(model, accelerator.device)
        optimizer = build_optimizer(self.model, recipe.learning_rate, recipe.weight_decay)
        self._prepared, self._optimizer = accelerator.prepare(self.model, optimizer)
        self._passes = Passes(model, self._prepared, accelerator, recipe, pad_token_id, self.meter, compiled)
        if checkpoint := checkpoint_dir and latest_checkpoint(checkpoint_dir):
            self._resume(checkpoint)

    @property
    def precision(self) -> Precision:
        """Of the matrix products."""
        name = self.accelerator.mixed_precision
        return "fp32" if name == "no" else name

    @property
    def budget_epochs(self) -> int:
        """Epochs for which the present model is trained: `num_epochs`, or the budget whose branch comes or was last."""
        return self._leg.budget

    @property
    def finished(self) -> list[Report]:
        """The reports of the finished models so far."""
        return [report for report in self._past_reports if report.budget_epochs is not None]

    def reports(self) -> Iterator[Report]:
        """Trains to the end; yields a report after each epoch, those before a resume included.

        With the schedule `trunk` only where a budget is finished. At a report that has `budget_epochs` and leaves
        `evaluation` not None, the model is the one it tells of, to be saved before the next report is asked for.

        Raises:
            QAError: If the loss or the weights are no longer finite.
            CheckpointError: If a checkpoint cannot be written, or the one of the trunk cannot be read.
        """
        yield from self._past_reports[:-1]
        if self._leg_is_over:  # the run was resumed right there; whoever saves the model needs its evaluation
            with self.meter.part("evaluating"):
                self.evaluation = self.evaluate(self.dev)
        yield from self._past_reports[-1:]
        if self._taken < self.num_steps:
            with self.meter.part("loading"):
                self._try_longest_batch()
        while self._taken < self.num_steps:
            if self._leg_is_over:
                self._return_to_trunk()
            with self.meter.part("training"):
                self._train_epoch()
            is_due = self._leg_is_over or self.recipe.schedule != "trunk"  # the trunk's own model is not finished
            report = self._report() if is_due else None
            self._epoch_loss.zero_()
            self._save_checkpoint()
            if report:
                yield report

    def evaluate(self, eval_set: EvalSet) -> Evaluation:
        """Scores the model as it is on a data set."""
        flop = self._passes.flop  # measured now: it needs gradients, which an evaluation turns off

        def count(batch_size: int, seq_len: int) -> None:
            self.meter.flop += flop.count(batch_size, seq_len, training=False)

        return evaluate_model(
            self.model,  # not its wrapper for several workers, who need not be in step here
            eval_set,
            self.pad_token_id,
            self.accelerator.device,
            on_batch=count,
        )

    def _train_epoch(self) -> None:
        """Trains from the present position to the end of its epoch."""
        epoch, position = divmod(self._step, self.steps_per_epoch)
        self.features = self._windows_of_epoch(epoch)
        batches = epoch_batches(self.features.lengths, self.recipe.batch_size, self.recipe.seed, epoch)
        saved = time.monotonic()
        self._prepared.train()
        for batch in batches[position:]:
            if self._step == self._leg.branch:
                self._leave_trunk()
            loss = self._train_step(batch)
            self._passes.count(self.features, batch)
            self._epoch_loss += loss.double() * len(batch)
            self._taken += 1
            self._look_at(loss)
            is_last = self._step % self.steps_per_epoch == 0
            if not is_last and time.monotonic() - saved >= self.checkpoint_every_s:
                self._save_checkpoint()
                saved = time.monotonic()

    def _train_step(self, indices: Ints) -> Tensor:
        """Takes one optimizer step on a global batch and returns its mean loss over all workers []."""
        recipe = self.recipe
        set_learning_rate(self._optimizer, recipe.learning_rate_at(self._step, self._leg, self._num_warmup))
        loss = self._passes.backward(self.features, indices, self._step)
        if recipe.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self._prepared.parameters(), recipe.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss

    def _try_longest_batch(self) -> None:
        """Passes the largest batch of the first epoch once through the model, so that memory fails early."""
        _ = self._passes.flop
        batches = epoch_batches(self.features.lengths, self.recipe.batch_size, self.recipe.seed, 0)
        self._prepared.train()
        longest = max(batches, key=lambda batch: len(batch) * int(self.features.lengths[batch].max()))
        self._passes.backward(self.features, longest, self._step)
        self._optimizer.zero_grad()

    def _look_at(self, loss: Tensor) -> None:
        """Checks and passes on the loss of a step, where that is due: each look waits for the device."""
        is_last = self._step % self.steps_per_epoch == 0
        # All workers must look at the same steps, so that they fail together.
        if is_last or self._on_step or self._taken % _CHECK_LOSS_EVERY == 0:
            value = float(loss)
            self._check_finite("the training loss", value)
            if self._on_step:
                self._on_step(self._taken, value)
        now = time.monotonic()
        if self._on_progress and (is_last or now - self._last_progress >= _PROGRESS_EVERY_S):
            self._on_progress(Progress(self._taken, self.num_steps, float(loss), self._learning_rate))
            self._last_progress = now

    def _check_finite(self, name: str, value: float) -> None:
        if not np.isfinite(value):
            raise QAError(
                f"step {self._taken} of {self.num_steps}: {name} is {value}; "
                f"lower optim.learning_rate ({self.recipe.learning_rate:g}), or use precision=fp32"
            )

    @property
    def _learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def _step(self) -> int:
        """Steps that the present model has taken; those of other branches do not count."""
        return self._leg.step_at(self._taken)

    @property
    def _leg_is_over(self) -> bool:
        return self._taken == self._leg.taken

    def _report(self) -> Report:
        with self.meter.part("evaluating"):
            evaluation = self.evaluation = self.evaluate(self.dev)
        if evaluation.loss is not None:  # the last step's own loss does not tell what it made of the weights
            self._check_finite("the loss on dev", evaluation.loss)
        device = self.accelerator.device
        self.meter.peak_memory_bytes = max(self.meter.peak_memory_bytes, largest(peak_memory_bytes(device), device))
        report = Report(
            epochs_trained=self._step // self.steps_per_epoch,
            budget_epochs=self._leg.budget if self._leg_is_over else None,
            step=self._step,
            learning_rate=self._learning_rate,
            train_loss=float(self._epoch_loss) / len(self.features),
            eval_loss=evaluation.loss,
            f1=evaluation.scores.f1,
            exact_match=evaluation.scores.exact_match,
            start_accuracy=evaluation.start_accuracy,
            end_accuracy=evaluation.end_accuracy,
            cost=self.cost_columns(),
        )
        self._past_reports.append(report)
        return report

    def cost_columns(self) -> dict[str, float | int]:
        """Returns what the run has cost so far, `cost.<name>`; see `CostMeter`.

        With the schedule `trunk` also what the present model's way cost, `model_cost.<name>`: all but the other
        branches. Without it the two are the same.
        """
        meter = self.meter.copy()
        if self.recipe.schedule != "trunk":
            return meter.columns()
        return meter.columns() | meter.minus(self._of_others).columns("model_cost")

    def _leave_trunk(self) -> None:
        """Keeps the trunk as it is now, if the run will go back to it after the branch that begins."""
        if self._leg.kept is None:
            return
        self._at_branch = self.meter.copy()
        if self._leg.kept < self._taken:
            return  # the leg before left it at the same step
        if self.checkpoint_dir is None:
            with self.meter.part("checkpointing"):
                self._trunk = copy_to_cpu(self.model.state_dict()), copy_to_cpu(self._tensors())
        elif not checkpoint_path(self.checkpoint_dir, self._leg.kept).exists():
            self._save_checkpoint()

    def _return_to_trunk(self) -> None:
        """Puts the model back to where the finished leg left the trunk, and begins the next one."""
        with self.meter.part("checkpointing"):
            if self._trunk:
                self._load(*copy_to_cpu(self._trunk))  # PyTorch's optimizer would go on in the tensors themselves
            elif self.checkpoint_dir and self._leg.kept is not None:
                self._load(*load_checkpoint(checkpoint_path(self.checkpoint_dir, self._leg.kept))[:2])
        self._of_others.add(self.meter.minus(self._at_branch))
        left, self._leg = self._leg, next_leg(self._legs, self._leg)
        if self._leg.kept != left.kept:
            self._trunk = None

    def _tensors(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def _load(self, weights: dict[str, Tensor], tensors: dict[str, Any]) -> None:
        self.model.load_state_dict(weights)
        self._optimizer.load_state_dict(tensors["optimizer"])
        if tensors["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(tensors["scaler"])

    def _save_checkpoint(self) -> None:
        if self.checkpoint_dir is None or rank() != 0:
            return
        with self.meter.part("checkpointing"):
            # Else it would take the place of a good one. Where the first worker fails, its group ends.
            self._check_finite("the training loss", float(self._epoch_loss))
            self._check_finite("the norm of the weights", float(nn.utils.get_total_norm(self.model.parameters())))
            progress = {
                "recipe": self.recipe.to_json(),
                "num_windows": len(self.features),
                "precision": self.precision,
                "step": self._taken,
                "epoch_loss": float(self._epoch_loss),
                "reports": [asdict(report) for report in self._past_reports],
                "meter": self.meter.to_json(),
                "at_branch": self._at_branch.to_json(),
                "of_others": self._of_others.to_json(),
            }
            weights, keep = self.model.state_dict(), self._leg.needs(self._taken)
            save_checkpoint(self.checkpoint_dir, self._taken, weights, self._tensors(), progress, keep=keep)

    def _resume(self, path: Path) -> None:
        """Takes over a checkpoint's state."""
        weights, tensors, progress = load_checkpoint(path)
        expected = {"recipe": self.recipe.to_json(), "num_windows": len(self.features)}
        found = {"recipe": Recipe.with_defaults(progress.get("recipe", {})), "num_windows": progress.get("num_windows")}
        if found != expected:
            raise CheckpointError(f"{path}: expected the checkpoint of a run with {expected}, found one with {found}")
        if progress["epoch_loss"] is None:  # how JSON says NaN; older versions saved it
            raise CheckpointError(f"{path}: expected a finite epoch_loss, found null; remove {path.parent}, train anew")
        self._load(weights, tensors)
        self._taken = progress["step"]
        self._leg = leg_at(self._legs, self._taken)
        self._epoch_loss += progress["epoch_loss"]
        self._past_reports = [Report(**report) for report in progress["reports"]]
        self.meter.add(CostMeter.from_json(progress["meter"]))
        for meter, name in ((self._at_branch, "at_branch"), (self._of_others, "of_others")):
            if name in progress:  # an older version had no branches
                meter.add(CostMeter.from_json(progress[name]))
