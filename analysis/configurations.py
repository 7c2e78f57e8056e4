"""Trainings of one configuration with several seeds, as one."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import columns_of
from analysis.statistics import MIN_SEEDS, seed_interval
from sweeps.records import Manifest

_LOSSES = ("train_loss", "eval_loss")
_SCORE_PREFIXES = ("dev.", "test.")
_COST_PREFIXES = ("cost.", "trial_cost.", "model_cost.")


def configuration_ids(models: pd.DataFrame, manifests: Mapping[str, Manifest]) -> pd.Series:
    """Numbers the configurations; models that differ by their seed alone have the same number.

    Equal are what was searched (`config.*`), the epochs of the finished model and, in different sweeps, the rest of the
    configuration too. Where a seed was trained twice, the later one begins a configuration of its own; but a model of
    the search whose configuration was trained again as a finalist, with whatever seeds, is in none, since it was chosen
    for its luck.

    Args:
        models: [num_models, …] as `analysis.load.Sweeps` has them.
        manifests: By sweep id.

    Returns:
        [num_models] int64, from 0, or -1 for those in none, with the index labels of `models`.
    """
    if models.empty:
        return pd.Series([], index=models.index, dtype="int64")
    searched = [column for column in columns_of(models, "config.") if column != "config.seed"]
    recipe = ["base", *searched, "budget_epochs"]
    is_final = models["final"].fillna(False).astype(bool) if "final" in models else pd.Series(False, models.index)
    keys = models[[*searched, "budget_epochs", "seed"]].assign(
        base=models["sweep"].map(_bases(models, searched, manifests)), final=is_final
    )
    superseded = ~is_final & keys.groupby(recipe, dropna=False, sort=False)["final"].transform("any")
    keys = keys[~superseded]
    keys = keys.assign(repeat=keys.groupby([*recipe, "seed"], dropna=False, sort=False).cumcount())
    ids = keys.groupby([*recipe, "repeat"], dropna=False, sort=False).ngroup()
    return ids.reindex(models.index, fill_value=-1).astype("int64")


def configuration_table(models: pd.DataFrame, manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """Makes one row of the models of one configuration; see `configuration_ids`.

    Args:
        models: [num_models, num_columns] as `analysis.load.Sweeps` has them.
        manifests: By sweep id.

    Returns:
        [num_configurations, num_columns + 4] in the order of `models`, with the index labels of the first seeds'
        models. Scores and losses are means over seeds, missing where one seed has no value (a diverged one must not be
        left out); costs are means over the seeds that have one; other columns are those of the first seed. Further
        columns: `num_seeds`; `seeds`, such as `0 1 2`; `dev.f1.seeds_low` and `dev.f1.seeds_high`, the 95 % interval of
        the mean over seeds, missing under three.
    """
    ids = configuration_ids(models, manifests)
    models, ids = models[ids >= 0], ids[ids >= 0]
    table = models[~ids.duplicated()].copy()
    if len(table) < len(models):
        costs = [name for name in map(str, models.columns) if name.startswith(_COST_PREFIXES)]
        scores = [name for name in map(str, models.columns) if name in _LOSSES or name.startswith(_SCORE_PREFIXES)]
        for columns, skipna in ((costs, True), (scores, False)):
            means = models[columns].astype(float).groupby(ids, sort=False).mean(skipna=skipna)
            table[columns] = means.set_axis(table.index)
    seeds, f1, rows = models["seed"].tolist(), models["dev.f1"].tolist(), _rows(ids)
    told = [" ".join(str(seeds[place]) for place in places if pd.notna(seeds[place])) for places in rows]
    intervals = [
        seed_interval([f1[place] for place in places]) if len(places) >= MIN_SEEDS else None for places in rows
    ]
    return table.assign(
        num_seeds=pd.Series(list(map(len, rows)), table.index, dtype="int64"),
        seeds=pd.Series(told, table.index, dtype="str"),
        **{
            "dev.f1.seeds_low": [interval.low if interval else np.nan for interval in intervals],
            "dev.f1.seeds_high": [interval.high if interval else np.nan for interval in intervals],
        },
    )


def members_of(models: pd.DataFrame, manifests: Mapping[str, Manifest]) -> dict[Any, list[Any]]:
    """Returns the index labels of the models of each configuration, by the label that its row has."""
    ids = configuration_ids(models, manifests)
    models, rows = models[ids >= 0], _rows(ids[ids >= 0])
    return {models.index[places[0]]: [models.index[place] for place in places] for places in rows}


def _rows(ids: pd.Series) -> list[list[int]]:
    """The places of each configuration's models, in the order of the first ones."""
    places: dict[int, list[int]] = {}
    for place, number in enumerate(ids.tolist()):
        places.setdefault(number, []).append(place)
    return list(places.values())


def _bases(models: pd.DataFrame, searched: list[str], manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """What the columns do not tell of each sweep's training configuration, but for the seed and where it runs."""
    bases = {}
    for sweep_id, manifest in manifests.items():
        known = models.loc[models["sweep"] == sweep_id, searched].notna().any()
        told = {column.removeprefix("config.") for column in searched if known[column]}
        bases[sweep_id] = json.dumps(_flat(manifest.config["train"], told | {"seed", "scale"}))
    return bases


def _flat(config: Mapping[str, Any], left_out: set[str], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in sorted(config.items()):
        if (name := f"{prefix}{key}") in left_out:
            continue
        found |= _flat(value, left_out, f"{name}.") if isinstance(value, dict) else {name: value}
    return found
