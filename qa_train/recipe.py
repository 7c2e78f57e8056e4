"""What a run does, and what it tells: plain values that go into checkpoints and records."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from qa_train.optim import CooldownShape, Schedule, num_warmup_steps, schedule_factor
from qa_train.trunk import Leg, trunk_legs, whole_steps


@dataclass(frozen=True)
class Recipe:
    """What training does, whatever it runs on; the fields are those of the configuration of the same names.

    With the schedule `trunk`, `budgets` are ascending and end with `num_epochs`; else there are none.
    """

    num_epochs: int
    batch_size: int
    learning_rate: float
    schedule: Schedule = "linear"
    warmup_ratio: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    gradient_accumulation_steps: int = 1
    seed: int = 0
    budgets: tuple[int, ...] = ()
    warmup_epochs: float = 0.1
    cooldown: float = 0.2
    cooldown_shape: CooldownShape = "1-sqrt"

    def legs(self, steps_per_epoch: int) -> tuple[Leg, ...]:
        """Returns what is trained, in its order; see `trunk`."""
        if self.schedule == "trunk":
            return trunk_legs(self.budgets, self.cooldown, steps_per_epoch)
        num_steps = self.num_epochs * steps_per_epoch
        return (Leg(self.num_epochs, start=0, branch=num_steps, end=num_steps),)

    def num_warmup(self, steps_per_epoch: int) -> int:
        """Returns the number of warm-up steps."""
        if self.schedule == "trunk":
            return whole_steps(self.warmup_epochs, steps_per_epoch)
        return num_warmup_steps(self.num_epochs * steps_per_epoch, self.warmup_ratio)

    def learning_rate_at(self, step: int, leg: Leg, num_warmup: int) -> float:
        """Returns the learning rate of a step of a leg's model."""
        factor = schedule_factor(step, leg.end, num_warmup, self.schedule, leg.branch, self.cooldown_shape)
        return self.learning_rate * factor

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as they are after a way through JSON."""
        return asdict(self) | {"budgets": list(self.budgets)}

    @classmethod
    def with_defaults(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what `to_json` gave, also where a version gave it that did not know all of the fields yet."""
        defaults = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
        return {**defaults, "budgets": [], **values}


@dataclass(frozen=True)
class Report:
    """Where a run stands after an epoch, or at the end of a branch; plain values, as they go into records.

    Attributes:
        epochs_trained: Epochs that the model was trained for so far, 1 or more.
        budget_epochs: Epochs the model is trained for if this is the finished model, else None.
        step: Optimizer steps that the model has taken.
        learning_rate: Of the last step.
        train_loss: Mean over the epoch's windows.
        eval_loss: Mean over the dev windows with a known answer; None if there is none.
        f1: Official dev F1, 0 to 100.
        exact_match: Official dev exact match, 0 to 100.
        start_accuracy: See `Evaluation`.
        end_accuracy: See `Evaluation`.
        cost: Columns of the cost; see `TrainingLoop.cost_columns`.
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


@dataclass(frozen=True)
class Progress:
    """Where a run stands between two reports: steps taken and in all, loss and learning rate of the last one.

    The steps are the run's, those of all branches included.
    """

    step: int
    num_steps: int
    loss: float
    learning_rate: float
