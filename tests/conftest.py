"""Keeps the tests off the network and on one core, before any of them imports torch; builds what many share."""

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

RUN_YAML = """\
data: {train: train.json, dev: dev.json, test: {other: test.json}}
model: {name: ./model, max_seq_length: 64, doc_stride: 16}
optim: {learning_rate: 1e-3, batch_size: 8}
num_epochs: 2
precision: fp32
scale: {use_gpu: false, launcher: local, cpus_per_worker: 1}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the files that take longest, those with a real Ray: several processes (`-n 3`) then end together."""
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in with_ray)


@pytest.fixture(scope="session", autouse=True)
def _own_feature_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps tokenised test data out of the user's cache; processes that tests start inherit it."""
    os.environ["SPANSWEEP_CACHE_DIR"] = str(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory, only to be read, with `run.yaml` of a training of two seconds, its data and its `model`."""
    from tests.tiny_models import tiny_model_dir, tiny_squad

    directory = tmp_path_factory.mktemp("tiny_run")
    for seed, (name, num_articles) in enumerate({"train": 4, "dev": 2, "test": 2}.items()):
        tiny_squad(directory / f"{name}.json", num_articles, seed)
    tiny_model_dir(directory / "model")
    (directory / "run.yaml").write_text(RUN_YAML)
    return directory
