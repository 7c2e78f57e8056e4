import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_train.config import build_config
from qa_train.errors import ConfigError
from sweeps.config import StopConfig, SweepConfig
from sweeps.records import Row, Value
from sweeps.stopping import Stopping, group_sizes, rung_epochs, small_groups

MODES: tuple[Literal["max", "min"], ...] = ("max", "min")


class Report(NamedTuple):
    """What a trial tells after an epoch."""

    trial_id: str
    num_epochs: int
    epochs_trained: int
    value: Value


def stop_config(trial_scheduler: str, **keys: Any) -> StopConfig:
    return StopConfig(trial_scheduler=trial_scheduler, **keys)  # type: ignore[arg-type]


def decisions(stopping: Stopping, reports: Iterable[Report]) -> list[bool]:
    return [stopping.decide(*report) for report in reports]


def at_rung(values: Sequence[Value], num_epochs: int = 4, epoch: int = 1) -> list[Report]:
    """One report of each of several trials, all at the same point of the schedule."""
    return [Report(f"{number:05d}", num_epochs, epoch, value) for number, value in enumerate(values)]


def rows(reports: Iterable[Report]) -> list[Row]:
    return [
        {
            "trial_id": trial_id,
            "config.num_epochs": num_epochs,
            "epochs_trained": epoch,
            "dev.f1": value if isinstance(value, int | float) and math.isfinite(value) else None,  # as in the journal
        }
        for trial_id, num_epochs, epoch, value in reports
    ]


def brute_force(stop: StopConfig, mode: str, reports: Sequence[Report]) -> list[bool]:
    """The rules as they are written in the papers: at each report all reports before it are looked at again."""
    told: list[Report] = []
    stopped: set[str] = set()
    found = []
    for report in reports:
        if report.trial_id not in stopped and report not in told:
            told.append(report)
            if looks_poor(stop, mode, told):
                stopped.add(report.trial_id)
        found.append(report.trial_id in stopped)
    return found


def looks_poor(stop: StopConfig, mode: str, told: Sequence[Report]) -> bool:
    last = told[-1]
    at = [math.ceil(fraction * last.num_epochs) for fraction in stop.rungs]
    if last.epochs_trained not in at or last.epochs_trained == last.num_epochs:
        return False
    group = [report for report in told if report.num_epochs == last.num_epochs]
    there = [report for report in group if report.epochs_trained == last.epochs_trained]
    if stop.trial_scheduler == "asha":
        num_better = sum(score(other, mode) > score(last, mode) for other in there)
        num_best = math.floor(len(there) / stop.reduction_factor)
        return num_best >= 1 and num_better >= num_best
    means = []
    for other in there[:-1]:
        history = [report for report in group if report.trial_id == other.trial_id]
        means.append(np.mean([score(r, mode) for r in history if r.epochs_trained <= last.epochs_trained]))
    best = max(score(report, mode) for report in group if report.trial_id == last.trial_id)
    return len(means) >= stop.min_trials and bool(best < np.median(means))


def score(report: Report, mode: str) -> float:
    if report.value is None or not math.isfinite(float(report.value)):
        return -math.inf
    return float(report.value) if mode == "max" else -float(report.value)


# Small integers, so that there are ties and that means of up to 8 of them are compared without rounding.
VALUES = st.one_of(st.integers(0, 6).map(float), st.sampled_from([None, math.nan, math.inf, -math.inf]))


@st.composite
def sequences(draw: st.DrawFn) -> list[Report]:
    """Reports of trials that run at once, some told twice, some trials ending early by themselves."""
    waiting: dict[str, list[Report]] = {}
    for number in range(draw(st.integers(1, 14))):
        num_epochs = draw(st.sampled_from([1, 2, 4, 8]))
        length = draw(st.integers(1, num_epochs))
        trial_id = f"{number:05d}"
        waiting[trial_id] = [Report(trial_id, num_epochs, epoch, draw(VALUES)) for epoch in range(1, length + 1)]
    order = draw(st.permutations([trial_id for trial_id, own in waiting.items() for _ in own]))
    told = []
    for trial_id in order:
        told.append(waiting[trial_id].pop(0))
        if draw(st.integers(0, 4)) == 0:
            told.append(draw(st.sampled_from(told)))
    return told


CONFIGS = st.one_of(
    st.builds(stop_config, st.just("asha"), reduction_factor=st.integers(2, 4)),
    st.builds(stop_config, st.just("median"), min_trials=st.integers(1, 4), rungs=st.just((0.2, 0.5, 0.9))),
)


@settings(max_examples=150, deadline=None)
@given(CONFIGS, st.sampled_from(MODES), sequences())
def test_decisions_are_those_of_the_rules_taken_literally(
    stop: StopConfig, mode: Literal["max", "min"], reports: list[Report]
) -> None:
    assert decisions(Stopping(stop, mode), reports) == brute_force(stop, mode, reports)


