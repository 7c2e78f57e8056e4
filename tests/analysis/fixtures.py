import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from qa_train.data import Example, read_squad
from qa_train.metrics import QAScores, score_predictions
from qa_train.question_scores import write_question_scores
from qa_train.storage import sha256_file, write_json
from sweeps.records import RECORDS, Manifest, write_manifest

DEMO_DEV = Path(__file__).parents[2] / "qa_train" / "demo_data" / "dev.json"
HOSTILE = "</script><script>alert('$x_1$')</script><b>&amp;"
"""Text that a page, a formula or a label could take for something else."""
HOSTILE_ID = HOSTILE.replace("/", "|")
"""The same as a trial's id, which names a directory."""

DEV = {"path": "/data/dev.json", "sha256": "a" * 64, "questions": 100}


def manifest(sweep_id: str = "demo-1", **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "sweep_id": sweep_id,
        "name": "demo",
        "note": "",
        "created": "2025-01-01T00:00:00+00:00",
        "config": {
            "train": {"data": {"train": "/data/train.json", "dev_fraction": 0.1}, "num_epochs": 3, "seed": 0},
            "space": {"num_epochs": {"int": [1, 10]}, "optim.learning_rate": {"loguniform": [1e-6, 1e-4]}},
        },
        "metric": "dev.f1",
        "mode": "max",
        "precision": "fp32",
        "device": "cpu-core",
        "devices_per_trial": 1,
        "data": {"dev": DEV},
    }
    return Manifest(**{**values, **changes})


def row(trial_id: str, **changes: Any) -> dict[str, Any]:
    """A finished model; keyword arguments name columns with `__` for the dot."""
    values: dict[str, Any] = {
        "trial_id": trial_id,
        "attempt": 0,
        "report": 0,
        "status": "completed",
        "config.num_epochs": 2,
        "config.optim.learning_rate": 3e-5,
        "epochs_trained": 2.0,
        "budget_epochs": 2,
        "seed": 0,
        "dev.f1": 70.0,
        "dev.exact_match": 60.0,
        "cost.device_s": 3600.0,
        "cost.tokens": 2_000_000,
        "cost.tflop": 500.0,
        "cost.peak_memory_bytes": 2**30,
        "time": "2025-01-01T00:10:00+00:00",
        "node": "n1",
        "device": "cpu-core",
    }
    return values | {name.replace("__", "."): value for name, value in changes.items()}


def model(trial_id: str, f1: float | None, hours: float | None, **changes: Any) -> dict[str, Any]:
    device_s = None if hours is None else 3600.0 * hours
    return row(trial_id, dev__f1=f1, cost__device_s=device_s, **changes)


