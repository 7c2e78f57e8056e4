"""Training under Ray Train: what it is asked for, with a trainer of paper; what becomes of runs, with a real Ray."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
import yaml
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_train import ray_trainer
from qa_train.checkpoint import latest_checkpoint
from qa_train.config import TrainConfig, load_config
from qa_train.errors import CheckpointError, DataError
from qa_train.output import claim_output, train_into, train_to_end
from qa_train.ray_trainer import RayTrainRun, WorkerError, scaling, tell
from qa_train.storage import sha256_file
from tests.commands import Command, running
from tests.tiny_models import tiny_model_dir, tiny_squad

# Without Ray.


class PaperTrainer:
    """Takes the place of `TorchTrainer`.

    Attributes:
        outcomes: What each `fit` raises, None for nothing; or a function that is called.
        made: The arguments of each trainer.
    """

    outcomes: ClassVar[list[Exception | Callable[[], None] | None]] = []
    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, function: Callable[[dict[str, Any]], None], **arguments: Any) -> None:
        self.made.append({"function": function, **arguments})

    def fit(self) -> None:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            outcome()


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> type[PaperTrainer]:
    monkeypatch.setattr(ray_trainer, "TorchTrainer", PaperTrainer)
    PaperTrainer.made.clear()
    PaperTrainer.outcomes[:] = [None]
    return PaperTrainer


def start(directory: Path, **options: Any) -> RayTrainRun:
    options = {"num_workers": 2, "cpus_per_worker": 3, "use_gpu": False, "max_failures": 2} | options
    return RayTrainRun(print, {"a": 1}, directory, **options)


def failed(*failures: Exception, first: int = 0) -> WorkerGroupError:
    """What Ray Train raises when workers failed, from rank `first` on."""
    return WorkerGroupError("what each raised", dict(enumerate(failures, first)))


DEATH = WorkerHealthCheckFailedError("A worker health check failed.", failure=ActorDiedError())
HUNG_UP = RuntimeError("[pair.cc:553] Connection closed by peer")


def test_each_worker_holds_its_cores_and_one_gpu() -> None:
    assert scaling(2, 3, use_gpu=False).num_workers == 2
    assert scaling(2, 3, use_gpu=False).resources_per_worker == {"CPU": 3}
    assert not scaling(2, 3, use_gpu=False).use_gpu
    assert scaling(4, 2, use_gpu=True).resources_per_worker == {"CPU": 2, "GPU": 1}
    assert scaling(4, 2, use_gpu=True).use_gpu


def test_what_the_trainer_is_asked_for(trainer: type[PaperTrainer], tmp_path: Path) -> None:
    assert list(start(tmp_path).events()) == []
    [made] = trainer.made
    assert made["function"] is print
    assert made["train_loop_config"] == {"a": 1, "num_restarts": 0}
    assert made["scaling_config"] == scaling(2, 3, use_gpu=False)
    assert made["torch_config"].backend == "gloo"
    run_config = made["run_config"]
    assert run_config.worker_runtime_env == {"env_vars": {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "0"}}
    assert Path(run_config.storage_path).parent == tmp_path
    # Reports to Tune go through our own file: Ray's callback for it can lose the last one and then waits for ever.
    assert not run_config.callbacks
    assert run_config.failure_config.max_failures == 0
    assert run_config.failure_config.controller_failure_limit == 2


def test_a_relative_directory_is_no_uri(
    trainer: type[PaperTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    list(start(Path()).events())
    assert trainer.made[0]["run_config"].storage_path == str(tmp_path / ".ray_train")


def test_gpus_talk_by_nccl(trainer: type[PaperTrainer], tmp_path: Path) -> None:
    list(start(tmp_path, use_gpu=True).events())
    assert trainer.made[0]["torch_config"].backend == "nccl"


def test_events_come_in_order_and_leave_nothing_behind(trainer: type[PaperTrainer], tmp_path: Path) -> None:
    told = [{"epoch": number, "name": "ä"} for number in range(3)]

    def tell_all() -> None:
        (tmp_path / ".ray_train").mkdir()
        for event in told:
            tell(tmp_path, event)

    trainer.outcomes[:] = [tell_all]
    assert list(start(tmp_path).events()) == told
    assert list(tmp_path.iterdir()) == []


def test_events_of_an_earlier_run_are_not_told_again(trainer: type[PaperTrainer], tmp_path: Path) -> None:
    tell(tmp_path, {"old": True})
    assert list(start(tmp_path).events()) == []


def test_half_a_line_is_no_event_yet(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert ray_trainer._new_lines(path, 0) == ([], 0)
    path.write_bytes('{"a": "ä"}\n{"b'.encode())
    lines, offset = ray_trainer._new_lines(path, 0)
    assert lines == ['{"a": "ä"}']
    with open(path, "a") as file:
        file.write('": 2}\n')
    assert ray_trainer._new_lines(path, offset) == (['{"b": 2}'], offset + len('{"b": 2}\n'))


def test_an_event_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent/events.jsonl: cannot be written: No such file or directory"):
        tell(tmp_path / "absent", {})


def test_a_users_mistake_ends_the_run_at_once_as_it_was_raised(trainer: type[PaperTrainer], tmp_path: Path) -> None:
    mistake = CheckpointError("a: expected b, found c")
    trainer.outcomes[:] = [failed(HUNG_UP, mistake), None]
    with pytest.raises(CheckpointError, match=r"^a: expected b, found c$") as caught:
        list(start(tmp_path).events())
    assert caught.value is mistake
    assert len(trainer.made) == 1


def test_a_mistake_is_found_in_what_ray_wraps_around_it(trainer: type[PaperTrainer], tmp_path: Path) -> None:
    class WrapperError(Exception):
        _base_exc: Exception
        cause: Exception

    for attribute in ("_base_exc", "cause", "__cause__"):
        wrapper = WrapperError("wrapped")
        setattr(wrapper, attribute, CheckpointError("inside"))
        trainer.outcomes[:] = [failed(wrapper)]
        with pytest.raises(CheckpointError, match="inside"):
            list(start(tmp_path).events())


def test_dead_workers_are_started_again_and_that_is_told(trainer: type[PaperTrainer], tmp_path: Path) -> None:
    trainer.outcomes[:] = [failed(HUNG_UP, DEATH), failed(DEATH), None]
    run = start(tmp_path)
    died = "died: killed, as the system does when memory runs out, or crashed; started again"
    assert list(run.events()) == [
        {"warning": f"worker 1 {died}, 1 of at most 2 times"},
        {"warning": f"worker 0 {died}, 2 of at most 2 times"},
    ]
    assert run.num_restarts == 2
    # Ray Train would take what it finds under the old name for a run to go on with.
    assert len({made["run_config"].name for made in trainer.made}) == 3


def test_what_keeps_failing_ends_in_one_line_that_names_it(trainer: type[PaperTrainer], tmp_path: Path) -> None:
    trainer.outcomes[:] = [failed(ValueError("first line\nsecond line"), first=1)] * 3
    with pytest.raises(WorkerError) as caught:
        list(start(tmp_path).events())
    assert str(caught.value) == "worker 1 failed: ValueError: first line (started again 2 times)"
    assert "what each raised" in str(caught.value.__cause__)
    assert trainer.outcomes == []


def test_without_restarts_the_first_failure_is_the_last(trainer: type[PaperTrainer], tmp_path: Path) -> None:
    trainer.outcomes[:] = [failed(KeyError())]
    with pytest.raises(WorkerError, match=r"^worker 0 failed: KeyError: no message$"):
        list(start(tmp_path, max_failures=0).events())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ControllerError(RuntimeError("why it\nis so")), "Ray Train failed: is so"),
        (TrainingFailedError(""), "Ray Train failed: TrainingFailedError"),
        (ControllerError(RuntimeError("long " * 100)), r"Ray Train failed: [long ]{190,200} …"),
    ],
)
def test_a_failure_of_ray_itself_is_one_line(
    trainer: type[PaperTrainer], tmp_path: Path, error: Exception, expected: str
) -> None:
    trainer.outcomes[:] = [error]
    with pytest.raises(WorkerError) as caught:
        list(start(tmp_path).events())
    assert re.fullmatch(expected, str(caught.value))


# With a real Ray, as a user starts it.

RUN = {
    "data": {"train": "train.json", "dev": "dev.json", "test": {"other": "test.json"}},
    "model": {"name": "./model", "max_seq_length": 64, "doc_stride": 16},
    "optim": {"learning_rate": 1e-3, "batch_size": 8},
    "num_epochs": 12,
    "precision": "fp32",
    "scale": {"num_workers": 2, "cpus_per_worker": 1, "use_gpu": False},
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `run.yaml`, its data, models with and without dropout, and a home."""
    room = tmp_path_factory.mktemp("ray_trainer")
    (room / "home").mkdir()
    for seed, (name, num_articles) in enumerate({"train": 40, "dev": 10, "test": 2}.items()):
        tiny_squad(room / f"{name}.json", num_articles, seed)
    directory = tiny_model_dir(room / "model")
    model = AutoModelForQuestionAnswering.from_pretrained(directory, dropout=0.0, attention_dropout=0.0, qa_dropout=0.0)
    model.save_pretrained(room / "without dropout")
    AutoTokenizer.from_pretrained(directory).save_pretrained(room / "without dropout")
    (room / "run.yaml").write_text(yaml.safe_dump(RUN))
    return room


