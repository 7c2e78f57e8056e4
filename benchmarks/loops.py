"""Three training loops that take the same steps on the same windows, each watched in the same way."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.sampling import BATCH_SIZE
from qa_train.evaluate import EvalSet
from qa_train.loop import Recipe, TrainingLoop
from qa_train.precision import Precision
from qa_train.tokenization import Features, Ints
from qa_train.training import build_accelerator

LEARNING_RATE = 3e-5


@dataclass(frozen=True, eq=False)
class Task:
    """What the loops train on.

    Attributes:
        features: The windows of the whole data set.
        dev: One question: our loop does not do without an evaluation, which is not timed.
        tokenizer: The model's.
        device: Where to train.
    """

    features: Features
    dev: EvalSet
    tokenizer: PreTrainedTokenizerFast
    device: torch.device


@dataclass(frozen=True)
class Step:
    """The end of an optimizer step: tokens trained so far, without padding, and the time in seconds."""

    tokens: int
    time_s: float


TrainLoop = Callable[[PreTrainedModel, Task, list[Ints], Precision, int], list[Step]]
"""Trains a model once on batches of windows, with a seed, and returns the end of each step."""


def train_ours(model: PreTrainedModel, task: Task, batches: list[Ints], precision: Precision, seed: int) -> list[Step]:
    """Trains with `TrainingLoop`; batches from `plan_grouped` with the same seed are taken as they are."""
    steps: list[Step] = []
    loop = TrainingLoop(
        model,
        _take(task.features, np.concatenate(batches)),
        task.dev,
        Recipe(num_epochs=1, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, seed=seed),
        build_accelerator(precision, task.device.type == "cuda"),
        task.tokenizer.pad_token_id,
        on_step=lambda _step, _loss: steps.append(Step(loop.meter.tokens, _now(task.device))),
    )
    for _ in loop.reports():
        pass
    return steps


def train_study(model: PreTrainedModel, task: Task, batches: list[Ints], _: Precision, seed: int) -> list[Step]:
    """Trains as the study did: plain PyTorch, AdamW, always fp32, all windows as long as the longest of the data set.

    The batches are taken in their order: those of `plan_random` are shuffled already.
    """
    torch.manual_seed(seed)
    longest = int(task.features.lengths.max())
    items = _items(task, np.concatenate(batches))
    fields = task.tokenizer.pad(items, padding="max_length", max_length=longest, return_tensors="pt", verbose=False)
    loader = DataLoader(TensorDataset(*fields.values()), batch_size=BATCH_SIZE)
    nn.Module.to(model, task.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    steps: list[Step] = []
    tokens = 0
    for tensors in loader:
        batch = {name: tensor.to(task.device) for name, tensor in zip(fields, tensors, strict=True)}
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        tokens += int(batch["attention_mask"].sum())
        steps.append(Step(tokens, _now(task.device)))
    return steps


def train_trainer(
    model: PreTrainedModel, task: Task, batches: list[Ints], precision: Precision, seed: int
) -> list[Step]:
    """Trains with `transformers.Trainer` and dynamic padding; the batches are taken in their order, as above."""
    pad = DataCollatorWithPadding(task.tokenizer)
    tokens: list[int] = []
    times: list[float] = []

    def collate(items: list[dict[str, Any]]) -> Any:
        batch = pad(items)
        tokens.append(int(batch["attention_mask"].sum()))  # not at the step: batches are fetched ahead of it
        return batch

    with tempfile.TemporaryDirectory() as output_dir:
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir,
                per_device_train_batch_size=BATCH_SIZE,
                num_train_epochs=1,
                learning_rate=LEARNING_RATE,
                bf16=precision == "bf16",
                fp16=precision == "fp16",
                train_sampling_strategy="sequential",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=task.device.type == "cpu",
                dataloader_pin_memory=task.device.type == "cuda",  # on a CPU it does nothing but warn
                seed=seed,
            ),
            data_collator=collate,
            train_dataset=_items(task, np.concatenate(batches)),
            callbacks=[_AfterStep(lambda: times.append(_now(task.device)))],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [Step(int(total), end) for total, end in zip(np.cumsum(tokens), times, strict=True)]


class _AfterStep(TrainerCallback):
    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self._call()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _items(task: Task, indices: Ints) -> list[dict[str, Any]]:
    """Returns windows with their labels as a tokenizer gives them: lists, not padded."""
    features = task.features
    items: list[dict[str, Any]] = []
    for index in indices:
        window = slice(features.splits[index], features.splits[index + 1])
        inputs = {
            "input_ids": features.input_ids[window].tolist(),
            "token_type_ids": features.token_type_ids[window].tolist(),
            "attention_mask": [1] * int(features.lengths[index]),
        }
        item: dict[str, Any] = {name: inputs[name] for name in task.tokenizer.model_input_names}
        item["start_positions"] = int(features.start_positions[index])
        item["end_positions"] = int(features.end_positions[index])
        items.append(item)
    return items


def _take(features: Features, indices: Ints) -> Features:
    """Returns the windows `indices` alone."""
    tokens = np.concatenate([np.arange(features.splits[index], features.splits[index + 1]) for index in indices])
    return replace(
        features,
        input_ids=features.input_ids[tokens],
        token_type_ids=features.token_type_ids[tokens],
        offsets=features.offsets[tokens],
        splits=np.concatenate([[0], np.cumsum(features.lengths[indices])]),
        example_index=features.example_index[indices],
        context_begin=features.context_begin[indices],
        context_end=features.context_end[indices],
        start_positions=features.start_positions[indices],
        end_positions=features.end_positions[indices],
    )
