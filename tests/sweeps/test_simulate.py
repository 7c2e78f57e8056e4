import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qa_train.config import build_config
from qa_train.errors import ConfigError, DataError
from sweeps import searcher_comparison
from sweeps.config import SweepConfig
from sweeps.curves import Curve
from sweeps.journal import Journal
from sweeps.recorder import Recorder
from sweeps.records import Row, read_records
from sweeps.search import StudySearcher
from sweeps.searcher_comparison import compare_searchers, format_comparison
from sweeps.simulate import Devices, Simulation, simulate
from sweeps.space import Scalar
from sweeps.stopping import Stopping
from tests.analysis.fixtures import write_sweep
from tests.sweeps.test_curves import rows

PRICE = {"usd_per_hour": 1.0, "date": "2026-01-01", "source": "test"}


def config(**changes: Any) -> SweepConfig:
    plain = {
        "train": {"data": {"train": "x"}, "num_epochs": 4},
        "space": {"optim.learning_rate": {"loguniform": [1e-6, 1e-4]}},
        "search": {"searcher": "random", "num_trials": 6},
        "prices": {"cpu-core": PRICE},
    }
    return build_config(SweepConfig, plain | changes, "test")


def alike(values: Mapping[str, Scalar], num_epochs: int) -> Curve:
    """Every trial scores its epochs, takes 10 s to start and 100 s for each epoch."""
    return Curve(values, tuple(float(epoch) for epoch in range(1, num_epochs + 1)), start_s=10.0, epoch_s=100.0)


def worse_and_worse() -> Any:
    """Each trial scores 10 less than the one before."""
    numbers = iter(range(1000))

    def curve(values: Mapping[str, Scalar], num_epochs: int) -> Curve:
        lower = 10.0 * next(numbers)
        return Curve(values, tuple(epoch - lower for epoch in range(1, num_epochs + 1)), start_s=0.0, epoch_s=100.0)

    return curve


class Replay:
    """A simulated sweep in a directory, with its rows."""

    def __init__(self, directory: Path, config: SweepConfig, curve_of: Any, num_at_once: int, **more: Any) -> None:
        with Journal(directory, durable=False) as journal:
            self.recorder = Recorder(config, journal, lambda line: None)
            self.searcher = StudySearcher(config.space, config.search)
            stopping = Stopping(config.stop, config.search.mode)
            self.simulation = Simulation(config, curve_of, self.searcher, stopping, self.recorder, num_at_once, **more)
            self.simulation.run()
        self.rows: list[Row] = read_records(directory)


def test_trials_run_beside_each_other_in_virtual_time(tmp_path: Path) -> None:
    found = Replay(tmp_path, config(), alike, num_at_once=4, devices=Devices("cpu-core", 2))
    assert found.simulation.now_s == 2 * 410.0  # six trials, four at once: two waves
    assert found.recorder.device_s == 6 * 410.0 * 2
    assert (found.recorder.num_completed, found.recorder.num_stopped) == (6, 0)
    assert len(found.rows) == 6 * 4
    assert [row["trial_id"] for row in found.rows[:8]] == ["00000", "00001", "00002", "00003"] * 2
    assert [row["epochs_trained"] for row in found.rows[:8]] == [1] * 4 + [2] * 4


def test_the_study_is_told_what_the_records_say(tmp_path: Path) -> None:
    found = Replay(tmp_path, config(stop={"trial_scheduler": "median"}), worse_and_worse(), num_at_once=1)
    last = {row["trial_id"]: row for row in found.rows}
    assert [row["status"] for row in last.values()] == ["completed"] * 3 + ["stopped_early"] * 3
    assert [row["epochs_trained"] for row in last.values()] == [4, 4, 4, 1, 1, 1]
    states = {"completed": "COMPLETE", "stopped_early": "PRUNED"}
    told = [(trial.state.name, trial.intermediate_values) for trial in found.searcher.study.get_trials()]
    assert told == [
        (
            states[str(own["status"])],
            {row["epochs_trained"]: row["dev.f1"] for row in found.rows if row["trial_id"] == name},
        )
        for name, own in last.items()
    ]
    assert found.recorder.device_s == (3 * 4 + 3 * 1) * 100.0


