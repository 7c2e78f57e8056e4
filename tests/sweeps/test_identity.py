from pathlib import Path
from typing import Any

import pytest

from qa_train.config import TrainConfig, build_config, with_values
from sweeps.identity import hash_models, hash_sources, identify, surroundings

DATA: dict[str, dict[str, Any]] = {
    "train": {"path": "a/train.json", "sha256": "11"},
    "dev": {"path": "a/dev.json", "sha256": "22"},
    "test.clean": {"path": "a/test.json", "sha256": "33"},
}
VERSIONS = {"torch": "2.13.0", "spansweep": "1", "optuna": "5", "ray": "2.60"}
CONFIG = build_config(TrainConfig, {"data": {"train": "a/train.json", "dev": "a/dev.json"}}, "test")


def common(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"data": DATA, "versions": VERSIONS, "precision": "bf16", "device": "cpu-core"}
    arguments["models"] = {}
    return surroundings(**arguments | changes)


def identity(values: dict[str, Any] | None = None, **changes: Any) -> str:
    return identify(with_values(CONFIG, values or {}), common(**changes))


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"num_epochs": 4},
        {"optim.learning_rate": 1e-5},
        {"scale.num_workers": 2},
        {"data.dev_fraction": 0.2},
    ],
)
def test_another_configuration_is_another_training(values: dict[str, Any]) -> None:
    assert identity(values) != identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"data": DATA | {"train": {"path": "a/train.json", "sha256": "12"}}},
        {"versions": VERSIONS | {"torch": "2.14.0"}},
        {"precision": "fp32"},
        {"device": "H100"},
    ],
)
def test_other_surroundings_are_another_training(changes: dict[str, Any]) -> None:
    assert identity(**changes) != identity()


@pytest.mark.parametrize(
    "values",
    [{"scale.cpus_per_worker": 2}, {"scale.use_gpu": True}, {"scale.launcher": "ray_train"}, {"precision": "fp16"}],
)
def test_where_a_trial_runs_makes_no_difference(values: dict[str, Any]) -> None:
    assert identity(values) == identity()


def test_where_files_lie_and_which_test_sets_there_are_makes_no_difference() -> None:
    moved = DATA | {"train": {"path": "b/x.json", "sha256": "11"}, "test.clean": {"path": "c", "sha256": "44"}}
    assert identity({"data.train": "b/x.json"}, data=moved, versions=VERSIONS | {"ray": "3"}) == identity()


def test_a_model_in_a_directory_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    name = str(tmp_path)

    def identity_of(content: str) -> str:
        (tmp_path / "model.safetensors").write_text(content)
        return identity({"model.name": name}, models=hash_models([name]))

    assert identity_of("1") == identity_of("1") != identity_of("2")  # all in one process, as in a notebook


def test_the_other_models_of_a_sweep_make_no_difference(tmp_path: Path) -> None:
    assert identity(models={str(tmp_path): "1"}) == identity()


def test_a_model_that_is_no_directory_has_no_hash(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("1")
    assert list(hash_models(["distilbert-base-uncased", str(tmp_path)])) == [str(tmp_path)]


def test_other_sources_are_another_training(tmp_path: Path) -> None:
    for name, content in (("a", "x = 1"), ("b", "x = 2"), ("c", "x = 1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "loop.py").write_text(content)
    hashes = [hash_sources(tmp_path / name) for name in "abc"]
    assert hashes[0] == hashes[2] != hashes[1]
