import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qa_train.config import build_config
from qa_train.errors import ConfigError
from qa_train.resources import num_cpus
from sweeps import plan as planning
from sweeps import speed_probe
from sweeps.cli import main
from sweeps.config import SweepConfig
from sweeps.placement import Placement
from sweeps.plan import expected_epochs, format_plan, largest_epochs, make_plan, peak_disk_bytes
from sweeps.speed import Measured
from tests.analysis.fixtures import row, write_sweep

MEASURED = Measured("a test", "cpu-core", 4, 10.0, 90.0, 8.0, 2.0, model_bytes=100_000_000)
GPU = replace(MEASURED, device="GPU X", num_devices=1)
PRICES = {"cpu-core": {"usd_per_hour": 0.36, "date": "2026-11-01", "source": "a bill"}}


def config(
    num_trials: int = 5,
    epochs: object = (1, 3),
    enqueue: tuple[dict[str, Any], ...] = (),
    at_once: int | str = "auto",
    space: dict[str, Any] | None = None,
    **sections: Any,
) -> SweepConfig:
    """A sweep over `num_epochs` from and to, or a dimension of it, or over `space`."""
    dimension = {"int": [*epochs]} if isinstance(epochs, tuple) else epochs
    values = {
        "train": {"data": {"train": "/data/train.json"}},
        "space": {"num_epochs": dimension} if space is None else space,
        "search": {"num_trials": num_trials, "enqueue": [*enqueue], "max_concurrent_trials": at_once},
    }
    return build_config(SweepConfig, values | sections, "test")


LR = {"optim.learning_rate": {"loguniform": [1e-5, 1e-4]}}


@pytest.mark.parametrize(
    ("values", "expected", "largest"),
    [
        ({"num_trials": 5, "epochs": (1, 3)}, 10, 15),
        ({"num_trials": 20, "epochs": (1, 10)}, 110, 200),
        ({"num_trials": 4, "epochs": (7, 7)}, 28, 28),
        ({"num_trials": 4, "epochs": {"choice": [10, 30]}}, 80, 120),
        ({"num_trials": 3, "epochs": {"choice": [1, 2, 6]}}, 9, 18),
        # ln 3, ln 5/3 and ln 7/5 of ln 7 are the chances of 1, 2 and 3.
        ({"num_trials": 1, "epochs": {"int": [1, 3], "log": True}}, log(3 * (5 / 3) ** 2 * (7 / 5) ** 3, 7), 3),
        # What is enqueued is known exactly.
        ({"num_trials": 3, "epochs": (1, 10), "enqueue": ({"num_epochs": 1},)}, 1 + 2 * 5.5, 1 + 2 * 10),
        ({"num_trials": 2, "epochs": (1, 10), "enqueue": ({"num_epochs": 1}, {"num_epochs": 4})}, 5, 5),
        # Not searched: the three epochs of train.
        ({"num_trials": 4, "space": LR}, 12, 12),
        ({"num_trials": 4, "space": LR, "enqueue": ({"optim.learning_rate": 2e-5},)}, 12, 12),
    ],
)
def test_epochs_of_work(values: dict[str, Any], expected: float, largest: int) -> None:
    assert expected_epochs(config(**values)) == pytest.approx(expected, rel=1e-5)
    assert largest_epochs(config(**values)) == largest


def test_the_plan_of_a_sweep_on_cores() -> None:
    plan = make_plan(config(prices=PRICES), 8, 0, MEASURED)
    # 5 trials in 3 waves of 2 with 4 cores each; of 2 epochs, which take 10 + 2 * 100 s, or of 3.
    assert plan.placement == Placement(1, 4, 0, 2)
    assert (plan.expected.epochs, plan.largest.epochs) == (10, 15)
    assert (plan.expected.wall_s, plan.largest.wall_s) == (3 * 210, 3 * 310)
    assert plan.expected.device_hours == pytest.approx(5 * 210 * 4 / 3600)
    assert plan.largest.device_hours == pytest.approx(5 * 310 * 4 / 3600)
    assert plan.expected.usd == pytest.approx(5 * 210 * 4 / 3600 * 0.36)
    assert plan.largest.usd == pytest.approx(5 * 310 * 4 / 3600 * 0.36)
    # The 3 best models, and of 2 trials a checkpoint that replaces another.
    assert plan.disk_bytes == (3 + 2 * 2 * 3) * 100_000_000
    assert plan.warnings == ()


