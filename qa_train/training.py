"""From a configuration to a trained model on disk: reads data, opens the model, builds the loop, saves the result."""

import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from qa_train.augment import RecognitionNoise, count_words
from qa_train.checkpoint import latest_checkpoint, read_progress
from qa_train.config import ModelConfig, TrainConfig
from qa_train.confusions import read_confusions
from qa_train.cost import CostMeter
from qa_train.data import Example
from qa_train.errors import ConfigError
from qa_train.evaluate import EvalSet
from qa_train.feature_cache import cached_encode
from qa_train.loop import CHECKPOINT_EVERY_S, Progress, Recipe, TrainingLoop
from qa_train.metrics import QAScores
from qa_train.model import load_model, load_tokenizer, save_model
from qa_train.model_card import model_card
from qa_train.precision import Precision, resolve_precision
from qa_train.question_scores import write_question_scores
from qa_train.questions import Questions, read_questions
from qa_train.scoring import summarize
from qa_train.storage import write_json, write_text
from qa_train.tokenization import encode
from qa_train.training_windows import TrainingWindows
from qa_train.workers import from_first, rank

TRAINING_RECORD, MODEL_CARD = "training.json", "README.md"


def eval_set(
    name: str, examples: tuple[Example, ...], tokenizer: PreTrainedTokenizerFast, config: TrainConfig
) -> EvalSet:
    """Tokenises a set of questions for evaluation."""
    return EvalSet(name, examples, cached_encode(examples, tokenizer, **config.model.window_arguments))