def test_it_writes_what_tunes_own_events_would_write(tmp_path: Path) -> None:
    """The same reports passed through what Ray Tune calls in a real sweep."""
    from sweeps.tune_hooks import Listener, TrialScheduler

    asha = config(stop={"trial_scheduler": "asha"})
    for name in ("ours", "tunes"):
        (tmp_path / name).mkdir()
    found = Replay(tmp_path / "ours", asha, worse_and_worse(), num_at_once=1)
    curves, stopping = worse_and_worse(), Stopping(asha.stop, "max")
    searcher = StudySearcher(asha.space, asha.search)
    mirror: Any = SimpleNamespace(started=lambda *_: None)
    with Journal(tmp_path / "tunes", durable=False) as journal:
        listener = Listener(Recorder(asha, journal, lambda line: None), stopping, mirror)
        scheduler = TrialScheduler(asha, stopping)
        for number in range(6):
            trial = cast(Any, SimpleNamespace(config=searcher.suggest(str(number))))
            listener.on_trial_start(0, [], trial)
            for epoch, score in enumerate(curves({}, 4).scores, start=1):
                is_last = epoch == 4
                result: dict[str, Any] = {"status": "completed" if is_last else "running", "epochs_trained": epoch}
                result |= {"budget_epochs": epoch if is_last else None, "dev.f1": score}
                ends = is_last or scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
                if not ends:
                    searcher.on_trial_result(str(number), result)
                listener.on_trial_result(0, [], trial, result)
                if ends:
                    searcher.on_trial_complete(str(number), result)
                    break
    keys = ("trial_id", "status", "epochs_trained", "dev.f1", "budget_epochs", "config.optim.learning_rate", "seed")
    ours, tunes = (
        [{key: row.get(key) for key in keys} for row in rows] for rows in (found.rows, read_records(tmp_path / "tunes"))
    )
    assert ours == tunes
    assert {row["status"] for row in ours} == {"running", "completed", "stopped_early"}


@pytest.mark.parametrize(
    ("limit", "ends_s"),
    [
        ({"max_wall_s": 250.0}, 310.0),
        ({"max_device_hours": 400 / 3600}, 210.0),
        ({"max_usd": 400 / 3600}, 210.0),
    ],
)
def test_a_limit_ends_the_sweep_in_virtual_time(tmp_path: Path, limit: dict[str, float], ends_s: float) -> None:
    found = Replay(tmp_path, config(stop=limit), alike, num_at_once=2)
    assert (found.simulation.now_s, found.simulation.reached) == (ends_s, next(iter(limit)))
    assert [row["status"] for row in found.rows[-2:]] == ["interrupted"] * 2
    assert found.recorder.device_s == 2 * ends_s  # that of a trial cut off in the midst of an epoch, too


def test_an_outcome_has_the_best_score_and_the_cost() -> None:
    found = simulate(config(), worse_and_worse(), num_at_once=3, devices=Devices("cpu-core", 3))
    assert (found.best, found.num_trials, found.num_stopped) == (4.0, 6, 0)
    assert found.wall_s == 800.0
    assert found.device_hours == pytest.approx(6 * 400 * 3 / 3600)


def test_a_sweep_that_ends_before_a_trial_does_has_no_best() -> None:
    assert simulate(config(stop={"max_wall_s": 50.0}), alike, num_at_once=1).best is None


def write_recorded(directory: Path, num_trials: int = 12, **changes: Any) -> Path:
    """A sweep whose trials are the better the nearer their learning rate is to 1e-5."""
    found: list[Row] = []
    for number in range(num_trials):
        place = number / max(1, num_trials - 1)
        last = 60 - 40 * abs(place - 0.5)
        curve: list[float | None] = [last - 20, last - 10, last - 5, last]
        found += rows(f"{number:05d}", curve, 10 ** (-6 + 2 * place))
    return write_sweep(directory, found, baselines={"untrained.f1": 3.0}, **changes)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recorded(tmp_path_factory.mktemp("sweeps") / "a", 21)


def test_searchers_and_trial_schedulers_are_compared_on_the_same_curves(recorded: Path) -> None:
    found = compare_searchers(config(), recorded, num_at_once=2, num_seeds=3)
    assert [(each.searcher, each.trial_scheduler) for each in found.variants] == [
        (searcher, scheduler) for searcher in ("tpe", "random") for scheduler in ("none", "asha", "median")
    ]
    assert found.best_recorded == 60.0
    for variant in found.variants:
        assert len(variant.outcomes) == 3
        assert all(regret >= 0 for regret in found.regrets(variant))
        assert all(each.num_trials == 6 for each in variant.outcomes)
    by_name = {(each.searcher, each.trial_scheduler): each for each in found.variants}
    random = by_name["random", "none"].outcomes
    assert len({each.best for each in random}) == 3  # one for each seed
    assert [each.device_hours for each in random] == pytest.approx([6 * 408 / 3600] * 3)
    assert [each.wall_s for each in random] == pytest.approx([3 * 408] * 3)
    stopped = by_name["random", "asha"].outcomes
    assert sum(each.num_stopped for each in stopped) > 0
    assert all(few.device_hours <= all_.device_hours for few, all_ in zip(stopped, random, strict=True))
    assert compare_searchers(config(), recorded, num_at_once=2, num_seeds=3) == found


