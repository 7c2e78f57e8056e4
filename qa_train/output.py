"""Where a training puts its model: claims the directory, trains into it, finishes or leaves it resumable."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from qa_train.checkpoint import latest_checkpoint
from qa_train.config import TrainConfig, build_config, to_yaml
from qa_train.display import Display
from qa_train.errors import CheckpointError, DataError, QAError
from qa_train.precision import emulation_warning
from qa_train.resources import limit_threads, num_cpus, place_workers
from qa_train.storage import unused_dir, write_json, write_text
from qa_train.training import MODEL_CARD, TRAINING_RECORD, Training, start_training
from qa_train.workers import rank

RUN_CONFIG = "run.yaml"
"""The resolved configuration; stands in the directory while the training is not finished."""
_CHECKPOINTS, _REPORTS, _BUDGETS, _LOCK = "checkpoints", "reports.json", "budgets", ".lock"
_LEFT_BY_TRAINING = (
    *(RUN_CONFIG, TRAINING_RECORD, _CHECKPOINTS, _REPORTS, _BUDGETS, _LOCK, ".*.tmp", "README.md"),
    *("events.jsonl", ".ray_train", "scores_*.parquet"),  # the first two are of Ray Train
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
)


def claim_output(directory: Path, config: TrainConfig, *, overwrite: bool = False) -> Path:
    """Makes a directory ready for a new training and writes its configuration there.

    Args:
        directory: New or empty; `~` is expanded.
        config: What will be trained.
        overwrite: Whether to remove what an earlier training left there; nothing else is ever removed.

    Raises:
        DataError: If the directory is in use, holds more than an earlier training left, or cannot be created.
        CheckpointError: If another training is writing there.
    """
    directory = Path(os.path.expanduser(directory))
    if overwrite and any((directory / name).is_file() for name in (RUN_CONFIG, TRAINING_RECORD)):
        with _locked(directory):
            _clear(directory)
    remedy = "give another directory with --to, or pass --overwrite if an earlier training left it"
    directory = unused_dir(directory, remedy)
    write_text(directory / RUN_CONFIG, to_yaml(config))
    return directory


def release_output(directory: Path) -> None:
    """Gives a claimed directory back if its training failed before there was anything to go on from."""
    with suppress(QAError), _locked(directory):
        if latest_checkpoint(directory / _CHECKPOINTS) is None:
            _clear(directory)
    with suppress(OSError):  # it is not empty
        directory.rmdir()


def _clear(directory: Path) -> None:
    """Removes what a training left in its directory, or nothing if there is more."""
    paths = sorted(directory.iterdir())
    for path in paths:
        if not any(path.match(pattern) for pattern in _LEFT_BY_TRAINING):
            problem = f"expected nothing but what a training left, found {path.name!r} too"
            raise DataError(f"{directory}: {problem}; move it away or give another directory with --to")
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keeps a second training out of the directory; the lock ends with the process, however that ends."""
    try:
        file = open(directory / _LOCK, "w", encoding="utf-8")  # noqa: SIM115 - the errors of its body are others
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{directory}: another training is writing there; wait for it or stop it") from None
        try:
            yield
        finally:
            (directory / _LOCK).unlink(missing_ok=True)


def train_into(directory: Path, config: TrainConfig, *, progress: bool = False) -> dict[str, Any]:
    """Trains into a claimed directory, from its last checkpoint if there is one.

    After an interruption the directory holds the configuration and the last checkpoint, with which it can be resumed.

    Args:
        directory: Returned by `claim_output`.
        config: The configuration it was claimed for.
        progress: Whether to show a progress bar on stderr; a line is written there for each epoch anyway.

    Returns:
        `scores` by set, `cost` by column, and the `files` written beside the model; with the schedule `trunk` also the
        `budgets`, see `Training.budgets`.

    Raises:
        ConfigError: If the machine or cluster has not what `scale` asks for.
        QAError: See `start_training`, `TrainingLoop.reports` and `RayTrainRun.events`.
    """
    with _locked(directory):
        display = Display(config.num_epochs, progress)
        if config.scale.launcher == "local":
            placed, num_threads = place_workers(config, num_cpus(), None)
            train_to_end(directory, placed, num_threads, display.show)
        else:
            _train_under_ray(directory.absolute(), config, display)  # workers start elsewhere
        (directory / RUN_CONFIG).unlink()
        shutil.rmtree(directory / _CHECKPOINTS, ignore_errors=True)
    return display.summary


