import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

from qa_train.config import TrainConfig, load_config, with_values
from qa_train.cost import CostMeter
from qa_train.errors import CheckpointError, ConfigError, DataError
from qa_train.loop import Report
from qa_train.model import load_model
from qa_train.training import (
    Training,
    check_window,
    commit,
    library_versions,
    recipe_of,
    resolve_use_gpu,
    start_training,
)
from tests.tiny_models import Kind, tiny_model_dir


@pytest.fixture
def config(tiny_run: Path) -> TrainConfig:
    return load_config(TrainConfig, tiny_run / "run.yaml")


@pytest.fixture(scope="module")
def trained(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, list[Report], Path]:
    """A training, its reports and the directory where it was saved."""
    training = start_training(load_config(TrainConfig, tiny_run / "run.yaml"))
    reports = list(training.loop.reports())
    training.evaluate_tests()
    directory = tmp_path_factory.mktemp("trained")
    training.save(directory)
    return training, reports, directory


def record_of(trained: tuple[Training, list[Report], Path]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((trained[2] / "training.json").read_text())
    return record


# The recipe and what it needs


def test_the_recipe_is_that_of_the_configuration(config: TrainConfig) -> None:
    changed = with_values(
        config,
        {
            "seed": 4,
            "optim.schedule": "constant",
            "optim.warmup_ratio": 0.5,
            "optim.weight_decay": 0.2,
            "optim.max_grad_norm": 3.0,
            "scale.gradient_accumulation_steps": 2,
        },
    )
    recipe = recipe_of(changed)
    assert (recipe.num_epochs, recipe.seed, recipe.gradient_accumulation_steps) == (2, 4, 2)
    for name in ("batch_size", "learning_rate", "schedule", "warmup_ratio", "weight_decay", "max_grad_norm"):
        assert getattr(recipe, name) == getattr(changed.optim, name)


@pytest.mark.parametrize("kind", ["distilbert", "bert", "roberta"])
def test_a_window_longer_than_the_positions_of_the_model_is_one_mistake(
    kind: Kind, config: TrainConfig, tmp_path: Path
) -> None:
    model = load_model(str(tiny_model_dir(tmp_path, kind)))
    check_window(model, with_values(config, {"model.max_seq_length": 512}).model)
    with pytest.raises(ConfigError, match=r"model\.max_seq_length: expected at most 512, .* found 513") as caught:
        check_window(model, with_values(config, {"model.max_seq_length": 513}).model)
    assert len(caught.value.problems) == 1
    positions = torch.arange(5, 6).repeat(1, 512)
    assert model(input_ids=positions, attention_mask=torch.ones_like(positions)).start_logits.shape == (1, 512)


@pytest.mark.parametrize("kind", ["roberta-prelayernorm", "xlm-roberta-xl", "data2vec-text", "lilt", "luke", "mpnet"])
def test_positions_are_counted_as_the_model_counts_them(kind: str, config: TrainConfig) -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    names = {"vocab_size": 9, "pad_token_id": 1, "max_position_embeddings": 66, "entity_vocab_size": 9}
    model_config = AutoConfig.for_model(kind, **sizes, **names)
    model = AutoModelForQuestionAnswering.from_config(model_config).eval()  # type: ignore[no-untyped-call]
    check_window(model, with_values(config, {"model.max_seq_length": 64}).model)
    with pytest.raises(ConfigError, match=r"expected at most 64, .* found 65"):
        check_window(model, with_values(config, {"model.max_seq_length": 65}).model)
    model(input_ids=torch.full((1, 64), 5))
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        model(input_ids=torch.full((1, 65), 5))


def test_precision_is_measured_with_a_model_of_few_positions(config: TrainConfig, tmp_path: Path) -> None:
    model_config = json.loads((tiny_model_dir(tmp_path) / "config.json").read_text())
    short = AutoConfig.for_model(**model_config | {"max_position_embeddings": 64})
    AutoModelForQuestionAnswering.from_config(short).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    changes = {"model.name": str(tmp_path), "model.max_seq_length": 64, "model.doc_stride": 16, "precision": "auto"}
    assert start_training(with_values(config, changes)).precision in ("fp32", "bf16")


def test_a_window_too_long_is_refused_before_training(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"model\.max_seq_length"):
        start_training(with_values(config, {"model.max_seq_length": 600}))


@pytest.mark.parametrize(
    ("asked", "available", "expected"), [("auto", False, False), ("auto", True, True), (False, True, False)]
)
def test_a_gpu_is_used_if_there_is_one_unless_forbidden(
    asked: Any, available: bool, expected: bool, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert resolve_use_gpu(with_values(config, {"scale.use_gpu": asked})) is expected


def test_a_gpu_that_is_demanded_and_not_there_is_a_mistake(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"scale\.use_gpu: true, but PyTorch finds no GPU here"):
        start_training(with_values(config, {"scale.use_gpu": True}))


def test_a_model_without_weights_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    (tiny_model_dir(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors"):
        start_training(with_values(config, {"model.name": str(tmp_path)}))


def test_missing_data_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        start_training(with_values(config, {"data.dev": str(tmp_path / "absent.json")}))


# The trained model


def test_a_trained_model_is_opened_by_transformers(trained: tuple[Training, list[Report], Path]) -> None:
    training, _, directory = trained
    model = AutoModelForQuestionAnswering.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    encoded = tokenizer("who designed the bridge ?", "the bridge was designed by ada .", return_tensors="pt")
    encoded.pop("token_type_ids", None)
    expected_model: Any = training.model
    expected_model.eval()
    with torch.no_grad():
        found, expected = model(**encoded), expected_model(**encoded)
    assert torch.equal(found.start_logits, expected.start_logits)
    assert torch.equal(found.end_logits, expected.end_logits)
    assert tokenizer.get_vocab() == training.tokenizer.get_vocab()


def test_training_changes_the_model_and_lowers_its_loss(trained: tuple[Training, list[Report], Path]) -> None:
    reports = trained[1]
    assert reports[-1].train_loss < reports[0].train_loss
    assert reports[-1].eval_loss is not None


def test_the_record_holds_the_whole_configuration(trained: tuple[Training, list[Report], Path], tiny_run: Path) -> None:
    assert TrainConfig.model_validate(record_of(trained)["config"]) == load_config(TrainConfig, tiny_run / "run.yaml")


def test_the_record_holds_versions_data_scores_and_cost(trained: tuple[Training, list[Report], Path]) -> None:
    training, reports, _ = trained
    record = record_of(trained)
    assert record["precision"] == "fp32"
    assert record["device"] == "cpu-core"
    assert record["versions"]["torch"] == torch.__version__
    assert record["commit"] == commit()
    assert record["data"] == training.questions.description
    assert record["scores"].keys() == {"dev", "test.other"}
    for name in ("f1", "exact_match"):
        assert record["scores"]["dev"][name] == getattr(reports[-1], name)
        assert 0 <= record["scores"]["test.other"][name] <= 100
    assert record["cost"].keys() == CostMeter().columns().keys()
    assert record["cost"]["cost.loading_s"] > 0
    assert record["cost"]["cost.tflop"] > reports[-1].cost["cost.tflop"]  # the test sets' too


def test_the_test_sets_select_nothing(trained: tuple[Training, list[Report], Path], config: TrainConfig) -> None:
    alone = start_training(with_values(config, {"data.test": {}}))
    reports = list(alone.loop.reports())
    alone.evaluate_tests()
    assert alone.tests == {}
    assert [report.f1 for report in reports] == [report.f1 for report in trained[1]]
    weights = trained[0].model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in alone.model.state_dict().items())


def test_bf16_keeps_the_weights_in_float32(config: TrainConfig, tmp_path: Path) -> None:
    training = start_training(with_values(config, {"precision": "bf16", "num_epochs": 1}))
    next(training.loop.reports())
    assert training.precision == "bf16"
    assert {tensor.dtype for tensor in training.model.state_dict().values()} == {torch.float32}
    training.save(tmp_path)
    assert load_model(str(tmp_path)).dtype == torch.float32


def test_a_resumed_run_keeps_its_precision(config: TrainConfig, tmp_path: Path) -> None:
    next(start_training(with_values(config, {"precision": "bf16"}), tmp_path).loop.reports())
    assert start_training(with_values(config, {"precision": "auto"}), tmp_path).precision == "bf16"


def test_versions_name_what_the_scores_depend_on() -> None:
    assert {"python", "torch", "transformers", "tokenizers", "numpy"} <= library_versions().keys()
