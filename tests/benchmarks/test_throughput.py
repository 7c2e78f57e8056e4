import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.comparison import Result, Turn, Variant, measure
from benchmarks.loops import Task, TrainLoop, train_ours, train_study, train_trainer
from benchmarks.sampling import (
    BATCH_SIZE,
    grouped_batches,
    num_padded_tokens,
    num_tokens,
    plan_grouped,
    plan_random,
    random_batches,
)
from benchmarks.throughput import format_result, main, open_model, open_task
from qa_train.precision import Precision
from qa_train.tokenization import Ints
from tests.tiny_models import tiny_model_dir, tiny_squad

SEED = 3
LOOPS = [train_ours, train_study, train_trainer]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("benchmark")
    return tiny_model_dir(directory / "model"), tiny_squad(directory / "train.json", num_articles=16)


@pytest.fixture(params=["distilbert", "bert"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path, files: tuple[Path, Path]) -> tuple[PreTrainedModel, Task]:
    model, tokenizer = open_model(str(tiny_model_dir(tmp_path / "model", kind=request.param)))
    return model, open_task(str(files[1]), tokenizer)


def batches_for(train: TrainLoop, lengths: Ints) -> list[Ints]:
    return (plan_grouped if train is train_ours else plan_random)(lengths, 3, SEED)


@pytest.mark.parametrize("train", LOOPS)
def test_every_loop_trains_on_the_windows_of_its_batches_and_counts_their_tokens(
    tiny: tuple[PreTrainedModel, Task], train: TrainLoop, capfd: pytest.CaptureFixture[str]
) -> None:
    model, task = tiny
    lengths = task.features.lengths
    batches = batches_for(train, lengths)
    seen: list[tuple[int, ...]] = []

    def look(_module: Any, _args: Any, inputs: dict[str, torch.Tensor]) -> None:
        if torch.is_grad_enabled() and len(inputs["input_ids"]) == BATCH_SIZE:
            seen.append(tuple(inputs["input_ids"].shape))

    model.register_forward_pre_hook(look, with_kwargs=True)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    steps = train(model, task, batches, "fp32", SEED)
    seq_len = int(lengths.max()) if train is train_study else None
    expected = [num_padded_tokens([batch], lengths, seq_len) for batch in batches]
    # Ours passes the longest batch through the model once before it begins.
    assert [size * seq for size, seq in seen][-3:] == expected
    assert [step.tokens for step in steps] == np.cumsum([num_tokens([batch], lengths) for batch in batches]).tolist()
    assert steps[0].time_s < steps[1].time_s < steps[2].time_s
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("train", "precision", "expected"),
    [
        (train_ours, "fp32", torch.float32),
        (train_ours, "bf16", torch.bfloat16),
        (train_trainer, "fp32", torch.float32),
        (train_trainer, "bf16", torch.bfloat16),
        (train_study, "bf16", torch.float32),
    ],
)
def test_loops_compute_in_their_precision_whatever_ran_before(
    files: tuple[Path, Path], train: TrainLoop, precision: Precision, expected: torch.dtype
) -> None:
    model, tokenizer = open_model(str(files[0]))
    task = open_task(str(files[1]), tokenizer)
    batches = batches_for(train, task.features.lengths)
    # Accelerate keeps the precision for the whole process.
    other: Precision = "bf16" if precision == "fp32" else "fp32"
    for before in (train_ours, train_trainer):
        before(open_model(str(files[0]))[0], task, batches, other, SEED)
    dtypes: list[torch.dtype] = []
    head = model.get_submodule("qa_outputs")
    head.register_forward_hook(lambda _module, _args, output: dtypes.append(output.dtype))
    train(model, task, batches, precision, SEED)
    assert dtypes[-3:] == [expected] * 3


@pytest.mark.parametrize("seed", range(3))
def test_a_few_batches_have_the_lengths_and_the_padding_of_an_epoch(seed: int) -> None:
    lengths = np.random.default_rng(0).gamma(8, 20, size=2700).astype(np.int64).clip(20, 512)
    for plan, epoch in ((plan_grouped, grouped_batches), (plan_random, random_batches)):
        few, all_batches = plan(lengths, 6, seed), epoch(lengths, seed)
        assert [len(batch) for batch in few] == [BATCH_SIZE] * 6
        assert len(np.unique(np.concatenate(few))) == 6 * BATCH_SIZE
        for size in (num_tokens, num_padded_tokens):
            mean = size(all_batches, lengths) / len(all_batches)
            assert size(few[1:], lengths) / 5 == pytest.approx(mean, rel=0.05)


def test_ratios_are_taken_within_each_repeat_and_at_equal_precision() -> None:
    def turns(*rates: float) -> list[Turn]:
        return [Turn(num_tokens=100, num_padded_tokens=150, seconds=100 / rate) for rate in rates]

    result = Result(
        {
            Variant("study", "fp32"): turns(10, 20),
            Variant("trainer", "fp32"): turns(15, 30),
            Variant("ours", "fp32"): turns(30, 30),
            Variant("trainer", "bf16"): turns(25, 40),
            Variant("ours", "bf16"): turns(50, 100),
        },
        {"study": 3.0, "trainer": 1.9, "ours": 1.0},
    )
    ratios = {f"{ratio.ours} / {ratio.other}": (*ratio.values, ratio.goal) for ratio in result.ratios()}
    assert ratios == {
        "ours bf16 / study fp32": pytest.approx((5, 5, 4.5)),
        "ours fp32 / study fp32": (pytest.approx(3), pytest.approx(1.5), None),
        "ours fp32 / trainer fp32": pytest.approx((2, 1, 1.8)),
        "ours bf16 / trainer bf16": pytest.approx((2, 2.5, 1.8)),
    }
    assert "ours bf16 / trainer bf16      2.25  2.00 - 2.50    1.80" in format_result(result)


def test_every_variant_gets_as_many_turns_on_like_many_tokens(files: tuple[Path, Path]) -> None:
    model, tokenizer = open_model(str(files[0]))
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    result = measure(model, open_task(str(files[1]), tokenizer), ["fp32", "bf16"], num_steps=2, num_repeats=1)
    assert [str(each) for each in result.turns] == [
        "study fp32",
        "trainer fp32",
        "ours fp32",
        "trainer bf16",
        "ours bf16",
    ]
    for one, *others in zip(*result.turns.values(), strict=True):
        assert [turn.num_tokens for turn in others] == pytest.approx([one.num_tokens] * 4, rel=0.05)
    assert {len(turns) for turns in result.turns.values()} == {1}
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))


@pytest.fixture
def threads_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.throughput.limit_threads", lambda _count: None)


@pytest.mark.usefixtures("threads_as_they_are")
def test_the_command_finds_its_data_and_prints_json(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = files
    monkeypatch.setenv("SPOKEN_SQUAD_DIR", str(data.parent))
    arguments = ["--data", data.name, "--model", str(model), "--steps", "2", "--repeats", "1", "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"]["windows"] == 96
    assert {"study fp32", "trainer fp32", "ours fp32"} <= printed["rates"].keys()
    assert printed["ratios"]["ours fp32 / trainer fp32"]["goal"] == 1.8
    assert printed["machine"]["cpu"]


@pytest.mark.usefixtures("threads_as_they_are")
def test_too_few_windows_are_explained_in_one_line(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = files
    assert main(["--data", str(data), "--model", str(model), "--steps", "6"]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1] == (
        "error: expected at least 112 windows for 6 steps and one that warms up, found 96; give fewer --steps"
    )
