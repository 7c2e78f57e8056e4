import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from sweeps.records import RECORDS, Manifest, write_manifest

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
