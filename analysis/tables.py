"""Formats models, costs and choices: as tables, and in words."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from analysis.frontier import COST, FrontStep, Recommendation, numbers, pareto_mask, signed_score
from analysis.load import columns_of

MISSING = "-"
METRICS = {"dev.f1": "dev F1", "dev.exact_match": "dev exact match", "eval_loss": "dev loss"}


@dataclass(frozen=True)
class Unit:
    """How a cost is told: its column's value divided by `scale`.

    Attributes:
        scale: What makes one unit.
        many: The unit after a number.
        one: The unit after "per"; None where a rate says nothing.
    """

    scale: float
    many: str
    one: str | None


_UNITS = {
    "cost.device_s": Unit(3600.0, "device-hours", "device-hour"),
    "cost.usd": Unit(1.0, "US dollars", "US dollar"),
    "cost.tokens": Unit(1e6, "million tokens", "million tokens"),
    "cost.tflop": Unit(1.0, "TFLOP", "TFLOP"),
    "cost.peak_memory_bytes": Unit(2.0**30, "GiB of peak memory", None),
}


def unit_of(cost: str) -> Unit:
    """Returns the unit in which a cost column is told; a part such as `cost.training_s` in seconds."""
    name = cost.removeprefix("cost.")
    words = f"s of {name[:-2]}" if name.endswith("_s") else name
    return _UNITS.get(cost, Unit(1.0, words, words))


def format_number(value: float) -> str:
    """Returns three significant digits, all digits before the point, or a dash for NaN."""
    if pd.isna(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_cost(value: float, cost: str) -> str:
    """Returns a cost with its unit, such as `1.25 device-hours`."""
    unit = unit_of(cost)
    return f"an unknown number of {unit.many}" if pd.isna(value) else f"{format_number(value / unit.scale)} {unit.many}"


def format_score(value: float) -> str:
    """Returns a score (0 to 100) or a loss with two decimals, or a dash for NaN."""
    return MISSING if pd.isna(value) else f"{value:.2f}"


def report_table(
    models: pd.DataFrame, metric: str, mode: str, cost: str = COST, choice: Recommendation | None = None
) -> pd.DataFrame:
    """The finished models, best first, with what the report says of each.

    Args:
        models: [num_models, num_columns] as `analysis.load.load_models` gives them, or configurations.
        metric: The column that ranks.
        mode: `max` or `min`.
        cost: The column that the Pareto set weighs the metric against.
        choice: What `analysis.frontier.recommend` chose from `models`.

    Returns:
        [num_models, num_columns + 4] with the index labels of `models`, and after the key `pareto`, `best`,
        `recommended` (bool) and `cost.device_h` (device-hours).
    """
    score = signed_score(models, metric, mode)
    table = models.copy()
    table.insert(4, "pareto", pareto_mask(numbers(models, cost).to_numpy(), score.to_numpy()))
    table.insert(5, "best", [choice is not None and label == choice.best for label in models.index])
    table.insert(6, "recommended", [choice is not None and label == choice.recommended for label in models.index])
    table.insert(7, "cost.device_h", numbers(models, "cost.device_s") / 3600.0)
    table = table.astype({"pareto": bool, "best": bool, "recommended": bool})
    return table.loc[score.sort_values(ascending=False, kind="stable", na_position="last").index]


def readable_table(table: pd.DataFrame, searched: Iterable[str] = (), *, metric: str, cost: str = COST) -> pd.DataFrame:
    """What a person wants to see of a `report_table`, as text under short headings.

    Args:
        table: A `report_table`.
        searched: Dotted names of the configuration's values that are shown even where all models share them.
        metric: The column that ranks; shown also where it is not one of the usual ones.
        cost: The cost column in use; shown also where it is not one of the usual ones.

    Returns:
        [num_models, num_shown] of str. Columns without a value are left out.
    """
    shown: dict[str, list[str]] = {"trial": [_shown(value) for value in table["trial_id"]]}
    if table["sweep"].nunique() > 1:
        shown = {"sweep": [_shown(value) for value in table["sweep"]], **shown}
    shown["choice"] = [_choice(best, chosen) for best, chosen in zip(table["best"], table["recommended"], strict=True)]
    shown["Pareto"] = ["yes" if on_front else "" for on_front in table["pareto"]]
    if "front_share" in table:
        shown["front share"] = [format_share(value) for value in table["front_share"]]
    shown["epochs"] = [format_number(value) for value in table["budget_epochs"]]
    for column in _config_columns(table, searched):
        shown[column.removeprefix("config.")] = [_shown(value) for value in table[column]]
    for column in dict.fromkeys(("dev.f1", "dev.exact_match", metric, *columns_of(table, "test.", ".f1"))):
        shown[METRICS.get(column, column)] = [format_score(value) for value in numbers(table, column)]
        if f"{column}.low" in table:
            shown[f"{METRICS.get(column, column)}, 95 %"] = _intervals(table, f"{column}.low", f"{column}.high")
        if f"{column}.seeds_low" in table:
            ends = f"{column}.seeds_low", f"{column}.seeds_high"
            shown[f"{METRICS.get(column, column)}, 95 % over seeds"] = _intervals(table, *ends)
    for column in dict.fromkeys((*_UNITS, cost)):
        unit = unit_of(column)
        shown[unit.many] = [format_number(value / unit.scale) for value in numbers(table, column)]
    kept = {name: texts for name, texts in shown.items() if not texts or set(texts) != {MISSING}}
    return pd.DataFrame(kept, dtype="str")


def format_share(value: float) -> str:
    """Returns a share from 0 to 1 in percent, or a dash for NaN."""
    return MISSING if pd.isna(value) else f"{100 * value:.0f} %"


def _intervals(table: pd.DataFrame, lows: str, highs: str) -> list[str]:
    ends = zip(table[lows], table[highs], strict=True)
    return [MISSING if pd.isna(low) else f"{low:.2f} to {high:.2f}" for low, high in ends]


def _config_columns(table: pd.DataFrame, searched: Iterable[str]) -> list[str]:
    """The columns that tell the models apart, the seed last; the epochs have a column already."""
    names = {f"config.{name}" for name in searched}
    columns = [column for column in columns_of(table, "config.") if column != "config.seed"]
    if "config.num_epochs" in columns and numbers(table, "config.num_epochs").equals(table["budget_epochs"]):
        columns.remove("config.num_epochs")
    varied = [column for column in columns if column in names or table[column].nunique(dropna=False) > 1]
    seeds = "seeds" if "num_seeds" in table and (table["num_seeds"] > 1).any() else "seed"
    return [*varied, *([seeds] if table[seeds].nunique(dropna=False) > 1 or seeds == "seeds" else [])]


def _choice(best: bool, recommended: bool) -> str:
    return ", ".join(name for name, holds in (("best", best), ("recommended", recommended)) if holds)


def _shown(value: Any) -> str:
    if pd.isna(value):
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def to_markdown(texts: pd.DataFrame) -> str:
    """Returns a table of texts as Markdown, numbers to the right."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in texts.itertuples(index=False, name=None)]
    align = ["right" if _is_numeric(texts[name]) else "left" for name in texts]
    headers = [str(name).replace("|", "\\|") for name in texts]
    return tabulate(cells, headers, tablefmt="pipe", colalign=align if cells else None, disable_numparse=True)


