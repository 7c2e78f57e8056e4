"""From a configuration to a trained model on disk: reads data, opens the model, builds the loop, saves the result."""

import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from qa_train.alignment import AlignmentCounts, align_answers
from qa_train.checkpoint import latest_checkpoint, read_progress
from qa_train.config import ModelConfig, TrainConfig
from qa_train.cost import CostMeter
from qa_train.data import Example, SquadData, read_squad, split_by_title
from qa_train.errors import ConfigError
from qa_train.evaluate import EvalSet
from qa_train.feature_cache import cached_encode
from qa_train.intervals import article_interval
from qa_train.loop import CHECKPOINT_EVERY_S, Progress, Recipe, TrainingLoop
from qa_train.metrics import QAScores
from qa_train.model import load_model, load_tokenizer, save_model
from qa_train.model_card import model_card
from qa_train.precision import Precision, resolve_precision
from qa_train.storage import write_json, write_text
from qa_train.workers import from_first, rank

TRAINING_RECORD, MODEL_CARD = "training.json", "README.md"


@dataclass(frozen=True, eq=False)
class Questions:
    """The examples of a run, by the use they are put to.

    Attributes:
        train: Aligned training questions.
        dev: Questions that select.
        tests: Questions that are only reported, by the test set's name.
        alignment: How the training answers were found.
        description: `path`, `sha256` and number of `questions` of each set, for manifests.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    tests: dict[str, tuple[Example, ...]]
    alignment: AlignmentCounts
    description: dict[str, dict[str, Any]]


def read_questions(config: TrainConfig) -> Questions:
    """Reads a run's data files and splits dev off where the configuration names no file for it.

    Raises:
        DataError: If a file cannot be used, or has too few articles to be split.
    """
    train_data = read_squad(config.data.train)
    train, dev_data = train_data.examples, train_data
    if config.data.dev is None:
        train, dev = split_by_title(train, config.data.dev_fraction, config.seed)
    else:
        dev_data = read_squad(config.data.dev)
        dev = dev_data.examples
    tests = {name: read_squad(path) for name, path in config.data.test.items()}
    aligned = align_answers(train, config.data.train)
    split = {"split": True} if config.data.dev is None else {}
    description = {
        "train": _describe(train_data, aligned.examples) | asdict(aligned.counts),
        "dev": _describe(dev_data, dev) | split,
        **{f"test.{name}": _describe(data, data.examples) for name, data in tests.items()},
    }
    test_examples = {name: data.examples for name, data in tests.items()}
    return Questions(aligned.examples, dev, test_examples, aligned.counts, description)


def _describe(data: SquadData, used: tuple[Example, ...]) -> dict[str, Any]:
    return {"path": data.path, "sha256": data.sha256, "questions": len(used)}


def eval_set(
    name: str, examples: tuple[Example, ...], tokenizer: PreTrainedTokenizerFast, config: TrainConfig
) -> EvalSet:
    """Tokenises a set of questions for evaluation."""
    return EvalSet(name, examples, cached_encode(examples, tokenizer, **window_arguments(config)))


def window_arguments(config: TrainConfig) -> dict[str, Any]:
    """Returns how `encode` shall cut contexts into windows."""
    return config.model.model_dump(exclude={"name"})


@dataclass(eq=False)
class Training:
    """A run that is ready to train, or has trained.

    Attributes:
        config: What it was asked to do.
        questions: What it trains on, and is selected and reported by.
        tokenizer: The model's.
        loop: Iterate over `loop.reports()`.
        precision: What `precision: auto` was resolved to.
        scores: Of the test sets, once `evaluate_tests` ran; see `summarize`.
    """

    config: TrainConfig
    questions: Questions
    tokenizer: PreTrainedTokenizerFast
    loop: TrainingLoop
    precision: Precision
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def model(self) -> PreTrainedModel:
        """The model being trained."""
        return self.loop.model

    def evaluate_tests(self) -> None:
        """Scores the test sets."""
        for name, examples in self.questions.tests.items():
            with self.loop.meter.part("evaluating"):
                evaluation = self.loop.evaluate(eval_set(name, examples, self.tokenizer, self.config))
            self.scores[f"test.{name}"] = summarize(evaluation.scores, examples)

    def save(self, directory: Path) -> None:
        """Writes the model, its tokenizer, `training.json` and a model card.

        Raises:
            CheckpointError: If the model cannot be written.
            DataError: If one of the others cannot be written.
        """
        if self.loop.evaluation is None:
            raise RuntimeError("the loop's reports were not read to their end")
        record = {
            "config": self.config.model_dump(),
            "precision": self.precision,
            "device": device_name(self.loop.accelerator.device),
            "data": self.questions.description,
            "scores": {"dev": summarize(self.loop.evaluation.scores, self.questions.dev)} | self.scores,
            "cost": self.loop.meter.columns(),
            "versions": library_versions(),
            "commit": commit(),
        }
        save_model(self.model, self.tokenizer, directory)
        write_json(directory / TRAINING_RECORD, record)
        write_text(directory / MODEL_CARD, model_card(record, directory.name))


def summarize(scores: QAScores, examples: Sequence[Example]) -> dict[str, Any]:
    """Returns F1 and exact match, 0 to 100, with their 95 % intervals over articles (null where there are too few)."""
    articles = [example.title for example in examples]
    values = {name: [getattr(score, name) for score in scores.per_question.values()] for name in ("f1", "exact_match")}
    intervals = {name: article_interval(value, articles) for name, value in values.items()}
    return {
        "f1": scores.f1,
        "exact_match": scores.exact_match,
        **{f"{name}_interval": found and [found.low, found.high] for name, found in intervals.items()},
        "num_questions": scores.num_questions,
        "num_articles": len(set(articles)),
    }


def start_training(
    config: TrainConfig,
    checkpoint_dir: Path | None = None,
    *,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    meter: CostMeter | None = None,
    on_step: Callable[[int, float], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Training:
    """Reads the data, opens the model and prepares the loop, in this process.

    Args:
        config: What to train; `data` and `model` are read from where they say.
        checkpoint_dir: Where checkpoints go; training continues from one that is there.
        checkpoint_every_s: Seconds after which there is one within an epoch.
        meter: Counts the cost, that of loading included.
        on_step: See `TrainingLoop`.
        on_progress: See `TrainingLoop`.

    Raises:
        DataError: If a data file cannot be used.
        CheckpointError: If the model or a checkpoint cannot be opened.
        ConfigError: If the machine lacks what `scale` asks for.
    """
    meter = meter or CostMeter()
    with meter.part("loading"):
        use_gpu = resolve_use_gpu(config)
        questions = read_questions(config)
        tokenizer = load_tokenizer(config.model.name)
        model = load_model(config.model.name, config.seed)
        check_window(model, config.model)
        features = cached_encode(questions.train, tokenizer, **window_arguments(config)).labelled()
        dev = eval_set("dev", questions.dev, tokenizer, config)
        device = torch.device("cuda" if use_gpu else "cpu")
        precision = _precision(config, nn.Module.to(model, device).train(), device, checkpoint_dir)
        loop = TrainingLoop(
            model,
            features,
            dev,
            recipe_of(config),
            build_accelerator(precision, use_gpu),
            tokenizer.pad_token_id,
            compiled=config.scale.compile,
            checkpoint_dir=checkpoint_dir,
            checkpoint_every_s=checkpoint_every_s,
            meter=meter,
            on_step=on_step,
            on_progress=on_progress,
        )
    return Training(config, questions, tokenizer, loop, precision)


def _precision(config: TrainConfig, model: nn.Module, device: torch.device, checkpoint_dir: Path | None) -> Precision:
    """Returns the precision of the run's earlier part, if it has one, else what the configuration asks for.

    It is resolved by the first worker for all of them: measured in each, it could differ.
    """
    checkpoint = checkpoint_dir and latest_checkpoint(checkpoint_dir)
    if checkpoint:
        found: Precision = read_progress(checkpoint)["precision"]
        return found
    return from_first(resolve_precision(config.precision, model, device) if rank() == 0 else "fp32")


def recipe_of(config: TrainConfig) -> Recipe:
    """Returns the part of a configuration that the loop follows."""
    optim = config.optim.model_dump()
    steps = config.scale.gradient_accumulation_steps
    return Recipe(num_epochs=config.num_epochs, gradient_accumulation_steps=steps, seed=config.seed, **optim)


def build_accelerator(precision: Precision, use_gpu: bool) -> Accelerator:
    """Returns an `Accelerator` of this precision, whatever another one of this process had before."""
    if use_gpu:
        torch.set_float32_matmul_precision("high")  # TF32, where matrix products stay in fp32
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=not use_gpu)


def resolve_use_gpu(config: TrainConfig) -> bool:
    """Returns whether to train on a GPU.

    Raises:
        ConfigError: If the configuration demands one and there is none.
    """
    available = torch.cuda.is_available()
    if config.scale.use_gpu is True and not available:
        problem = (
            "scale.use_gpu: true, but PyTorch finds no GPU here; set auto or false, or install a CUDA build of torch"
        )
        raise ConfigError([problem], "configuration")
    return available and config.scale.use_gpu is not False


_POSITIONS_AFTER_PAD = {"camembert", "mpnet", "roberta", "xlm-roberta"}
"""Kinds of model that count their positions from `pad_token_id + 1`."""


def check_window(model: PreTrainedModel, config: ModelConfig) -> None:
    """Checks that the model has positions for a whole window.

    Raises:
        ConfigError: If it has not.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and model.config.model_type in _POSITIONS_AFTER_PAD:
        limit -= model.config.pad_token_id + 1
    if limit and config.max_seq_length > limit:
        problem = f"expected at most {limit}, the positions that {config.name} has, found"
        raise ConfigError([f"model.max_seq_length: {problem} {config.max_seq_length}"], "configuration")


def device_name(device: torch.device) -> str:
    """Returns the kind of device as records name it: a GPU's model, or `cpu-core`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu-core"


@cache
def library_versions() -> dict[str, str]:
    """Returns the versions of what the scores depend on."""
    names = ("spansweep", "torch", "transformers", "tokenizers", "accelerate", "ray", "optuna", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str | None:
    """Returns the commit of this project's checkout, with `-dirty` if files are changed; None outside of one."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=_git_environment())
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def _git_environment() -> Mapping[str, str]:
    return {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
