"""What becomes of trainings and sweeps whose disk is full: a small one of their own, in memory."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForQuestionAnswering

from qa_train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from qa_train.config import TrainConfig, load_config
from qa_train.errors import CheckpointError, DataError
from qa_train.output import claim_output, train_into
from qa_train.storage import sha256_file
from sweeps.records import read_records
from tests.commands import Command, running
from tests.tiny_models import tiny_model_dir, tiny_squad

RUN = {
    "data": {"train": "train.json", "dev": "dev.json"},
    "model": {"name": "./model", "max_seq_length": 64, "doc_stride": 16},
    "optim": {"learning_rate": 1e-3, "batch_size": 8},
    "num_epochs": 3,
    "precision": "fp32",
    "scale": {"use_gpu": False, "cpus_per_worker": 1, "launcher": "local"},
}
SWEEP = {
    "name": "tiny",
    "train": RUN | {"scale": {"use_gpu": False, "cpus_per_worker": 1}},
    "space": {"num_epochs": {"int": [1, 1000]}},
    "search": {"num_trials": 2, "max_concurrent_trials": 1, "enqueue": [{"num_epochs": 1}, {"num_epochs": 4}]},
}
# A checkpoint has 570 KB, a model 200 KB; a new checkpoint is written before the old one goes.
ONE_CHECKPOINT, ONE_CHECKPOINT_AND_NO_MODEL, ENOUGH = "1m", "700k", "20m"
FULL = "No space left on device"


class Disk:
    """A small disk.

    Attributes:
        path: Where it is mounted.
    """

    def __init__(self, path: Path, run: Callable[..., None]) -> None:
        self.path, self._run = path, run

    def resize(self, size: str) -> None:
        """Gives it another size, such as `10m`."""
        self._run("mount", "-o", f"remount,size={size}", str(self.path))

    def fill(self) -> None:
        """Leaves no space on it."""
        with contextlib.suppress(OSError), open(self.path / "ballast", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass


def _as_root(*command: str) -> None:
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*prefix, *command], check=True, capture_output=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "small disk"
    path.mkdir()
    options = f"size={ONE_CHECKPOINT},uid={os.getuid()},gid={os.getgid()}"
    try:
        _as_root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    try:
        yield Disk(path, _as_root)
    finally:
        _as_root("umount", "--lazy", str(path))


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `run.yaml`, `sweep.yaml`, their data and model, and a home."""
    room = tmp_path_factory.mktemp("full_disk")
    (room / "home").mkdir()
    tiny_squad(room / "train.json", 6)
    tiny_squad(room / "dev.json", 2, seed=1)
    tiny_model_dir(room / "model")
    (room / "run.yaml").write_text(yaml.safe_dump(RUN))
    (room / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    return room


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Puts back the number of threads that a training in this process sets to 1."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(room: Path) -> Callable[[int], str]:
    """Returns the hash of the weights that so many epochs lead to, in one worker."""

    def weights(num_epochs: int) -> str:
        directory = room / f"undisturbed {num_epochs}"
        if not directory.exists():
            config = load_config(TrainConfig, room / "run.yaml", [f"num_epochs={num_epochs}"])
            with one_thread():
                train_into(claim_output(directory, config), config)
        return sha256_file(directory / "model.safetensors")

    return weights


def train(room: Path, name: str, *arguments: str) -> Command:
    with running(room, name, "-m", "qa_train", "train", *arguments) as command:
        return command.finish()


def problem(command: Command) -> str:
    """What a command said besides the lines of epochs; nothing is printed."""
    assert command.out == ""
    [line] = [line for line in command.err.splitlines() if not line.startswith("epoch ")]
    return line


def assert_goes_on(room: Path, name: str, directory: Path, weights: str | None) -> None:
    """Finishes a training that the full disk ended."""
    command = train(room, f"{name} resumed", "--resume", str(directory))
    assert command.status == 0, command.err
    AutoModelForQuestionAnswering.from_pretrained(directory)
    assert weights in (None, sha256_file(directory / "model.safetensors"))
    assert not {path.name for path in directory.iterdir()} & {"run.yaml", "checkpoints"}


def test_a_checkpoint_that_finds_no_space_ends_the_training_and_leaves_the_one_before(
    disk: Disk, room: Path, undisturbed: Callable[[int], str]
) -> None:
    directory = disk.path / "model"
    command = train(room, "checkpoint", "--config", "run.yaml", "--to", str(directory))
    assert command.status == 2
    assert re.fullmatch(
        rf"error: {directory}/checkpoints/checkpoint-\d+: the checkpoint cannot be written: .*{FULL}.*",
        problem(command),
    )
    left = latest_checkpoint(directory / "checkpoints")
    assert left is not None
    assert load_checkpoint(left)[2]["reports"][0]["epochs_trained"] == 1
    assert [path.name for path in (directory / "checkpoints").iterdir()] == [left.name]
    disk.resize(ENOUGH)
    assert_goes_on(room, "checkpoint", directory, undisturbed(3))


def test_a_full_disk_is_named_wherever_a_checkpoint_meets_it(disk: Disk) -> None:
    weights = {f"weight {number}": torch.zeros(1000) for number in range(20)}
    states = {"optimizer": {"first": weights, "second": {name: value + 1 for name, value in weights.items()}}}
    for kilobytes in range(8, 240, 8):
        disk.resize(f"{kilobytes}k")
        with pytest.raises(CheckpointError, match=rf"checkpoint-00000001: the checkpoint cannot be written: .*{FULL}"):
            save_checkpoint(disk.path, 1, weights, states, {"step": 1})
        assert list(disk.path.iterdir()) == []
    disk.resize(ENOUGH)
    save_checkpoint(disk.path, 1, weights, states, {"step": 1})


def test_a_model_that_finds_no_space_is_saved_when_there_is_some(
    disk: Disk, room: Path, undisturbed: Callable[[int], str]
) -> None:
    disk.resize(ONE_CHECKPOINT_AND_NO_MODEL)
    config = load_config(TrainConfig, room / "run.yaml", ["num_epochs=1"])
    directory = claim_output(disk.path / "model", config)
    with pytest.raises(CheckpointError, match=rf"^{directory}: the model cannot be written .*{FULL}"), one_thread():
        train_into(directory, config)
    disk.resize(ENOUGH)
    with one_thread():
        train_into(directory, config)
    assert sha256_file(directory / "model.safetensors") == undisturbed(1)


def test_a_disk_that_is_full_from_the_start_is_named(disk: Disk, room: Path) -> None:
    disk.fill()
    with pytest.raises(DataError, match=rf"{disk.path}/model/run\.yaml: cannot be written: {FULL}$"):
        claim_output(disk.path / "model", load_config(TrainConfig, room / "run.yaml"))
    assert not list((disk.path / "model").iterdir())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_on_a_full_disk_end_at_once_and_go_on_when_there_is_space(disk: Disk, room: Path) -> None:
    directory = disk.path / "model"
    workers = ["scale.num_workers=2", "scale.launcher=ray_train"]
    command = train(room, "workers", "--config", "run.yaml", "--to", str(directory), *workers)
    assert command.status == 2
    assert re.fullmatch(rf"error: {directory}/.*{FULL}.*", problem(command))  # and no warning of a restart
    left = latest_checkpoint(directory / "checkpoints")
    assert left is not None
    assert load_checkpoint(left)[2]["reports"][0]["epochs_trained"] == 1
    disk.resize(ENOUGH)
    assert_goes_on(room, "workers", directory, None)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_that_finds_no_space_is_recorded_as_failed(disk: Disk, room: Path) -> None:
    arguments = ["-m", "sweeps", "run", "sweep.yaml", "--out", str(disk.path / "sweep")]
    with running(room, "trial", *arguments) as command:
        command.finish()
    assert command.status == 1, command.err
    assert command.out.splitlines()[0] == "1 trials completed, 1 failed"
    completed, running_row, failed = read_records(disk.path / "sweep")
    assert [row["status"] for row in (completed, running_row, failed)] == ["completed", "running", "failed"]
    assert (failed["trial_id"], failed["error.type"]) == ("00001", "CheckpointError")
    assert FULL in str(failed["error.message"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_sweep_on_a_full_disk_ends_and_its_records_stay_readable(disk: Disk, room: Path, num_workers: int) -> None:
    disk.resize(ENOUGH)
    directory = disk.path / "sweep"
    long = [f"search.enqueue={json.dumps([{'num_epochs': 1000}] * 2)}", f"train.scale.num_workers={num_workers}"]
    arguments = ["-m", "sweeps", "run", "sweep.yaml", "--out", str(directory), *long]
    with running(room, f"sweep of {num_workers}", *arguments) as command:
        command.wait_for(lambda: len(read_records(directory)) >= 2)
        disk.fill()
        command.finish()
    rows = read_records(directory)
    assert {row["status"] for row in rows} <= {"running", "failed", "interrupted"}
    assert rows[0]["status"] == "running"
    last = command.err.splitlines()[-1]
    if command.status == 2:  # there was no space for a row either
        assert re.fullmatch(rf"error: {directory}/records\.jsonl: a row cannot be written: {FULL}", last)
    else:
        assert command.status == 1
        assert last == "warning: 2 trials failed; see error.log in their records"
    assert "Traceback" not in command.err
