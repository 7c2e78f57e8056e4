"""Looks at the data, the model and a device before the first trial: bad input fails here, once and clearly."""

from dataclasses import dataclass
from typing import Any

from qa_train.baseline import overlap_baseline
from qa_train.config import TrainConfig
from qa_train.metrics import score_predictions
from qa_train.precision import emulation_warning
from qa_train.resources import limit_threads
from qa_train.training import device_name, library_versions, start_training


@dataclass(frozen=True)
class Probe:
    """What holds for all trials of a sweep.

    Attributes:
        precision: What `precision: auto` was resolved to.
        device: Kind of device, see `training.device_name`.
        data: Path, hash and size of each set.
        baselines: Dev F1 and exact match of the untrained model and of question-word overlap.
        versions: Library versions on the trials' node.
        warnings: What the user should know before the first trial.
    """

    precision: str
    device: str
    data: dict[str, dict[str, Any]]
    baselines: dict[str, float]
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()


def probe(config: TrainConfig, num_threads: int) -> Probe:
    """Prepares a training as a trial does, but only evaluates the untrained model.

    Raises:
        QAError: See `start_training`.
    """
    limit_threads(num_threads)
    training = start_training(config)
    untrained = training.loop.evaluate(training.loop.dev).scores
    dev = training.questions.dev
    references = {example.id: [answer.text for answer in example.answers] for example in dev}
    overlap = score_predictions(overlap_baseline(dev), references)
    return Probe(
        precision=training.precision,
        device=device_name(training.loop.accelerator.device),
        data=training.questions.description,
        baselines={
            "untrained.f1": untrained.f1,
            "untrained.exact_match": untrained.exact_match,
            "question_word_overlap.f1": overlap.f1,
            "question_word_overlap.exact_match": overlap.exact_match,
        },
        versions=library_versions(),
        warnings=tuple(filter(None, [emulation_warning(training.precision, training.loop.accelerator.device)])),
    )