def test_the_plan_of_a_sweep_on_gpus() -> None:
    plan = make_plan(config(num_trials=8), 32, 4, GPU)
    assert plan.placement == Placement(1, 4, 1, 4)
    assert plan.expected.wall_s == 2 * 210
    assert plan.expected.device_hours == pytest.approx(8 * 210 / 3600)


@pytest.mark.parametrize("num_trials", [1, 2, 3, 7, 20])
@pytest.mark.parametrize(("num_cpus", "num_gpus"), [(1, 0), (8, 0), (16, 0), (16, 4)])
def test_the_wall_time_is_that_of_the_devices_in_whole_waves(num_trials: int, num_cpus: int, num_gpus: int) -> None:
    plan = make_plan(config(num_trials=num_trials), num_cpus, num_gpus, GPU if num_gpus else MEASURED)
    at_once = plan.placement.max_concurrent_trials
    for estimate in (plan.expected, plan.largest):
        assert estimate.wall_s
        assert estimate.device_hours
        busy_s = estimate.device_hours * 3600 / (at_once * plan.placement.num_devices)
        trial_s = estimate.device_hours * 3600 / (num_trials * plan.placement.num_devices)
        assert busy_s <= estimate.wall_s * (1 + 1e-9)
        assert estimate.wall_s < busy_s + trial_s
        if num_trials % at_once == 0:
            assert estimate.wall_s == pytest.approx(busy_s)


def test_more_trials_at_once_shorten_the_sweep_and_leave_its_cost() -> None:
    few, many = (make_plan(config(num_trials=8, at_once=at_once, prices=PRICES), 32, 0, MEASURED) for at_once in (2, 8))
    assert few.expected.wall_s == 4 * (many.expected.wall_s or 0)
    assert few.expected.usd == many.expected.usd


@pytest.mark.parametrize(("num_models", "at_once", "expected"), [(1, 1, 7), (20, 1, 26), (20, 4, 44)])
def test_the_disk_holds_models_and_two_checkpoints_of_each_running_trial(
    num_models: int, at_once: int, expected: int
) -> None:
    assert peak_disk_bytes(num_models, at_once, 1000) == expected * 1000


@pytest.mark.parametrize(("keep", "num_models"), [(None, 5), (2, 2), (50, 5)])
def test_only_models_that_are_kept_stay_on_the_disk(keep: int | None, num_models: int) -> None:
    plan = make_plan(config(keep={"models": keep}, at_once=1), 8, 0, MEASURED)
    assert plan.disk_bytes == (num_models + 6) * 100_000_000


def test_without_a_measurement_only_epochs_are_planned() -> None:
    plan = make_plan(config(prices=PRICES, stop={"max_usd": 1}), 8, 0, None, free_bytes=0)
    assert asdict(plan.expected) == {"epochs": 10, "wall_s": None, "device_hours": None, "usd": None}
    assert (plan.disk_bytes, plan.warnings) == (None, ())
    assert format_plan(plan, config()).splitlines()[1:] == ["expected: 10 epochs", "at most:  15 epochs"]


def test_a_device_without_a_price_leaves_dollars_empty_and_says_so() -> None:
    plan = make_plan(config(), 8, 0, MEASURED)
    assert (plan.expected.usd, plan.largest.usd) == (None, None)
    assert "price:    none of cpu-core is given" in format_plan(plan, config())


def test_a_limit_in_dollars_on_a_device_without_a_price_is_refused() -> None:
    limited = config(num_trials=2, prices=PRICES, stop={"max_usd": 5})
    with pytest.raises(ConfigError, match=r"stop\.max_usd: expected a price of 'GPU X'"):
        make_plan(limited, 8, 2, GPU)
    assert make_plan(limited, 8, 0, MEASURED).expected.usd


def test_what_can_never_be_scheduled_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigError, match="3 trials of 1 x 1 CPU need 3 CPU, found 2 CPU and 0 GPU"):
        make_plan(config(at_once=3), 2, 0, MEASURED)


@pytest.mark.parametrize(
    ("limits", "warned"),
    [
        ({"max_wall_s": 600.0}, "stop.max_wall_s will end the sweep early: it is 600, and all trials take about 630"),
        ({"max_device_hours": 1.0}, "stop.max_device_hours will end the sweep early: it is 1, and all trials take"),
        ({"max_usd": 0.4}, "stop.max_usd will end the sweep early: it is 0.4, and all trials take about 0.42"),
        ({"max_wall_s": 631.0, "max_device_hours": 1.2, "max_usd": 0.43}, None),
    ],
)
def test_a_limit_below_what_is_expected_is_pointed_out(limits: dict[str, float], warned: str | None) -> None:
    found = make_plan(config(prices=PRICES, stop=limits), 8, 0, MEASURED).warnings
    assert len(found) == (warned is not None)
    assert warned is None or found[0].startswith(warned)


