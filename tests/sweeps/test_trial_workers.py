"""Trials of several workers: what Ray is told, so that none of the known hangs comes back, and sweeps that run them."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import yaml
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_train import ray_session
from qa_train.config import TrainConfig, build_config, load_config
from qa_train.errors import CheckpointError, QAError
from sweeps import runner, trial_workers
from sweeps.config import SweepConfig
from sweeps.placement import place
from sweeps.probe import Probe
from sweeps.records import Row, read_records
from sweeps.search import IS_FINAL, SEED, TRIAL_ID, VALUES
from sweeps.trial import TrialJob
from sweeps.trial_workers import TrialWorkers, trial_worker
from tests.commands import Command, running
from tests.tiny_models import tiny_model_dir, tiny_squad

# Without Ray: what becomes of the workers' events.


class PaperRun:
    """Takes the place of `RayTrainRun`: tells `told`, then raises `error` if there is one."""

    told: ClassVar[list[dict[str, Any]]] = []
    error: ClassVar[Exception | None] = None

    def __init__(self, function: object, arguments: dict[str, Any], directory: Path, **options: Any) -> None:
        self.function, self.arguments, self.directory, self.options = function, arguments, directory, options

    def events(self) -> Iterator[dict[str, Any]]:
        yield from self.told
        if self.error:
            raise self.error


@pytest.fixture
def paper_run(monkeypatch: pytest.MonkeyPatch) -> type[PaperRun]:
    monkeypatch.setattr(trial_workers, "RayTrainRun", PaperRun)
    monkeypatch.setattr(PaperRun, "told", [])
    monkeypatch.setattr(PaperRun, "error", None)
    return PaperRun


def job(directory: Path, **scale: Any) -> TrialJob:
    plain = {"data": {"train": "x"}, "scale": {"num_workers": 2, "use_gpu": False} | scale}
    return TrialJob("00000", build_config(TrainConfig, plain, "test"), directory, 3, time.time())


def report(epoch: int, status: str = "running") -> dict[str, Any]:
    return {"status": status, "epochs_trained": epoch}


def all_messages(trial: TrialWorkers) -> list[dict[str, Any]]:
    messages = [trial.next_message()]
    while messages[-1]["status"] == "running":
        messages.append(trial.next_message())
    return messages


@pytest.mark.parametrize("use_gpu", [False, True])
def test_a_trial_asks_for_its_workers_and_their_share(paper_run: type[PaperRun], tmp_path: Path, use_gpu: bool) -> None:
    trial = TrialWorkers(job(tmp_path, use_gpu=use_gpu))
    run: Any = trial._run
    assert run.function is trial_worker
    assert run.directory == tmp_path
    assert run.options == {"num_workers": 2, "cpus_per_worker": 3, "use_gpu": use_gpu}
    assert json.loads(json.dumps(run.arguments)) == run.arguments


def test_the_last_message_comes_when_the_workers_have_gone(paper_run: type[PaperRun], tmp_path: Path) -> None:
    gone: list[bool] = []

    class Run(PaperRun):
        def events(self) -> Iterator[dict[str, Any]]:
            yield from [report(1), report(2, "completed")]
            gone.append(True)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(trial_workers, "RayTrainRun", Run)
        trial = TrialWorkers(job(tmp_path))
    assert trial.next_message() == report(1)
    assert not gone
    assert trial.next_message() == report(2, "completed")
    assert gone


def test_epochs_that_workers_tell_again_after_a_restart_are_passed_on_once(
    paper_run: type[PaperRun], tmp_path: Path
) -> None:
    again = [{"warning": "worker 1 died; started again"}, report(1), report(2), report(3), report(4, "completed")]
    paper_run.told[:] = [report(1), report(2), *again]
    assert [message["epochs_trained"] for message in all_messages(TrialWorkers(job(tmp_path)))] == [1, 2, 3, 4]
    assert (tmp_path / "log.txt").read_text() == "worker 1 died; started again\n"


def test_a_trial_that_fails_says_why_and_the_whole_story_is_in_its_log(
    paper_run: type[PaperRun], tmp_path: Path
) -> None:
    paper_run.told[:] = [report(1)]
    paper_run.error = CheckpointError("disk: cannot be written")
    paper_run.error.__cause__ = ValueError("what lies behind it")
    [_, last] = all_messages(TrialWorkers(job(tmp_path)))
    assert (last["status"], last["error.type"]) == ("failed", "CheckpointError")
    assert last["error.message"] == "disk: cannot be written"
    assert last["error.log"] == "trials/00000/log.txt"
    log = (tmp_path / "log.txt").read_text()
    assert "what lies behind it" in log
    assert "disk: cannot be written" in log


def test_a_trial_whose_log_cannot_be_written_fails_all_the_same(paper_run: type[PaperRun], tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    paper_run.error = QAError("no space")
    assert TrialWorkers(job(tmp_path)).next_message()["error.message"] == "no space"


def test_workers_that_end_without_a_last_report_are_a_failure(paper_run: type[PaperRun], tmp_path: Path) -> None:
    paper_run.told[:] = [report(1)]
    [_, last] = all_messages(TrialWorkers(job(tmp_path)))
    assert (last["status"], last["error.message"]) == ("failed", "the workers ended before their last report")


@pytest.mark.parametrize("num_restarts", [0, 2])
def test_what_an_attempt_took_before_its_workers_were_started_again_counts_as_lost_but_for_its_checkpoint(
    num_restarts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[TrialJob] = []

    def no_messages(job: TrialJob) -> list[dict[str, Any]]:
        jobs.append(job)
        return []

    monkeypatch.setattr(trial_workers, "messages", no_messages)
    monkeypatch.setattr(trial_workers, "limit_threads", lambda count: None)
    now = time.time()
    asked = dataclasses.replace(job(tmp_path), created=now - 30, earlier_s=100.0)
    plain = {"config": asked.config.model_dump(), "directory": str(tmp_path), "num_restarts": num_restarts}
    trial_worker(dataclasses.asdict(asked) | plain)
    [told] = jobs
    assert told.created == pytest.approx(now if num_restarts else now - 30, abs=5)
    assert told.earlier_s == pytest.approx(130 if num_restarts else 100, abs=5)
    assert dataclasses.replace(told, created=asked.created, earlier_s=100.0) == asked


# Without Ray: the five hangs. What two of them come to is seen with a real Ray below.

TWO_WORKERS = {
    "name": "tiny",
    "train": {
        "data": {"train": "train.json", "dev": "dev.json"},
        "model": {"name": "./model", "max_seq_length": 64, "doc_stride": 16},
        "optim": {"learning_rate": 1e-3, "batch_size": 8},
        "precision": "fp32",
        "num_epochs": 2,
        "scale": {"num_workers": 2, "cpus_per_worker": 1, "use_gpu": False},
    },
    "space": {"optim.learning_rate": {"loguniform": [5e-4, 1e-3]}},
    "search": {"num_trials": 2},
}


@pytest.fixture
def tuner_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What a sweep of two-worker trials asks Ray and Tune for."""
    asked: dict[str, Any] = {}

    @contextlib.contextmanager
    def session(**options: object) -> Iterator[None]:
        asked["session"] = options
        yield

    def with_resources(trainable: object, resources: object) -> object:
        asked["resources"] = resources
        return trainable

    def tuner(trainable: object, **arguments: Any) -> object:
        asked.update(arguments)
        return SimpleNamespace(fit=lambda: None)

    monkeypatch.setattr(runner, "ray_session", session)
    monkeypatch.setattr(runner, "resources", lambda: (2, 0))
    monkeypatch.setattr(runner, "_probe", lambda config, placement: Probe("fp32", "cpu-core", {}, {}, {}))
    monkeypatch.setattr("ray.tune.Tuner", tuner)
    monkeypatch.setattr("ray.tune.with_resources", with_resources)
    runner.run_sweep(build_config(SweepConfig, TWO_WORKERS, "test"), tmp_path / "sweep", say=lambda line: None)
    return asked