@settings(max_examples=60, deadline=None)
@given(CONFIGS, sequences())
def test_a_sweep_rebuilt_from_its_records_decides_as_the_one_that_ran_on(
    stop: StopConfig, reports: list[Report]
) -> None:
    live, middle = Stopping(stop, "max"), len(reports) // 2
    decisions(live, reports[:middle])
    rebuilt = Stopping(stop, "max")
    rebuilt.replay(rows(reports[:middle]), "dev.f1")
    trial_ids = {report.trial_id for report in reports}
    assert {key for key in trial_ids if rebuilt.has_stopped(key)} == {key for key in trial_ids if live.has_stopped(key)}
    assert decisions(rebuilt, reports[middle:]) == decisions(live, reports[middle:])


@settings(max_examples=60, deadline=None)
@given(CONFIGS, sequences())
def test_groups_never_mix(stop: StopConfig, reports: list[Report]) -> None:
    together = decisions(Stopping(stop, "max"), reports)
    for num_epochs in {report.num_epochs for report in reports}:
        alone = [report for report in reports if report.num_epochs == num_epochs]
        kept = [told for report, told in zip(reports, together, strict=True) if report.num_epochs == num_epochs]
        assert decisions(Stopping(stop, "max"), alone) == kept


@settings(max_examples=60, deadline=None)
@given(CONFIGS, sequences())
def test_min_mode_is_max_mode_upside_down(stop: StopConfig, reports: list[Report]) -> None:
    flipped = [r._replace(value=-r.value) if isinstance(r.value, float) else r for r in reports]
    assert decisions(Stopping(stop, "min"), flipped) == decisions(Stopping(stop, "max"), reports)


@pytest.mark.parametrize(
    ("num_epochs", "expected"),
    [(1, ()), (2, (1,)), (3, (1, 2)), (4, (1, 2)), (5, (2, 3)), (10, (3, 5)), (30, (8, 15))],
)
def test_a_rung_is_the_first_evaluation_at_its_fraction_of_the_schedule(
    num_epochs: int, expected: tuple[int, ...]
) -> None:
    assert rung_epochs((0.25, 0.5), num_epochs) == expected


def test_the_last_epoch_is_no_rung() -> None:
    assert rung_epochs((0.5, 0.9), 3) == (2,)
    assert rung_epochs((0.9,), 3) == ()


def test_a_rung_is_not_moved_by_the_binary_form_of_its_fraction() -> None:
    assert rung_epochs((0.07, 0.14, 0.28, 0.55), 100) == (7, 14, 28, 55)


def test_asha_keeps_the_best_third_of_those_seen_so_far() -> None:
    stopping = Stopping(stop_config("asha"), "max")
    told = decisions(stopping, at_rung([50.0, 40.0, 45.0, 60.0, 55.0, 56.0, 1.0]))
    assert told == [False, False, True, False, True, False, True]


def test_asha_compares_only_at_rungs() -> None:
    stopping = Stopping(stop_config("asha", rungs=(0.5,)), "max")
    for epoch, expected in ((1, False), (3, False), (4, False), (2, True)):
        told = decisions(stopping, [r._replace(trial_id=f"{r.trial_id}-{epoch}") for r in at_rung([9, 8, 7], 4, epoch)])
        assert told == [False, False, expected]


def test_trials_that_are_alike_are_stopped_by_no_rule() -> None:
    for stop in (stop_config("asha"), stop_config("median")):
        stopping = Stopping(stop, "max")
        for epoch in range(1, 13):
            assert decisions(stopping, at_rung([0.1] * 8, 12, epoch)) == [False] * 8  # 0.1 + 0.1 + 0.1 > 3 * 0.1


def test_the_median_rule_compares_a_trials_best_value_with_the_means_of_the_others() -> None:
    stopping = Stopping(stop_config("median", rungs=(0.5,)), "max")
    for number in range(3):
        decisions(stopping, [Report(f"{number}", 4, 1, 20.0), Report(f"{number}", 4, 2, 40.0)])
    assert decisions(stopping, [Report("best", 4, 1, 31.0), Report("best", 4, 2, 5.0)]) == [False, False]
    assert decisions(stopping, [Report("worst", 4, 1, 29.0), Report("worst", 4, 2, 29.5)]) == [False, True]


def test_the_median_rule_waits_for_min_trials_others() -> None:
    values = [9.0, 8.0, 7.0, 6.0]
    assert decisions(Stopping(stop_config("median", min_trials=2), "max"), at_rung(values)) == [
        False,
        False,
        True,
        True,
    ]
    assert decisions(Stopping(stop_config("median"), "max"), at_rung(values)) == [False, False, False, True]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf, "n/a"])
