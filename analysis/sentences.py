"""What a report says in plain sentences: how the sweeps stand, what is best, what to train, what more would buy."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.frontier import FrontStep, Recommendation, numbers
from analysis.load import Sweeps, columns_of
from analysis.statistics import Difference, Optimism
from analysis.summaries import spent
from analysis.tables import METRICS, format_cost, format_number, format_score, model_name, unit_of
from qa_train.intervals import Interval
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


def tell_spent(sweeps: Sweeps, cost: str) -> tuple[str, ...]:
    """Returns one sentence for each sweep whose cost is known: what all of its trials took, also those that failed."""
    totals, dollars = spent(sweeps, cost), spent(sweeps, "cost.usd")
    return tuple(
        f"Sweep {sweep_id} took {format_cost(totals[sweep_id], cost)} in all{_tell_dollars(dollars[sweep_id], cost)}."
        for sweep_id in sweeps.manifests
        if pd.notna(totals[sweep_id]) and unit_of(cost).one
    )


def tell_choice(
    table: pd.DataFrame,
    choice: Recommendation,
    manifests: Mapping[str, Manifest],
    *,
    metric: str,
    cost: str,
    steps: Sequence[FrontStep] = (),
) -> tuple[str, str]:
    """Returns two sentences: which model is best, and which one to train with what more would buy, and at what price.

    Args:
        table: A `report_table`.
        choice: What was chosen from it.
        manifests: By sweep id; they name the kind of device.
        metric: The column that ranks.
        cost: The column that was saved on.
        steps: Of `analysis.frontier.front_steps`; that from the chosen model is told if it does not lead to the best.
    """
    best, chosen = table.loc[choice.best], table.loc[choice.recommended]
    by = "" if metric == "dev.f1" else f" by {METRICS.get(metric, metric)} ({format_number(best[metric])})"
    first = f"The best model{by} is {model_name(table, choice.best)}: {_tell_model(best, manifests, cost)}."
    if choice.recommended != choice.best:
        next_steps = [step for step in steps if step.start == choice.recommended and step.end != choice.best]
        bought = [_tell_step(table, step, cost) for step in next_steps if metric == "dev.f1"]
        told = [_tell_model(chosen, manifests, cost), *bought, _tell_exchange(best, chosen, cost)]
        told += [_tell_unscored(choice.num_unscored)] if choice.num_unscored else []
        second = (
            f"Recommended is {model_name(table, choice.recommended)}, the cheapest {_tell_rule(choice)}: "
            f"{'; '.join(told)}."
        )
    elif choice.cost is None:
        second = f"It is also the recommended one, since no cost ({cost}) is known to save on."
    elif table[metric].notna().sum() == 1:
        second = "It is also the recommended one, since no other model has a score."
    elif choice.within_f1 is None:
        second = f"It is also the recommended one: {_tell_none_cheaper(table, choice, metric, cost)}."
    else:
        second = f"It is also the recommended one: no cheaper model is within {choice.within_f1:g} F1 of it."
    return first, second


def _tell_none_cheaper(table: pd.DataFrame, choice: Recommendation, metric: str, cost: str) -> str:
    """Why the paired rule found no cheaper model to recommend."""
    costs = numbers(table, cost)
    most = np.inf if np.isnan(costs[choice.best]) else costs[choice.best]
    num_cheaper = int((table[metric].notna() & (costs < most)).sum())
    if not num_cheaper:
        return "no other model with a score is known to cost less"
    if not choice.num_unscored:
        return "each cheaper model is worse on the same questions, beyond chance"
    others = ", each other one is worse, beyond chance" if num_cheaper > choice.num_unscored else ""
    return f"{_tell_unscored(choice.num_unscored)}{others}"


def _tell_unscored(number: int) -> str:
    return f"{number} cheaper model{'s' if number > 1 else ''} could not be compared on the same questions"


def _tell_rule(choice: Recommendation) -> str:
    if choice.difference is None:
        return f"within {choice.within_f1:g} F1 of the best"
    return f"that cannot be told from the best on the same questions ({tell_difference(choice.difference)})"


def tell_difference(difference: Difference) -> str:
    """Returns a difference in F1 in words, such as `0.50 F1 lower, 95 % interval -1.20 to 0.20 over 9 articles`."""
    amount, word = abs(difference.mean), "lower" if difference.mean < 0 else "higher"
    return f"{amount:.2f} F1 {word}{tell_interval(difference.interval, difference.num_articles)}"


def tell_interval(interval: Interval | None, num_articles: int) -> str:
    """Returns an interval as what follows a number, or that there is none."""
    if interval is None:
        return f"; {num_articles} articles are too few for an interval"
    return f", 95 % interval {interval.low:.2f} to {interval.high:.2f} over {num_articles} articles"


def tell_optimism(luck: Optimism) -> str:
    """Returns how much of the best model's F1 is the luck of having been chosen on these questions."""
    interval = f" (95 % interval {luck.interval.low:.2f} to {luck.interval.high:.2f})" if luck.interval else ""
    subtract = f"{luck.amount:.2f} is to be subtracted" if luck.amount > 0 else "the choice shows no luck"
    return (
        f"The best of {luck.num_models} models was chosen on the questions that it is scored on. Chosen without an "
        f"article and scored on that one, in turn, it has F1 {luck.corrected:.2f}{interval}, not {luck.best:.2f}: "
        f"{subtract}. What the search itself has learnt of these articles is not in that."
    )


