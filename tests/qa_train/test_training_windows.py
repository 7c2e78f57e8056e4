from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from qa_train.augment import RecognitionNoise, count_words
from qa_train.config import TrainConfig, load_config, with_values
from qa_train.data import Example, read_squad
from qa_train.tokenization import Features, encode
from qa_train.training import start_training
from qa_train.training_windows import TrainingWindows
from tests.tiny_models import tiny_squad, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Example]:
    return read_squad(tiny_squad(tmp_path_factory.mktemp("data") / "train.json", 10)).examples


def encode_tiny(examples: Sequence[Example], cached: bool) -> Features:
    return encode(examples, TOKENIZER, 48, 8).labelled()


def windows(sets: Sequence[Sequence[Example]], weights: Sequence[float], rate: float = 0.0) -> TrainingWindows:
    noise = RecognitionNoise(rate, count_words(sets[0])) if rate else None
    return TrainingWindows(sets, weights, encode_tiny, 7, noise)


def contents(features: Features) -> list[tuple[int, ...]]:
    bounds = zip(features.splits[:-1], features.splits[1:], strict=True)
    return [tuple(features.input_ids[begin:end].tolist()) for begin, end in bounds]


def test_without_noise_and_weights_all_epochs_are_the_questions_as_they_are(examples: Sequence[Example]) -> None:
    found = windows([examples], [1.0])
    expected = encode_tiny(examples, False)
    assert found.num_windows == len(expected)
    for epoch in (0, 3):
        assert contents(found.of_epoch(epoch)) == contents(expected)


def test_a_set_stands_in_an_epoch_as_often_as_its_weight_says(examples: Sequence[Example]) -> None:
    sets, weights = [examples[:20], examples[20:40], examples[40:60]], [1.0, 0.5, 2.5]
    found = TrainingWindows(sets, weights, lambda examples, _: encode(examples, TOKENIZER, 256, 8).labelled(), 7)
    assert found.num_windows == 20 + 10 + 50  # each question is one window
    seen: Counter[int] = Counter()
    for epoch in range(20):
        counts = Counter(found.of_epoch(epoch).example_index.tolist())
        assert [counts[index] for index in range(20)] == [1] * 20
        assert Counter(counts[index] for index in range(20, 40)) == {0: 10, 1: 10}
        assert Counter(counts[index] for index in range(40, 60)) == {2: 10, 3: 10}
        seen += counts
    assert {*seen} == {*range(60)}  # others each time


def test_all_epochs_have_as_many_windows_whatever_is_drawn(examples: Sequence[Example]) -> None:
    found = windows([examples[:20], examples[20:]], [1.0, 0.3], rate=0.5)
    assert {len(found.of_epoch(epoch)) for epoch in range(5)} == {found.num_windows}


def test_noise_changes_contexts_anew_in_every_epoch_and_keeps_the_answers(examples: Sequence[Example]) -> None:
    found = windows([examples], [1.0], rate=0.3)
    clean = encode_tiny(examples, False)
    first, second = found.of_epoch(0), found.of_epoch(1)
    assert len(first) == len(second) == found.num_windows == len(clean)
    assert contents(first) != contents(second) != contents(clean)
    answers = {example.answers[0].text for example in examples}
    texts = []
    for features in (first, second):
        for window in np.flatnonzero(features.start_positions > 0):
            start = features.splits[window] + features.start_positions[window]
            end = features.splits[window] + features.end_positions[window]
            texts.append(TOKENIZER.decode(features.input_ids[start : end + 1]))
    assert len(texts) > len(examples)
    assert {*texts} <= answers


def test_an_epoch_is_a_function_of_seed_and_epoch(examples: Sequence[Example]) -> None:
    one, other = (windows([examples[:30], examples[30:]], [1.0, 0.3], rate=0.2) for _ in range(2))
    assert contents(one.of_epoch(5)) == contents(other.of_epoch(5))
    one.of_epoch(0)
    assert contents(one.of_epoch(5)) == contents(other.of_epoch(5))


def test_a_run_with_noise_and_extra_questions_is_resumed_bit_for_bit(tiny_run: Path, tmp_path: Path) -> None:
    config = load_config(TrainConfig, tiny_run / "run.yaml")
    extra = tiny_squad(tmp_path / "extra.json", 40, seed=9)
    values = {
        "data.extra_train": {"more": str(extra)},
        "data.extra_weights": {"more": 0.1},
        "augment.recognition_noise": 0.3,
    }
    config = with_values(config, values)
    losses: dict[int, float] = {}
    again: dict[int, float] = {}
    undisturbed = start_training(config, on_step=losses.__setitem__)
    list(undisturbed.loop.reports())
    interrupted = start_training(config, tmp_path / "checkpoints")
    next(interrupted.loop.reports())
    list(start_training(config, tmp_path / "checkpoints", on_step=again.__setitem__).loop.reports())
    assert again.items() < losses.items()
    clean: dict[int, float] = {}
    without_noise = with_values(config, {"augment.recognition_noise": 0.0})
    list(start_training(without_noise, on_step=clean.__setitem__).loop.reports())
    assert clean.keys() == losses.keys()
    assert clean != losses