def training(room: Path, name: str, *overrides: str) -> contextlib.AbstractContextManager[Command]:
    """Trains into `room / name`."""
    return running(room, name, "-m", "qa_train", "train", "--config", "run.yaml", "--to", name, *overrides)


def resuming(room: Path, name: str, number: int) -> contextlib.AbstractContextManager[Command]:
    """Goes on in `room / name`, for the `number`th time."""
    return running(room, f"{name} {number}", "-m", "qa_train", "train", "--resume", name)


def epochs(command: Command) -> int:
    """How many epochs it has told of."""
    return len(re.findall(r"^epoch ", command.err, flags=re.MULTILINE))


def weights(directory: Path) -> str:
    return sha256_file(directory / "model.safetensors")


def warnings(command: Command) -> list[str]:
    """The lines on stderr that are not of an epoch."""
    return [line for line in command.err.splitlines() if line and not re.match(r"epoch \d+/\d+: train loss ", line)]


@pytest.fixture(scope="module")
def undisturbed(room: Path) -> str:
    """Returns the hash of the weights that two workers come to whom nothing happens; they are joined without Ray."""
    directory = room / "undisturbed"
    claim_output(directory, load_config(TrainConfig, room / "run.yaml"))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=train_without_ray, args=(directory, rank)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    return weights(directory)