def _train_under_ray(directory: Path, config: TrainConfig, display: Display) -> None:
    if "RAY_ADDRESS" not in os.environ:
        place_workers(config, num_cpus(), None)  # known before Ray takes its seconds to start
    from qa_train.ray_trainer import RayTrainRun, ray_session, resources  # imports Ray

    # Ray prints what it tells the user, such as a worker's death, to stdout, where the result goes.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), ray_session():
        placed, num_threads = place_workers(config, *resources())
        run = RayTrainRun(
            train_worker,
            {"directory": str(directory), "config": placed.model_dump(), "num_threads": num_threads},
            directory,
            num_workers=config.scale.num_workers,
            cpus_per_worker=num_threads,
            use_gpu=bool(placed.scale.use_gpu),
        )
        for event in run.events():
            display.show(event)


def train_worker(arguments: dict[str, Any]) -> None:
    """Trains as one of several workers; what Ray Train calls in each."""
    from qa_train.ray_trainer import tell

    directory = Path(arguments["directory"])
    config = build_config(TrainConfig, arguments["config"], str(directory / RUN_CONFIG))
    train_to_end(directory, config, arguments["num_threads"], partial(tell, directory))


def train_to_end(
    directory: Path, config: TrainConfig, num_threads: int, show: Callable[[dict[str, Any]], None]
) -> None:
    """Trains in this process, alone or as a worker; the first worker saves the model.

    With the schedule `trunk` that is the model of the last budget; those of the others go to `budgets/<epochs>`.

    Args:
        directory: Of the model and its checkpoints.
        config: What to train.
        num_threads: CPU cores to use.
        show: Called in the first worker with `{"progress": …}`, `{"report": …}` and at last `{"summary": …}`.
    """
    limit_threads(num_threads)
    is_first = rank() == 0
    training = start_training(
        config, directory / _CHECKPOINTS, on_progress=lambda progress: show({"progress": asdict(progress)})
    )
    if is_first and (warning := emulation_warning(training.precision, training.loop.accelerator.device)):
        show({"warning": warning})
    reports = []
    for report in training.loop.reports():
        reports.append(report)
        if is_first:
            if report.budget_epochs not in (None, config.num_epochs) and training.loop.evaluation:
                _save_budget(training, directory)
            show({"report": asdict(report)})
    training.evaluate_tests()
    if is_first:
        training.save(directory)
        write_json(directory / _REPORTS, [asdict(report) for report in reports])
        scored = training.write_question_scores(directory, config.num_epochs)
        earlier = [f"{_BUDGETS}/{budget}" for budget in config.finished_epochs[:-1]]
        summary: dict[str, Any] = {"scores": training.summaries(), "cost": training.loop.cost_columns()}
        summary |= {"budgets": budgets} if (budgets := training.budgets()) else {}
        show({"summary": summary | {"files": [TRAINING_RECORD, MODEL_CARD, _REPORTS, *scored, *earlier]}})


def _save_budget(training: Training, directory: Path) -> None:
    """Saves the model of a budget that is not the last, before the run goes on from the trunk."""
    budget = training.loop.budget_epochs
    with training.loop.meter.part("checkpointing"):
        training.save(directory / _BUDGETS / str(budget))
        training.write_question_scores(directory / _BUDGETS / str(budget), budget)
