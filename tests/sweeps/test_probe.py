import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qa_train.baseline import overlap_baseline
from qa_train.config import TrainConfig, load_config, with_values
from qa_train.data import read_squad
from qa_train.errors import CheckpointError, ConfigError, DataError
from qa_train.metrics import score_predictions
from qa_train.training import library_versions, start_training
from sweeps.probe import probe


@pytest.fixture(autouse=True)
def same_number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(tiny_run: Path, **values: object) -> TrainConfig:
    return with_values(load_config(TrainConfig, tiny_run / "run.yaml", ()), values)


def test_a_probe_finds_what_holds_for_all_trials(tiny_run: Path) -> None:
    found = probe(config(tiny_run), 1)
    assert found.precision == "fp32"
    assert found.device == "cpu-core"
    assert found.versions == library_versions()
    assert {"python", "torch", "ray", "optuna", "transformers"} <= found.versions.keys()
    for name, file in (("train", "train.json"), ("dev", "dev.json"), ("test.other", "test.json")):
        path = tiny_run / file
        assert found.data[name]["path"] == str(path)
        assert found.data[name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert found.data[name]["questions"] == len(read_squad(path).examples)


def test_the_baselines_are_what_a_model_must_beat(tiny_run: Path) -> None:
    found = probe(config(tiny_run), 1).baselines
    dev = read_squad(tiny_run / "dev.json").examples
    references = {example.id: [answer.text for answer in example.answers] for example in dev}
    overlap = score_predictions(overlap_baseline(dev), references)
    assert found["question_word_overlap.f1"] == overlap.f1
    assert found["question_word_overlap.exact_match"] == overlap.exact_match
    training = start_training(config(tiny_run))
    untrained = training.loop.evaluate(training.loop.dev).scores
    assert (found["untrained.f1"], found["untrained.exact_match"]) == (untrained.f1, untrained.exact_match)
    *_, trained = training.loop.reports()
    assert trained.f1 != untrained.f1


def test_precision_auto_is_resolved_to_one_that_can_be_trained_in(tiny_run: Path) -> None:
    assert probe(config(tiny_run, precision="auto"), 1).precision in ("fp32", "bf16")


def test_a_probe_uses_the_threads_a_trial_will_have(tiny_run: Path) -> None:
    for count in (2, 1):
        probe(config(tiny_run), count)
        assert torch.get_num_threads() == count


def test_bad_input_fails_in_the_probe(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match=r"broken\.json, line 1, column 2: not valid JSON"):
        probe(config(tiny_run, **{"data.train": str(tmp_path / "broken.json")}), 1)
    with pytest.raises(CheckpointError):
        probe(config(tiny_run, **{"model.name": str(tmp_path)}), 1)
    with pytest.raises(ConfigError, match=r"model\.max_seq_length: expected at most 512"):
        probe(config(tiny_run, **{"model.max_seq_length": 1024}), 1)