def test_hang_1_the_dashboard_that_frees_the_workers_of_a_stopped_trial_is_on(tuner_arguments: dict[str, Any]) -> None:
    assert tuner_arguments["session"] == {"dashboard": True}


def test_hang_2_all_processes_know_which_of_several_rays_is_theirs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr(
        "ray.init", lambda **options: calls.append(options | {"port": os.environ["RAY_GCS_SERVER_PORT"]})
    )
    with ray_session.ray_session(dashboard=True):
        pass
    [call] = calls
    assert call["include_dashboard"]
    assert call["runtime_env"]["env_vars"] == {"RAY_ADDRESS": f"127.0.0.1:{call['port']}"}


def test_hang_3_a_trials_actor_takes_no_core_from_its_workers(tuner_arguments: dict[str, Any]) -> None:
    assert tuner_arguments["resources"] == {"node:__internal_head__": 0.001}
    assert tuner_arguments["tune_config"].max_concurrent_trials == 1


def test_hang_4_no_report_goes_through_a_queue_of_tune() -> None:
    source = "".join(path.read_text() for path in Path(trial_workers.__file__).parent.glob("*.py"))
    source += "".join(path.read_text() for path in Path(ray_session.__file__).parent.glob("*.py"))
    assert "TuneReportCallback" not in source
    assert "ray.train.report" not in source


