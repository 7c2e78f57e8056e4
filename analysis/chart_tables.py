"""The tables that pictures are drawn from, where the report has none of that form."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.frontier import numbers
from analysis.load import Sweeps, columns_of
from qa_train.errors import DataError
from sweeps.records import Manifest

PUBLISHED_RATES = {
    "spoken_test-v1.1.json": 22.7,
    "spoken_test-v1.1_WER44.json": 44.2,
    "spoken_test-v1.1_WER54.json": 54.8,
}
"""Word error rates (percent) of Spoken-SQuAD's test sets, by the names of their files (Li et al. 2018, "Spoken SQuAD: A
Study of Mitigating the Impact of Speech Recognition Errors on Listening Comprehension")."""

_PARTS = ("starting", "loading", "training", "evaluating", "checkpointing", "lost", "unexplained")


def word_error_rates(manifests: Mapping[str, Manifest], given: Mapping[str, float] | None = None) -> dict[str, float]:
    """Returns the word error rate of each data set of which it is known, in percent.

    Args:
        manifests: By sweep id; their test sets in Spoken-SQuAD's own files are known.
        given: Of further sets, or other rates, by name, such as `clean`; `dev` is one too.

    Raises:
        DataError: If a given rate is negative, infinite or NaN.
    """
    known = {}
    for manifest in manifests.values():
        for name, entry in manifest.data.items():
            file = Path(str(entry.get("path") or "")).name
            if name.startswith("test.") and file in PUBLISHED_RATES:
                known[name.removeprefix("test.")] = PUBLISHED_RATES[file]
    for name, rate in (given or {}).items():
        if not 0 <= rate < math.inf:
            raise DataError(f"word error rate of {name}: expected 0 or more percent, found {rate}")
    return {**known, **(given or {})}


def noise_table(table: pd.DataFrame, rates: Mapping[str, float]) -> pd.DataFrame:
    """Puts the F1 of each model on each set beside the set's word error rate.

    Args:
        table: [num_models, …] or configurations, best first.
        rates: Percent, by the set's name.

    Returns:
        [num_scores, 6] with `sweep`, `trial_id`, `budget_epochs`, `data_set`, `word_error_rate` (percent) and `f1`; the
        models in the order of `table`, each from the cleanest set to the noisiest. Models with less than two sets are
        left out.
    """
    columns = {"dev" if name == "dev" else f"test.{name}": rate for name, rate in rates.items()}
    parts = []
    for name, rate in sorted(columns.items(), key=lambda item: item[1]):
        scores = table[["sweep", "trial_id", "budget_epochs"]].assign(
            data_set=name.removeprefix("test."), word_error_rate=rate, f1=numbers(table, f"{name}.f1")
        )
        parts.append(scores.assign(place=range(len(scores))))
    if not parts:
        names = ["sweep", "trial_id", "budget_epochs", "data_set", "word_error_rate", "f1"]
        return pd.DataFrame(columns=names)
    joined = pd.concat(parts).dropna(subset="f1").sort_values("place", kind="stable")
    several = joined["place"].map(joined["place"].value_counts()) > 1
    return joined[several].drop(columns="place").reset_index(drop=True)


def ledger_table(sweeps: Sweeps) -> pd.DataFrame:
    """Splits what each trial cost into its parts; copied results cost nothing and are left out.

    Returns:
        [num_trials, 3 + num_parts] with `sweep`, `trial_id`, `status` and, in device-hours, the parts that occur:
        `starting`, `loading`, `training`, `evaluating`, `checkpointing`, `lost`, `unexplained`, and `not split up` for
        trials of which only the whole is known, such as running ones that died.
    """
    trials = sweeps.trials
    trials = trials[trials["reused_from"].isna()] if "reused_from" in trials else trials
    devices = trials["sweep"].map({name: manifest.devices_per_trial for name, manifest in sweeps.manifests.items()})
    hours = {part: numbers(trials, f"cost.{part}_s") * devices.astype(float) / 3600.0 for part in _PARTS}
    parts = pd.DataFrame(hours, index=trials.index)
    whole = numbers(trials, "cost.device_s") / 3600.0
    parts["not split up"] = whole.where(parts.isna().all(axis=1))
    kept = parts[[name for name in parts if parts[name].sum() > 0]].fillna(0.0).clip(lower=0.0)
    table = pd.concat([trials[["sweep", "trial_id", "status"]], kept], axis=1)
    return table[kept.sum(axis=1) > 0].reset_index(drop=True)


def curve_table(sweeps: Sweeps) -> pd.DataFrame:
    """Follows each trial over its epochs.

    Returns:
        [num_reports, 5 or more] with `sweep`, `trial_id`, `epochs_trained`, `is_finished` (whether the row is a
        finished model), the metric's column and the losses; the rows of `Sweeps.reports` that have epochs and a metric.
    """
    reports, metric = sweeps.reports, sweeps.metric
    losses = [name for name in ("train_loss", "eval_loss") if name != metric]
    values = {name: numbers(reports, name) for name in ("epochs_trained", metric, *losses)}
    table = reports[["sweep", "trial_id"]].assign(is_finished=reports["budget_epochs"].notna(), **values)
    table = table.dropna(subset=["epochs_trained", metric])
    # A trial that was started again tells an epoch twice: the later one counts.
    return table.drop_duplicates(["sweep", "trial_id", "epochs_trained", "is_finished"], keep="last").reset_index(
        drop=True
    )


def failure_table(sweeps: Sweeps) -> pd.DataFrame:
    """Lists the trials that failed, with their errors.

    Returns:
        [num_failed, num_columns] with `sweep`, `trial_id`, `attempt`, the searched values (`config.*`), `error.type`,
        `error.message` and what else the records hold of the error.
    """
    failed = sweeps.trials[sweeps.trials["status"] == "failed"]
    columns = ["sweep", "trial_id", "attempt", *columns_of(failed, "config."), *columns_of(failed, "error.")]
    table = failed[columns].dropna(axis=1, how="all")
    return table.reset_index(drop=True)
