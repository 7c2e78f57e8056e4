"""What a report says in plain sentences: how the sweeps stand, what is best, what to train, what more would buy."""

from collections.abc import Iterator, Mapping

import pandas as pd

from analysis.frontier import Recommendation
from analysis.load import Sweeps, columns_of
from analysis.tables import METRICS, format_cost, format_number, format_score, model_name, unit_of
from sweeps.records import Manifest


def tell_trials(sweeps: Sweeps) -> tuple[str, ...]:
    """Returns one sentence for each sweep: how many of its trials ended in which way."""
    return tuple(_tell_sweep(sweep_id, sweeps.trials) for sweep_id in sweeps.manifests)


def _tell_sweep(sweep_id: str, trials: pd.DataFrame) -> str:
    status = trials["status"][trials["sweep"] == sweep_id].fillna("without a status")
    if status.empty:
        return f"Sweep {sweep_id}: no trial has reported yet."
    words = {"running": "still running (or cut off)", "stopped_early": "stopped early"}
    counts = ", ".join(f"{count} {words.get(str(name), name)}" for name, count in status.value_counts().items())
    return f"Sweep {sweep_id}: {len(status)} trial{'s' if len(status) > 1 else ''}, {counts}."


def tell_no_choice(sweeps: Sweeps) -> str:
    """Returns why nothing can be recommended, with the last failure if there is one."""
    if len(sweeps.models):
        return f"Nothing to recommend: no finished model has a score ({sweeps.metric})."
    failed = sweeps.trials[sweeps.trials["status"] == "failed"]
    texts = [str(text) for text in failed.iloc[-1][columns_of(failed, "error")].dropna()] if len(failed) else []
    reason = f"; the last failure: {' '.join(': '.join(texts).split())}" if texts else ""
    return f"Nothing to recommend: no model has been finished{reason}."


def tell_choice(
    table: pd.DataFrame, choice: Recommendation, manifests: Mapping[str, Manifest], *, metric: str, cost: str
) -> tuple[str, str]:
    """Returns two sentences: which model is best, and which one to train with what the best one buys beyond it.

    Args:
        table: A `report_table`.
        choice: What was chosen from it.
        manifests: By sweep id; they name the kind of device.
        metric: The column that ranks.
        cost: The column that was saved on.
    """
    best, chosen = table.loc[choice.best], table.loc[choice.recommended]
    by = "" if metric == "dev.f1" else f" by {METRICS.get(metric, metric)} ({format_number(best[metric])})"
    first = f"The best model{by} is {model_name(table, choice.best)}: {_tell_model(best, manifests, cost)}."
    within = f"within {choice.within_f1:g} F1 of"
    if choice.recommended != choice.best:
        second = (
            f"Recommended is {model_name(table, choice.recommended)}, the cheapest {within} the best: "
            f"{_tell_model(chosen, manifests, cost)}; {_tell_exchange(best, chosen, cost)}."
        )
    elif choice.cost is None:
        second = f"It is also the recommended one, since no cost ({cost}) is known to save on."
    elif table[metric].notna().sum() == 1:
        second = "It is also the recommended one, since no other model has a score."
    else:
        second = f"It is also the recommended one: no cheaper model is {within} it."
    return first, second


def _tell_model(model: pd.Series, manifests: Mapping[str, Manifest], cost: str) -> str:
    device = f" ({manifests[model['sweep']].device})" if cost == "cost.device_s" else ""
    f1, exact_match = format_score(model["dev.f1"]), format_score(model["dev.exact_match"])
    return f"dev F1 {f1} and exact match {exact_match} for {format_cost(model[cost], cost)}{device}"


def _tell_exchange(best: pd.Series, chosen: pd.Series, cost: str) -> str:
    """What the best model's extra cost over the recommended one buys; it costs more, or its cost is unknown."""
    unit, gain = unit_of(cost), best["dev.f1"] - chosen["dev.f1"]
    if pd.isna(best[cost]):
        return "what the best one costs is not known"
    extra = (best[cost] - chosen[cost]) / unit.scale
    more = f"{format_number(extra)} {unit.many} more"
    if gain < 0:
        return f"the best one costs {more}, at {-gain:.2f} F1 less"
    if gain == 0:
        return f"the best one costs {more}, at the same F1"
    rate = f", {format_number(gain / extra)} F1 per {unit.one}" if unit.one else ""
    return f"the best one costs {more} and buys {gain:.2f} F1{rate}"


def tell_baselines(manifests: Mapping[str, Manifest]) -> tuple[str, ...]:
    """Returns the dev scores of models that learned nothing: one sentence, or one for each sweep if they differ."""
    told = {sweep_id: _tell_scores(manifest.baselines) for sweep_id, manifest in manifests.items()}
    told = {sweep_id: text for sweep_id, text in told.items() if text}
    if len(set(told.values())) == 1:
        return (f"Baselines on dev: {next(iter(told.values()))}.",)
    return tuple(f"Baselines on dev, sweep {sweep_id}: {text}." for sweep_id, text in told.items())


def _tell_scores(baselines: Mapping[str, float | None]) -> str:
    scores: dict[str, list[str]] = {}
    for key, value in baselines.items():
        name, _, score = key.rpartition(".")
        word = {"f1": "F1", "exact_match": "exact match"}.get(score, score)
        shown = format_score(value) if isinstance(value, int | float) else "unknown"
        scores.setdefault(name.replace("_", " ") or "baseline", []).append(f"{word} {shown}")
    return "; ".join(f"{name} {', '.join(values)}" for name, values in scores.items())


def tell_cautions(manifests: Mapping[str, Manifest], cost: str) -> Iterator[str]:
    """Yields what a reader must know before comparing the costs."""
    devices = dict.fromkeys(manifest.device for manifest in manifests.values())
    if cost.endswith("_s") and len(devices) > 1:
        yield (
            f"Caution: the sweeps ran on different kinds of device ({', '.join(devices)}), whose time is not worth the "
            "same; --cost cost.tflop compares the work itself."
        )