def to_latex(texts: pd.DataFrame) -> str:
    """Returns a table of texts for LaTeX's `booktabs`, numbers to the right."""
    align = ["right" if _is_numeric(texts[name]) else "left" for name in texts]
    cells = texts.to_numpy().tolist()
    return tabulate(
        cells,
        [str(name) for name in texts],
        tablefmt="latex_booktabs",
        colalign=align if cells else None,
        disable_numparse=True,
    )


def to_text(texts: pd.DataFrame) -> str:
    """Returns a table of texts for a terminal, numbers to the right."""
    align = ["right" if _is_numeric(texts[name]) else "left" for name in texts]
    cells = texts.to_numpy().tolist()
    return tabulate(cells, [str(name) for name in texts], colalign=align if cells else None, disable_numparse=True)


def as_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Returns any table as texts, numbers with four significant digits and scores with two decimals."""
    return pd.DataFrame({name: [_text_of(str(name), value) for value in table[name]] for name in table}, dtype="str")


def _text_of(column: str, value: Any) -> str:
    is_score = column.startswith(("dev.", "test.")) and not isinstance(value, str)
    return format_score(value) if is_score else _shown(value)


def _is_numeric(texts: pd.Series) -> bool:
    values = texts[texts != MISSING].str.replace(",", "")
    return not values.empty and bool(pd.to_numeric(values, errors="coerce").notna().all())


def steps_table(table: pd.DataFrame, steps: Iterable[FrontStep], *, metric: str, cost: str = COST) -> pd.DataFrame:
    """What more compute buys from model to model of the Pareto set: [num_steps, 4 to 6] of str."""
    unit, name = unit_of(cost), METRICS.get(metric, metric)
    rows = []
    for step in steps:
        extra = step.extra_cost / unit.scale
        row = {"from": model_name(table, step.start), "to": model_name(table, step.end)}
        row |= {f"gain in {name}": f"{step.gain:.3g}", f"extra {unit.many}": format_number(extra)}
        row |= {f"gain per {unit.one}": format_number(step.gain / extra)} if unit.one else {}
        if cost != "cost.usd" and "cost.usd" in table:
            row["extra US dollars"] = format_number(table["cost.usd"][step.end] - table["cost.usd"][step.start])
        rows.append(row)
    return pd.DataFrame(rows, dtype="str")


def model_name(table: pd.DataFrame, label: Any) -> str:
    """Names a model by its trial, and by whatever else is needed to tell it from the others of the table."""
    model = table.loc[label]
    of_trial = table[(table["sweep"] == model["sweep"]) & (table["trial_id"] == model["trial_id"])]
    told = {"budget_epochs": "epochs", "seed": "seed"}
    details = [f"{word} {_shown(model[column])}" for column, word in told.items() if _varies(of_trial[column])]
    if "num_seeds" in model and model["num_seeds"] > 1:
        details.append(f"mean of seeds {model['seeds']}")
    if _varies(table["sweep"]):
        details.insert(0, f"sweep {_shown(model['sweep'])}")
    return _shown(model["trial_id"]) + (f" ({', '.join(details)})" if details else "")


def _varies(column: pd.Series) -> bool:
    return column.nunique(dropna=False) > 1
