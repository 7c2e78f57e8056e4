from collections.abc import Sequence

import pytest

from qa_train.config import build_config
from qa_train.errors import ConfigError
from sweeps.config import SweepConfig
from sweeps.placement import Placement, needs_ray_train, place


def config(**values: object) -> SweepConfig:
    """A sweep of 20 trials; `values` go to `train.scale`, but `at_once` and `num_trials` to `search`."""
    search = {"num_trials": values.pop("num_trials", 20), "max_concurrent_trials": values.pop("at_once", "auto")}
    train = {"data": {"train": "x"}, "scale": values, "optim": {"batch_size": 64}}
    return build_config(SweepConfig, {"train": train, "search": search}, "test")


@pytest.mark.parametrize(
    ("asked", "num_cpus", "num_gpus", "expected"),
    [
        # On CPUs a trial gets up to 4 cores; as many trials as then fit run at once.
        ({}, 1, 0, Placement(1, 1, 0, 1)),
        ({}, 2, 0, Placement(1, 2, 0, 1)),
        ({}, 4, 0, Placement(1, 4, 0, 1)),
        ({}, 7, 0, Placement(1, 4, 0, 1)),
        ({}, 8, 0, Placement(1, 4, 0, 2)),
        ({}, 64, 0, Placement(1, 4, 0, 16)),
        ({}, 96, 0, Placement(1, 4, 0, 20)),
        # No more at once than there are trials.
        ({"num_trials": 3}, 64, 0, Placement(1, 4, 0, 3)),
        ({"num_trials": 1, "at_once": 4}, 64, 0, Placement(1, 4, 0, 1)),
        # The cores are shared by the trials that shall run at once.
        ({"at_once": 1}, 2, 0, Placement(1, 2, 0, 1)),
        ({"at_once": 2}, 2, 0, Placement(1, 1, 0, 2)),
        ({"at_once": 2}, 64, 0, Placement(1, 4, 0, 2)),
        ({"at_once": 3}, 8, 0, Placement(1, 2, 0, 3)),
        ({"cpus_per_worker": 1}, 2, 0, Placement(1, 1, 0, 2)),
        ({"cpus_per_worker": 3}, 8, 0, Placement(1, 3, 0, 2)),
        ({"cpus_per_worker": 1, "at_once": 1}, 8, 0, Placement(1, 1, 0, 1)),
        # A GPU for each worker, and its share of the cores.
        ({}, 16, 2, Placement(1, 4, 1, 2)),
        ({}, 4, 2, Placement(1, 2, 1, 2)),
        ({"at_once": 1}, 16, 2, Placement(1, 4, 1, 1)),
        ({"use_gpu": True}, 4, 1, Placement(1, 4, 1, 1)),
        ({"use_gpu": False}, 8, 2, Placement(1, 4, 0, 2)),
        ({}, 2, 8, Placement(1, 1, 1, 2)),  # cores are what is scarce
        ({"cpus_per_worker": 8}, 16, 8, Placement(1, 8, 1, 2)),
        # Workers multiply both; several run under Ray Train, one where that is asked for.
        ({"launcher": "ray_train"}, 2, 0, Placement(1, 2, 0, 1, "ray_train")),
        ({"launcher": "local"}, 2, 0, Placement(1, 2, 0, 1, "local")),
        ({"num_workers": 2}, 8, 0, Placement(2, 4, 0, 1, "ray_train")),
        ({"num_workers": 2}, 4, 0, Placement(2, 2, 0, 1, "ray_train")),
        ({"num_workers": 2, "at_once": 2}, 8, 0, Placement(2, 2, 0, 2, "ray_train")),
        ({"num_workers": 2}, 16, 4, Placement(2, 4, 1, 2, "ray_train")),
        ({"num_workers": 4}, 16, 6, Placement(4, 2, 1, 1, "ray_train")),
    ],
)
def test_what_each_trial_gets(asked: dict[str, object], num_cpus: int, num_gpus: int, expected: Placement) -> None:
    assert place(config(**asked), num_cpus, num_gpus) == expected


