import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from qa_train.batching import collate, epoch_batches
from qa_train.checkpoint import latest_checkpoint
from qa_train.cost import CostMeter, FlopModel, measure_flop
from qa_train.data import read_squad
from qa_train.errors import CheckpointError, QAError
from qa_train.evaluate import EvalSet, qa_logits, span_loss
from qa_train.loop import Recipe, Report, TrainingLoop
from qa_train.model import load_model, load_tokenizer
from qa_train.optim import schedule_factor
from qa_train.passes import Passes
from qa_train.tokenization import Features, encode
from qa_train.training import build_accelerator

CPU = torch.device("cpu")
RECIPE = Recipe(num_epochs=3, batch_size=4, learning_rate=2e-3, warmup_ratio=0.2, seed=7)
STEPS_PER_EPOCH = 5
SPOILED = float("nan")

Step = tuple[int, float]


class Stop(Exception):  # noqa: N818 - not an error of the project
    """Interrupts a run."""


class Sets(NamedTuple):
    train: Features
    dev: EvalSet
    pad_token_id: int


def read_sets(tiny_run: Path) -> Sets:
    tokenizer = load_tokenizer(str(tiny_run / "model"))
    train = read_squad(tiny_run / "train.json").examples[:18]
    dev = read_squad(tiny_run / "dev.json").examples[:6]
    features, dev_features = (encode(examples, tokenizer, 80, 16) for examples in (train, dev))
    assert len(features) == 18
    return Sets(features, EvalSet("dev", dev, dev_features), int(tokenizer.pad_token_id))


@pytest.fixture(scope="module")
def sets(tiny_run: Path) -> Sets:
    return read_sets(tiny_run)


@pytest.fixture
def build(tiny_run: Path, sets: Sets) -> Callable[..., TrainingLoop]:
    return lambda recipe=RECIPE, **options: build_loop(tiny_run, sets, recipe, **options)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def operations_are_measured_once() -> Iterator[None]:
    """All models here are of one size, and measuring takes as long as the rest of a run."""
    measured: list[FlopModel] = []

    def measure_once(*args: Any) -> FlopModel:
        measured.extend([] if measured else [measure_flop(*args)])
        return measured[0]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("qa_train.passes.measure_flop", measure_once)
        yield


def build_loop(
    tiny_run: Path, sets: Sets, recipe: Recipe = RECIPE, *, dropout: bool = True, model: Any = None, **options: Any
) -> TrainingLoop:
    model = model or load_model(str(tiny_run / "model"))
    if not dropout:
        switch_dropout_off(model)
    accelerator = build_accelerator("fp32", use_gpu=False)
    return TrainingLoop(model, sets.train, sets.dev, recipe, accelerator, sets.pad_token_id, **options)


def switch_dropout_off(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


class Run(NamedTuple):
    """What a run came to."""

    steps: list[Step]
    reports: list[Report]
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, build: Callable[..., TrainingLoop], **options: Any) -> "Run":
        steps: list[Step] = []
        loop = build(on_step=lambda *step: steps.append(step), **options)
        reports = list(loop.reports())
        return cls(steps, reports, {name: tensor.clone() for name, tensor in loop.model.state_dict().items()})

    def is_equal(self, other: "Run") -> bool:
        """Whether weights and reports are the same bit for bit; time and memory are not compared."""
        return (
            self.weights.keys() == other.weights.keys()
            and all(torch.equal(tensor, other.weights[name]) for name, tensor in self.weights.items())
            and list(map(comparable, self.reports)) == list(map(comparable, other.reports))
        )


def comparable(report: Report) -> dict[str, Any]:
    kept = {key: value for key, value in report.cost.items() if key in ("cost.tokens", "cost.tflop")}
    return asdict(replace(report, cost=kept))


@pytest.fixture(scope="module")
def uninterrupted(tiny_run: Path, sets: Sets) -> Run:
    torch.set_num_threads(1)
    return Run.of(lambda **options: build_loop(tiny_run, sets, **options))


# What a run does


