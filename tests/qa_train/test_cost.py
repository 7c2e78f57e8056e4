import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForQuestionAnswering

from qa_train.batching import collate
from qa_train.config import ModelConfig
from qa_train.cost import CostMeter, FlopModel, measure_flop, peak_memory_bytes
from qa_train.data import read_squad
from qa_train.evaluate import qa_logits, span_loss
from qa_train.model import load_model
from qa_train.tokenization import Features, encode
from tests.tiny_models import Kind, tiny_model_dir, tiny_squad, tiny_tokenizer

CPU = torch.device("cpu")
KINDS: list[Kind] = ["distilbert", "bert", "roberta"]


class Clock:
    """Stands in for `time.perf_counter`; moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


# Seconds


def test_each_part_gets_the_time_of_its_blocks(clock: Clock) -> None:
    meter = CostMeter()
    for seconds in (2.0, 3.0):
        with meter.part("training"):
            clock.now += seconds
        clock.now += 50
    with meter.part("evaluating"):
        clock.now += 1
    assert meter.seconds["training"] == 5
    assert meter.seconds["evaluating"] == 1
    assert sum(meter.seconds.values()) == 6


def test_a_part_within_a_part_is_not_counted_twice(clock: Clock) -> None:
    meter = CostMeter()
    with meter.part("training"):
        clock.now += 2
        with meter.part("checkpointing"):
            clock.now += 5
        clock.now += 1
    assert (meter.seconds["training"], meter.seconds["checkpointing"]) == (3, 5)


def test_what_a_part_has_taken_so_far_is_counted_when_another_begins_within_it(clock: Clock) -> None:
    meter = CostMeter()
    with meter.part("training"):
        clock.now += 2
        with meter.part("checkpointing"):
            assert CostMeter.from_json(meter.to_json()).seconds["training"] == 2


def test_a_part_that_raises_is_counted(clock: Clock) -> None:
    meter = CostMeter()
    with pytest.raises(KeyboardInterrupt), meter.part("loading"):
        clock.now += 4
        raise KeyboardInterrupt
    clock.now += 10
    with meter.part("training"):
        clock.now += 1
    assert (meter.seconds["loading"], meter.seconds["training"]) == (4, 1)


# The meter as a value


def test_the_cost_of_an_earlier_part_of_the_run_is_added(clock: Clock) -> None:
    meter, before = (
        CostMeter(tokens=10, flop=1e9, peak_memory_bytes=5),
        CostMeter(tokens=7, flop=2e9, peak_memory_bytes=9),
    )
    for one in (meter, before):
        with one.part("training"):
            clock.now += 2
    meter.add(before)
    assert meter.columns() == {
        "cost.starting_s": 0.0,
        "cost.loading_s": 0.0,
        "cost.training_s": 4.0,
        "cost.evaluating_s": 0.0,
        "cost.checkpointing_s": 0.0,
        "cost.lost_s": 0.0,
        "cost.tokens": 17,
        "cost.tflop": 0.003,
        "cost.peak_memory_bytes": 9,
    }


def test_the_cost_of_a_part_of_the_run_is_taken_off(clock: Clock) -> None:
    meter = CostMeter(tokens=10, flop=3e12, peak_memory_bytes=5)
    with meter.part("training"):
        clock.now += 2
        before = meter.copy()
        clock.now += 3
    meter.tokens += 4
    rest = meter.minus(before)
    assert (rest.seconds["training"], rest.tokens, rest.flop) == (3, 4, 0)
    assert rest.columns("model_cost").keys() == {f"model_{name}" for name in meter.columns()}
    assert rest.columns("model_cost")["model_cost.peak_memory_bytes"] == 5
    assert meter.seconds["training"] == 5


def test_a_copy_does_not_go_on(clock: Clock) -> None:
    meter = CostMeter()
    with meter.part("training"):
        clock.now += 2
        copy = meter.copy()
        clock.now += 1
    assert (copy.seconds["training"], meter.seconds["training"]) == (2, 3)


def test_a_meter_survives_json(clock: Clock) -> None:
    meter = CostMeter(tokens=3, flop=1.5e15, peak_memory_bytes=2**40)
    with meter.part("training"):
        clock.now += 0.1
    assert CostMeter.from_json(json.loads(json.dumps(meter.to_json()))) == meter


def test_the_peak_memory_of_a_process_is_no_less_than_what_it_holds() -> None:
    held = psutil.Process().memory_info().rss
    # The kernel counts the pages of each thread for itself and adds them up now and then.
    assert 0.9 * held < peak_memory_bytes(CPU) < 2**40


# Operations


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_squad(tmp_path_factory.mktemp("data") / "data.json", 1)


def measured(model: Any) -> FlopModel:
    def loss_of(input_ids: torch.Tensor) -> torch.Tensor:
        output = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
        loss: torch.Tensor = output.start_logits.sum() + output.end_logits.sum()
        return loss

    return measure_flop(model, loss_of)


@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_those_that_pytorch_counts_in_padded_batches(kind: Kind, data: Path, tmp_path: Path) -> None:
    model = load_model(str(tiny_model_dir(tmp_path, kind))).train()
    tokenizer = tiny_tokenizer(kind)
    features: Features = encode(read_squad(data).examples, tokenizer, 128, 32)
    flop = measured(model)
    for indices in ([0], [1, 2, 3], [0, 1, 2, 3, 4, 5]):
        batch = collate(features, indices, int(tokenizer.pad_token_id), CPU)
        size, seq_len = batch.input_ids.shape
        with FlopCounterMode(display=False) as counter:
            span_loss(*qa_logits(model, batch), batch).backward()  # type: ignore[no-untyped-call]
        assert flop.count(size, seq_len, training=True) == pytest.approx(counter.get_total_flops(), rel=1e-9)
        # The counter knows nothing of the fused attention that the CPU uses without dropout.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.inference_mode():
            qa_logits(model.eval(), batch)
        assert flop.count(size, seq_len, training=False) == pytest.approx(counter.get_total_flops(), rel=1e-9)
        model.train()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_operations_are_those_of_the_matrix_products_whatever_kernel_computes_them(
    dropout: float, tmp_path: Path
) -> None:
    config = json.loads((tiny_model_dir(tmp_path) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"attention_dropout": dropout}))
    flop = measured(load_model(str(tmp_path)).train())
    length, width, inner, layers = 57, config["dim"], config["hidden_dim"], config["n_layers"]
    projections, attention = 4 * length * width**2 + 2 * length * width * inner, 2 * length**2 * width
    forward = 2 * (layers * (projections + attention) + length * width * 2)
    assert flop.count(1, length, training=False) == pytest.approx(forward, rel=1e-9)
    assert flop.count(1, length, training=True) == pytest.approx(3 * forward, rel=1e-9)


def test_the_shortest_windows_of_a_configuration_are_long_enough_to_measure(tmp_path: Path) -> None:
    [shortest] = [limit.ge for limit in ModelConfig.model_fields["max_seq_length"].metadata if hasattr(limit, "ge")]
    config = json.loads((tiny_model_dir(tmp_path) / "config.json").read_text())
    short = AutoConfig.for_model(**config | {"max_position_embeddings": shortest})
    model = AutoModelForQuestionAnswering.from_config(short)  # type: ignore[no-untyped-call]
    assert measured(model).count(1, shortest, training=True) > 0


def test_measuring_leaves_no_trace(tmp_path: Path) -> None:
    model = load_model(str(tiny_model_dir(tmp_path))).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measure_flop(model, lambda input_ids: model(input_ids=input_ids).start_logits.sum())
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_operations_are_proportional_to_the_batch_and_quadratic_in_the_length() -> None:
    flop = FlopModel(training=(3.0, 2.0, 1.0), inference=(1.0, 0.0, 0.0))
    assert flop.count(4, 10, training=True) == 4 * 321
    assert flop.count(4, 10, training=False) == 400
