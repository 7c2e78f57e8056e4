import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_train import answering
from qa_train.data import Answer, Example, read_squad
from qa_train.ensemble import _true_log_probabilities, fit_weights, group_members, join_members, mixture_weights
from qa_train.errors import ConfigError, DataError
from qa_train.members import open_members
from qa_train.predictor import Predictor
from tests.tiny_models import tiny_model_dir, tiny_squad
from tests.trained_models import train_a_little

WINDOWS: dict[str, Any] = {"max_seq_length": 48, "doc_stride": 16}
CONTEXT = "the old mill was built by ada in the city of cairo . it opened for all in 1774 . " * 4
QUESTION = "who built the mill ?"


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Models of one kind with other weights."""
    root = tmp_path_factory.mktemp("models")
    return cache(lambda seed: sharpened(tiny_model_dir(root / str(seed), seed=seed), 20 * seed))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_squad(tmp_path_factory.mktemp("data") / "dev.json", 4)


def sharpened(directory: Path, factor: float) -> Path:
    """Makes the random scores of a model far from equal, so that an average is not one of nearly equal numbers."""
    model = AutoModelForQuestionAnswering.from_pretrained(directory)
    with torch.no_grad():
        model.qa_outputs.weight *= factor
    model.save_pretrained(directory)
    return directory


# Averaging


@torch.no_grad()
def mean_probabilities(
    directories: list[Path], weights: list[float], context: str
) -> list[dict[tuple[int, int], float]]:
    """The mean probability of each (window, token) to be the first, and the last, by a plain loop over windows."""
    means: list[dict[tuple[int, int], float]] = [{}, {}]
    for directory, weight in zip(directories, weights, strict=True):
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForQuestionAnswering.from_pretrained(directory).eval()
        encoded = tokenizer(
            QUESTION, context, truncation="only_second", max_length=48, stride=16, return_overflowing_tokens=True
        )
        scores: list[dict[tuple[int, int], float]] = [{}, {}]
        for window, ids in enumerate(encoded["input_ids"]):
            output = model(input_ids=torch.tensor([ids]))
            for part, logits in zip(scores, (output.start_logits[0], output.end_logits[0]), strict=True):
                inside = [at for at, text in enumerate(encoded.sequence_ids(window)) if text == 1]
                part |= {(window, at): float(logits[at]) for at in inside}
        for mean, part in zip(means, scores, strict=True):
            total = sum(np.exp(score) for score in part.values())
            for place, score in part.items():
                mean[place] = mean.get(place, 0.0) + weight * float(np.exp(score)) / total
    return means


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.2, 0.8], [1.0, 0.0]])
def test_two_models_give_the_mean_of_their_probabilities(
    weights: list[float], directory_of: Callable[[int], Path]
) -> None:
    directories = [directory_of(1), directory_of(2)]
    start, end = mean_probabilities(directories, weights, CONTEXT)
    spans = [
        start[window, first] * end[window, last]
        for window, first in start
        for last in range(first, first + 30)
        if (window, last) in end
    ]
    predictor = Predictor(directories, weights=None if weights[0] == 0.5 else weights, **WINDOWS)
    found = predictor(question=QUESTION, context=CONTEXT, n_best=10)
    assert [answer["score"] for answer in found] == pytest.approx(sorted(spans, reverse=True)[:10], rel=1e-4)


def test_an_ensemble_of_one_or_of_equals_is_its_member(directory_of: Callable[[int], Path]) -> None:
    alone = Predictor(directory_of(1), **WINDOWS)(QUESTION, CONTEXT, n_best=5)
    assert Predictor([directory_of(1)], weights=[3], **WINDOWS)(QUESTION, CONTEXT, n_best=5) == alone
    twice = Predictor([directory_of(1), str(directory_of(1))], **WINDOWS)(QUESTION, CONTEXT, n_best=5)
    only = Predictor([directory_of(1), directory_of(2)], weights=[1, 0], **WINDOWS)(QUESTION, CONTEXT, n_best=5)
    for others in (twice, only):
        assert [answer["score"] for answer in others] == pytest.approx([answer["score"] for answer in alone], rel=1e-5)
        assert [answer["answer"] for answer in others] == [answer["answer"] for answer in alone]


def test_questions_are_normalised_for_themselves_whatever_stands_beside_them(
    directory_of: Callable[[int], Path], dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor([directory_of(1), directory_of(2)], **WINDOWS)
    pairs = [(example.question, example.context) for example in read_squad(dev).examples]
    together = predictor(pairs)
    monkeypatch.setattr(answering, "_CHUNK_CHARACTERS", 1)
    alone = predictor(pairs)
    assert [answer["answer"] for answer in together] == [answer["answer"] for answer in alone]
    assert [answer["score"] for answer in together] == pytest.approx([answer["score"] for answer in alone], abs=1e-5)


def test_models_of_two_kinds_with_one_tokenizer_answer_together(
    directory_of: Callable[[int], Path], tmp_path: Path
) -> None:
    directories = [directory_of(1), sharpened(tiny_model_dir(tmp_path, "bert"), 20)]
    # BERT tells question and context apart by token types, which only its own tokenizer gives.
    alone = Predictor(directories[1], **WINDOWS)(QUESTION, CONTEXT)
    found = Predictor(directories, weights=[0, 1], **WINDOWS)(QUESTION, CONTEXT)
    assert found == {**alone, "score": pytest.approx(alone["score"], rel=1e-5)}


def test_models_of_different_tokenizers_are_refused(directory_of: Callable[[int], Path], tmp_path: Path) -> None:
    other = tiny_model_dir(tmp_path, "roberta")
    with pytest.raises(ConfigError, match="expected models of one tokenizer, found another one in") as caught:
        Predictor([directory_of(1), other])
    assert "\n" not in str(caught.value)
    assert str(other) in str(caught.value)
    members = open_members([directory_of(1), other, directory_of(2)])
    assert group_members(members) == [[0, 2], [1]]


def test_models_of_different_windows_are_refused_unless_windows_are_given(
    directory_of: Callable[[int], Path], tmp_path: Path
) -> None:
    other = tiny_model_dir(tmp_path)
    record = {"config": {"model": {"name": "x", "single_window": False, **WINDOWS}}}
    (tmp_path / "training.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"found max_seq_length 384, .* max_seq_length 48, .*give max_seq_length"):
        Predictor([directory_of(1), other])
    assert Predictor([directory_of(1), other], **WINDOWS).max_seq_length == 48
    assert group_members(open_members([directory_of(1), other])) == [[0], [1]]


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [0, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_weights_that_are_none_are_refused(weights: list[float], directory_of: Callable[[int], Path]) -> None:
    with pytest.raises(ConfigError, match="weights: expected 2 numbers >= 0"):
        Predictor([directory_of(1), directory_of(2)], weights=weights)


def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one model or more"):
        Predictor([])


# Weights


likelihoods = st.integers(2, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(-30, 0), min_size=width, max_size=width).map(tuple), min_size=2, max_size=30
    )
)


@settings(deadline=None, max_examples=30)
@given(likelihoods)
def test_fitted_weights_are_as_likely_as_those_of_a_general_optimiser(rows: list[tuple[float, ...]]) -> None:
    logs = np.array(rows)

    def loss(logits: Any) -> float:
        log_weights = logits - np.logaddexp.reduce(logits)
        return -float(np.logaddexp.reduce(logs + log_weights, axis=1).mean())

    weights = mixture_weights(logs)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    with np.errstate(divide="ignore"):
        found = loss(np.log(weights))
    assert found <= minimize(loss, np.zeros(logs.shape[1])).fun + 1e-3


def test_a_trained_model_gets_the_weight_beside_a_random_one(
    directory_of: Callable[[int], Path], dev: Path, tmp_path: Path
) -> None:
    trained = train_a_little(tiny_model_dir(tmp_path), dev, **WINDOWS)
    ensemble = join_members(open_members([directory_of(1), trained], **WINDOWS))
    fitted = fit_weights(ensemble, dev)
    assert ensemble.weights == (0.5, 0.5)
    assert sum(fitted.weights) == pytest.approx(1)
    assert fitted.weights[1] > 0.9
    predictor = Predictor([trained, directory_of(1)], **WINDOWS)
    assert predictor.fit_weights(dev) == predictor.weights == pytest.approx(fitted.weights[::-1], abs=1e-3)


def test_weights_do_not_depend_on_chunks_or_on_questions_with_false_offsets(
    directory_of: Callable[[int], Path], dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor([directory_of(1), directory_of(2)], **WINDOWS)
    expected = predictor.fit_weights(dev)
    content = json.loads(dev.read_text())
    qas = content["data"][0]["paragraphs"][0]["qas"]
    false = [{**qa, "id": f"false {qa['id']}", "answers": [{"text": "zzz", "answer_start": 3}]} for qa in qas]
    content["data"][0]["paragraphs"][0]["qas"] = [*false, *qas]
    (tmp_path / "more.json").write_text(json.dumps(content))
    monkeypatch.setattr(answering, "_CHUNK_CHARACTERS", 500)
    assert predictor.fit_weights(tmp_path / "more.json") == pytest.approx(expected, abs=1e-4)
    content["data"] = [{"title": "a", "paragraphs": [{"context": CONTEXT, "qas": false}]}]
    (tmp_path / "false.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"false\.json: expected questions with an answer at its answer_start"):
        predictor.fit_weights(tmp_path / "false.json")


def test_the_log_probability_of_an_answer_is_that_of_all_its_windows(directory_of: Callable[[int], Path]) -> None:
    start = CONTEXT.index("ada")
    example = Example("q", "a", CONTEXT, QUESTION, (Answer("zzz", 0), Answer("ada", start)))
    directories = [directory_of(1), directory_of(2)]
    found = _true_log_probabilities(join_members(open_members(directories, **WINDOWS)), [example])
    expected = [mean_probabilities([directory], [1.0], CONTEXT) for directory in directories]
    tokenizer = AutoTokenizer.from_pretrained(directories[0])
    encoded = tokenizer(
        QUESTION, CONTEXT, truncation="only_second", max_length=48, stride=16, return_overflowing_tokens=True
    )
    places = [
        (window, at)
        for window in range(len(encoded["input_ids"]))
        if (at := encoded[window].char_to_token(start, 1)) is not None
    ]
    assert len(places) >= 1
    for part in range(2):
        for member in range(2):
            probability = sum(expected[member][part][place] for place in places)
            assert found[part, member] == pytest.approx(np.log(probability), abs=1e-3)