def test_training_is_that_of_a_plain_loop(build: Callable[..., TrainingLoop], sets: Sets, tiny_run: Path) -> None:
    recipe = replace(RECIPE, max_grad_norm=0.5)
    found = Run.of(build, recipe=recipe, dropout=False)
    model: Any = load_model(str(tiny_run / "model")).train()
    switch_dropout_off(model)
    plain = [parameter for name, parameter in model.named_parameters() if "bias" in name or "norm" in name.lower()]
    decayed = [parameter for parameter in model.parameters() if not any(parameter is other for other in plain)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    losses: list[float] = []
    num_steps = recipe.num_epochs * STEPS_PER_EPOCH
    for epoch in range(recipe.num_epochs):
        for indices in epoch_batches(sets.train.lengths, recipe.batch_size, recipe.seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * schedule_factor(len(losses), num_steps, 3, "linear")
            losses.append(0.0)
            for index in indices:  # one window at a time, without padding, with the loss of Transformers
                batch = collate(sets.train, [index], sets.pad_token_id, CPU)
                labels = {"start_positions": batch.start_positions, "end_positions": batch.end_positions}
                loss = model(input_ids=batch.input_ids, **labels).loss / len(indices)
                loss.backward()
                losses[-1] += loss.item()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    assert [step for step, _ in found.steps] == list(range(1, num_steps + 1))
    assert [loss for _, loss in found.steps] == pytest.approx(losses, rel=1e-4)


def test_there_is_a_report_for_each_epoch_and_the_last_is_of_a_finished_model(uninterrupted: Run, sets: Sets) -> None:
    reports = uninterrupted.reports
    assert [report.epochs_trained for report in reports] == [1, 2, 3]
    assert [report.step for report in reports] == [5, 10, 15]
    assert [report.budget_epochs for report in reports] == [None, None, 3]
    tokens = int(sets.train.lengths.sum())
    assert [report.cost["cost.tokens"] for report in reports] == [tokens, 2 * tokens, 3 * tokens]
    assert reports[-1].learning_rate == pytest.approx(RECIPE.learning_rate / 12)
    assert reports[-1].train_loss < reports[0].train_loss


def test_the_training_loss_is_the_mean_over_the_windows(uninterrupted: Run, sets: Sets) -> None:
    sizes = [len(batch) for batch in epoch_batches(sets.train.lengths, RECIPE.batch_size, RECIPE.seed, 0)]
    losses = [loss for _, loss in uninterrupted.steps[:STEPS_PER_EPOCH]]
    expected = sum(size * loss for size, loss in zip(sizes, losses, strict=True)) / sum(sizes)
    assert sorted(sizes) == [2, 4, 4, 4, 4]
    assert uninterrupted.reports[0].train_loss == pytest.approx(expected)


def test_dev_is_scored_as_it_is_at_the_end_of_the_epoch(build: Callable[..., TrainingLoop], sets: Sets) -> None:
    loop = build()
    for report in loop.reports():
        evaluation = loop.evaluate(sets.dev)
        assert (report.f1, report.exact_match) == (evaluation.scores.f1, evaluation.scores.exact_match)
        assert report.eval_loss == evaluation.loss
        assert loop.evaluation is not None
        assert loop.evaluation.predictions == evaluation.predictions


def test_the_model_is_trained_and_evaluated_in_its_modes(build: Callable[..., TrainingLoop]) -> None:
    modes: set[tuple[bool, bool]] = set()
    loop = build()
    loop.model.register_forward_hook(lambda model, *_: modes.add((model.training, torch.is_grad_enabled())))
    list(loop.reports())
    # (True, False): operations are counted without gradients too.
    assert modes - {(True, False)} == {(True, True), (False, False)}


def test_all_time_belongs_to_one_part(build: Callable[..., TrainingLoop], tmp_path: Path) -> None:
    loop = build(checkpoint_dir=tmp_path, checkpoint_every_s=0)
    start = time.perf_counter()
    list(loop.reports())
    elapsed = time.perf_counter() - start
    seconds = loop.meter.seconds
    assert all(seconds[part] > 0 for part in ("loading", "training", "evaluating", "checkpointing"))
    assert 0.95 * elapsed < sum(seconds.values()) <= elapsed


# What must not change a run


def test_gradient_accumulation_does_not_change_the_losses(build: Callable[..., TrainingLoop]) -> None:
    whole, cut = (
        Run.of(build, recipe=replace(RECIPE, gradient_accumulation_steps=pieces), dropout=False) for pieces in (1, 3)
    )
    assert [loss for _, loss in cut.steps] == pytest.approx([loss for _, loss in whole.steps], abs=1e-5)
    assert cut.reports[-1].cost["cost.tokens"] == whole.reports[-1].cost["cost.tokens"]


def test_the_same_run_again_is_equal_bit_for_bit(build: Callable[..., TrainingLoop], uninterrupted: Run) -> None:
    again = Run.of(build)
    assert again.steps == uninterrupted.steps
    assert again.is_equal(uninterrupted)


def test_another_seed_gives_another_run(build: Callable[..., TrainingLoop], uninterrupted: Run) -> None:
    assert Run.of(build, recipe=replace(RECIPE, seed=8)).steps != uninterrupted.steps


def test_random_numbers_that_others_draw_do_not_change_a_run(
    build: Callable[..., TrainingLoop], uninterrupted: Run
) -> None:
    torch.manual_seed(99)
    steps = []

    def on_step(step: int, loss: float) -> None:
        steps.append((step, loss))
        torch.rand(step)

    loop = build(on_step=on_step)
    for _ in loop.reports():
        torch.manual_seed(1)
    assert steps == uninterrupted.steps


def test_trying_the_longest_batch_first_does_not_change_a_run(
    build: Callable[..., TrainingLoop], uninterrupted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingLoop, "_try_longest_batch", lambda _: None)
    assert Run.of(build).is_equal(uninterrupted)


def test_the_largest_batch_is_tried_before_the_first_step(
    build: Callable[..., TrainingLoop], sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    original = Passes.loss

    def loss(passes: Passes, batch: Any) -> Tensor:
        seen.append(tuple(batch.input_ids.shape))
        return original(passes, batch)

    monkeypatch.setattr(Passes, "loss", loss)
    next(build(dropout=False).reports())
    sizes = [size * length for size, length in seen]
    assert len(seen) == 1 + STEPS_PER_EPOCH
    assert sizes[0] == max(sizes)


def test_checkpoints_do_not_change_a_run(
    build: Callable[..., TrainingLoop], uninterrupted: Run, tmp_path: Path
) -> None:
    run = Run.of(build, checkpoint_dir=tmp_path, checkpoint_every_s=0)
    assert run.steps == uninterrupted.steps
    assert run.is_equal(uninterrupted)


# Going on after an interruption


def test_a_run_resumed_after_its_second_epoch_is_equal_bit_for_bit(
    build: Callable[..., TrainingLoop], uninterrupted: Run, tmp_path: Path
) -> None:
    reports = build(checkpoint_dir=tmp_path).reports()
    next(reports)
    next(reports)
    del reports
    resumed = Run.of(build, checkpoint_dir=tmp_path)
    assert resumed.steps == uninterrupted.steps[2 * STEPS_PER_EPOCH :]
    assert resumed.is_equal(uninterrupted)


@pytest.mark.parametrize("stop_at", [1, 3, 5, 14])
def test_a_run_resumed_in_mid_epoch_is_equal_bit_for_bit(
    stop_at: int, build: Callable[..., TrainingLoop], uninterrupted: Run, tmp_path: Path
) -> None:
    def on_step(step: int, _: float) -> None:
        if step == stop_at:
            raise Stop

    with pytest.raises(Stop):
        list(build(checkpoint_dir=tmp_path, checkpoint_every_s=0, on_step=on_step).reports())
    resumed = Run.of(build, checkpoint_dir=tmp_path)
    assert resumed.steps == uninterrupted.steps[stop_at - 1 :]
    assert resumed.is_equal(uninterrupted)


def test_a_run_interrupted_again_and_again_is_equal_bit_for_bit(
    build: Callable[..., TrainingLoop], uninterrupted: Run, tmp_path: Path
) -> None:
    def on_step(step: int, _: float) -> None:
        if step % 4 == 0 and step not in seen:
            seen.add(step)
            raise Stop

    seen: set[int] = set()
    for _ in range(3):
        with pytest.raises(Stop):
            list(build(checkpoint_dir=tmp_path, checkpoint_every_s=0, on_step=on_step).reports())
    assert Run.of(build, checkpoint_dir=tmp_path).is_equal(uninterrupted)


def test_a_finished_run_only_tells_its_reports_again(
    build: Callable[..., TrainingLoop], uninterrupted: Run, tmp_path: Path
) -> None:
    list(build(checkpoint_dir=tmp_path).reports())
    again = Run.of(build, checkpoint_dir=tmp_path)
    assert again.steps == []
    assert again.is_equal(uninterrupted)


def killed_run(tiny_run: Path, checkpoint_dir: Path, kill_at: int) -> None:
    """Trains in a process of its own until it kills itself."""
    torch.set_num_threads(1)

    def on_step(step: int, _: float) -> None:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sets = read_sets(tiny_run)
    list(build_loop(tiny_run, sets, checkpoint_dir=checkpoint_dir, checkpoint_every_s=0, on_step=on_step).reports())


def test_a_run_whose_process_is_killed_goes_on_bit_for_bit(
    build: Callable[..., TrainingLoop], uninterrupted: Run, tiny_run: Path, tmp_path: Path
) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed_run, args=(tiny_run, tmp_path, 8))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resumed = Run.of(build, checkpoint_dir=tmp_path)
    assert resumed.steps == uninterrupted.steps[7:]
    assert resumed.is_equal(uninterrupted)


def test_a_resumed_run_goes_on_counting_its_time(build: Callable[..., TrainingLoop], tmp_path: Path) -> None:
    reports = build(
        checkpoint_dir=tmp_path, meter=CostMeter(seconds=dict.fromkeys(CostMeter().seconds, 1000.0))
    ).reports()
    first = next(reports).cost
    last = list(build(checkpoint_dir=tmp_path).reports())[-1].cost
    for part in ("training", "evaluating", "loading"):
        assert last[f"cost.{part}_s"] > first[f"cost.{part}_s"] > 1000


def test_checkpoints_within_an_epoch_come_when_they_are_due(build: Callable[..., TrainingLoop], tmp_path: Path) -> None:
    newest: list[Path | None] = []
    for every_s, directory in ((0, tmp_path / "each"), (3600, tmp_path / "rarely")):
        reports = build(
            checkpoint_dir=directory,
            checkpoint_every_s=every_s,
            on_step=lambda *_, directory=directory: newest.append(latest_checkpoint(directory)),
        ).reports()
        next(reports)
    names = [path and path.name for path in newest]
    assert names == [None, *(f"checkpoint-{step:08d}" for step in range(1, 5)), *[None] * 5]


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-4}, {"num_epochs": 4}, {"seed": 8}, {"schedule": "constant"}])
def test_the_checkpoint_of_another_recipe_is_refused(
    changes: dict[str, Any], build: Callable[..., TrainingLoop], tmp_path: Path
) -> None:
    next(build(checkpoint_dir=tmp_path).reports())
    with pytest.raises(CheckpointError, match=r"checkpoint-00000005: expected the checkpoint of a run with .* found"):
        build(recipe=replace(RECIPE, **changes), checkpoint_dir=tmp_path)