def write_sweep(
    directory: Path, rows: Sequence[dict[str, Any]], sweep_id: str = "demo-1", torn: str = "", **changes: Any
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_manifest(directory, manifest(sweep_id, **changes))
    if rows or torn:
        (directory / RECORDS).write_text("".join(json.dumps(item) + "\n" for item in rows) + torn)
    return directory


def articles_of(sizes: Sequence[int]) -> list[str]:
    """The article of each question, for articles of these sizes."""
    return [f"article {number}" for number, size in enumerate(sizes) for _ in range(size)]


def write_scores(
    directory: Path, trial_id: str, f1: Sequence[float], articles: Sequence[str], epochs: int = 2, data_set: str = "dev"
) -> Path:
    """The scores of single questions of one model; a question with F1 100 is matched exactly."""
    table = {
        "question_id": [f"q{number}" for number in range(len(f1))],
        "article": list(articles),
        "f1": [float(value) for value in f1],
        "exact_match": [100.0 * (value == 100) for value in f1],
    }
    path = directory / "trials" / trial_id / f"scores_{data_set}_{epochs}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(table), path)
    return path


def scored_sweep(
    directory: Path, models: Mapping[str, tuple[Sequence[float], float]], articles: Sequence[str], **changes: Any
) -> Path:
    """A sweep of finished models by (F1 of each question, device-hours), with the files of their scores."""
    rows = [
        model(trial_id, sum(f1) / len(f1), hours, config__optim__learning_rate=1e-5 * (number + 1))
        for number, (trial_id, (f1, hours)) in enumerate(models.items())
    ]
    write_sweep(directory, rows, **changes)
    for trial_id, (f1, _) in models.items():
        write_scores(directory, trial_id, f1, articles)
    return directory


def full_sweep(directory: Path, num_models: int = 12, **changes: Any) -> Path:
    """A sweep with all that a report can show: answers to the demo's dev questions, test sets, costs by part, failures.

    The better a model's learning rate and the more epochs it has, the more questions it answers as the reference does.
    """
    examples = read_squad(DEMO_DEV).examples
    rng, rows = np.random.default_rng(0), []
    write_sweep(directory, [])
    for number in range(num_models):
        epochs, rate = 1 + number % 4, float(10 ** rng.uniform(-6, -3))
        share = 0.7 * (1 - abs(np.log10(rate) + 4) / 2.5) * (1 - 0.4 / epochs)
        scores = _write_answers(directory / "trials" / f"{number:05d}", examples, share, epochs, rng)
        rows += _epochs_of(f"{number:05d}", scores, epochs, rate, number)
    failed: dict[str, Any] = {"status": "failed", "budget_epochs": None, "dev__f1": None, "dev__exact_match": None}
    rows.append(row("90000", **failed, error__type="RuntimeError", error__message=HOSTILE, cost__device_s=90.0))
    config = manifest().config
    config["space"]["optim.warmup_ratio"] = {"uniform": [0.0, 0.2]}
    data = {"dev": {"path": str(DEMO_DEV), "sha256": sha256_file(DEMO_DEV), "questions": len(examples)}}
    return write_sweep(directory, rows, **{"data": data, "config": config, "note": HOSTILE, **changes})


def _write_answers(
    trial: Path, examples: Sequence[Example], share: float, epochs: int, rng: np.random.Generator
) -> QAScores:
    answers = {}
    for example in examples:
        words = example.context.split()
        start = int(rng.integers(len(words) - 3))
        is_right = rng.random() < share
        answers[example.id] = example.answers[0].text if is_right else " ".join(words[start : start + 2])
    scores = score_predictions(answers, {each.id: tuple(a.text for a in each.answers) for each in examples})
    write_json(trial / f"predictions_dev_{epochs}.json", answers)
    write_question_scores(trial / f"scores_dev_{epochs}.parquet", scores, examples)
    return scores


def _epochs_of(trial_id: str, scores: QAScores, epochs: int, rate: float, number: int) -> list[dict[str, Any]]:
    tests = {} if number % 3 else {"test__clean__f1": scores.f1 - 1, "test__noise_v2__f1": scores.f1 - 15}
    rows = []
    for epoch in range(1, epochs + 1):
        is_last, seconds = epoch == epochs, 600.0 * epoch + number
        parts = {"starting": 10.0, "training": 0.8 * seconds, "evaluating": 0.2 * seconds - 12.0, "unexplained": 2.0}
        rows.append(
            row(
                trial_id,
                report=epoch - 1,
                status="completed" if is_last else "running",
                epochs_trained=float(epoch),
                budget_epochs=epochs if is_last else None,
                dev__f1=scores.f1 * (0.6 + 0.4 * epoch / epochs),
                dev__exact_match=scores.exact_match,
                train_loss=3.0 / epoch,
                eval_loss=3.2 / epoch,
                cost__device_s=seconds,
                time=1.7e9 + 3000.0 * number + 600.0 * epoch,
                config__num_epochs=epochs,
                config__optim__learning_rate=rate,
                config__optim__warmup_ratio=0.01 * (number * 7 % 20),
                **{f"cost__{name}_s": value for name, value in parts.items()},
                **(tests if is_last else {}),
            )
        )
    return rows
