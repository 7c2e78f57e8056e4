"""The training loop with the schedule `trunk`: every budget's model is that of a run of that budget alone."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qa_train.batching import collate, epoch_batches
from qa_train.checkpoint import checkpoint_path, latest_checkpoint
from qa_train.config import OptimConfig
from qa_train.errors import CheckpointError
from qa_train.loop import Recipe, Report, TrainingLoop
from qa_train.model import load_model
from qa_train.training import build_accelerator
from tests.qa_train.test_loop import (
    CPU,
    Run,
    Sets,
    Stop,
    build_loop,
    one_thread,
    operations_are_measured_once,
    read_sets,
    sets,
    switch_dropout_off,
)

__all__ = ["one_thread", "operations_are_measured_once", "sets"]  # fixtures

# Steps: an epoch 5, the warm-up 1. The trunk is left at 3, 6 and 9: the run takes 5, then 7 from 3, then 9 from 6.
RECIPE = Recipe(
    num_epochs=3,
    batch_size=4,
    learning_rate=2e-3,
    schedule="trunk",
    seed=7,
    budgets=(1, 2, 3),
    warmup_epochs=0.2,
    cooldown=0.4,
)
NUM_STEPS = 21
LEFT_AT, FINISHED_AT = {1: 3, 2: 8}, {1: 5, 2: 12, 3: 21}

Weights = dict[str, Tensor]


@dataclass
class Trunk:
    """What a run told, and the models that were there when it told of them."""

    steps: list[tuple[int, float]] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    models: dict[int, Weights] = field(default_factory=dict)
    predictions: dict[int, dict[str, str]] = field(default_factory=dict)

    def read(self, loop: TrainingLoop) -> "Trunk":
        """Takes all reports of a loop, as a user would who saves the models."""
        self.reports = []
        for report in loop.reports():
            self.reports.append(report)
            if report.budget_epochs is not None and loop.evaluation:
                assert loop.budget_epochs == report.budget_epochs
                self.models[report.budget_epochs] = weights_of(loop)
                self.predictions[report.budget_epochs] = loop.evaluation.predictions
        return self

    def is_equal(self, other: "Trunk") -> bool:
        """Whether models, answers and reports are the same bit for bit; time and memory are not compared."""
        return (
            self.models.keys() == other.models.keys()
            and all(are_equal(self.models[budget], other.models[budget]) for budget in self.models)
            and self.predictions == other.predictions
            and list(map(told, self.reports)) == list(map(told, other.reports))
        )


def weights_of(loop: TrainingLoop) -> Weights:
    return {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}


def are_equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def told(report: Report) -> dict[str, Any]:
    """A report with those costs that interruptions do not change; a run that is resumed at a model scores it again."""
    counted = {
        key: float(f"{report.cost[key]:.9g}") for key in ("cost.tokens", "model_cost.tokens", "model_cost.tflop")
    }
    return asdict(replace(report, cost=counted))


def without_cost(report: Report) -> Report:
    return replace(report, cost={})


@pytest.fixture(scope="module")
def build(tiny_run: Path, sets: Sets) -> Callable[..., TrainingLoop]:
    return lambda recipe=RECIPE, **options: build_loop(tiny_run, sets, recipe, **options)


def trained(build: Callable[..., TrainingLoop], **options: Any) -> Trunk:
    run = Trunk()
    return run.read(build(on_step=lambda *step: run.steps.append(step), **options))


@pytest.fixture(scope="module")
def uninterrupted(build: Callable[..., TrainingLoop]) -> Trunk:
    torch.set_num_threads(1)
    return trained(build)


@pytest.fixture(scope="module")
def alone(build: Callable[..., TrainingLoop]) -> dict[int, Trunk]:
    """A run of each budget that never left a trunk to come back."""
    torch.set_num_threads(1)
    return {budget: trained(build, recipe=of_one(budget)) for budget in RECIPE.budgets}


def of_one(budget: int, **changes: Any) -> Recipe:
    return replace(RECIPE, num_epochs=budget, budgets=(budget,), **changes)


# What a run gives


def test_there_is_one_report_for_each_budget_and_its_model_is_finished(uninterrupted: Trunk) -> None:
    reports = uninterrupted.reports
    assert [report.budget_epochs for report in reports] == [1, 2, 3]
    assert [report.epochs_trained for report in reports] == [1, 2, 3]
    assert [report.step for report in reports] == [5, 10, 15]
    assert [step for step, _ in uninterrupted.steps] == list(range(1, NUM_STEPS + 1))


@pytest.mark.parametrize("budget", RECIPE.budgets)
def test_each_model_is_bit_for_bit_that_of_a_run_of_its_budget_alone(
    budget: int, uninterrupted: Trunk, alone: dict[int, Trunk]
) -> None:
    assert are_equal(uninterrupted.models[budget], alone[budget].models[budget])
    assert uninterrupted.predictions[budget] == alone[budget].predictions[budget]
    assert without_cost(uninterrupted.reports[budget - 1]) == without_cost(alone[budget].reports[0])


def test_after_a_branch_the_trunk_goes_on_as_if_it_had_never_been_left(
    uninterrupted: Trunk, alone: dict[int, Trunk]
) -> None:
    losses = dict(uninterrupted.steps)
    unbranched = dict(alone[3].steps)
    assert [losses[taken] for taken in (6, 7, 8)] == [unbranched[step] for step in (4, 5, 6)]
    assert [losses[taken] for taken in range(13, 22)] == [unbranched[step] for step in range(7, 16)]
    assert losses[12] != unbranched[10]  # in the second branch the learning rate has begun to fall


@pytest.mark.parametrize("shape", ["1-sqrt", "linear"])
def test_a_model_is_that_of_a_plain_loop_with_its_learning_rates(
    shape: Any, build: Callable[..., TrainingLoop], sets: Sets, tiny_run: Path
) -> None:
    found = trained(build, recipe=replace(RECIPE, cooldown_shape=shape, max_grad_norm=None), dropout=False)
    model: Any = load_model(str(tiny_run / "model")).train()
    switch_dropout_off(model)
    plain = [parameter for name, parameter in model.named_parameters() if "bias" in name or "norm" in name.lower()]
    decayed = [parameter for parameter in model.parameters() if not any(parameter is other for other in plain)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    losses: list[float] = []
    over = np.arange(4) / 4  # of the branch from 6 to 10
    falling = 1 - np.sqrt(over) if shape == "1-sqrt" else 1 - over
    factors = [0.0, *[1.0] * 5, *falling]
    for epoch in range(2):
        for indices in epoch_batches(sets.train.lengths, RECIPE.batch_size, RECIPE.seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = RECIPE.learning_rate * factors[len(losses)]
            losses.append(0.0)
            for index in indices:  # one window at a time, without padding, with the loss of Transformers
                batch = collate(sets.train, [index], sets.pad_token_id, CPU)
                labels = {"start_positions": batch.start_positions, "end_positions": batch.end_positions}
                loss = model(input_ids=batch.input_ids, **labels).loss / len(indices)
                loss.backward()
                losses[-1] += loss.item()
            optimizer.step()
            optimizer.zero_grad()
    ours = dict(found.steps)
    assert [ours[taken] for taken in (1, 2, 3, *range(6, 13))] == pytest.approx(losses, rel=1e-4)
    assert found.reports[1].learning_rate == pytest.approx(RECIPE.learning_rate * factors[-1])
    for name, tensor in model.state_dict().items():
        if not name.endswith(("k_lin.bias", "layer.1.output_layer_norm.bias", "qa_outputs.bias")):  # see test_workers
            torch.testing.assert_close(found.models[2][name], tensor, rtol=0, atol=1e-4, msg=name)


def test_a_linear_cool_down_from_the_warm_up_on_is_the_linear_schedule(build: Callable[..., TrainingLoop]) -> None:
    linear = Run.of(build, recipe=Recipe(num_epochs=3, batch_size=4, learning_rate=2e-3, warmup_ratio=0.2, seed=7))
    trunk = trained(build, recipe=of_one(3, warmup_epochs=0.6, cooldown=0.8, cooldown_shape="linear"))
    assert trunk.steps == linear.steps
    assert are_equal(trunk.models[3], linear.weights)
    assert without_cost(trunk.reports[0]) == without_cost(linear.reports[-1])


def test_a_trunk_without_length_is_left_at_the_start_again_and_again(
    build: Callable[..., TrainingLoop], tmp_path: Path
) -> None:
    recipe = replace(RECIPE, budgets=(1, 2), num_epochs=2, warmup_epochs=0.0, cooldown=1.0)
    expected = trained(build, recipe=recipe)
    assert [step for step, _ in expected.steps] == list(range(1, 16))
    single = trained(build, recipe=replace(recipe, budgets=(2,)))
    assert are_equal(expected.models[2], single.models[2])
    found = interrupted_at_each_step(build, recipe=recipe, checkpoint_dir=tmp_path, checkpoint_every_s=0)
    assert found.is_equal(expected)


def test_a_trunk_that_is_gone_back_to_twice_is_the_same_both_times(build: Callable[..., TrainingLoop]) -> None:
    recipe = replace(RECIPE, warmup_epochs=0.0, cooldown=0.9)
    legs = recipe.legs(5)
    assert [(leg.branch, leg.kept) for leg in legs] == [(1, 1), (1, 1), (2, None)]
    found = trained(build, recipe=recipe)
    for budget in RECIPE.budgets:
        expected = trained(build, recipe=of_one(budget, warmup_epochs=0.0, cooldown=0.9))
        assert are_equal(found.models[budget], expected.models[budget]), budget


# What it costs


def test_a_model_costs_what_a_run_of_its_budget_alone_does(uninterrupted: Trunk, alone: dict[int, Trunk]) -> None:
    for report in uninterrupted.reports:
        [expected] = alone[report.epochs_trained].reports
        assert report.cost["model_cost.tokens"] == expected.cost["cost.tokens"]
        assert report.cost["model_cost.tflop"] == pytest.approx(expected.cost["cost.tflop"], rel=1e-9)


def test_the_run_costs_the_trunk_and_all_branches(uninterrupted: Trunk, sets: Sets) -> None:
    first, *_, last = (report.cost for report in uninterrupted.reports)
    counted = ("tokens", "tflop", *(f"{part}_s" for part in ("loading", "training", "evaluating")))
    assert all(first[f"cost.{name}"] == first[f"model_cost.{name}"] for name in counted)
    assert all(last[f"cost.{name}"] > last[f"model_cost.{name}"] for name in counted if name != "loading_s")
    assert last["cost.loading_s"] == last["model_cost.loading_s"]
    assert last["cost.tokens"] < sum(report.cost["model_cost.tokens"] for report in uninterrupted.reports)


# What must not change a run


@pytest.mark.parametrize("every_s", [0, 3600])
def test_a_trunk_kept_on_disk_is_the_one_kept_in_memory(
    every_s: float, build: Callable[..., TrainingLoop], uninterrupted: Trunk, tmp_path: Path
) -> None:
    run = trained(build, checkpoint_dir=tmp_path, checkpoint_every_s=every_s)
    assert run.steps == uninterrupted.steps
    assert run.is_equal(uninterrupted)


def test_the_trunk_s_checkpoint_stays_as_long_as_the_run_will_go_back_to_it(
    build: Callable[..., TrainingLoop], tmp_path: Path
) -> None:
    seen: dict[int, list[int]] = {}

    def on_step(step: int, _: float) -> None:  # before the checkpoint of this step
        seen[step] = sorted(int(path.name.rpartition("-")[2]) for path in tmp_path.iterdir())

    list(build(checkpoint_dir=tmp_path, checkpoint_every_s=0, on_step=on_step).reports())
    assert {step: names for step, names in seen.items() if len(names) > 1} == {
        5: [3, 4],
        6: [3, 5],
        10: [8, 9],
        11: [8, 10],
        12: [8, 11],
        13: [8, 12],
    }
    assert [path.name for path in tmp_path.iterdir()] == [f"checkpoint-{NUM_STEPS:08d}"]


def test_a_scaler_is_put_back_too(build: Callable[..., TrainingLoop], monkeypatch: pytest.MonkeyPatch) -> None:
    scales: list[tuple[int, float]] = []

    def scaled(recipe: Recipe) -> Trunk:
        """Trains with a loss scale that grows every third step, as with fp16 on a GPU."""

        def with_scaler(*args: Any, **kwargs: Any) -> Any:
            accelerator = build_accelerator(*args, **kwargs)
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
            return accelerator

        monkeypatch.setattr("tests.qa_train.test_loop.build_accelerator", with_scaler)
        run = Trunk()

        def on_step(step: int, loss: float) -> None:
            run.steps.append((step, loss))
            scales.append((step, loop.accelerator.scaler.get_scale()))

        loop = build(recipe=recipe, on_step=on_step)
        run.read(loop)
        return run

    expected = scaled(of_one(2))
    unbranched = dict(scales)
    scales.clear()
    found = scaled(replace(RECIPE, num_epochs=2, budgets=(1, 2)))
    assert len({*unbranched.values()}) > 2
    assert [dict(scales)[taken] for taken in range(6, 13)] == [unbranched[step] for step in range(4, 11)]
    assert are_equal(found.models[2], expected.models[2])


# Going on after an interruption


def interrupted_at_each_step(build: Callable[..., TrainingLoop], **options: Any) -> Trunk:
    """Trains in a run that is interrupted after each of its steps, and each time goes on from its last checkpoint."""
    seen: set[int] = set()
    run = Trunk()

    def on_step(step: int, _: float) -> None:
        if step not in seen:
            seen.add(step)
            raise Stop

    while True:
        try:
            return run.read(build(on_step=on_step, **options))
        except Stop:
            continue


@pytest.mark.parametrize("every_s", [0, 3600])
def test_a_run_interrupted_at_each_step_is_equal_bit_for_bit(
    every_s: float, build: Callable[..., TrainingLoop], uninterrupted: Trunk, tmp_path: Path
) -> None:
    found = interrupted_at_each_step(build, checkpoint_dir=tmp_path, checkpoint_every_s=every_s)
    assert found.is_equal(uninterrupted)


def test_a_model_that_was_told_of_but_not_saved_is_there_again(
    build: Callable[..., TrainingLoop], uninterrupted: Trunk, tmp_path: Path
) -> None:
    for budget in RECIPE.budgets:
        reports = build(checkpoint_dir=tmp_path).reports()
        for _ in range(budget):
            next(reports)  # and the process ends before it has saved anything
        del reports
        loop = build(checkpoint_dir=tmp_path)
        again = loop.reports()
        for earlier in range(1, budget):
            assert told(next(again)) == told(uninterrupted.reports[earlier - 1])
            assert loop.evaluation is None  # this model cannot be had any more
        assert told(next(again)) == told(uninterrupted.reports[budget - 1])
        assert loop.evaluation is not None
        assert loop.evaluation.predictions == uninterrupted.predictions[budget]
        assert are_equal(weights_of(loop), uninterrupted.models[budget])


def killed_run(tiny_run: Path, checkpoint_dir: Path, kill_at: int) -> None:
    """Trains in a process of its own until it kills itself."""
    torch.set_num_threads(1)

    def on_step(step: int, _: float) -> None:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    options: dict[str, Any] = {"checkpoint_dir": checkpoint_dir, "checkpoint_every_s": 0, "on_step": on_step}
    list(build_loop(tiny_run, read_sets(tiny_run), RECIPE, **options).reports())


def test_a_run_whose_process_is_killed_in_a_branch_goes_on_bit_for_bit(
    build: Callable[..., TrainingLoop], uninterrupted: Trunk, tiny_run: Path, tmp_path: Path
) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed_run, args=(tiny_run, tmp_path, 11))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resumed = trained(build, checkpoint_dir=tmp_path)
    assert resumed.steps == uninterrupted.steps[10:]
    assert list(map(told, resumed.reports)) == list(map(told, uninterrupted.reports))
    assert resumed.models.keys() == {2, 3}
    assert all(are_equal(weights, uninterrupted.models[budget]) for budget, weights in resumed.models.items())


def test_a_resumed_run_goes_on_counting_the_time_of_each_model(
    build: Callable[..., TrainingLoop], tmp_path: Path
) -> None:
    reports = build(checkpoint_dir=tmp_path).reports()
    next(reports)
    [path] = tmp_path.glob(f"checkpoint-{FINISHED_AT[1]:08d}")
    progress = json.loads((path / "progress.json").read_text())
    for meter, seconds in (("meter", 1000.0), ("at_branch", 400.0)):  # the first branch took 600 s
        progress[meter]["seconds"]["training"] += seconds
    (path / "progress.json").write_text(json.dumps(progress))
    last = list(build(checkpoint_dir=tmp_path).reports())[-1].cost
    assert last["cost.training_s"] > 1000
    assert 400 < last["model_cost.training_s"] < last["cost.training_s"] - 600


@pytest.mark.parametrize(
    "changes",
    [
        {"cooldown": 0.2},
        {"cooldown_shape": "linear"},
        {"warmup_epochs": 0.4},
        {"budgets": (1, 3)},
        {"schedule": "linear"},
    ],
)
def test_the_checkpoint_of_another_recipe_is_refused(
    changes: dict[str, Any], build: Callable[..., TrainingLoop], tmp_path: Path
) -> None:
    next(build(checkpoint_dir=tmp_path).reports())
    with pytest.raises(CheckpointError, match=r"checkpoint-00000005: expected the checkpoint of a run with .* found"):
        build(recipe=replace(RECIPE, **changes), checkpoint_dir=tmp_path)


def test_a_trunk_s_checkpoint_that_is_gone_is_named(build: Callable[..., TrainingLoop], tmp_path: Path) -> None:
    reports = build(checkpoint_dir=tmp_path).reports()
    next(reports)
    kept = checkpoint_path(tmp_path, LEFT_AT[1])
    (kept / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-00000003/state\.pt: the checkpoint cannot be read"):
        next(reports)


def test_a_checkpoint_of_a_version_without_trunks_is_taken_over(
    build: Callable[..., TrainingLoop], tmp_path: Path
) -> None:
    recipe = Recipe(num_epochs=2, batch_size=4, learning_rate=2e-3, seed=7)
    expected = Run.of(build, recipe=recipe)
    next(build(recipe=recipe, checkpoint_dir=tmp_path).reports())
    path = latest_checkpoint(tmp_path)
    assert path
    progress = json.loads((path / "progress.json").read_text())
    for key in ("budgets", "warmup_epochs", "cooldown", "cooldown_shape"):
        del progress["recipe"][key]
    del progress["at_branch"], progress["of_others"]
    (path / "progress.json").write_text(json.dumps(progress))
    assert Run.of(build, recipe=recipe, checkpoint_dir=tmp_path).is_equal(expected)


def test_the_defaults_of_a_recipe_are_those_of_the_configuration() -> None:
    common = {entry.name for entry in fields(Recipe)} & OptimConfig.model_fields.keys()
    assert {"warmup_ratio", "warmup_epochs", "cooldown", "cooldown_shape"} < common
    recipe = Recipe(num_epochs=1, batch_size=16, learning_rate=3e-5)
    for name in common:
        assert getattr(recipe, name) == OptimConfig.model_fields[name].default, name