def test_the_checkpoint_of_other_data_is_refused(
    build: Callable[..., TrainingLoop], tiny_run: Path, sets: Sets, tmp_path: Path
) -> None:
    next(build(checkpoint_dir=tmp_path).reports())
    fewer = encode(sets.dev.examples, load_tokenizer(str(tiny_run / "model")), 80, 16)
    with pytest.raises(CheckpointError, match="'num_windows': 6"):
        build_loop(tiny_run, sets._replace(train=fewer), checkpoint_dir=tmp_path)


# What goes wrong


@pytest.mark.parametrize("watched", [True, False])
def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(
    watched: bool, build: Callable[..., TrainingLoop]
) -> None:
    loop = build(on_step=(lambda *_: None) if watched else None)
    reports = loop.reports()
    next(reports)
    with torch.no_grad():
        loop.model.get_parameter("qa_outputs.bias").fill_(SPOILED)
    step = 6 if watched else 10  # without a watcher the loss is looked at every ten steps
    with pytest.raises(
        QAError, match=rf"step {step} of 15: the training loss is nan; lower optim\.learning_rate \(0\.002\)"
    ):
        next(reports)


def spoil_gradients_from(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the gradients no numbers in all passes from this step on, as an overflow would."""
    original = Passes.backward

    def backward(passes: Passes, features: Features, indices: Any, before: int) -> Tensor:
        loss = original(passes, features, indices, before)
        if before + 1 >= step:
            for parameter in passes._model.parameters():
                parameter.grad = torch.full_like(parameter, SPOILED)
        return loss

    monkeypatch.setattr(Passes, "backward", backward)


def test_weights_that_are_no_numbers_do_not_take_the_place_of_a_good_checkpoint(
    build: Callable[..., TrainingLoop], uninterrupted: Run, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        spoil_gradients_from(7, monkeypatch)
        with pytest.raises(QAError, match=r"step 7 of 15: the norm of the weights is nan; lower optim\.learning_rate"):
            list(build(checkpoint_dir=tmp_path, checkpoint_every_s=0).reports())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000006"]
    assert Run.of(build, checkpoint_dir=tmp_path).is_equal(uninterrupted)


def test_a_loss_that_is_no_number_is_not_written_to_a_checkpoint(
    build: Callable[..., TrainingLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss scaler leaves out the steps whose gradients overflow: the weights stay finite."""
    original = TrainingLoop._train_step
    monkeypatch.setattr(
        TrainingLoop, "_train_step", lambda loop, batch: original(loop, batch) * (SPOILED if loop._step == 6 else 1)
    )
    with pytest.raises(QAError, match="step 7 of 15: the training loss is nan"):
        list(build(checkpoint_dir=tmp_path, checkpoint_every_s=0).reports())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000006"]


def test_the_checkpoint_of_a_run_whose_loss_was_no_number_is_refused(
    build: Callable[..., TrainingLoop], tmp_path: Path
) -> None:
    """Older versions wrote such checkpoints."""
    next(build(checkpoint_dir=tmp_path).reports())
    [path] = tmp_path.iterdir()
    progress = json.loads((path / "progress.json").read_text())
    (path / "progress.json").write_text(json.dumps(progress | {"epoch_loss": None}))
    with pytest.raises(CheckpointError, match=r"checkpoint-00000005: expected a finite epoch_loss, .* remove "):
        build(checkpoint_dir=tmp_path)


@pytest.mark.parametrize("with_checkpoints", [True, False])
def test_a_model_that_the_last_step_of_an_epoch_spoiled_is_not_reported(
    with_checkpoints: bool, build: Callable[..., TrainingLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_gradients_from(15, monkeypatch)
    reports = build(checkpoint_dir=tmp_path if with_checkpoints else None).reports()
    assert [next(reports).step, next(reports).step] == [5, 10]
    with pytest.raises(QAError, match=r"step 15 of 15: the loss on dev is nan; lower optim\.learning_rate"):
        next(reports)
    assert [path.name for path in tmp_path.iterdir()] == (["checkpoint-00000010"] if with_checkpoints else [])


def test_a_checkpoint_that_cannot_be_written_ends_the_run(build: Callable[..., TrainingLoop], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        list(build(checkpoint_dir=tmp_path / "file" / "checkpoints").reports())


def test_windows_without_a_known_label_add_no_loss(build: Callable[..., TrainingLoop], sets: Sets) -> None:
    batch = collate(sets.train, [0, 1, 2], sets.pad_token_id, CPU)
    model: Any = build().model
    model.eval()
    parts = batch, collate(sets.train, [0, 2], sets.pad_token_id, CPU)
    losses = [span_loss(*qa_logits(model, part), part).item() for part in parts]
    batch.start_positions[1] = batch.end_positions[1] = -1
    assert span_loss(*qa_logits(model, batch), batch).item() == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] > losses[1]
