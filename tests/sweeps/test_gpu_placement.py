"""Who gets which GPU: the decisions, and that Ray keeps to them, with GPUs that only Ray believes in."""

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qa_train import ray_session  # first: it sets what Ray reads when it is imported

# isort: split
import ray
import ray.train.torch
from ray import tune

from qa_train.config import TrainConfig, build_config
from qa_train.errors import ConfigError
from qa_train.ray_trainer import scaling
from qa_train.resources import place_workers
from sweeps.config import SweepConfig
from sweeps.placement import Placement, place
from tests.commands import running

NUM_CPUS, NUM_GPUS = 8, 4


def placement(num_cpus: int = NUM_CPUS, num_gpus: int = NUM_GPUS, **scale: object) -> Placement:
    train = {"data": {"train": "x"}, "scale": scale}
    return place(build_config(SweepConfig, {"train": train, "search": {"num_trials": 20}}, "test"), num_cpus, num_gpus)


# The decisions.


@pytest.mark.parametrize(("num_workers", "at_once"), [(1, 4), (2, 2), (3, 1), (4, 1)])
def test_as_many_trials_run_at_once_as_gpus_suffice_for(num_workers: int, at_once: int) -> None:
    found = placement(num_workers=num_workers)
    assert (found.gpus_per_worker, found.cpus_per_worker) == (1, 2)
    assert found.num_devices == num_workers
    assert found.max_concurrent_trials == at_once


def test_a_trial_of_one_worker_holds_its_gpu_itself() -> None:
    found = placement()
    assert found.launcher == "local"
    assert found.trial_resources == {"cpu": 2, "gpu": 1}


@pytest.mark.parametrize("scale", [{"num_workers": 2}, {"launcher": "ray_train"}])
def test_under_ray_train_the_workers_hold_the_gpus_and_the_trial_none(scale: dict[str, Any]) -> None:
    found = placement(**scale)
    assert found.launcher == "ray_train"
    assert found.gpus_per_worker == 1
    assert not {"gpu", "cpu"} & found.trial_resources.keys()


@pytest.mark.parametrize(
    ("use_gpu", "num_gpus", "expected"),
    [("auto", 0, 0), ("auto", 4, 1), (True, 4, 1), (False, 0, 0), (False, 4, 0)],
)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_sweep_uses_gpus_where_there_are_some_and_the_user_does_not_say_no(
    use_gpu: object, num_gpus: int, expected: int, num_workers: int
) -> None:
    found = placement(num_gpus=num_gpus, use_gpu=use_gpu, num_workers=num_workers)
    assert found.gpus_per_worker == expected
    assert found.trial_resources.get("gpu", 0) == (expected if num_workers == 1 else 0)


@pytest.mark.parametrize(
    ("use_gpu", "num_gpus", "expected"),
    [("auto", 0, False), ("auto", 1, False), ("auto", 2, True), (True, 2, True), (False, 4, False)],
)
def test_a_run_of_two_workers_uses_gpus_if_each_gets_one(use_gpu: object, num_gpus: int, expected: bool) -> None:
    config = build_config(
        TrainConfig, {"data": {"train": "x"}, "scale": {"num_workers": 2, "use_gpu": use_gpu}}, "test"
    )
    placed, cpus = place_workers(config, NUM_CPUS, num_gpus)
    assert placed.scale.use_gpu is expected
    assert cpus == 4


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_gpu_that_is_demanded_and_not_there_is_refused(num_workers: int) -> None:
    with pytest.raises(ConfigError, match=r"use_gpu: true, but Ray finds no GPU"):
        placement(num_gpus=0, use_gpu=True, num_workers=num_workers)
    scale = {"num_workers": num_workers, "use_gpu": True}
    config = build_config(TrainConfig, {"data": {"train": "x"}, "scale": scale}, "test")
    with pytest.raises(ConfigError, match=rf"{num_workers} workers need {num_workers} GPU, found {num_workers - 1}"):
        place_workers(config, NUM_CPUS, num_workers - 1)


# That Ray keeps to them. What follows runs in a process of its own, and in workers of its Ray.