def test_a_value_that_is_none_or_not_finite_counts_as_worst(mode: Literal["max", "min"], missing: Value) -> None:
    for stop in (stop_config("asha"), stop_config("median", min_trials=2)):
        assert decisions(Stopping(stop, mode), at_rung([5.0, 6.0, missing])) == [False, False, True]


def test_what_a_stopped_trial_reports_later_does_not_matter() -> None:
    for stop in (stop_config("asha"), stop_config("median", min_trials=2)):
        told, untold = Stopping(stop, "max"), Stopping(stop, "max")
        for stopping in (told, untold):
            assert decisions(stopping, at_rung([5.0, 6.0, 1.0]))[-1]
        assert decisions(told, [Report("00002", 4, epoch, 99.0) for epoch in (2, 3, 4)]) == [True] * 3
        second = [*at_rung([5.0, 6.0], 4, 2), Report("late", 4, 1, 6.0), Report("late", 4, 2, 5.5)]
        assert decisions(told, second) == decisions(untold, second)


def test_an_epoch_that_a_trial_repeats_after_a_failure_counts_once() -> None:
    stopping = Stopping(stop_config("asha"), "max")
    assert decisions(stopping, at_rung([5.0, 6.0])) == [False, False]
    assert decisions(stopping, [Report("00001", 4, 1, 1.0), Report("00001", 4, 1, 9.0)]) == [False, False]
    assert stopping.decide("third", 4, 1, 6.0) is False
    assert stopping.decide("fourth", 4, 1, 5.5) is True


def test_without_a_trial_scheduler_no_trial_is_stopped() -> None:
    stopping = Stopping(StopConfig(), "max")
    assert not any(decisions(stopping, at_rung([9.0, 8.0, 7.0, 0.0, None])))
    assert not stopping.has_stopped("00003")


def test_rows_that_report_no_epoch_are_passed_over() -> None:
    stopping = Stopping(stop_config("asha"), "max")
    told = rows(at_rung([5.0, 6.0, 1.0]))
    failed: Row = {"trial_id": "x", "config.num_epochs": 4, "status": "failed", "error.type": "DataError"}
    stopped: Row = {**told[2], "status": "stopped_early"}
    stopping.replay([failed, *told, stopped, failed], "dev.f1")
    assert [stopping.has_stopped(f"{number:05d}") for number in range(3)] == [False, False, True]
    assert not stopping.has_stopped("x")


def test_finalists_in_the_records_are_neither_stopped_nor_compared_with() -> None:
    for stop in (stop_config("asha"), stop_config("median", min_trials=2)):
        stopping = Stopping(stop, "max")
        finalists = [Report(f"final-00000-seed{seed}", 4, 1, value) for seed, value in enumerate((98.0, 99.0, 1.0))]
        stopping.replay(rows(finalists), "dev.f1")
        assert not any(stopping.has_stopped(finalist.trial_id) for finalist in finalists)
        assert decisions(stopping, at_rung([5.0, 4.0])) == [False, False]  # as the first of their group


def test_the_median_rule_of_ray_decides_alike() -> None:
    schedulers = pytest.importorskip("ray.tune.schedulers")
    generator, controller = np.random.default_rng(0), Mock(**{"get_live_trials.return_value": []})
    theirs = schedulers.MedianStoppingRule("epoch", "f1", "max", grace_period=1, min_samples_required=3)
    ours = Stopping(stop_config("median", rungs=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)), "max")
    num_stopped = 0
    for trial_id in (f"{number:05d}" for number in range(40)):
        trial = Mock(trial_id=trial_id)
        for epoch in range(1, 9):
            f1 = float(generator.uniform(0, 80))
            expected = theirs.on_trial_result(controller, trial, {"epoch": epoch, "f1": f1}) == "STOP"
            assert ours.decide(trial_id, 10, epoch, f1) == expected
            if expected:
                num_stopped += 1
                break
    assert 5 < num_stopped < 35


def sweep_config(
    stop: Any = None, num_trials: int = 20, enqueue: Any = (), seeds: Any = (0,), **space: Any
) -> SweepConfig:
    plain = {
        "train": {"data": {"train": "x"}, "num_epochs": 5},
        "space": {"optim.learning_rate": {"loguniform": [1e-6, 1e-4]}, **space},
        "search": {"num_trials": num_trials, "enqueue": enqueue, "seeds": seeds},
        "stop": stop or {},
    }
    return build_config(SweepConfig, plain, "test")


def test_groups_expect_equal_shares_of_the_trials() -> None:
    assert group_sizes(sweep_config(num_epochs={"int": [1, 10]})) == pytest.approx(dict.fromkeys(range(1, 11), 2.0))
    assert group_sizes(sweep_config(num_epochs={"choice": [30, 10]})) == {10: 10.0, 30: 10.0}
    assert group_sizes(sweep_config()) == {5: 20.0}


