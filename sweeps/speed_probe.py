"""Measures how fast trials will train: some steps and evaluations of the real model and data, in this process."""

import contextlib
import time
from collections.abc import Callable, Sequence

from qa_train.batching import epoch_batches, sorted_batches
from qa_train.config import TrainConfig, with_values
from qa_train.cost import CostMeter
from qa_train.evaluate import BATCH_SIZE, EvalSet
from qa_train.resources import limit_threads
from qa_train.tokenization import Features, Ints, encode
from qa_train.training import Training, device_name, start_training
from sweeps.placement import Placement
from sweeps.speed import Measured

_ENOUGH_S, _MIN_STEPS, _MAX_STEPS = 5.0, 3, 50
"""Steps are taken for so many seconds, but at least and at most so many; the first is not timed."""
_DEV_QUESTIONS = 64

Clock = Callable[[], float]


class _EnoughError(Exception):
    """Ends the training that is timed."""


def measure(config: TrainConfig, placement: Placement, clock: Clock = time.perf_counter) -> Measured:
    """Trains for some steps, evaluates on some questions and scales what that took to an epoch, by padded tokens.

    Nothing is written but the cache of tokenised data. An epoch's batches come in random order, so that the
    first ones are like the others. What several trials at once take from each other is not seen, nor are checkpoints.

    Args:
        config: What trials train; where values are searched, its own are measured.
        placement: What a trial holds; only one worker is run.
        clock: Tells the seconds.

    Raises:
        QAError: If the data, the model or the device cannot be used; see `start_training`.
    """
    limit_threads(placement.cpus_per_worker)
    # Tokenises and finds the precision, which a sweep does once and not in every trial.
    precision = start_training(config).precision
    meter = CostMeter()
    training, marks = _train_some_steps(with_values(config, {"precision": precision}), meter, clock)
    loop, num_workers = training.loop, placement.num_workers
    batches = epoch_batches(loop.features.lengths, loop.recipe.batch_size, loop.recipe.seed, 0)
    work = [_padded_tokens(loop.features, [batch]) for batch in batches]
    # The first step takes longer; where an epoch has no other, it has to do.
    first = min(1, len(marks) - 1)
    seconds = marks[-1] - marks[0] if first else meter.seconds["training"]
    training_s = seconds * sum(work) / sum(work[first : len(marks)])
    num_questions, evaluating_s = _time_evaluation(training, clock)
    return Measured(
        source=f"{len(marks) - first} training steps and {num_questions} dev questions, here and now",
        device=device_name(loop.accelerator.device),
        num_devices=placement.num_devices,
        start_s=meter.seconds["loading"],
        training_s=training_s / num_workers,
        evaluating_s=evaluating_s / num_workers,
        model_bytes=sum(tensor.nbytes for tensor in training.model.state_dict().values()),
        caveats=tuple(_caveats(config)),
    )


def _train_some_steps(config: TrainConfig, meter: CostMeter, clock: Clock) -> tuple[Training, list[float]]:
    """Returns the training, broken off within its first epoch, and when each of its steps ended."""
    marks: list[float] = []

    def on_step(step: int, _loss: float) -> None:
        marks.append(clock())
        enough = step >= _MIN_STEPS and marks[-1] - marks[0] >= _ENOUGH_S
        if enough or step >= min(_MAX_STEPS, training.loop.steps_per_epoch):
            raise _EnoughError

    training = start_training(config, meter=meter, on_step=on_step)
    with contextlib.suppress(_EnoughError):
        next(training.loop.reports())
    return training, marks


def _time_evaluation(training: Training, clock: Clock) -> tuple[int, float]:
    """Returns how many dev questions were evaluated, and how long all of them would take."""
    dev = training.loop.dev
    # Evenly spread, for the questions of an article stand together.
    examples = dev.examples[:: -(-len(dev.examples) // _DEV_QUESTIONS)]
    sample = EvalSet("sample", examples, encode(examples, training.tokenizer, **training.config.model.window_arguments))
    seconds = []
    for _ in range(2):  # the first time, a device may have to warm up
        begin = clock()
        training.loop.evaluate(sample)
        seconds.append(clock() - begin)
    work, sample_work = (
        _padded_tokens(features, sorted_batches(features.lengths, BATCH_SIZE))
        for features in (dev.features, sample.features)
    )
    return len(examples), min(seconds) * work / sample_work


def _padded_tokens(features: Features, batches: Sequence[Ints]) -> int:
    return sum(len(batch) * int(features.lengths[batch].max()) for batch in batches)


def _caveats(config: TrainConfig) -> list[str]:
    scale = config.scale
    found = []
    if scale.num_workers > 1:
        found.append(f"{scale.num_workers} workers are taken to be as many times as fast as the one measured")
    if scale.compile:
        found.append("the steps measured include compiling, so that an epoch will take less")
    return found
