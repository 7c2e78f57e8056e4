"""How long sweeps take to become tables: `python -m benchmarks.analysis_load`.

Made-up records of many trials in a temporary directory, loaded by `analysis.load` for the first time (parsed) and again
(from its cache), beside what pandas needs for the same rows from a Parquet file, and Ray's `ExperimentAnalysis` for the
same rows, one `result.json` a trial. Ray's own state of the experiment, which it would have to unpickle, is left out.
"""

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pandas as pd
from tabulate import tabulate

from analysis.configurations import configuration_table
from analysis.load import Sweeps, load_sweeps
from analysis.tables import report_table
from qa_train.errors import QAError, run_command
from sweeps.records import RECORDS, Manifest, Row, write_manifest

MAX_TO_PANDAS, MIN_TO_RAY, MAX_BYTES = 3.0, 10.0, 1_000_000_000
"""What is to be reached: times as long as pandas, times as fast as Ray per trial, memory of the process."""

FIRST, AGAIN, TABULATED, PANDAS, RAY = "first time", "again", "again, with the report's table", "pandas, Parquet", "Ray"


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        num_trials: Of the records.
        num_ray_trials: The first of them, that Ray loaded.
        num_reports: Of each trial.
        seconds: By what was measured.
        peak_bytes: Memory of a process that parses the records.
        records_bytes: Of the file.
    """

    num_trials: int
    num_ray_trials: int
    num_reports: int
    seconds: dict[str, list[float]]
    peak_bytes: int
    records_bytes: int

    @property
    def to_pandas(self) -> float:
        """How many times as long loading again takes as pandas, the report's table included; medians."""
        return median(self.seconds[TABULATED]) / median(self.seconds[PANDAS])

    def to_ray(self, name: str) -> float:
        """How many times as long Ray takes for a trial; medians."""
        return median(self.seconds[RAY]) / self.num_ray_trials / (median(self.seconds[name]) / self.num_trials)


def made_up_rows(num_trials: int, num_reports: int) -> Iterator[Row]:
    """Yields the rows of trials that end with a finished model, as a sweep records them."""
    rng = np.random.default_rng(0)
    parts = ("starting", "loading", "training", "evaluating", "checkpointing", "lost")
    for trial in range(num_trials):
        values = {
            "config.optim.learning_rate": 10 ** rng.uniform(-6, -4),
            "config.optim.warmup_ratio": rng.uniform(0, 0.2),
        }
        numbers = rng.uniform(0, 100, (num_reports, 7 + len(parts)))
        for report in range(num_reports):
            is_last = report == num_reports - 1
            train_loss, eval_loss, start, end, rate, f1, exact_match, *seconds = numbers[report].tolist()
            yield {
                "trial_id": f"{trial:05}",
                "seed": 0,
                **values,
                "config.num_epochs": num_reports,
                "attempt": 0,
                "report": report,
                "time": 1.7e9 + trial + report / num_reports,
                "host": "node-1",
                "status": "completed" if is_last else "running",
                "epochs_trained": report + 1,
                "budget_epochs": num_reports if is_last else None,
                "dev.f1": f1,
                "dev.exact_match": exact_match,
                "train_loss": train_loss,
                "eval_loss": eval_loss,
                "start_accuracy": start,
                "end_accuracy": end,
                "learning_rate": rate * 1e-6,
                **{f"cost.{name}_s": value for name, value in zip(parts, seconds, strict=True)},
                "cost.tokens": 100_000 * (report + 1),
                "cost.tflop": 12.5 * (report + 1),
                "cost.peak_memory_bytes": 2_000_000_000 + trial,
                "cost.device_s": 60.0 * (report + 1),
                "node": "node-1",
                "device": "cpu-core",
                "launcher": "local",
            }


def write_sweep(directory: Path, num_trials: int, num_reports: int) -> None:
    """Writes a sweep directory with made-up records, a minute old."""
    config = {"train": {"num_epochs": num_reports}, "space": {"optim.learning_rate": {}, "optim.warmup_ratio": {}}}
    parts: dict[str, Any] = {
        "note": "",
        "created": "",
        "precision": "fp32",
        "device": "cpu-core",
        "devices_per_trial": 1,
    }
    write_manifest(
        directory,
        Manifest(sweep_id="made-up", name="made-up", config=config, metric="dev.f1", mode="max", data={}, **parts),
    )
    path = directory / RECORDS
    with open(path, "w", encoding="utf-8") as file:
        for row in made_up_rows(num_trials, num_reports):
            file.write(json.dumps(row) + "\n")
    then = path.stat().st_mtime - 60
    os.utime(path, (then, then))