@dataclass(eq=False)
class Training:
    """A run that is ready to train, or has trained.

    Attributes:
        config: What it was asked to do.
        questions: What it trains on, and is selected and reported by.
        tokenizer: The model's.
        loop: Iterate over `loop.reports()`.
        precision: What `precision: auto` was resolved to.
        tests: How the model did on the test sets, once `evaluate_tests` ran.
    """

    config: TrainConfig
    questions: Questions
    tokenizer: PreTrainedTokenizerFast
    loop: TrainingLoop
    precision: Precision
    tests: dict[str, QAScores] = field(default_factory=dict)

    @property
    def model(self) -> PreTrainedModel:
        """The model being trained."""
        return self.loop.model

    def evaluate_tests(self) -> None:
        """Scores the test sets with the model as it is: with the schedule `trunk`, the present budget's."""
        for name, examples in self.questions.tests.items():
            with self.loop.meter.part("evaluating"):
                evaluation = self.loop.evaluate(eval_set(name, examples, self.tokenizer, self.config))
            self.tests[name] = evaluation.scores

    @property
    def dev_scores(self) -> QAScores:
        """How the finished model did on dev."""
        if self.loop.evaluation is None:
            raise RuntimeError("the loop's reports were not read to their end")
        return self.loop.evaluation.scores

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Returns the scores of `dev` and of each `test.<name>` that was evaluated; see `scoring.summarize`."""
        tests = self.questions.tests
        return {
            "dev": summarize(self.dev_scores, self.questions.dev),
            **{f"test.{name}": summarize(scores, tests[name]) for name, scores in self.tests.items()},
        }

    def write_question_scores(self, directory: Path, budget_epochs: int) -> list[str]:
        """Writes the score of each question of dev and of the test sets that were evaluated.

        Returns:
            The files' names, `scores_<set>_<budget>.parquet`.

        Raises:
            DataError: If one cannot be written.
        """
        sets = {"dev": (self.dev_scores, self.questions.dev)}
        sets |= {f"test.{name}": (scores, self.questions.tests[name]) for name, scores in self.tests.items()}
        files = {f"scores_{name}_{budget_epochs}.parquet": scored for name, scored in sets.items()}
        for file, (scores, examples) in files.items():
            write_question_scores(directory / file, scores, examples)
        return list(files)

    def budgets(self) -> list[dict[str, Any]]:
        """Returns what each budget finished so far came to: its epochs, dev F1 and exact match, and its model's cost.

        Empty where the schedule is not `trunk`.
        """
        if self.config.optim.schedule != "trunk":
            return []
        return [
            {"budget_epochs": report.budget_epochs, "f1": report.f1, "exact_match": report.exact_match}
            | {name: value for name, value in report.cost.items() if name.startswith("model_cost.")}
            for report in self.loop.finished
        ]

    def save(self, directory: Path) -> None:
        """Writes the model, its tokenizer, `training.json` and a model card.

        Raises:
            CheckpointError: If the model cannot be written.
            DataError: If one of the others cannot be written.
        """
        record: dict[str, Any] = {
            "config": self.config.model_dump(),
            "precision": self.precision,
            "device": device_name(self.loop.accelerator.device),
            "data": self.questions.description,
            "budget_epochs": self.loop.budget_epochs,
            "scores": self.summaries(),
            "cost": self.loop.cost_columns(),
            "versions": library_versions(),
            "commit": commit(),
        }
        if budgets := self.budgets():
            record["budgets"] = budgets
        save_model(self.model, self.tokenizer, directory)
        write_json(directory / TRAINING_RECORD, record)
        write_text(directory / MODEL_CARD, model_card(record, directory.name))


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
        model = load_model(config.model.name, config.seed, attention_dropout=config.model.attention_dropout)
        check_window(model, config.model)
        windows = _training_windows(questions, tokenizer, config)
        dev = eval_set("dev", questions.dev, tokenizer, config)
        device = torch.device("cuda" if use_gpu else "cpu")
        precision = _precision(config, nn.Module.to(model, device).train(), device, checkpoint_dir)
        loop = TrainingLoop(
            model,
            windows.of_epoch(0),
            dev,
            recipe_of(config),
            build_accelerator(precision, use_gpu),
            tokenizer.pad_token_id,
            windows_of_epoch=windows.of_epoch,
            compiled=config.scale.compile,
            checkpoint_dir=checkpoint_dir,
            checkpoint_every_s=checkpoint_every_s,
            meter=meter,
            on_step=on_step,
            on_progress=on_progress,
        )
    return Training(config, questions, tokenizer, loop, precision)


def _training_windows(questions: Questions, tokenizer: PreTrainedTokenizerFast, config: TrainConfig) -> TrainingWindows:
    extra_weights = [config.data.extra_weights.get(name, 1.0) for name in questions.extra]
    return TrainingWindows(
        [questions.train, *questions.extra.values()],
        [1.0, *extra_weights],
        lambda examples, cached: (cached_encode if cached else encode)(
            examples, tokenizer, **config.model.window_arguments
        ).labelled(),
        config.seed,
        _noise(questions, config),
    )


def _noise(questions: Questions, config: TrainConfig) -> RecognitionNoise | None:
    augment = config.augment
    if augment.recognition_noise == 0:
        return None
    confusions = read_confusions(augment.confusions) if augment.confusions else None
    return RecognitionNoise(augment.recognition_noise, count_words(questions.train), confusions)


def _precision(config: TrainConfig, model: nn.Module, device: torch.device, checkpoint_dir: Path | None) -> Precision:
    """Returns the precision of the run's earlier part, if it has one, else what the configuration asks for.

    It is resolved by the first worker for all of them: measured in each, it could differ.
    """
    checkpoint = checkpoint_dir and latest_checkpoint(checkpoint_dir)
    if checkpoint:
        found: Precision = read_progress(checkpoint)["precision"]
        return found
    asked, length = config.precision, config.model.max_seq_length
    return from_first(resolve_precision(asked, model, device, length) if rank() == 0 else "fp32")


def recipe_of(config: TrainConfig) -> Recipe:
    """Returns the part of a configuration that the loop follows."""
    optim = config.optim.model_dump()
    steps = config.scale.gradient_accumulation_steps
    budgets = config.finished_epochs if config.optim.schedule == "trunk" else ()
    return Recipe(
        num_epochs=config.num_epochs, budgets=budgets, gradient_accumulation_steps=steps, seed=config.seed, **optim
    )


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


def check_window(
    model: PreTrainedModel, config: ModelConfig, setting: str = "model.max_seq_length", source: str = "configuration"
) -> None:
    """Checks that the model has positions for a whole window.

    Args:
        model: The model.
        config: Its windows.
        setting: How the message names what sets their length.
        source: Opens the message.

    Raises:
        ConfigError: If it has not.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit:
        limit -= _first_position(model)
    if limit and config.max_seq_length > limit:
        problem = f"expected at most {limit}, the positions that {config.name} has, found"
        raise ConfigError([f"{setting}: {problem} {config.max_seq_length}"], source)


def _first_position(model: PreTrainedModel) -> int:
    """Returns the position of the first token: 0, or with RoBERTa and its relatives the one after the padding's."""
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if padding is not None and name.rpartition(".")[2] == "position_embeddings":
            return int(padding) + 1
    return 0


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