def test_enqueued_trials_are_counted_where_they_are() -> None:
    points = [{"optim.learning_rate": 1e-5, "num_epochs": 2}] * 4
    assert group_sizes(sweep_config(None, 10, points, num_epochs={"int": [1, 3]})) == pytest.approx({1: 2, 2: 6, 3: 2})


def test_groups_on_a_log_scale_expect_what_optuna_samples() -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = [study.ask().suggest_int("num_epochs", 1, 4, log=True) for _ in range(1000)]
    sizes = group_sizes(sweep_config(num_trials=1000, num_epochs={"int": [1, 4], "log": True}))
    assert [sizes[value] for value in range(1, 5)] == pytest.approx([found.count(v) for v in range(1, 5)], abs=50)


def test_small_groups_are_those_that_are_compared_and_expect_fewer_than_four() -> None:
    stop, few = {"trial_scheduler": "asha"}, {"int": [1, 10]}
    assert small_groups(sweep_config(stop, num_epochs=few)) == pytest.approx(dict.fromkeys(range(2, 11), 2.0))
    assert small_groups(sweep_config(stop, num_epochs={"int": [1, 5]})) == {}
    assert small_groups(sweep_config(num_epochs=few)) == {}


def test_each_seed_of_a_configuration_is_a_trial_of_its_group() -> None:
    stop, lengths = {"trial_scheduler": "asha"}, {"choice": [2, 4]}
    assert small_groups(sweep_config(stop, 4, seeds=[0, 1, 2], num_epochs=lengths)) == {}
    assert small_groups(sweep_config(stop, 2, seeds=[0, 1, 2], num_epochs=lengths)) == {2: 3.0, 4: 3.0}


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ({"reduction_factor": 4}, "stop.reduction_factor: expected 3, the default, with trial_scheduler none, which"),
        ({"trial_scheduler": "median", "reduction_factor": 4}, "stop.reduction_factor: expected 3, the default, with"),
        (
            {"trial_scheduler": "asha", "min_trials": 4},
            "stop.min_trials: expected 3, the default, with trial_scheduler",
        ),
        ({"rungs": [0.5]}, "stop.rungs: expected the list [0.25, 0.5], the default, with trial_scheduler none"),
        (
            {"trial_scheduler": "asha", "rungs": [0.5, 0.25]},
            "stop.rungs: expected each rung above the one before, foun",
        ),
        (
            {"trial_scheduler": "asha", "rungs": [0.5, 0.5]},
            "stop.rungs: expected each rung above the one before, found",
        ),
        (
            {"trial_scheduler": "asha", "rungs": [0.5, 1.0]},
            "stop.rungs: expected a list of ascending fractions, each >",
        ),
        ({"trial_scheduler": "asha", "rungs": []}, "stop.rungs: expected a list of ascending fractions, each > 0 and"),
        (
            {"trial_scheduler": "asha", "reduction_factor": 1},
            "stop.reduction_factor: expected an integer from 2 to 100",
        ),
        ({"trial_scheduler": "median", "min_trials": 0}, "stop.min_trials: expected an integer from 1 to 10000, found"),
    ],
)
def test_settings_that_would_not_be_honoured_are_refused(stop: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_config(stop)
    [problem] = caught.value.problems
    assert problem.startswith(expected)


def test_all_mistakes_of_stop_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_config({"reduction_factor": 2, "min_trials": 9, "rungs": [0.7, 0.1]})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "stop.rungs",
        "stop.reduction_factor",
        "stop.min_trials",
    ]


def test_trials_of_different_schedules_are_not_compared() -> None:
    space: dict[str, Any] = {"optim.schedule": {"choice": ["linear", "constant"]}}
    with pytest.raises(ConfigError, match=r"stop.trial_scheduler: expected none where space has optim.schedule"):
        sweep_config({"trial_scheduler": "asha"}, **space)
    assert sweep_config(**space)


def test_the_settings_of_a_trial_scheduler_come_back_from_a_manifest() -> None:
    for stop in ({}, {"trial_scheduler": "asha", "rungs": [0.3]}, {"trial_scheduler": "median", "min_trials": 5}):
        config = sweep_config(stop)
        assert build_config(SweepConfig, config.model_dump(mode="json"), "manifest.json") == config


def test_with_several_budgets_these_are_the_rungs_and_only_finished_models_are_compared() -> None:
    stopping = Stopping(StopConfig(trial_scheduler="asha", reduction_factor=2), "max", budgets=(1, 3, 8))
    for number, score in enumerate((50.0, 60.0)):
        assert not stopping.decide(f"good {number}", 8, 1, score)
        assert not stopping.decide(f"good {number}", 8, 3, score + 1)
        assert not stopping.decide(f"good {number}", 8, 8, score + 2)
    assert stopping.decide("poor", 8, 1, 1.0)
