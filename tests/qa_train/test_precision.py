import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForQuestionAnswering

from qa_train import precision
from qa_train.model import load_model
from qa_train.precision import Precision, emulation_warning, resolve_precision

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_run: Path) -> nn.Module:
    model: nn.Module = load_model(str(tiny_run / "model"))
    return model.train()


@pytest.mark.parametrize("asked", ["fp32", "bf16", "fp16"])
def test_what_is_asked_for_is_not_measured(asked: Precision, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_time_step", None)
    assert resolve_precision(asked, model, CPU) == asked


@pytest.mark.parametrize(
    ("bf16_seconds", "expected"), [(0.5, "bf16"), (0.89, "bf16"), (0.95, "fp32"), (1.0, "fp32"), (3.0, "fp32")]
)
def test_bf16_must_be_clearly_faster(
    bf16_seconds: float, expected: str, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: Iterator[float] = itertools.chain([5.0, 0.0], itertools.repeat(0.0))  # the first run warms up

    def time_step(_: nn.Module, bf16: bool, seq_len: int) -> float:
        return (bf16_seconds if bf16 else 1.0) + next(delays)

    monkeypatch.setattr(precision, "_time_step", time_step)
    assert resolve_precision("auto", model, CPU) == expected


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_computes_in_bf16_if_it_can(supported: bool, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_supported(*, including_emulation: Literal[False]) -> bool:
        return supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert resolve_precision("auto", model, torch.device("cuda")) == ("bf16" if supported else "fp16")


def test_measuring_leaves_the_model_and_the_random_state_as_they_were(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert resolve_precision("auto", model, CPU) in ("fp32", "bf16")
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


@pytest.mark.parametrize(("seq_len", "timed"), [(64, 64), (384, 128)])
def test_windows_are_timed_no_longer_than_the_run_s(
    seq_len: int, timed: int, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def time_step(_: nn.Module, bf16: bool, seq_len: int) -> float:
        lengths.append(seq_len)
        return 1.0

    monkeypatch.setattr(precision, "_time_step", time_step)
    resolve_precision("auto", model, CPU, seq_len)
    assert set(lengths) == {timed}


def test_a_model_of_few_positions_is_timed() -> None:
    sizes = {"vocab_size": 50, "dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
    config = AutoConfig.for_model("distilbert", **sizes)
    model = AutoModelForQuestionAnswering.from_config(config)  # type: ignore[no-untyped-call]
    assert resolve_precision("auto", model, CPU, 64) in ("fp32", "bf16")


@pytest.mark.parametrize(("avx512", "amx"), [(True, False), (False, True), (False, False)])
def test_a_cpu_that_emulates_bf16_is_told(avx512: bool, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    warning = emulation_warning("bf16", CPU)
    assert (warning is None) == (avx512 or amx)
    assert warning is None or warning.endswith("set precision=auto")
    assert emulation_warning("fp32", CPU) is None
    assert emulation_warning("bf16", torch.device("cuda")) is None
