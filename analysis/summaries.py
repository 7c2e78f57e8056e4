"""Tables over all models of the sweeps: what each hyperparameter did, all test sets, and the best so far over cost."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.frontier import COST, numbers, signed_score
from analysis.load import Sweeps, columns_of
from analysis.statistics import spearman
from sweeps.records import Manifest

NUM_BINS = 4
_FEW_VALUES = 6
_PEAK = "cost.peak_memory_bytes"


def searched_columns(models: pd.DataFrame, manifests: Mapping[str, Manifest]) -> list[str]:
    """Returns the columns of what the sweeps searched, and `budget_epochs` where models of a trial differ by it."""
    names = dict.fromkeys(
        f"config.{name}" for manifest in manifests.values() for name in manifest.config.get("space") or ()
    )
    columns = [name for name in names if name in models]
    epochs = numbers(models, "config.num_epochs")
    return columns if (epochs == models["budget_epochs"]).all() else ["budget_epochs", *columns]


def hyperparameter_table(models: pd.DataFrame, columns: Iterable[str], metric: str, mode: str) -> pd.DataFrame:
    """Tells how good the models were by the values of each hyperparameter, all others being as they came.

    Args:
        models: [num_models, …] or configurations.
        columns: Of the hyperparameters.
        metric: The column that ranks.
        mode: `max` or `min`.

    Returns:
        [num_values, 8] with `hyperparameter`, `value` (one, or a quarter of the models as `low to high` where there are
        more than six numbers), `num_models`, `mean`, `sd` and `best` of the metric, `spearman` (rank correlation of
        value and metric over all models with both, from -1 to 1; missing for texts and under three models) and
        `p_value`, that of no correlation; with several hyperparameters one is small by
        chance. Models without a score are left out.
    """
    scored = models[signed_score(models, metric, mode).notna()]
    rows = [row for column in columns for row in _summarize(scored[column].dropna(), scored[metric], column, mode)]
    return pd.DataFrame(
        rows, columns=["hyperparameter", "value", "num_models", "mean", "sd", "best", "spearman", "p_value"]
    )


def _summarize(values: pd.Series, scores: pd.Series, column: str, mode: str) -> Iterable[dict[str, Any]]:
    scores = scores[values.index].astype(float)
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    correlation = spearman(values.astype(float), scores) if is_number else (np.nan, np.nan)
    for value, group in _group(values, is_number):
        members = scores[group]
        yield {
            "hyperparameter": column.removeprefix("config."),
            "value": value,
            "num_models": len(members),
            "mean": members.mean(),
            "sd": members.std(ddof=1) if len(members) > 1 else np.nan,
            "best": members.min() if mode == "min" else members.max(),
            "spearman": correlation[0],
            "p_value": correlation[1],
        }


def _group(values: pd.Series, is_number: bool) -> Iterable[tuple[str, pd.Index]]:
    """Yields the values, or quarters of them, with the labels of the models that have them."""
    if not is_number or values.nunique() <= _FEW_VALUES:
        for value, members in values.groupby(values, sort=True):
            yield _shown(value), members.index
        return
    ranks = values.astype(float).rank(method="min", pct=True)
    for _, members in values.groupby(np.ceil(ranks * NUM_BINS), sort=True):
        yield f"{_shown(members.min())} to {_shown(members.max())}", members.index


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def test_set_table(table: pd.DataFrame, data_sets: Iterable[str] | None = None) -> pd.DataFrame:
    """Sets the scores of the test sets beside those of dev, for the models that have them.

    Args:
        table: [num_models, …] or configurations, in the order wanted.
        data_sets: Names of test sets, such as `clean`; all that occur by default.

    Returns:
        [num_scored, 6 + 3 * num_sets] with sweep, trial, epochs and seeds, F1 and exact match on dev, and of each set
        also `test.<set>.loss`, how far its F1 is below that of the first set. Test scores never choose a model.
    """
    names = [column[len("test.") : -len(".f1")] for column in columns_of(table, "test.", ".f1")]
    names = [name for name in (data_sets or names) if f"test.{name}.f1" in table]
    kept = ["sweep", "trial_id", "budget_epochs", *(["seeds"] if "seeds" in table else ["seed"])]
    result = table[[*kept, "dev.f1", "dev.exact_match"]].copy()
    for name in names:
        f1 = result[f"test.{name}.f1"] = numbers(table, f"test.{name}.f1")
        result[f"test.{name}.exact_match"] = numbers(table, f"test.{name}.exact_match")
        result[f"test.{name}.loss"] = numbers(table, f"test.{names[0]}.f1") - f1
    return result[result[[f"test.{name}.f1" for name in names]].notna().any(axis=1)]


def spent(sweeps: Sweeps, cost: str = COST) -> pd.Series:
    """Returns what each sweep spent, by its id: all trials, also those that failed; copied results cost nothing.

    A sweep of which no trial has the cost is missing (NaN).
    """
    own = sweeps.reports[_is_own(sweeps.reports)]
    last = numbers(own, cost).groupby([own["sweep"], own["trial_id"]]).last()
    return last.groupby(level=0).sum(min_count=1).reindex(list(sweeps.manifests))


def _is_own(table: pd.DataFrame) -> pd.Series:
    return table["reused_from"].isna() if "reused_from" in table else pd.Series(True, index=table.index)


def best_so_far(sweeps: Sweeps, cost: str = COST) -> pd.DataFrame:
    """Follows the best finished model over what each sweep had spent by then, in the order of the records' times.

    Costs of trials that failed or were stopped count when they were reported, costs of copied results not at all.

    Args:
        sweeps: What was loaded.
        cost: The column that is added up.

    Returns:
        [num_scored_models, 6] with `sweep`, `trial_id`, `time` (UTC), `spent` (cumulative, in the unit of `cost`, of
        that sweep), the metric's own column, and `best` so far of it in that sweep. No rows for peaks of memory, which
        do not add up.
    """
    reports, metric = sweeps.reports, sweeps.metric
    names = ["sweep", "trial_id"]
    held = (
        numbers(reports, cost)
        .where(_is_own(reports), 0.0)
        .groupby([reports[name] for name in names])
        .ffill()
        .fillna(0.0)
    )
    before = held.groupby([reports[name] for name in names]).shift(fill_value=0.0)
    rows = reports[[*names, "budget_epochs"]].assign(
        time=times(reports), extra=(held - before).clip(lower=0.0), score=signed_score(reports, metric, sweeps.mode)
    )
    rows = rows.sort_values(["time", "sweep", "trial_id"], kind="stable")
    rows["spent"] = rows.groupby("sweep")["extra"].cumsum()
    rows = rows[rows["budget_epochs"].notna() & rows["score"].notna() & (cost != _PEAK)]
    sign = -1.0 if sweeps.mode == "min" else 1.0
    best = sign * rows.groupby("sweep")["score"].cummax()
    result = rows[[*names, "time", "spent"]].assign(**{metric: sign * rows["score"], "best": best})
    return result.reset_index(drop=True)


def times(reports: pd.DataFrame) -> pd.Series:
    """Returns when each row was written, in UTC; NaT where that is not known."""
    if "time" not in reports:
        return pd.Series(pd.NaT, index=reports.index, dtype="datetime64[ns, UTC]")
    if pd.api.types.is_numeric_dtype(reports["time"]):
        return pd.to_datetime(reports["time"].astype("float64"), unit="s", utc=True, errors="coerce")
    return pd.to_datetime(reports["time"], utc=True, errors="coerce", format="ISO8601")
