"""Lets training loops take turns and compares how fast they were."""

import copy
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm
from transformers import PreTrainedModel

from benchmarks.loops import Task, TrainLoop, train_ours, train_study, train_trainer
from benchmarks.sampling import (
    BATCH_SIZE,
    grouped_batches,
    num_padded_tokens,
    num_tokens,
    plan_grouped,
    plan_random,
    random_batches,
)
from qa_train.errors import DataError
from qa_train.precision import Precision

OURS_TO_STUDY, OURS_TO_TRAINER = 4.5, 1.8
"""How many times as fast our loop shall be: in mixed precision beside the study's, in the same beside the Trainer."""

Loop = Literal["ours", "study", "trainer"]
_TRAIN: dict[Loop, TrainLoop] = {"study": train_study, "trainer": train_trainer, "ours": train_ours}


@dataclass(frozen=True)
class Variant:
    """A loop in a precision."""

    loop: Loop
    precision: Precision

    def __str__(self) -> str:
        return f"{self.loop} {self.precision}"


@dataclass(frozen=True)
class Turn:
    """What one variant did in one repeat after its first step, which warms up.

    Attributes:
        num_tokens: Trained, without padding.
        num_padded_tokens: The same with padding.
        seconds: What they took.
    """

    num_tokens: int
    num_padded_tokens: int
    seconds: float


@dataclass(frozen=True)
class Ratio:
    """How many times as fast `ours` was as `other` in each repeat, and what is to be reached, if anything."""

    ours: Variant
    other: Variant
    goal: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """The turns of each variant, in the order of the repeats, and its padding in a whole epoch.

    Attributes:
        turns: By variant; all have as many.
        epoch_padding: By loop, tokens with padding per token without.
    """

    turns: dict[Variant, list[Turn]]
    epoch_padding: dict[Loop, float]

    def rates(self, variant: Variant) -> tuple[float, ...]:
        """Returns tokens per second, without padding, in each repeat."""
        return tuple(turn.num_tokens / turn.seconds for turn in self.turns[variant])

    def padding(self, variant: Variant) -> float:
        """Returns tokens with padding per token without, over all turns."""
        turns = self.turns[variant]
        return sum(turn.num_padded_tokens for turn in turns) / sum(turn.num_tokens for turn in turns)

    def ratios(self) -> list[Ratio]:
        """Compares ours with the study in every precision, and with the Trainer in the same one."""
        precisions = list(dict.fromkeys(variant.precision for variant in self.turns))
        study = Variant("study", "fp32")
        pairs = [
            (Variant("ours", each), study, OURS_TO_STUDY if each != "fp32" else None) for each in reversed(precisions)
        ]
        pairs += [(Variant("ours", each), Variant("trainer", each), OURS_TO_TRAINER) for each in precisions]
        return [self._ratio(*pair) for pair in pairs]

    def _ratio(self, ours: Variant, other: Variant, goal: float | None) -> Ratio:
        pairs = zip(self.rates(ours), self.rates(other), strict=True)
        return Ratio(ours, other, goal, tuple(rate / other_rate for rate, other_rate in pairs))


def measure(
    model: PreTrainedModel,
    task: Task,
    precisions: Sequence[Precision],
    num_steps: int,
    num_repeats: int,
    *,
    progress: bool = False,
) -> Result:
    """Lets all loops train in turns.

    Args:
        model: Copied for each turn.
        task: What is trained on.
        precisions: Of `ours` and `trainer`; `study` is always in fp32.
        num_steps: Steps that are timed in a turn, after one that warms up.
        num_repeats: Turns of each loop in each precision, each with batches of its own.
        progress: Whether to show a progress bar on stderr.

    Returns:
        All turns, `study` first.

    Raises:
        DataError: If there are too few windows for a turn.
    """
    num_full = len(task.features) // BATCH_SIZE
    if num_full <= num_steps:
        raise DataError(
            f"expected at least {(num_steps + 1) * BATCH_SIZE} windows for {num_steps} steps and one that warms up, "
            f"found {len(task.features)}; give fewer --steps"
        )
    variants = [Variant("study", "fp32")]
    variants += [Variant(loop, precision) for precision in precisions for loop in ("trainer", "ours")]
    turns: dict[Variant, list[Turn]] = {variant: [] for variant in variants}
    with tqdm(total=num_repeats * len(variants), desc="turns", disable=not progress, leave=False) as bar:
        for repeat in range(num_repeats):
            first = repeat % len(variants)  # nobody is always first
            for variant in variants[first:] + variants[:first]:
                bar.set_postfix_str(str(variant))
                turns[variant].append(_take_turn(copy.deepcopy(model), task, variant, num_steps, repeat))
                bar.update()
    return Result(turns, {loop: _epoch_padding(loop, task) for loop in _TRAIN})


def _take_turn(model: PreTrainedModel, task: Task, variant: Variant, num_steps: int, seed: int) -> Turn:
    lengths = task.features.lengths
    plan = plan_grouped if variant.loop == "ours" else plan_random
    batches = plan(lengths, num_steps + 1, seed)
    gc.collect()  # the model of the turn before
    first, *_, last = _TRAIN[variant.loop](model, task, batches, variant.precision, seed)
    return Turn(
        num_tokens=last.tokens - first.tokens,
        num_padded_tokens=num_padded_tokens(batches[1:], lengths, _fixed_length(variant.loop, task)),
        seconds=last.time_s - first.time_s,
    )


def _fixed_length(loop: Loop, task: Task) -> int | None:
    return int(task.features.lengths.max()) if loop == "study" else None


def _epoch_padding(loop: Loop, task: Task) -> float:
    lengths = task.features.lengths
    batches = grouped_batches(lengths, seed=0) if loop == "ours" else random_batches(lengths, seed=0)
    return num_padded_tokens(batches, lengths, _fixed_length(loop, task)) / num_tokens(batches, lengths)
