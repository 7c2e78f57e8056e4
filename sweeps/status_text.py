"""The status of a sweep as lines for people."""

from collections.abc import Mapping

from sweeps.records import RECORDS, Row
from sweeps.status import OpenTrial, SweepStatus


def format_status(status: SweepStatus) -> str:
    """Returns the status as lines for people."""
    lines = [f"sweep {status.name} in {status.directory}: {_describe_driver(status)}"]
    lines += [describe_counts(status.counts, status.num_trials)]
    lines += [describe_best(status.best, status.metric)] if status.best else []
    lines += _describe_failure(status.last_failure) if status.last_failure and not status.best else []
    state = "runs" if status.runs else "ran last"
    lines += [f"{state}: trial {trial.trial_id}, {_describe_open(trial)}" for trial in status.open_trials]
    lines += [describe_cost(status.device_hours, status.device, status.usd)]
    times = [] if status.elapsed_s is None else [f"{duration(status.elapsed_s)} ago"]
    times += [] if status.silent_s is None else [f"last record {duration(status.silent_s)} ago"]
    lines += [", ".join([f"started {status.created}", *times])]
    if status.is_torn and not status.runs:
        lines += [f"the last line of {RECORDS} is incomplete and was left out, as `resume` will do"]
    return "\n".join(lines)


def _describe_driver(status: SweepStatus) -> str:
    driver = status.driver
    if driver and driver.lives:
        return f"runs, process {driver.pid} on {driver.host}"
    if status.has_ended:
        return "ended, all trials have"
    remedy = f"resume with python -m sweeps resume {status.directory}"
    if driver is None:
        return f"not running; {remedy}"
    gone = f"its process {driver.pid} on {driver.host} gave its last sign of life {duration(driver.silent_s)} ago"
    return f"not running, {gone}; {remedy}"


def describe_counts(counts: Mapping[str, int], num_trials: int | None) -> str:
    """Returns how many trials there are by status, and how many were asked for if that is known."""
    asked = "" if num_trials is None else f" of {num_trials}"
    if not counts:
        return f"trials: 0{asked}, none was started yet"
    parts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    return f"trials: {sum(counts.values())}{asked}: {parts}"


def describe_best(best: Row, metric: str) -> str:
    """Returns the score of the best model so far and what it was trained with."""
    scores = dict.fromkeys((metric, "dev.f1", "dev.exact_match"))
    shown = [describe_score(best, key) for key in scores if isinstance(best.get(key), int | float)]
    values = ", ".join(
        f"{key.removeprefix('config.')}={f'{value:.3g}' if isinstance(value, float) else value}"
        for key, value in best.items()
        if key.startswith("config.")
    )
    return f"best so far: trial {best['trial_id']}, {', '.join(shown) or 'without a score'} ({values})"


def describe_score(row: Row, metric: str) -> str:
    """Returns a row's score with its name."""
    value = row.get(metric)
    return f"{metric} {value:.2f}" if isinstance(value, int | float) else f"{metric} -"


def _describe_failure(failure: Row) -> list[str]:
    error = f"{failure.get('error.type')}: {failure.get('error.message')}"
    log = f" (log: {failure['error.log']})" if failure.get("error.log") else ""
    return ["best so far: no trial has finished a model", f"last failure: trial {failure['trial_id']}: {error}{log}"]


def _describe_open(trial: OpenTrial) -> str:
    if trial.num_epochs is None:
        return f"no report yet, started {duration(trial.silent_s)} ago"
    return f"epoch {trial.epochs_trained}/{trial.num_epochs}, silent for {duration(trial.silent_s)}"


def describe_cost(device_hours: float, device: str, usd: float | None) -> str:
    """Returns what trials held so far, and what that costs."""
    dollars = "no price is known" if usd is None else f"${usd:.2f}"
    return f"cost so far: {device_hours:.2f} device-hours of {device} ({dollars})"


def duration(seconds: float) -> str:
    """Returns a time span in its two largest units, such as `2 h 13 min`; what is negative, as 0 s."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours = whole // 60, whole // 3600
    if hours < 1:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
