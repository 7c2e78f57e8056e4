"""Several workers beside one, joined by `torch.distributed` alone: what they train and score is the same."""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from qa_train.batching import Batch
from qa_train.config import TrainConfig, load_config
from qa_train.data import read_squad
from qa_train.errors import QAError
from qa_train.evaluate import EvalSet, Evaluation, evaluate_model
from qa_train.loop import Recipe, TrainingLoop
from qa_train.model import load_model, load_tokenizer
from qa_train.output import train_to_end
from qa_train.passes import Passes
from qa_train.tokenization import encode
from qa_train.training import build_accelerator, start_training
from qa_train.workers import add_up, from_first, largest, num_workers, rank

CPU = torch.device("cpu")
NUM_WINDOWS, BATCH_SIZE = 17, 4
RECIPES = {
    "plain": Recipe(num_epochs=2, batch_size=BATCH_SIZE, learning_rate=2e-3, seed=7),
    "accumulating": Recipe(
        num_epochs=2, batch_size=BATCH_SIZE, learning_rate=2e-3, seed=7, gradient_accumulation_steps=2
    ),
    "trunk": Recipe(
        num_epochs=2,
        batch_size=BATCH_SIZE,
        learning_rate=2e-3,
        seed=7,
        schedule="trunk",
        budgets=(1, 2),
        warmup_epochs=0.2,
        cooldown=0.4,
    ),
}
"""An epoch's smallest batch has one window, less than there are workers or pieces."""
NUM_STEPS = {"plain": 10, "accumulating": 10, "trunk": 12}
"""The trunk's first branch is left after 5 steps; the trunk then goes on from the third one."""

WITHOUT_EFFECT = ("k_lin.bias", "layer.1.output_layer_norm.bias", "qa_outputs.bias")
"""They add the same to all scores of a softmax: their gradient is rounding alone, which Adam blows up."""


@dataclass(frozen=True)
class Training:
    """What a training without dropout came to."""

    losses: list[float]
    weights: dict[str, Tensor]
    cost: dict[str, float | int]
    train_loss: float
    f1: float


def train(run_dir: Path, recipe: Recipe, checkpoint_dir: Path | None = None) -> Training:
    """Trains alone or as one of the workers that this process is joined with."""
    model = load_model(str(run_dir / "model"))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    tokenizer = load_tokenizer(str(run_dir / "model"))
    features = encode(read_squad(run_dir / "train.json").examples[:NUM_WINDOWS], tokenizer, 80, 16)
    assert len(features) == NUM_WINDOWS
    losses: list[float] = []
    loop = TrainingLoop(
        model,
        features,
        dev_set(run_dir),
        recipe,
        build_accelerator("fp32", use_gpu=False),
        int(tokenizer.pad_token_id),
        checkpoint_dir=checkpoint_dir,
        on_step=lambda _, loss: losses.append(loss),
    )
    report = list(loop.reports())[-1]
    return Training(losses, dict(loop.model.state_dict()), report.cost, report.train_loss, report.f1)


def dev_set(run_dir: Path) -> EvalSet:
    examples = read_squad(run_dir / "train.json").examples + read_squad(run_dir / "dev.json").examples
    return EvalSet("dev", examples, encode(examples, load_tokenizer(str(run_dir / "model")), 32, 8))


def evaluate(run_dir: Path) -> Evaluation:
    """Scores the untrained model on three batches, the last one smaller."""
    return evaluate_model(load_model(str(run_dir / "model")), dev_set(run_dir), 0, CPU)


def trainings(run_dir: Path, room: Path | None = None) -> dict[str, Training]:
    """Trains by each recipe; with a room, the trunk is kept there for all workers, else each keeps its own."""
    return {name: train(run_dir, recipe, room and room / f"{name} checkpoints") for name, recipe in RECIPES.items()}


def finished_but_not_saved(run_dir: Path, directory: Path) -> list[dict[str, Any]]:
    """Trains to the last checkpoint, is interrupted there, and goes on; returns what it then tells."""
    config = load_config(TrainConfig, run_dir / "run.yaml")
    training = start_training(config, directory / "checkpoints")
    list(training.loop.reports())
    dist.barrier()  # the first worker has written the checkpoint
    told: list[dict[str, Any]] = []
    train_to_end(directory, config, 1, told.append)
    return told


def spoiled(run_dir: Path) -> str:
    """Trains with a weight that is no number in the second worker alone; returns the mistake."""
    original = Passes.loss

    def loss(passes: Passes, batch: Batch) -> Tensor:
        return original(passes, batch) * (torch.nan if rank() == 1 else 1.0)

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(QAError) as caught:
        monkeypatch.setattr(Passes, "loss", loss)
        train(run_dir, RECIPES["plain"])
    return str(caught.value)


def exchange() -> dict[str, Any]:
    """Lets workers exchange values."""
    arrays = [np.full((2, 3), rank() + 1.0), np.arange(2) * rank()]
    add_up(arrays, CPU)
    return {
        "rank": (rank(), num_workers()),
        "from_first": from_first({"precision": f"of worker {rank()}"}),
        "largest": largest(10 * rank() + 2**40, CPU),
        "add_up": arrays,
    }


