"""The status of a sweep as lines for people."""

from sweeps.records import RECORDS, Row
from sweeps.status import OpenTrial, SweepStatus


def format_status(status: SweepStatus) -> str:
    """Returns the status as lines for people."""
    lines = [f"sweep {status.name} in {status.directory}: {_describe_driver(status)}", _describe_counts(status)]
    lines += [_describe_best(status)] if status.best else []
    lines += _describe_failure(status.last_failure) if status.last_failure and not status.best else []
    state = "runs" if status.runs else "ran last"
    lines += [f"{state}: trial {trial.trial_id}, {_describe_open(trial)}" for trial in status.open_trials]
    lines += [_describe_cost(status)]
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


def _describe_counts(status: SweepStatus) -> str:
    asked = "" if status.num_trials is None else f" of {status.num_trials}"
    if not status.counts:
        return f"trials: 0{asked}, none was started yet"
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in status.counts.items())
    return f"trials: {sum(status.counts.values())}{asked}: {counts}"


def _describe_best(status: SweepStatus) -> str:
    best = status.best or {}
    scores = dict.fromkeys((status.metric, "dev.f1", "dev.exact_match"))
    shown = [f"{key} {best[key]:.2f}" for key in scores if isinstance(best.get(key), int | float)]
    values = ", ".join(
        f"{key.removeprefix('config.')}={f'{value:.3g}' if isinstance(value, float) else value}"
        for key, value in best.items()
        if key.startswith("config.")
    )
    return f"best so far: trial {best['trial_id']}, {', '.join(shown) or 'without a score'} ({values})"


def _describe_failure(failure: Row) -> list[str]:
    error = f"{failure.get('error.type')}: {failure.get('error.message')}"
    log = f" (log: {failure['error.log']})" if failure.get("error.log") else ""
    return ["best so far: no trial has finished a model", f"last failure: trial {failure['trial_id']}: {error}{log}"]


def _describe_open(trial: OpenTrial) -> str:
    if trial.num_epochs is None:
        return f"no report yet, started {duration(trial.silent_s)} ago"
    return f"epoch {trial.epochs_trained}/{trial.num_epochs}, silent for {duration(trial.silent_s)}"


def _describe_cost(status: SweepStatus) -> str:
    dollars = "no price is known" if status.usd is None else f"${status.usd:.2f}"
    return f"cost so far: {status.device_hours:.2f} device-hours of {status.device} ({dollars})"


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