def test_a_disk_that_is_too_small_is_pointed_out() -> None:
    need = 15 * 100_000_000
    assert make_plan(config(), 8, 0, MEASURED, free_bytes=need).warnings == ()
    [warning] = make_plan(config(), 8, 0, MEASURED, free_bytes=900_000_000).warnings
    assert warning == "the disk will be full: 900.0 MB are free, and the sweep needs up to 1.5 GB"


def test_groups_that_a_trial_scheduler_cannot_compare_are_pointed_out() -> None:
    asha = {"trial_scheduler": "asha"}
    [warning] = make_plan(config(num_trials=11, epochs=(2, 4), stop=asha), 8, 0, None).warnings
    assert "fewer than 4 are expected of 2, 3, 4 epochs" in warning
    assert make_plan(config(num_trials=12, epochs=(2, 4), stop=asha), 8, 0, None).warnings == ()
    assert make_plan(config(num_trials=11, epochs=(2, 4)), 8, 0, None).warnings == ()


def test_what_makes_the_times_doubtful_is_pointed_out() -> None:
    caveat = replace(MEASURED, caveats=("runs/a has other values of train.model.name",))
    assert make_plan(config(), 8, 0, caveat).warnings == caveat.caveats
    searched = config(space={"optim.batch_size": {"choice": [8, 16]}, **LR})
    [warning] = make_plan(searched, 8, 0, MEASURED).warnings
    assert warning.startswith("optim.batch_size decides the speed and is searched")
    [warning] = make_plan(config(), 1, 0, MEASURED).warnings
    assert warning == "trials will hold 1 devices, but with 4 was measured"


def test_times_of_another_kind_of_device_have_no_price() -> None:
    plan = make_plan(config(prices=PRICES), 8, 2, MEASURED)
    assert plan.warnings == ("trials will run on 1 GPU, but cpu-core was measured; use --like",)
    assert plan.expected.wall_s
    assert plan.expected.usd is None


def test_the_text_of_a_plan() -> None:
    priced = config(prices=PRICES)
    assert format_plan(make_plan(priced, 8, 0, MEASURED), priced).splitlines() == [
        "trials:   5, 2 at once, each on 4 CPU cores",
        "expected: 10 epochs, 10 min, 1.17 device-hours, 0.42 USD",
        "at most:  15 epochs, 16 min, 1.72 device-hours, 0.62 USD",
        "disk:     1.5 GB, with 3 models kept",
        "speed:    90 s an epoch, 8 s to evaluate, 10 s to start (a test)",
        "price:    0.36 USD per device-hour (a bill, 2026-11-01)",
    ]
    # 5 trials of 10 + 2 * 36,010 s.
    unknown = replace(GPU, model_bytes=None, training_s=36_000.0)
    text = format_plan(make_plan(config(), 4, 1, unknown), config())
    assert "5, one at a time, each on 1 GPU X" in text
    assert "10 epochs, 100 h 2 min, 100 device-hours\n" in text
    assert "disk:     not known" in text
    assert "speed:    10 h 0 min an epoch, 8 s to evaluate" in text


@pytest.fixture
def sweep_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep on a machine of 8 cores, whose speed nobody measures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(planning, "resources", lambda: (8, 0))
    (tmp_path / "train.json").touch()
    path = tmp_path / "sweep.yaml"
    path.write_text("train: {data: {train: train.json}}\nspace: {num_epochs: {int: [1, 3]}}\nsearch: {num_trials: 5}\n")
    return path


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    parts = {"cost__starting_s": 4.0, "cost__loading_s": 6.0, "cost__training_s": 90.0}
    parts |= {"cost__evaluating_s": 8.0, "cost__checkpointing_s": 2.0}
    return write_sweep(tmp_path / "earlier", [row("0", epochs_trained=1, **parts)], devices_per_trial=4)


