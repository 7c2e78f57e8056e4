import contextlib
import pickle
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune import TuneError

from qa_train.config import build_config
from qa_train.errors import ConfigError, DataError, SweepError
from sweeps import runner
from sweeps.config import SweepConfig
from sweeps.journal import Journal
from sweeps.lock import LOCAL_LOCK, locked
from sweeps.mirror import StudyMirror
from sweeps.placement import place
from sweeps.probe import Probe
from sweeps.recorder import Recorder
from sweeps.records import Row, read_manifest, read_records
from sweeps.search import IS_FINAL, SEED, TRIAL_ID, VALUES
from sweeps.stopping import Stopping
from sweeps.tune_hooks import Limits, Listener, TrialScheduler

PROBE = Probe("fp32", "cpu-core", {"train": {"path": "x", "sha256": "1"}}, {"untrained.f1": 1.0}, {"python": "3.11"})


def config(**stop: object) -> SweepConfig:
    plain = {"name": "tiny", "train": {"data": {"train": "x"}}, "search": {"num_trials": 4}, "stop": stop}
    return build_config(SweepConfig, plain, "test")


def trial(number: int = 0, error: Exception | None = None) -> Any:
    """What Tune passes to callbacks."""
    values = {TRIAL_ID: f"{number:05d}", VALUES: {"num_epochs": 2}, SEED: 0, IS_FINAL: False}
    return SimpleNamespace(config=values, get_pickled_error=lambda: error)


def report(**changes: object) -> dict[str, Any]:
    return {"status": "running", "epochs_trained": 1, "budget_epochs": None, "dev.f1": 10.0} | changes


FINAL = {"status": "completed", "epochs_trained": 2, "budget_epochs": 2}