def test_hang_5_the_controller_looks_at_its_workers_more_often_than_by_default() -> None:
    assert float(os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"]) <= 0.5


def test_an_actor_is_not_used_for_a_second_trial_of_several_workers(tuner_arguments: dict[str, Any]) -> None:
    assert not tuner_arguments["tune_config"].reuse_actors


# With a real Ray.


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `sweep.yaml`, its data, a model, one whose loss is no number, and a home."""
    room = tmp_path_factory.mktemp("trial_workers")
    (room / "home").mkdir()
    tiny_squad(room / "train.json", 20)
    tiny_squad(room / "dev.json", 5, seed=1)
    directory = tiny_model_dir(room / "model")
    model = AutoModelForQuestionAnswering.from_pretrained(directory)
    with torch.no_grad():
        model.qa_outputs.weight[0, 0] = torch.nan
    model.save_pretrained(room / "nan")
    AutoTokenizer.from_pretrained(directory).save_pretrained(room / "nan")
    (room / "sweep.yaml").write_text(yaml.safe_dump(TWO_WORKERS))
    return room


def sweeping(room: Path, name: str, *overrides: str) -> contextlib.AbstractContextManager[Command]:
    """Runs a sweep into `room / name`."""
    return running(room, name, "-m", "sweeps", "run", "sweep.yaml", "--out", name, *overrides)


def assert_only_own_lines(command: Command) -> None:
    for line in command.err.splitlines():
        assert re.match(r"(sweep tiny|trial \d{5}|warning: \d trials failed)\b", line), f"not ours: {line}"


def number(value: object) -> float:
    assert isinstance(value, int | float)
    return value


def assert_costs_add_up(row: Row) -> None:
    parts = sum(number(value) for key, value in row.items() if re.fullmatch(r"cost\.(?!device)\w+_s", key))
    assert 0 < 2 * parts <= number(row["cost.device_s"])  # two devices are held


@pytest.fixture(scope="module")
def sweep(room: Path) -> Command:
    """A sweep whose second trial cannot start before the first one's workers have gone; its loss is no number."""
    names = [str(room / name) for name in ("model", "nan")]
    space = {"model.name": {"choice": names}}
    points = [{"model.name": name} for name in names]
    overrides = [f"space={json.dumps(space)}", f"search.enqueue={json.dumps(points)}"]
    with sweeping(room, "sweep", *overrides) as command:
        return command.finish()


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_of_trials_of_two_workers_on_two_cores_ends(sweep: Command, room: Path) -> None:
    assert sweep.out.splitlines()[0] == "1 trials completed, 1 failed"
    assert sweep.status == 1
    assert_only_own_lines(sweep)
    rows = [row for row in read_records(room / "sweep") if row["trial_id"] == "00000"]
    assert [(row["epochs_trained"], row["budget_epochs"]) for row in rows] == [(1, None), (2, 2)]
    assert [row["status"] for row in rows] == ["running", "completed"]
    for row in rows:
        assert row["launcher"] == "ray_train"
        assert_costs_add_up(row)
    AutoModelForQuestionAnswering.from_pretrained(room / "sweep" / "trials" / "00000" / "model")


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_mistake_in_a_worker_fails_its_trial_without_restarts(sweep: Command, room: Path) -> None:
    [row] = [row for row in read_records(room / "sweep") if row["trial_id"] == "00001"]
    assert (row["status"], row["error.type"]) == ("failed", "QAError")
    assert re.match(r"step \d+ of \d+: the training loss is nan", str(row["error.message"]))
    log = (room / "sweep" / str(row["error.log"])).read_text()
    assert "the training loss is nan" in log
    assert "started again" not in log


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_ray_train_leaves_nothing_in_a_trials_directory(sweep: Command, room: Path) -> None:
    for trial_id in ("00000", "00001"):
        names = {path.name for path in (room / "sweep" / "trials" / trial_id).iterdir()}
        assert not names & {".ray_train", "events.jsonl"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_goes_on_after_a_killed_worker_and_is_recorded_as_if_nothing_had_been(room: Path) -> None:
    with sweeping(room, "worker killed", "train.num_epochs=8", "search.num_trials=1") as command:
        command.wait_for(lambda: len(read_records(room / "worker killed")) >= 2)
        command.living("RayTrainWorker")[0].send_signal(signal.SIGKILL)
        command.finish()
    assert command.status == 0, command.err
    rows = read_records(room / "worker killed")
    assert [row["epochs_trained"] for row in rows] == [*range(1, 9)]
    assert [row["report"] for row in rows] == [*range(8)]
    tokens = [number(row["cost.tokens"]) for row in rows]
    assert tokens == [tokens[0] * epoch for epoch in range(1, 9)]
    for row in rows:
        assert_costs_add_up(row)
    assert number(rows[0]["cost.lost_s"]) == 0 < number(rows[-1]["cost.lost_s"])
    log = (room / "worker killed" / "trials" / "00000" / "log.txt").read_text()
    assert re.fullmatch(r"worker [01] died: .*; started again, 1 of at most 3 times\n", log)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_that_reaches_its_time_limit_ends_its_workers(room: Path) -> None:
    with sweeping(room, "limited", "train.num_epochs=1000", "stop.max_wall_s=45") as command:
        command.wait_for(lambda: read_records(room / "limited"))
        command.finish()
    assert "Traceback" not in command.err
    *before, last = read_records(room / "limited")
    assert (last["trial_id"], last["status"]) == ("00000", "interrupted")
    assert {row["status"] for row in before} == {"running"}


_OTHER_RAY = """
import time
from qa_train.ray_session import ray_session
with ray_session():
    print("up", flush=True)
    time.sleep(600)
"""


def stop_each_trial_after_its_first_epoch() -> None:
    """Lets Tune stop trials as a trial scheduler does, and says how long the workers' cores then are not free."""
    import ray
    from ray import tune

    from sweeps.trainable import (
        DEVICE,
        DIRECTORY,
        EVALUATE_TESTS,
        LAUNCHER,
        NUM_DEVICES,
        NUM_THREADS,
        TRAIN,
        TrialTrainable,
    )

    config = load_config(SweepConfig, "sweep.yaml", ["train.num_epochs=1000"])
    with ray_session.ray_session(dashboard=True):
        placement = place(config, *ray_session.resources())
        spec = {
            TRIAL_ID: tune.grid_search(["00000", "00001"]),
            VALUES: {},
            SEED: 0,
            IS_FINAL: False,
            EVALUATE_TESTS: "finalists",
            TRAIN: config.train.model_dump(),
            DIRECTORY: str(Path("stopped").absolute()),
            LAUNCHER: placement.launcher,
            NUM_THREADS: placement.cpus_per_worker,
            NUM_DEVICES: placement.num_devices,
            DEVICE: "cpu-core",
        }
        results = tune.Tuner(
            tune.with_resources(TrialTrainable, placement.trial_resources),
            param_space=spec,
            tune_config=tune.TuneConfig(max_concurrent_trials=placement.max_concurrent_trials, reuse_actors=False),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(Path("tune").absolute()),
                stop={"epochs_trained": 1},
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
        ended = time.monotonic()
        while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:  # type: ignore[no-untyped-call]
            assert time.monotonic() < ended + 60, ray.available_resources()  # type: ignore[no-untyped-call]
            time.sleep(0.1)
        freed_s = time.monotonic() - ended
    metrics = [results[number].metrics or {} for number in range(len(results))]
    epochs = {metric["config"][TRIAL_ID]: metric["epochs_trained"] for metric in metrics}
    print(json.dumps({"epochs": epochs, "freed_s": freed_s, "errors": len(results.errors)}))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cores_of_a_trial_that_tune_stops_are_free_again_also_beside_another_ray(room: Path) -> None:
    root = str(Path(__file__).parents[2])
    code = f"from {__name__} import {stop_each_trial_after_its_first_epoch.__name__} as stop; stop()"
    with (
        running(room, "other ray", "-c", _OTHER_RAY, PYTHONPATH=root) as other,
        running(room, "stopped", "-c", code, PYTHONPATH=root) as command,
    ):
        other.wait_for(lambda: "up" in other.out)
        command.finish()  # the second trial had to wait for the first one's cores
        assert command.status == 0, command.err
        assert other.process.poll() is None
        assert other.living("raylet")
    found = json.loads(command.out.splitlines()[-1])
    assert found["epochs"] == {"00000": 1, "00001": 1}
    assert found["errors"] == 0
    assert found["freed_s"] < 15
