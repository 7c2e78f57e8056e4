"""Where a training puts its model: claims the directory, trains into it, finishes or leaves it resumable."""

import fcntl
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qa_train.checkpoint import remove_checkpoints
from qa_train.config import TrainConfig, to_yaml
from qa_train.errors import CheckpointError, ConfigError
from qa_train.loop import Report
from qa_train.resources import limit_threads, num_cpus
from qa_train.storage import unused_dir, write_json, write_text
from qa_train.training import TRAINING_RECORD, start_training

RUN_CONFIG = "run.yaml"
"""The resolved configuration; stands in the directory while the training is not finished."""
_CHECKPOINTS, _REPORTS, _LOCK = "checkpoints", "reports.json", ".lock"


def claim_output(directory: Path, config: TrainConfig, *, overwrite: bool = False) -> Path:
    """Makes a directory ready for a new training and writes its configuration there.

    Args:
        directory: New or empty; `~` is expanded.
        config: What will be trained.
        overwrite: Whether to remove what an earlier training left there; nothing else is ever removed.

    Raises:
        DataError: If the directory is in use, or cannot be created.
    """
    directory = directory.expanduser()
    if overwrite and any((directory / name).is_file() for name in (RUN_CONFIG, TRAINING_RECORD)):
        with _locked(directory):
            shutil.rmtree(directory)
    remedy = "give another directory with --to, or pass --overwrite if an earlier training left it"
    directory = unused_dir(directory, remedy)
    write_text(directory / RUN_CONFIG, to_yaml(config))
    return directory


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keeps a second training out of the directory; the lock ends with the process, however that ends."""
    with open(directory / _LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{directory}: another training is writing there; wait for it or stop it") from None
        yield
        (directory / _LOCK).unlink(missing_ok=True)


def train_into(directory: Path, config: TrainConfig, *, progress: bool = False) -> dict[str, Any]:
    """Trains into a claimed directory, from its last checkpoint if there is one.

    After an interruption the directory holds the configuration and the last checkpoint, with which it can be resumed.

    Args:
        directory: Returned by `claim_output`.
        config: The configuration it was claimed for.
        progress: Whether to show progress bars on stderr.

    Returns:
        `scores` by set, `cost` by column, and the `files` written beside the model.

    Raises:
        QAError: See `start_training` and `TrainingLoop.reports`.
    """
    check_scale(config)
    limit_threads(num_cpus() if config.scale.cpus_per_worker == "auto" else config.scale.cpus_per_worker)
    with _locked(directory):
        training = start_training(config, directory / _CHECKPOINTS, progress=progress)
        reports = []
        for report in training.loop.reports():
            reports.append(report)
            print(_describe(report, config), file=sys.stderr)
        tests = training.evaluate_tests()
        training.save(directory, reports[-1])
        write_json(directory / _REPORTS, [vars(report) for report in reports])
        (directory / RUN_CONFIG).unlink()
        remove_checkpoints(directory / _CHECKPOINTS)
        (directory / _CHECKPOINTS).rmdir()
    scores = {"dev": {"f1": reports[-1].f1, "exact_match": reports[-1].exact_match}} | {
        f"test.{name}": values for name, values in tests.items()
    }
    return {"scores": scores, "cost": training.loop.meter.columns(), "files": [TRAINING_RECORD, _REPORTS]}


def _describe(report: Report, config: TrainConfig) -> str:
    loss = "-" if report.eval_loss is None else f"{report.eval_loss:.3f}"
    return (
        f"epoch {report.epochs_trained}/{config.num_epochs}: train loss {report.train_loss:.3f}, dev loss {loss}, "
        f"dev F1 {report.f1:.2f}, exact match {report.exact_match:.2f}"
    )


def check_scale(config: TrainConfig) -> None:
    """Checks that this machine has the CPU cores that `scale` asks for.

    Raises:
        ConfigError: If it has not, or several workers are asked of a launcher that has one.
    """
    scale, available = config.scale, num_cpus()
    each = 1 if scale.cpus_per_worker == "auto" else scale.cpus_per_worker
    problems = []
    if scale.num_workers * each > available:
        problems.append(
            f"scale.num_workers: {scale.num_workers} workers with {each} CPU cores each need "
            f"{scale.num_workers * each}, found {available} on this machine; ask for at most {available // each}"
        )
    elif scale.num_workers > 1:
        problems.append(f"scale.num_workers: expected 1 with launcher {scale.launcher}, found {scale.num_workers}")
    if problems:
        raise ConfigError(problems, "configuration")