def test_the_command_plans_like_an_earlier_sweep(
    sweep_yaml: Path, earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(sweep_yaml), "--like", str(earlier), "stop.max_wall_s=60"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == [
        "trials:   5, 2 at once, each on 4 CPU cores",
        "expected: 10 epochs, 10 min, 1.17 device-hours",
    ]
    assert f"(1 epochs of 1 trials in {earlier})" in out
    assert err == "warning: stop.max_wall_s will end the sweep early: it is 60, and all trials take about 630\n"


def test_the_plan_for_machines_is_json(sweep_yaml: Path, earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(sweep_yaml), "--like", str(earlier), "--json", "search.num_trials=4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_trials"] == 4
    assert found["expected"] == {"epochs": 8, "wall_s": 420, "device_hours": 4 * 210 * 4 / 3600, "usd": None}
    assert found["placement"]["max_concurrent_trials"] == 2
    assert (found["measured"]["device"], found["disk_bytes"], found["warnings"]) == ("cpu-core", None, [])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train.scale.cpus_per_worker=9"], "one trial of 1 x 9 CPU can never be scheduled, found 8 CPU and 0 GPU"),
        (["search.max_concurrent_trials=9"], "need 9 CPU, found 8 CPU and 0 GPU"),
        (["train.scale.use_gpu=true"], "use_gpu: true, but Ray finds no GPU"),
        (["--like", "nowhere"], "nowhere: expected a sweep directory, found nothing there"),
        (["search.trials=3"], "search.trials: unknown key"),
        (["stop.max_usd=3"], "stop.max_usd: expected null without prices"),
        (["--dry"], "No such option"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(
    sweep_yaml: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.setattr(speed_probe, "measure", None)
    assert main(["plan", str(sweep_yaml), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert named in err
    assert len(err.splitlines()) == 1


def test_a_limit_in_dollars_is_refused_where_the_device_has_no_price(
    sweep_yaml: Path, earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    price = "prices.GPU X={usd_per_hour: 3, date: 2026-11-01, source: a bill}"
    assert main(["plan", str(sweep_yaml), "--like", str(earlier), "stop.max_usd=3", price]) == 2
    assert "expected a price of 'cpu-core', which the trials run on, found prices of GPU X" in capsys.readouterr().err


def test_without_an_earlier_sweep_the_speed_is_measured(
    tiny_run: Path, sweep_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = "\n  ".join((tiny_run / "run.yaml").read_text().replace("./model", str(tiny_run / "model")).splitlines())
    for name in ("train", "dev", "test"):
        train = train.replace(f"{name}.json", str(tiny_run / f"{name}.json"))
    sweep_yaml.write_text(f"train:\n  {train}\nspace: {{num_epochs: {{int: [1, 3]}}}}\n")
    assert main(["plan", str(sweep_yaml), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"]["source"].endswith("here and now")
    assert found["expected"]["device_hours"] > 0
    assert found["disk_bytes"] > 0


def test_the_cluster_is_asked_only_where_ray_address_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SimpleNamespace(ray_session=nullcontext, resources=lambda: (96, 12))
    monkeypatch.setitem(sys.modules, "qa_train.ray_session", cluster)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert planning.resources() == (96, 12)
    monkeypatch.delenv("RAY_ADDRESS")
    assert planning.resources() == (num_cpus(), torch.cuda.device_count())


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    assert "python -m sweeps plan sweeps/configs/demo.yaml" in capsys.readouterr().out


def test_planning_like_an_earlier_sweep_needs_no_torch() -> None:
    code = "import sys, sweeps.plan; assert not {'ray', 'torch', 'optuna'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def trunk_config(**sections: Any) -> SweepConfig:
    plain = {
        "train": {"data": {"train": "x"}, "optim": {"schedule": "trunk"}, "budgets": [1, 2, 3, 5]},
        "space": {"optim.learning_rate": {"loguniform": [1e-5, 1e-3]}},
        "search": {"num_trials": 4},
    }
    return build_config(SweepConfig, plain | sections, "test")


def test_a_plan_of_budgets_shows_both_bills() -> None:
    config = trunk_config()
    plan = make_plan(config, 8, 0, MEASURED)
    assert plan.expected.epochs == plan.largest.epochs == pytest.approx(4 * 6.2)
    assert "budgets:  1, 2, 3, 5; trained each on its own 44 epochs (56 %)" in format_plan(plan, config)


@pytest.mark.parametrize(("keep", "num_models"), [(None, 16), (7, 7), (50, 16)])
def test_a_trial_leaves_a_model_of_each_of_its_budgets(keep: int | None, num_models: int) -> None:
    config = trunk_config(keep={"models": keep}, search={"num_trials": 4, "max_concurrent_trials": 1})
    plan = make_plan(config, 8, 0, MEASURED)
    assert plan.disk_bytes == (num_models + 6) * 100_000_000
    assert f"with {num_models} models kept" in format_plan(plan, config)