def measure(directory: Path, num_trials: int, num_reports: int, num_ray_trials: int, repeats: int) -> Result:
    """Times everything, in turns, and compares the rows.

    Args:
        directory: Empty; the cache is in it too.
        num_trials: Of the records.
        num_reports: Of each trial.
        num_ray_trials: The first of them, that Ray loads.
        repeats: Of everything but the first time.

    Raises:
        QAError: If pandas or Ray find other rows than we do.
    """
    os.environ["SPANSWEEP_CACHE_DIR"] = str(directory / "cache")
    sweep, parquet = directory / "sweep", directory / "rows.parquet"
    write_sweep(sweep, num_trials, num_reports)
    peak_bytes = _in_new_process(sweep)
    first_s, sweeps = _timed(lambda: load_sweeps(sweep))
    sweeps.reports.to_parquet(parquet)
    trials = _write_for_ray(directory / "ray", num_ray_trials, num_reports)
    seconds: dict[str, list[float]] = {FIRST: [first_s], AGAIN: [], TABULATED: [], PANDAS: [], RAY: []}
    load_sweeps(sweep)  # both files have been read before
    for _ in range(repeats):
        seconds[PANDAS].append(_timed(lambda: _check(pd.read_parquet(parquet), sweeps.reports))[0])
        seconds[AGAIN].append(_timed(lambda: load_sweeps(sweep))[0])
        seconds[TABULATED].append(_timed(lambda: tabulated(sweep))[0])
        ray_s, frames = _timed(lambda: _load_by_ray(directory / "ray", trials))
        seconds[RAY].append(ray_s)
        if sum(map(len, frames.values())) != num_ray_trials * num_reports:
            raise QAError(
                f"expected {num_ray_trials * num_reports} rows from Ray, found {sum(map(len, frames.values()))}"
            )
    return Result(num_trials, num_ray_trials, num_reports, seconds, peak_bytes, (sweep / RECORDS).stat().st_size)


def tabulated(sweep: Path) -> pd.DataFrame:
    """Loads a sweep and ranks its models."""
    sweeps: Sweeps = load_sweeps(sweep)
    return report_table(configuration_table(sweeps.models, sweeps.manifests), sweeps.metric, sweeps.mode)


def _check(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    if found.shape != expected.shape:
        raise QAError(f"expected {expected.shape} rows and columns from pandas, found {found.shape}")


def _in_new_process(sweep: Path) -> int:
    """The largest memory of a process that loads the sweep for the first time; its cache is another one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_bytes, (str(sweep),))


def _peak_bytes(sweep: str) -> int:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SPANSWEEP_CACHE_DIR"] = cache
        tabulated(Path(sweep))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _write_for_ray(directory: Path, num_trials: int, num_reports: int) -> list[Any]:
    """The rows as Tune's loggers write them; what `ExperimentAnalysis` asks of a trial."""
    from pyarrow.fs import LocalFileSystem

    rows: dict[str, list[Row]] = {}
    for row in made_up_rows(num_trials, num_reports):
        rows.setdefault(str(row["trial_id"]), []).append(row)
    trials = []
    for trial_id, of_trial in rows.items():
        place = directory / trial_id
        place.mkdir(parents=True)
        (place / "result.json").write_text("".join(json.dumps(row) + "\n" for row in of_trial))
        storage = SimpleNamespace(trial_fs_path=str(place), storage_filesystem=LocalFileSystem())
        trials.append(SimpleNamespace(trial_id=trial_id, config={}, last_result=of_trial[-1], storage=storage))
    return trials


def _load_by_ray(directory: Path, trials: list[Any]) -> dict[str, pd.DataFrame]:
    from ray.tune import ExperimentAnalysis

    return dict(ExperimentAnalysis(str(directory / "experiment_state.json"), trials=trials).trial_dataframes)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def format_result(result: Result) -> str:
    """Returns what was measured, and what was to be reached, as tables."""
    trials = {name: result.num_ray_trials if name == RAY else result.num_trials for name in result.seconds}
    rows = [
        [name, trials[name], median(values), min(values), max(values), 1e6 * median(values) / trials[name]]
        for name, values in result.seconds.items()
    ]
    headers = ["", "trials", "s, median", "min", "max", "microseconds per trial"]
    goals = [
        [f"{TABULATED} / {PANDAS}", f"{result.to_pandas:.2f}", f"at most {MAX_TO_PANDAS:g}"],
        [f"{RAY} / {AGAIN}, per trial", f"{result.to_ray(AGAIN):.1f}", f"at least {MIN_TO_RAY:g}"],
        [f"{RAY} / {FIRST}, per trial", f"{result.to_ray(FIRST):.1f}", "-"],
        ["memory of the first time, MB", f"{result.peak_bytes / 1e6:.0f}", f"under {MAX_BYTES / 1e6:.0f}"],
    ]
    return (
        f"{result.num_trials:,} trials with {result.num_reports} reports, {result.records_bytes / 1e6:.0f} MB\n\n"
        + tabulate(rows, headers, floatfmt=("", "", ".3f", ".3f", ".3f", ".0f"))
        + "\n\n"
        + tabulate(goals, ["", "found", "goal"], disable_numparse=True, colalign=("left", "right", "right"))
    )


@click.command()
@click.option("--trials", type=click.IntRange(1), default=10_000, show_default=True, help="Of the records.")
@click.option("--reports", type=click.IntRange(1), default=30, show_default=True, help="Of each trial.")
@click.option("--ray-trials", type=click.IntRange(1), default=200, show_default=True, help="That Ray loads.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(trials: int, reports: int, ray_trials: int, repeats: int, as_json: bool) -> int:
    r"""Compares loading a sweep's records with pandas (Parquet) and Ray (`ExperimentAnalysis`).

    \b
    Example:
      python -m benchmarks.analysis_load --trials 10000 --reports 30
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        result = measure(Path(directory), trials, reports, ray_trials, repeats)
    if as_json:
        ratios = {"to_pandas": result.to_pandas, "to_ray": result.to_ray(AGAIN), "first_to_ray": result.to_ray(FIRST)}
        print(json.dumps(vars(result) | ratios | {"load": load}, indent=2))
    else:
        print(f"{format_result(result)}\n\nload before {load:.1f}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(command, "python -m benchmarks.analysis_load", argv)


if __name__ == "__main__":
    sys.exit(main())