def train_without_ray(directory: Path, rank: int) -> None:
    # Ray Train, and any other launcher, sets these; Accelerate goes by them.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    method = f"file://{directory.parent}/meeting"
    dist.init_process_group("gloo", method, timeout=timedelta(seconds=90), rank=rank, world_size=2)
    config = load_config(TrainConfig, directory / "run.yaml")
    train_to_end(directory, config, 1, lambda event: None)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def worker_killed(room: Path) -> Command:
    """A run over two workers, one of which was killed in the middle of an epoch."""
    with training(room, "worker killed") as command:
        command.wait_for(lambda: epochs(command) >= 2)
        [*workers] = command.living("RayTrainWorker")
        assert len(workers) == 2
        max(workers, key=lambda process: process.create_time()).send_signal(signal.SIGKILL)
        return command.finish()


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_run_goes_on_by_itself_after_a_killed_worker_and_ends_with_the_same_model(
    worker_killed: Command, undisturbed: str, room: Path
) -> None:
    assert worker_killed.status == 0
    [warning] = warnings(worker_killed)
    died = "died: killed, as the system does when memory runs out, or crashed; started again, 1 of at most 3 times"
    assert re.fullmatch(f"warning: worker [01] {died}", warning)
    assert epochs(worker_killed) == 12
    assert weights(room / "worker killed") == undisturbed


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_run_over_two_workers_says_only_what_it_should(worker_killed: Command, room: Path) -> None:
    lines = worker_killed.out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == ["dev", "test.other"]
    assert lines[-1].endswith(f"in {room / 'worker killed'}")


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_its_model_opens_and_its_record_names_the_workers(worker_killed: Command, room: Path) -> None:
    directory = room / "worker killed"
    model = AutoModelForQuestionAnswering.from_pretrained(directory)
    inputs = AutoTokenizer.from_pretrained(directory)("who designed it ?", "ada did .", return_tensors="pt")
    assert model(**inputs).start_logits.shape == inputs["input_ids"].shape
    record = json.loads((directory / "training.json").read_text())
    assert record["config"]["scale"]["num_workers"] == 2
    reports = json.loads((directory / "reports.json").read_text())
    assert [report["epochs_trained"] for report in reports] == [*range(1, 13)]
    assert reports[-1]["train_loss"] < reports[0]["train_loss"] - 1
    names = {path.name for path in directory.iterdir()}
    assert not names & {"run.yaml", "checkpoints", ".lock", ".ray_train", "events.jsonl"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_was_interrupted_and_killed_goes_on_and_ends_with_the_same_model(
    undisturbed: str, room: Path
) -> None:
    directory = room / "interrupted"
    with training(room, "interrupted") as command:
        command.wait_for(lambda: epochs(command) >= 2)
        os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does
        command.finish()
    assert command.status == 130
    assert warnings(command) == ["interrupted"]
    assert command.out == ""
    assert (directory / "run.yaml").is_file()
    assert latest_checkpoint(directory / "checkpoints")
    with resuming(room, "interrupted", 1) as command:
        command.wait_for(lambda: epochs(command) >= 6)
        parts = {"raylet", "gcs_server", "RayTrainWorker"}
        assert {part for part in parts if command.living(part)} == parts
        os.kill(command.process.pid, signal.SIGKILL)
        command.finish()  # within seconds nothing is left
    assert latest_checkpoint(directory / "checkpoints")
    with resuming(room, "interrupted", 2) as command:
        command.finish()
    assert command.status == 0
    assert warnings(command) == []
    assert weights(directory) == undisturbed
    assert len(json.loads((directory / "reports.json").read_text())) == 12


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_and_one_train_the_same_model_where_there_is_no_dropout(room: Path) -> None:
    overrides = ["model.name=./without dropout", "num_epochs=2"]
    with training(room, "two", *overrides) as command:
        command.finish()
    assert command.status == 0, command.err
    values = yaml.safe_dump(RUN)
    (room / "one.yaml").write_text(values)
    alone = ["scale.num_workers=1", "scale.launcher=local"]
    config = load_config(TrainConfig, room / "one.yaml", [*overrides, *alone])
    before = torch.get_num_threads()
    try:
        train_into(claim_output(room / "one", config), config)
    finally:
        torch.set_num_threads(before)
    one, two = (json.loads((room / name / "reports.json").read_text()) for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-4)
        assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], abs=1e-3)
        assert ours["cost"]["cost.tokens"] == theirs["cost"]["cost.tokens"]
    first, second = (load_file(room / name / "model.safetensors") for name in ("one", "two"))
    name = "distilbert.transformer.layer.0.ffn.lin1.weight"
    torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-4)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_mistake_that_shows_in_a_worker_ends_the_run_at_once_in_one_line(room: Path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(room / "model")
    with torch.no_grad():
        model.qa_outputs.weight[0, 0] = torch.nan
    model.save_pretrained(room / "nan model")
    AutoTokenizer.from_pretrained(room / "model").save_pretrained(room / "nan model")
    with training(room, "nan", "model.name=./nan model") as command:
        command.finish()
    assert command.status == 2
    [line] = command.err.splitlines()
    assert re.match(r"error: step \d+ of \d+: the training loss is nan; lower optim\.learning_rate", line)
    assert command.out == ""
    assert not (room / "nan").exists()


_CRASHING = """
import sys
from pathlib import Path
from qa_train.errors import run_command
from qa_train.ray_trainer import RayTrainRun, ray_session
from tests.qa_train.test_ray_trainer import crash

import click

@click.command()
def command():
    with ray_session():
        run = RayTrainRun(crash, {"text": "first\\nsecond"}, Path("crashing"), num_workers=2, cpus_per_worker=1,
                          use_gpu=False, max_failures=1)
        for event in run.events():
            print(event, flush=True)

sys.exit(run_command(command, "test", []))
"""


def crash(arguments: dict[str, Any]) -> None:
    raise ValueError(arguments["text"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_keeps_failing_in_workers_ends_after_so_many_restarts(room: Path) -> None:
    (room / "crashing").mkdir()
    root = str(Path(__file__).parents[2])
    with running(room, "crashing", "-c", _CRASHING, PYTHONPATH=root) as command:
        command.finish()
    assert command.status == 2
    failed = r"worker [01] failed: ValueError: first"
    assert re.fullmatch(rf"error: {failed} \(started again 1 times\)\n", command.err)
    assert re.fullmatch(rf"{{'warning': '{failed}; started again, 1 of at most 1 times'}}\n", command.out)
    assert list((room / "crashing").iterdir()) == []