def _tell_model(model: pd.Series, manifests: Mapping[str, Manifest], cost: str) -> str:
    device = f" ({manifests[model['sweep']].device})" if cost == "cost.device_s" else ""
    f1, exact_match = format_score(model["dev.f1"]), format_score(model["dev.exact_match"])
    if pd.notna(low := model.get("dev.f1.low")):
        f1 += f" (95 % interval {low:.2f} to {model['dev.f1.high']:.2f})"
    dollars = _tell_dollars(model.get("cost.usd"), cost)
    return f"dev F1 {f1} and exact match {exact_match} for {format_cost(model[cost], cost)}{device}{dollars}"


def _tell_dollars(dollars: float | None, cost: str) -> str:
    return "" if cost == "cost.usd" or dollars is None or pd.isna(dollars) else f" (${format_number(dollars)})"


def _tell_step(table: pd.DataFrame, step: FrontStep, cost: str) -> str:
    """What the next dearer model of the front buys, with its epochs."""
    start, end = table.loc[step.start], table.loc[step.end]
    epochs = f"of {format_number(end['budget_epochs'])} epochs instead of {format_number(start['budget_epochs'])}"
    return (
        f"the next dearer model of the front, {model_name(table, step.end)} {epochs}, {_tell_price(end, start, cost)}"
    )


def _tell_exchange(best: pd.Series, chosen: pd.Series, cost: str) -> str:
    """What the best model's extra cost over the recommended one buys; it costs more, or its cost is unknown."""
    return (
        "what the best one costs is not known"
        if pd.isna(best[cost])
        else f"the best one {_tell_price(best, chosen, cost)}"
    )


def _tell_price(dear: pd.Series, cheap: pd.Series, cost: str) -> str:
    unit, gain = unit_of(cost), dear["dev.f1"] - cheap["dev.f1"]
    extra = (dear[cost] - cheap[cost]) / unit.scale
    dollars = _tell_dollars(dear.get("cost.usd", float("nan")) - cheap.get("cost.usd", float("nan")), cost)
    more = f"{format_number(extra)} {unit.many}{dollars} more"
    if gain < 0:
        return f"costs {more}, at {-gain:.2f} F1 less"
    if gain == 0:
        return f"costs {more}, at the same F1"
    rate = f", {format_number(gain / extra)} F1 per {unit.one}" if unit.one else ""
    return f"costs {more} and buys {gain:.2f} F1{rate}"


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