class FakeTuner:
    """Takes the place of `tune.Tuner`: calls the callbacks as a script says, and wraps their errors as Tune does."""

    script: Callable[[Any, dict[str, Any]], None]

    def __init__(self, trainable: object, *, param_space: dict[str, Any], tune_config: Any, run_config: Any) -> None:
        [self.listener] = run_config.callbacks
        self.param_space, self.storage, self.limits = param_space, Path(run_config.storage_path), run_config.stop
        assert self.storage.is_dir()

    def fit(self) -> None:
        try:
            type(self).script(self.listener, self.param_space)
        except Exception as error:
            raise TuneError(f"Traceback (most recent call last): {error!r}") from None


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch) -> type[FakeTuner]:
    """A Ray of 2 CPUs on which nothing runs but the script."""

    @contextlib.contextmanager
    def session(**options: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(runner, "ray_session", session)
    monkeypatch.setattr(runner, "resources", lambda: (2, 0))
    monkeypatch.setattr(runner, "_probe", lambda config, placement: PROBE)
    monkeypatch.setattr("ray.tune.Tuner", FakeTuner)
    monkeypatch.setattr("ray.tune.with_resources", lambda trainable, resources: trainable)
    return FakeTuner


def run(tmp_path: Path, **stop: object) -> tuple[runner.SweepResult, list[str]]:
    said: list[str] = []
    return runner.run_sweep(config(**stop), tmp_path / "out", said.append), said


def test_what_trials_report_becomes_rows_and_a_result(tmp_path: Path, tuner: type[FakeTuner]) -> None:
    def script(listener: Any, param_space: dict[str, Any]) -> None:
        assert read_manifest(param_space["directory"]).name == "tiny"  # before the first trial
        listener.on_trial_start(1, [], trial(0))
        listener.on_trial_result(1, [], trial(0), report())
        listener.on_trial_result(1, [], trial(0), report(**FINAL))
        listener.on_trial_start(1, [], trial(1))
        listener.on_trial_error(1, [], trial(1, RayActorError()))

    tuner.script = staticmethod(script)
    result, said = run(tmp_path)
    rows = read_records(result.directory)
    assert [(row["trial_id"], row["status"]) for row in rows] == [
        ("00000", "running"),
        ("00000", "completed"),
        ("00001", "failed"),
    ]
    assert result == runner.SweepResult(str(tmp_path / "out"), 1, 0, 1, rows[1])
    assert rows[2]["error.type"] == "RayActorError"
    assert said[0] == f"sweep tiny: 4 trials, one at a time with 2 CPU each, in {tmp_path / 'out'}"
    assert len(said) == 1 + len(rows)


def test_an_error_in_the_actors_own_code_is_recorded_by_its_cause(tmp_path: Path, tuner: type[FakeTuner]) -> None:
    def script(listener: Any, param_space: dict[str, Any]) -> None:
        listener.on_trial_start(1, [], trial(0))
        cause = OSError(28, "No space left on device")
        error = RayTaskError("step", "Traceback: ...", cause)  # type: ignore[no-untyped-call]
        listener.on_trial_error(1, [], trial(0, error))

    tuner.script = staticmethod(script)
    result, _ = run(tmp_path)
    [row] = read_records(result.directory)
    assert row["error.type"] == "OSError"
    assert row["error.message"] == "[Errno 28] No space left on device"


def test_a_trial_whose_actor_never_came_up_is_recorded_once(tmp_path: Path, tuner: type[FakeTuner]) -> None:
    def script(listener: Any, param_space: dict[str, Any]) -> None:
        for _ in range(2):
            listener.on_trial_error(1, [], trial(0, RayActorError()))

    tuner.script = staticmethod(script)
    result, _ = run(tmp_path)
    [row] = read_records(result.directory)
    assert (row["status"], row["report"], row["config.num_epochs"]) == ("failed", 0, 2)
    assert (result.num_completed, result.num_failed) == (0, 1)


def test_a_row_that_cannot_be_written_ends_the_sweep_with_its_reason(
    tmp_path: Path, tuner: type[FakeTuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Journal.append

    def fail_once(journal: Journal, row: Row) -> Row:
        monkeypatch.setattr(Journal, "append", write)
        raise SweepError("records.jsonl: a row cannot be written: No space left on device")

    def script(listener: Any, param_space: dict[str, Any]) -> None:
        listener.on_trial_start(1, [], trial(0))
        listener.on_trial_result(1, [], trial(0), report())
        monkeypatch.setattr(Journal, "append", fail_once)
        listener.on_trial_result(1, [], trial(0), report(**FINAL))

    tuner.script = staticmethod(script)
    with pytest.raises(SweepError, match="a row cannot be written: No space left"):
        run(tmp_path)
    assert [row["status"] for row in read_records(tmp_path / "out")] == ["running", "interrupted"]


def test_an_error_of_tune_itself_is_not_hidden(tmp_path: Path, tuner: type[FakeTuner]) -> None:
    def script(listener: Any, param_space: dict[str, Any]) -> None:
        raise ZeroDivisionError

    tuner.script = staticmethod(script)
    with pytest.raises(TuneError, match="ZeroDivisionError"):
        run(tmp_path)


def test_a_trial_that_a_cluster_kills_for_want_of_memory_ends_the_sweep_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuner: type[FakeTuner]
) -> None:
    def fit(self: FakeTuner) -> None:
        text = "1 worker(s) were killed due to the node running low on memory.\nRefer to …"
        memory = OutOfMemoryError(text)  # type: ignore[no-untyped-call]
        raise RuntimeError("Caught unexpected exception") from memory  # as Tune's actor manager does

    monkeypatch.setattr(FakeTuner, "fit", fit)
    with pytest.raises(SweepError) as caught:
        runner.run_sweep(config(), tmp_path / "sweep", say=lambda line: None)
    assert re.fullmatch(
        r".*/sweep: Ray killed a trial as memory ran short \(1 worker\(s\) were killed due to the node running low on "
        r"memory\.\); lower search\.max_concurrent_trials .*, then go on: python -m sweeps resume .*/sweep",
        str(caught.value),
    )


def test_ctrl_c_records_what_runs_as_interrupted(tmp_path: Path, tuner: type[FakeTuner]) -> None:
    def script(listener: Any, param_space: dict[str, Any]) -> None:
        listener.on_trial_start(1, [], trial(0))
        listener.on_trial_result(1, [], trial(0), report())
        raise KeyboardInterrupt

    tuner.script = staticmethod(script)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert [row["status"] for row in read_records(tmp_path / "out")] == ["running", "interrupted"]


def test_trials_are_told_the_resolved_configuration_and_their_share(tmp_path: Path, tuner: type[FakeTuner]) -> None:
    found: list[dict[str, Any]] = []
    tuner.script = staticmethod(lambda listener, param_space: found.append(param_space))
    run(tmp_path)
    assert found[0]["train"]["precision"] == "fp32"
    assert (found[0]["num_threads"], found[0]["num_devices"], found[0]["device"]) == (2, 2, "cpu-core")
    assert found[0]["directory"] == str(tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.precision == manifest.config["train"]["precision"] == "fp32"
    assert (manifest.devices_per_trial, manifest.baselines) == (2, PROBE.baselines)


def test_tunes_own_state_is_removed(tmp_path: Path, tuner: type[FakeTuner], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found: list[list[str]] = []
    tuner.script = staticmethod(lambda listener, space: found.append([path.name for path in tmp_path.iterdir()]))
    run(tmp_path)
    assert sorted(name.partition("-")[0] for name in found[0]) == ["out", "spansweep"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_ray_prints_does_not_reach_stdout(
    tmp_path: Path, tuner: type[FakeTuner], capsys: pytest.CaptureFixture[str]
) -> None:
    tuner.script = staticmethod(lambda listener, param_space: print("(raylet) a worker died"))
    run(tmp_path)
    assert capsys.readouterr() == ("", "(raylet) a worker died\n")


def test_a_used_directory_is_refused_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ray_session", lambda **options: pytest.fail("Ray was started"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(DataError, match="out: exists and is not empty; give another --out"):
        run(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_sweep_that_cannot_start_leaves_no_directory(
    tmp_path: Path, tuner: type[FakeTuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "resources", lambda: (0, 0))
    with pytest.raises(ConfigError, match="can never be scheduled"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def one_row(listener: Any, param_space: dict[str, Any]) -> None:
    listener.on_trial_start(1, [], trial(0))
    listener.on_trial_result(1, [], trial(0), report(**FINAL))


def no_row(listener: Any, param_space: dict[str, Any]) -> None:
    pass


def test_a_refused_sweep_leaves_the_lock_of_the_one_that_runs(
    tmp_path: Path, tuner: type[FakeTuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "unused_dir", lambda *arguments: None)  # as if it had looked a moment earlier
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        with pytest.raises(SweepError, match="another process runs this sweep"):
            run(tmp_path)
        assert (tmp_path / "out" / LOCAL_LOCK).exists()


def resume_on(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes on with the sweep of `run`, on another kind of device, of which alone the price is known."""
    monkeypatch.setattr(runner, "_probe", lambda config, placement: replace(PROBE, device=device))
    price = {"usd_per_hour": 2.0, "date": "2026-01-01", "source": "s"}

    def change(config: SweepConfig) -> SweepConfig:
        return build_config(SweepConfig, config.model_dump(mode="json") | {"prices": {device: price}}, "test")

    runner.resume_sweep(tmp_path / "out", change, lambda line: None)


def test_a_sweep_with_records_is_not_gone_on_with_on_another_kind_of_device(
    tmp_path: Path, tuner: type[FakeTuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner.script = staticmethod(one_row)
    run(tmp_path)
    before = read_manifest(tmp_path / "out")
    with pytest.raises(ConfigError, match="expected 'cpu-core', as the sweep has had it so far, found 'NVIDIA H100'"):
        resume_on("NVIDIA H100", tmp_path, monkeypatch)
    assert read_manifest(tmp_path / "out") == before
    resume_on("cpu-core", tmp_path, monkeypatch)


def test_a_sweep_without_records_goes_on_on_another_kind_of_device_and_says_so_from_then_on(
    tmp_path: Path, tuner: type[FakeTuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner.script = staticmethod(no_row)
    run(tmp_path)
    devices: list[str] = []
    tuner.script = staticmethod(lambda listener, param_space: devices.append(param_space["device"]))
    resume_on("NVIDIA H100", tmp_path, monkeypatch)
    assert read_manifest(tmp_path / "out").device == "NVIDIA H100"
    assert devices == ["NVIDIA H100"]


def test_a_sweep_whose_model_was_overwritten_is_not_gone_on_with(tmp_path: Path, tuner: type[FakeTuner]) -> None:
    models = [tmp_path / name for name in "ab"]
    for model in models:
        model.mkdir()
        (model / "model.safetensors").write_text("1")
    plain = {"train": {"data": {"train": "x"}}, "search": {"num_trials": 4}}
    plain |= {"space": {"model.name": {"choice": [*map(str, models)]}}}
    tuner.script = staticmethod(no_row)
    runner.run_sweep(build_config(SweepConfig, plain, "test"), tmp_path / "out", lambda line: None)
    runner.resume_sweep(tmp_path / "out", say=lambda line: None)
    assert read_manifest(tmp_path / "out").models.keys() == {*map(str, models)}
    (models[1] / "model.safetensors").write_text("2")
    with pytest.raises(DataError, match=rf"{models[1]}: expected the model of the sweep so far"):
        runner.resume_sweep(tmp_path / "out", say=lambda line: None)


def test_the_directory_is_named_after_the_sweep_and_the_time(
    tmp_path: Path, tuner: type[FakeTuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tuner.script = staticmethod(lambda listener, param_space: None)
    directory = Path(runner.run_sweep(config(), None, lambda line: None).directory)
    assert directory.parent == tmp_path / "runs"
    assert time.strptime(directory.name, "tiny-%Y%m%d-%H%M%S")
    assert read_manifest(directory).sweep_id == directory.name


def limits(tmp_path: Path, **stop: object) -> tuple[Limits, Recorder]:
    recorder = Recorder(config(**stop), Journal(tmp_path), lambda line: None)
    return Limits(config(**stop), recorder, "cpu-core"), recorder


def test_a_limit_on_device_time_counts_the_trials_that_run_too(tmp_path: Path) -> None:
    found, recorder = limits(tmp_path, max_device_hours=0.01)  # 36 s
    for number, device_s in enumerate((20.0, 15.0)):
        recorder.started(f"{number}", {})
        recorder.reported(f"{number}", report(**{"cost.device_s": device_s}))
        assert not found.stop_all()
    recorder.reported("1", report(**{"epochs_trained": 2, "cost.device_s": 16.0}))
    assert found.stop_all()
    assert not found("tune's id", report())


def test_a_limit_on_time_counts_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    found, _ = limits(tmp_path, max_wall_s=50)
    assert not found.stop_all()
    now = 149.9
    assert not found.stop_all()
    now = 150.0
    assert found.stop_all()


def test_without_limits_a_sweep_goes_on(tmp_path: Path) -> None:
    found, recorder = limits(tmp_path)
    recorder.started("0", {})
    recorder.reported("0", report(**{"cost.device_s": 1e9}))
    assert not found.stop_all()


def test_tunes_snapshots_hold_nothing_of_the_recorder(tmp_path: Path) -> None:
    found, recorder = limits(tmp_path)
    stopping, mirror = Stopping(config().stop, "max"), StudyMirror(tmp_path, "x", "dev.f1", "max", {}, print)
    scheduler = TrialScheduler(config(), stopping)
    for kept in (found, Listener(recorder, stopping, mirror), scheduler):
        for save in (pickle.dumps, cloudpickle.dumps):
            assert vars(pickle.loads(save(kept))) == {}


@pytest.mark.parametrize(
    ("scale", "resources", "described"),
    [
        ({}, (2, 0), "one at a time with 2 CPU each"),
        ({"cpus_per_worker": 1}, (2, 0), "2 at once with 1 CPU each"),
        ({}, (8, 2), "2 at once with 4 CPU and 1 GPU each"),
    ],
)
def test_a_sweep_says_what_each_trial_gets(
    scale: dict[str, object], resources: tuple[int, int], described: str
) -> None:
    plain = {"train": {"data": {"train": "x"}, "scale": scale}}
    assert runner._describe(place(build_config(SweepConfig, plain, "test"), *resources)) == described