def worker(number: int, room: Path, run_dir: Path) -> None:
    """Is one of three workers, and then one of two; leaves what came of it in `room`."""
    torch.set_num_threads(1)
    together: dict[int, dict[str, Callable[[], Any]]] = {
        3: {"exchange": exchange, "evaluate": lambda: evaluate(run_dir)},
        2: {
            "evaluate": lambda: evaluate(run_dir),
            "train": lambda: trainings(run_dir, room),
            "in memory": lambda: train(run_dir, RECIPES["trunk"]),
            "resumed": lambda: finished_but_not_saved(run_dir, room / "resumed"),
            "spoiled": lambda: spoiled(run_dir),
        },
    }
    for size, tasks in together.items():
        if number >= size:
            return
        # Whoever waits for one that is not coming fails soon.
        method = f"file://{room}/meeting-{size}"
        # Ray Train, and any other launcher, sets these; Accelerate goes by them.
        os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
        dist.init_process_group("gloo", method, timeout=timedelta(seconds=90), rank=number, world_size=size)
        results = {name: task() for name, task in tasks.items()}
        torch.save(results, room / f"results-{size}-{number}.pt")
        dist.barrier()
        dist.destroy_process_group()


Results = dict[tuple[int, int], dict[str, Any]]


@pytest.fixture(scope="module")
def results(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each worker found, by the number of workers and its rank."""
    room = tmp_path_factory.mktemp("workers")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=worker, args=(number, room, tiny_run)) for number in range(3)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(200)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    # Written by ourselves a moment ago.
    return {
        (size, number): torch.load(room / f"results-{size}-{number}.pt", weights_only=False)
        for size in (2, 3)
        for number in range(size)
    }


@pytest.fixture(scope="module")
def alone(tiny_run: Path) -> dict[str, Training]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return trainings(tiny_run)
    finally:
        torch.set_num_threads(before)


def test_workers_know_their_rank_and_number(results: Results) -> None:
    assert [results[3, number]["exchange"]["rank"] for number in range(3)] == [(0, 3), (1, 3), (2, 3)]


def test_a_single_worker_is_the_first_of_one() -> None:
    array = np.array([1.0, 2.0])
    add_up([array], CPU)
    assert (rank(), num_workers()) == (0, 1)
    assert (from_first("it"), largest(3, CPU), array.tolist()) == ("it", 3, [1.0, 2.0])


@pytest.mark.parametrize("number", range(3))
def test_workers_exchange_values(results: Results, number: int) -> None:
    found = results[3, number]["exchange"]
    assert found["from_first"] == {"precision": "of worker 0"}
    assert found["largest"] == 2**40 + 20
    assert [array.tolist() for array in found["add_up"]] == [[[6.0] * 3] * 2, [0, 3]]


@pytest.mark.parametrize("worker", [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_an_evaluation_is_the_same_for_any_number_of_workers(
    results: Results, worker: tuple[int, int], tiny_run: Path
) -> None:
    expected = evaluate(tiny_run)
    found = results[worker]["evaluate"]
    assert found == expected
    assert found.loss == expected.loss
    assert found.loss > 0
    assert len(set(found.predictions.values())) > 10


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_workers_have_the_losses_of_one(results: Results, alone: dict[str, Training], recipe: str) -> None:
    first, second = (results[2, number]["train"][recipe] for number in range(2))
    assert len(first.losses) == NUM_STEPS[recipe]
    assert first.losses == second.losses
    assert first.losses == pytest.approx(alone[recipe].losses, abs=1e-5)
    assert first.train_loss == pytest.approx(alone[recipe].train_loss, abs=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_workers_end_with_the_weights_of_one(results: Results, alone: dict[str, Training], recipe: str) -> None:
    first, second = (results[2, number]["train"][recipe].weights for number in range(2))
    for name, expected in alone[recipe].weights.items():
        assert torch.equal(first[name], second[name])
        if not name.endswith(WITHOUT_EFFECT):
            torch.testing.assert_close(first[name], expected, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_workers_cost_the_work_of_one_but_some_padding(
    results: Results, alone: dict[str, Training], recipe: str
) -> None:
    for number in range(2):
        found, expected = results[2, number]["train"][recipe].cost, alone[recipe].cost
        assert found["cost.tokens"] == expected["cost.tokens"]
        # Each pads to the longest of its own windows.
        assert 0.97 * expected["cost.tflop"] < found["cost.tflop"] <= expected["cost.tflop"]


def test_workers_that_keep_the_trunk_in_memory_end_with_the_same_weights(results: Results) -> None:
    for number in range(2):
        found, expected = results[2, number]["in memory"].weights, results[2, 0]["train"]["trunk"].weights
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_workers_that_were_interrupted_before_they_saved_the_model_save_it(results: Results) -> None:
    told = results[2, 0]["resumed"]
    assert [[*event] for event in told] == [["report"], ["report"], ["summary"]]
    assert told[1]["report"]["f1"] == told[2]["summary"]["scores"]["dev"]["f1"]
    assert results[2, 1]["resumed"] == []


def test_a_loss_that_is_no_number_ends_all_workers(results: Results) -> None:
    for number in range(2):
        assert results[2, number]["spoiled"].startswith("step 1 of 10: the training loss is nan")