def test_a_grid_is_compared_where_the_space_has_one_and_finds_its_best_point(tmp_path: Path) -> None:
    rates = [1e-6, 1e-5, 1e-4]
    own = [rows(f"{number:05d}", [10.0, 20.0, 30.0, 40.0 + number], rates[number % 3]) for number in range(6)]
    directory = write_sweep(tmp_path / "a", [row for trial in own for row in trial])
    choice = config(space={"optim.learning_rate": {"choice": rates}})
    found = compare_searchers(choice, directory, num_at_once=1, num_seeds=1)
    [grid] = [each for each in found.variants if (each.searcher, each.trial_scheduler) == ("grid", "none")]
    assert (grid.outcomes[0].num_trials, grid.outcomes[0].best) == (3, (42 + 45) / 2)
    assert found.regrets(grid) == [0.0]


def test_trials_with_searched_schedules_are_not_stopped(recorded: Path) -> None:
    space = {"optim.learning_rate": {"loguniform": [1e-6, 1e-4]}, "optim.schedule": {"choice": ["linear", "constant"]}}
    found = compare_searchers(config(space=space), recorded, num_at_once=1, num_seeds=1)
    assert {each.trial_scheduler for each in found.variants} == {"none"}
    assert "all recorded trials have the same optim.schedule, which therefore has no effect here" in found.caveats


def test_too_few_trials_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    directory = write_recorded(tmp_path / "a", 3)
    with pytest.raises(DataError, match=r"expected at least 4 trials.*, found 3; give the directory of a larger sweep"):
        compare_searchers(config(), directory, num_at_once=1)
    narrow = config(space={"optim.learning_rate": {"loguniform": [1e-6, 2e-6]}})
    with pytest.raises(DataError, match=r"found 1 \(2 with values outside of the space\)"):
        compare_searchers(narrow, directory, num_at_once=1)


def test_without_a_space_there_is_nothing_to_compare(recorded: Path) -> None:
    alone = config(space={}, search={"searcher": "random", "num_trials": 1})
    with pytest.raises(ConfigError, match="expected at least one field to search with --simulate, found none"):
        compare_searchers(alone, recorded, num_at_once=1)


def test_branches_of_a_trunk_are_not_simulated(recorded: Path, tmp_path: Path) -> None:
    train = {"data": {"train": "x"}, "num_epochs": 4, "optim": {"schedule": "trunk"}}
    directory = write_recorded(tmp_path / "a", config={"train": train})
    with pytest.raises(ConfigError, match="no trunk"):
        compare_searchers(config(), directory, num_at_once=1)


def test_the_limits_of_the_simulation_are_told(tmp_path: Path) -> None:
    few = write_recorded(tmp_path / "a", 8)
    wide = config(
        train={"data": {"train": "x"}, "num_epochs": 6},
        space={"optim.learning_rate": {"loguniform": [1e-6, 1e-1]}},
        search={"searcher": "random", "num_trials": 4, "seeds": [0, 1]},
    )
    caveats = "\n".join(compare_searchers(wide, few, num_at_once=1, num_seeds=1).caveats)
    assert "only 8 recorded trials stand for the whole space" in caveats
    assert "space reaches far beyond the recorded optim.learning_rate" in caveats
    assert "recorded trials of 4 epochs are stretched to 6" in caveats
    assert "each configuration is trained once here" in caveats


def test_many_trials_in_the_same_space_leave_few_doubts(recorded: Path) -> None:
    assert compare_searchers(config(), recorded, num_at_once=1, num_seeds=1).caveats == ()


def test_the_table_and_the_json_have_every_variant(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher_comparison, "_searchers", lambda config: ["random"])
    found = compare_searchers(config(), recorded, num_at_once=2, num_seeds=2)
    lines = format_comparison(found).splitlines()
    assert lines[0] == f"curves:   21 finished trials in {recorded}; the best scored 60.00"
    assert lines[1] == "sweeps:   6 trials, 2 at once, means over 2 seeds"
    assert [line.split()[:2] for line in lines[-3:]] == [["random", each] for each in ("none", "asha", "median")]
    plain = json.loads(json.dumps(found.to_plain()))
    assert plain["variants"][0]["outcomes"][1].keys() == {
        "best", "device_hours", "wall_s", "num_trials", "num_stopped",
    }  # fmt: skip
    assert plain["variants"][0]["regrets"] == found.regrets(found.variants[0])