@pytest.mark.parametrize(
    ("asked", "num_cpus", "num_gpus", "named"),
    [
        (
            {"at_once": 3, "cpus_per_worker": 1},
            2,
            0,
            [
                "search.max_concurrent_trials: 3 trials of 1 x 1 CPU need 3 CPU, found 2 CPU and 0 GPU",
                "set search.max_concurrent_trials to at most 2",
            ],
        ),
        ({"at_once": 3}, 2, 0, ["3 trials of 1 x 1 CPU need 3 CPU", "at most 2"]),
        (
            {"at_once": 4, "num_workers": 2, "cpus_per_worker": 2},
            9,
            0,
            ["4 trials of 2 x 2 CPU", "16 CPU", "at most 2"],
        ),
        (
            {"at_once": 3, "cpus_per_worker": 2},
            16,
            2,
            ["3 trials of 1 x 2 CPU and 1 GPU need 6 CPU and 3 GPU, found 16 CPU and 2 GPU", "at most 2"],
        ),
        (
            {"num_workers": 4, "cpus_per_worker": 1},
            2,
            0,
            ["train.scale.num_workers: one trial of 4 x 1 CPU can never be scheduled, found 2 CPU and 0 GPU"],
        ),
        ({"cpus_per_worker": 3}, 2, 0, ["one trial of 1 x 3 CPU can never", "lower num_workers or cpus_per_worker"]),
        (
            {"num_workers": 2},
            64,
            1,
            ["one trial of 2 x 4 CPU and 2 GPU can never be scheduled, found 64 CPU and 1 GPU"],
        ),
        ({"num_workers": 2, "launcher": "local"}, 64, 0, ["train.scale.launcher: expected auto or ray_train with 2 w"]),
        ({"use_gpu": True}, 64, 0, ["train.scale.use_gpu: true, but Ray finds no GPU; set auto or false"]),
    ],
)
def test_what_can_never_run_is_refused_with_the_arithmetic(
    asked: dict[str, object], num_cpus: int, num_gpus: int, named: Sequence[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        place(config(**asked), num_cpus, num_gpus)
    assert len(caught.value.problems) == 1
    for text in named:
        assert text in str(caught.value)


@pytest.mark.parametrize("asked", [{}, {"num_workers": 2}, {"cpus_per_worker": 3}, {"use_gpu": False}])
def test_the_concurrency_that_an_error_names_does_fit(asked: dict[str, object]) -> None:
    for num_cpus in range(1, 20):
        for num_gpus in range(4):
            try:
                most = place(config(**asked, num_trials=1000), num_cpus, num_gpus).max_concurrent_trials
            except ConfigError as error:
                assert "can never be scheduled" in str(error)
                continue
            fitting = place(config(**asked, at_once=most), num_cpus, num_gpus)
            assert fitting.max_concurrent_trials == most
            assert most * fitting.num_workers * fitting.cpus_per_worker <= num_cpus
            assert most * fitting.num_workers * fitting.gpus_per_worker <= num_gpus


@pytest.mark.parametrize("scale", [{}, {"launcher": "local"}, {"launcher": "ray_train"}, {"num_workers": 2}])
def test_a_ray_with_a_dashboard_is_asked_for_where_ray_train_runs(scale: dict[str, object]) -> None:
    assert needs_ray_train(config(**scale)) == (place(config(**scale), 8, 0).launcher == "ray_train")


def test_the_actor_holds_what_its_trial_trains_with() -> None:
    assert Placement(1, 2, 0, 1).trial_resources == {"cpu": 2, "gpu": 0}
    assert Placement(1, 4, 1, 1).trial_resources == {"cpu": 4, "gpu": 1}


def test_the_actor_of_workers_holds_no_core_that_they_need() -> None:
    assert not {"cpu", "CPU", "gpu", "GPU"} & Placement(2, 1, 1, 1, "ray_train").trial_resources.keys()


def test_devices_are_gpus_or_else_cores() -> None:
    assert Placement(2, 4, 1, 1).num_devices == 2
    assert Placement(2, 4, 0, 1).num_devices == 8
    assert Placement(1, 1, 0, 3).num_devices == 1
