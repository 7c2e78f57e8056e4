import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qa_train.batching import epoch_batches
from qa_train.config import TrainConfig, load_config, with_values
from qa_train.errors import CheckpointError
from qa_train.training import Training, start_training
from sweeps import speed_probe
from sweeps.placement import Placement
from sweeps.speed_probe import measure

ONE_CORE = Placement(1, 1, 0, 1)


@pytest.fixture(autouse=True)
def same_number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(tiny_run: Path, **values: object) -> TrainConfig:
    return with_values(load_config(TrainConfig, tiny_run / "run.yaml", ()), values)


def ticking(seconds: float = 1.0) -> Callable[[], float]:
    """A clock that goes on by some seconds each time that it is looked at."""
    return itertools.count(0.0, seconds).__next__


def padded_tokens(tiny_run: Path, **values: object) -> list[int]:
    """Of each batch of the first epoch, padding included."""
    loop = start_training(config(tiny_run, **values)).loop
    batches = epoch_batches(loop.features.lengths, loop.recipe.batch_size, 0, 0)
    return [len(batch) * max(int(loop.features.lengths[index]) for index in batch) for batch in batches]


def test_steps_are_scaled_to_an_epoch_by_padded_tokens(tiny_run: Path) -> None:
    work = padded_tokens(tiny_run)
    assert len(work) >= 3
    found = measure(config(tiny_run), ONE_CORE, ticking())
    # All steps of this short epoch were taken, a second each; the first is not timed.
    assert found.source == f"{len(work) - 1} training steps and 12 dev questions, here and now"
    assert found.training_s == pytest.approx((len(work) - 1) * sum(work) / sum(work[1:]))
    assert found.evaluating_s == 1
    assert found.start_s > 0
    assert (found.device, found.num_devices, found.checkpointing_s, found.caveats) == ("cpu-core", 1, 0, ())


def test_it_ends_once_enough_was_seen(tiny_run: Path) -> None:
    work = padded_tokens(tiny_run, **{"optim.batch_size": 1})
    assert len(work) > 10
    found = measure(config(tiny_run, **{"optim.batch_size": 1}), ONE_CORE, ticking(2.5))
    assert found.source.startswith("2 training steps")  # 5 seconds
    assert found.training_s == pytest.approx(5 * sum(work) / sum(work[1:3]))


@pytest.mark.parametrize(("most", "timed"), [(4, 3), (5, 4)])
def test_fast_steps_are_limited_in_number(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, most: int, timed: int
) -> None:
    monkeypatch.setattr(speed_probe, "_MAX_STEPS", most)
    found = measure(config(tiny_run, **{"optim.batch_size": 1}), ONE_CORE, ticking(0.01))
    assert found.source.startswith(f"{timed} training steps")


def test_an_epoch_of_one_step_is_timed_by_it(tiny_run: Path) -> None:
    found = measure(config(tiny_run, **{"optim.batch_size": 1000}), ONE_CORE, ticking())
    assert found.source.startswith("1 training steps")
    assert found.training_s > 0


def test_an_evaluation_is_scaled_from_evenly_spread_questions(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dev = start_training(config(tiny_run)).loop.dev
    lengths = dev.features.lengths.tolist()
    assert len(dev.examples) == 12
    assert len(lengths) <= 32, "one batch"
    sample = [length for length, index in zip(lengths, dev.features.example_index, strict=True) if index % 3 == 0]
    monkeypatch.setattr(speed_probe, "_DEV_QUESTIONS", 5)
    found = measure(config(tiny_run), ONE_CORE, ticking())
    assert "4 dev questions" in found.source
    assert found.evaluating_s == pytest.approx(len(lengths) * max(lengths) / (len(sample) * max(sample)))


def test_workers_are_taken_to_share_the_work(tiny_run: Path) -> None:
    alone = measure(config(tiny_run), ONE_CORE, ticking())
    values = {"scale.num_workers": 2, "scale.launcher": "ray_train"}
    found = measure(config(tiny_run, **values), Placement(2, 1, 0, 1, "ray_train"), ticking())
    assert (found.training_s, found.evaluating_s) == (alone.training_s / 2, alone.evaluating_s / 2)
    assert found.num_devices == 2
    [caveat] = found.caveats
    assert caveat.startswith("2 workers are taken to be")


def test_the_size_of_a_model_is_that_of_its_weights(tiny_run: Path) -> None:
    weights = load_file(tiny_run / "model" / "model.safetensors")
    expected = sum(tensor.numel() * 4 for tensor in weights.values())
    assert measure(config(tiny_run), ONE_CORE).model_bytes == expected


def test_it_writes_nothing(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    measure(config(tiny_run), ONE_CORE)
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_it_computes_with_the_threads_that_a_trial_will_have(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    monkeypatch.setattr(speed_probe, "limit_threads", found.append)
    measure(config(tiny_run), Placement(1, 3, 0, 1))
    assert found == [3]


def test_what_cannot_be_trained_cannot_be_measured(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        measure(config(tiny_run, **{"model.name": str(tmp_path)}), ONE_CORE)


def test_what_a_sweep_does_once_does_not_count_as_the_start_of_a_trial(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def start(config: TrainConfig, **arguments: Any) -> Training:
        started.append(config.precision)
        return start_training(config, **arguments)

    monkeypatch.setattr(speed_probe, "start_training", start)
    measure(config(tiny_run, precision="auto"), ONE_CORE, ticking())
    assert started[0] == "auto"
    assert started[1] in ("fp32", "bf16"), "found once"