def meet(directory: Path, name: str, num_expected: int) -> None:
    """Leaves word of the devices that this process sees, and waits until as many have; so they run at once."""
    seen = {"gpus": ray.get_gpu_ids(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}
    (directory / f".{name}").write_text(json.dumps(seen))
    (directory / f".{name}").rename(directory / f"{name}.json")
    deadline = time.monotonic() + 120
    while len([*directory.glob("*.json")]) < num_expected:
        assert time.monotonic() < deadline, "the others do not come"
        time.sleep(0.05)


def trial_on_a_gpu(config: dict[str, Any]) -> None:
    """Takes the place of a trial of one worker."""
    meet(Path(config["directory"]), f"trial{config['number']}", 4)


def worker_on_a_gpu(config: dict[str, Any]) -> None:
    """Takes the place of one of the workers of a trial."""
    rank = ray.train.get_context().get_world_rank()
    meet(Path(config["directory"]), f"trial{config['number']}-worker{rank}", 4)


def trial_of_two_workers(config: dict[str, Any]) -> None:
    """Takes the place of a trial's actor under Ray Train."""
    ray.train.torch.TorchTrainer(
        worker_on_a_gpu,
        train_loop_config=config,
        scaling_config=scaling(2, config["cpus"], use_gpu=True),
        torch_config=ray.train.torch.TorchConfig(backend="gloo"),  # nccl wants GPUs that are there
        run_config=ray.train.RunConfig(name=f"workers-{config['number']}", storage_path=f"{config['directory']}/train"),
    ).fit()


def run_trials(trainable: Any, found: Placement, directory: Path) -> None:
    """Runs as many trials as shall run at once."""
    directory.mkdir()
    at_once = found.max_concurrent_trials
    results = tune.Tuner(
        tune.with_resources(trainable, found.trial_resources),
        param_space={
            "number": tune.grid_search([*range(at_once)]),
            "directory": str(directory),
            "cpus": found.cpus_per_worker,
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=False),
        run_config=tune.RunConfig(name="tune", storage_path=str(directory / "tune"), verbose=0),
    ).fit()
    assert not results.errors, results.errors


def main(directory: Path) -> None:
    """Runs trials of one and of two workers on a machine that Ray believes to have four GPUs."""
    ray.init(
        address="local",
        num_cpus=NUM_CPUS,
        num_gpus=NUM_GPUS,
        include_dashboard=False,
        object_store_memory=80 * 1024**2,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"py_executable": shlex.quote(sys.executable)},  # Ray does not quote it
    )
    assert ray_session.resources() == (NUM_CPUS, NUM_GPUS)
    run_trials(trial_on_a_gpu, placement(*ray_session.resources()), directory / "one")
    run_trials(trial_of_two_workers, placement(*ray_session.resources(), num_workers=2), directory / "two")


Seen = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """Which devices processes that ran at once saw, by the number of workers of a trial and by name."""
    room = tmp_path_factory.mktemp("gpus")
    (room / "home").mkdir()
    root = str(Path(__file__).parents[2])
    code = f"import pathlib, {__name__} as tests; tests.main(pathlib.Path.cwd())"
    # A machine with real GPUs has to hide them: what is not there cannot be used.
    with running(room, "gpus", "-c", code, PYTHONPATH=root, CUDA_VISIBLE_DEVICES="0,1,2,3") as command:
        command.finish()
    assert command.status == 0, command.err
    return {
        kind: {path.stem: json.loads(path.read_text()) for path in (room / kind).glob("*.json")}
        for kind in ("one", "two")
    }


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_trials_at_once_see_one_gpu_each_and_each_another(seen: dict[str, Seen]) -> None:
    devices = [found["visible"] for found in seen["one"].values()]
    assert sorted(devices) == ["0", "1", "2", "3"]
    assert all(len(found["gpus"]) == 1 for found in seen["one"].values())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_trials_at_once_have_two_workers_with_a_gpu_of_their_own_each(seen: dict[str, Seen]) -> None:
    assert {*seen["two"]} == {f"trial{trial}-worker{rank}" for trial in range(2) for rank in range(2)}
    held = [str(gpu) for found in seen["two"].values() for gpu in found["gpus"]]
    assert sorted(held) == ["0", "1", "2", "3"]
    # The workers of one trial see each other's GPU, for NCCL, but not those of the other trial.
    for trial in range(2):
        visible = {seen["two"][f"trial{trial}-worker{rank}"]["visible"] for rank in range(2)}
        gpus = {str(seen["two"][f"trial{trial}-worker{rank}"]["gpus"][0]) for rank in range(2)}
        assert visible == {",".join(sorted(gpus))}
