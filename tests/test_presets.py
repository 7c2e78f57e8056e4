"""Each preset loads, says what it needs and scores, and trains two steps with a tiny model in place of the real one."""

import itertools
from pathlib import Path

import pytest

import qa_train
import sweeps
from qa_train.config import TrainConfig, load_config, with_values
from qa_train.training import start_training
from sweeps.config import SweepConfig
from sweeps.search import VALUES, StudySearcher

TRAIN_PRESETS = sorted((Path(qa_train.__file__).parent / "configs").glob("*.yaml"))
SWEEP_PRESETS = sorted((Path(sweeps.__file__).parent / "configs").glob("*.yaml"))
NUM_STEPS = 2


def preset_name(path: Path) -> str:
    return f"{path.parent.parent.name}/{path.stem}"


def shrunk(config: TrainConfig, tiny_run: Path) -> TrainConfig:
    """Returns the configuration with tiny data and a tiny model, for one epoch on this process's core."""
    return with_values(
        config,
        {
            "data.train": str(tiny_run / "train.json"),
            "data.dev": str(tiny_run / "dev.json"),
            "data.test": {},
            "model.name": str(tiny_run / "model"),
            "num_epochs": 1,
            "budgets": None,
            "precision": "fp32",
            "scale.use_gpu": False,
        },
    )


def train_two_steps(config: TrainConfig) -> list[float]:
    class EnoughError(Exception):
        pass

    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if step == NUM_STEPS:
            raise EnoughError

    with pytest.raises(EnoughError):
        list(start_training(config, on_step=on_step).loop.reports())
    return losses


def test_the_presets_that_users_are_told_of_are_there() -> None:
    expected = {"bert", "demo", "demo_budgets", "distilbert", "offline_minilm", "roberta"}
    expected |= {"study_10_epochs", "study_30_epochs"}
    assert {path.stem for path in TRAIN_PRESETS} == expected
    expected = {"demo", "demo_budgets", "epochs_lr_warmup", "offline_minilm", "study_budgets", "study_grid"}
    expected |= {"epoch_budgets", "recognition_noise", "recognition_noise_seeds"}
    assert {path.stem for path in SWEEP_PRESETS} == expected


@pytest.mark.parametrize("path", TRAIN_PRESETS + SWEEP_PRESETS, ids=preset_name)
def test_each_head_says_what_the_preset_needs_and_what_it_scores(path: Path) -> None:
    head = "".join(itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines(keepends=True)))
    assert "\n# Needs: " in head
    assert "\n# Scores: " in head


@pytest.mark.parametrize("path", TRAIN_PRESETS, ids=preset_name)
def test_each_training_preset_trains(path: Path, tiny_run: Path) -> None:
    config = load_config(TrainConfig, path, find_files=False)
    assert len(train_two_steps(shrunk(config, tiny_run))) == NUM_STEPS


@pytest.mark.parametrize("path", SWEEP_PRESETS, ids=preset_name)
def test_each_sweep_preset_trains_what_it_samples(path: Path, tiny_run: Path) -> None:
    config = load_config(SweepConfig, path, find_files=False)
    suggested = StudySearcher(config.space, config.search).suggest("first")
    if config.search.enqueue:
        assert suggested[VALUES] == config.search.enqueue[0]
    sampled = with_values(config.train, suggested[VALUES])
    assert len(train_two_steps(shrunk(sampled, tiny_run))) == NUM_STEPS


def test_the_study_s_presets_do_what_the_study_did() -> None:
    short, long = (
        load_config(TrainConfig, path, find_files=False) for path in TRAIN_PRESETS if path.stem.startswith("study")
    )
    for config, epochs, schedule in ((short, 10, "constant"), (long, 30, "linear")):
        optim = config.optim
        assert (config.num_epochs, optim.schedule) == (epochs, schedule)
        assert (optim.learning_rate, optim.batch_size) == (2e-6, 16)
        assert (optim.warmup_ratio, optim.weight_decay, optim.max_grad_norm) == (0, 0, None)
        assert config.model.single_window
