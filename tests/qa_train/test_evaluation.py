from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from qa_train import answering, evaluation
from qa_train.data import Answer, Example, read_squad
from qa_train.ensemble import Ensemble, join_members
from qa_train.evaluate import EvalSet, evaluate_model
from qa_train.evaluation import Answers, answer_questions, score_answers, span_accuracies
from qa_train.members import open_members
from qa_train.predictor import Predictor
from qa_train.tokenization import encode
from tests.tiny_models import Kind, tiny_model_dir, tiny_squad
from tests.trained_models import train_a_little

KINDS: list[Kind] = ["distilbert", "bert", "roberta"]
WINDOWS: dict[str, Any] = {"max_seq_length": 48, "doc_stride": 16}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, ...]:
    return read_squad(tiny_squad(tmp_path_factory.mktemp("data") / "data.json", 6)).examples


@pytest.fixture(scope="module")
def ensemble_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ensemble]:
    """Two models of a kind, of which the first has learned a little from other data."""

    @cache
    def build(kind: Kind) -> Ensemble:
        root = tmp_path_factory.mktemp(kind)
        directories = [tiny_model_dir(root / str(seed), kind, seed) for seed in range(2)]
        train_a_little(directories[0], tiny_squad(root / "train.json", 10, seed=1), 2, **WINDOWS)
        return join_members(open_members(directories, **WINDOWS))

    return build


# Answers


@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_those_of_the_evaluation_in_training(
    kind: Kind, ensemble_of: Callable[..., Ensemble], examples: tuple[Example, ...]
) -> None:
    ensemble = ensemble_of(kind)
    features = encode(examples, ensemble.tokenizer, **WINDOWS)
    for member, answers in zip(ensemble.members, answer_questions(ensemble, examples), strict=True):
        questions = EvalSet("data", examples, features)
        expected = evaluate_model(member.model, questions, member.tokenizer.pad_token_id, torch.device("cpu"))
        assert answers.texts(examples) == expected.predictions
        scores = score_answers(answers, examples, member.tokenizer)
        assert (scores["f1"], scores["exact_match"]) == (expected.scores.f1, expected.scores.exact_match)
        assert scores["num_empty"] == scores["num_missing"] == 0


def test_the_answers_of_the_ensemble_are_those_of_a_predictor(
    ensemble_of: Callable[..., Ensemble], examples: tuple[Example, ...]
) -> None:
    ensemble = ensemble_of("distilbert")
    answers = answer_questions(ensemble, examples, 3, with_mean=True)
    assert len(answers) == 3
    predictor = Predictor([member.name for member in ensemble.members], **WINDOWS)
    expected = predictor([(example.question, example.context) for example in examples], n_best=3)
    assert [*answers[-1].predictions(examples).values()] == expected
    assert [*answers[-1].texts(examples).values()] == [found[0]["answer"] for found in expected]


def test_a_context_with_fewer_spans_than_asked_has_fewer_answers(ensemble_of: Callable[..., Ensemble]) -> None:
    examples = [Example("a", "", "ada", "who ?", ()), Example("b", "", "ada did", "", ())]
    (answers, _) = answer_questions(ensemble_of("distilbert"), examples, 5)
    assert {name: len(found) for name, found in answers.predictions(examples).items()} == {"a": 1, "b": 3}
    assert answers.texts(examples)["a"] == "ada"


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_chunks_changes_nothing(
    kind: Kind,
    ensemble_of: Callable[..., Ensemble],
    examples: tuple[Example, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    at_once = answer_questions(ensemble_of(kind), examples, 2, with_mean=True, on_chunk=asked.append)
    assert asked == [len(examples)]
    monkeypatch.setattr(answering, "_CHUNK_CHARACTERS", 700)
    chunked = answer_questions(ensemble_of(kind), examples, 2, with_mean=True, on_chunk=asked.append)
    assert len(asked) > 10
    assert asked[-1] == len(examples)
    for one, other in zip(at_once, chunked, strict=True):
        assert np.array_equal(one.places, other.places)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert one.cost()["tokens"] == other.cost()["tokens"] > 0


def test_never_more_than_a_chunk_is_tokenised(
    ensemble_of: Callable[..., Ensemble], examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def count(self: Ensemble, asked: tuple[Example, ...]) -> Any:
        sizes.append(sum(len(example.context) + len(example.question) for example in asked))
        return original(self, asked)

    original = Ensemble.encode
    monkeypatch.setattr(Ensemble, "encode", count)
    monkeypatch.setattr(answering, "_CHUNK_CHARACTERS", 1000)
    answer_questions(ensemble_of("distilbert"), examples)
    assert max(sizes) <= 1000
    assert sum(sizes) == sum(len(example.context) + len(example.question) for example in examples)


def test_several_workers_share_the_chunks_and_have_the_answers_of_one(
    ensemble_of: Callable[..., Ensemble], examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_CHUNK_CHARACTERS", 700)
    alone = answer_questions(ensemble_of("distilbert"), examples, 2, with_mean=True)
    shares: list[list[np.ndarray]] = []
    results: list[list[Answers]] = []
    for rank in range(3):
        for module in (answering, evaluation):
            monkeypatch.setattr(module, "num_workers", lambda: 3)
            monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        added: list[np.ndarray] = []
        monkeypatch.setattr(evaluation, "add_up", lambda arrays, device, added=added: added.extend(arrays))
        results.append(answer_questions(ensemble_of("distilbert"), examples, 2, with_mean=True))
        shares.append(added)
    sums = [np.sum(parts, axis=0) for parts in zip(*shares, strict=True)]
    for number, answers in enumerate(alone):
        probabilities, places, costs = sums[3 * number : 3 * number + 3]
        assert np.array_equal(probabilities, answers.probabilities)
        assert np.array_equal(places, answers.places)
        joined = Answers(probabilities, places, costs)
        assert joined.cost()["tokens"] == answers.cost()["tokens"]
        assert joined.cost()["seconds"] == costs[:, 0].max()
        assert (costs[:, 2] > 0).all()


def test_an_ensemble_costs_what_its_members_cost(
    ensemble_of: Callable[..., Ensemble], examples: tuple[Example, ...]
) -> None:
    first, second, mean = (
        answers.cost() for answers in answer_questions(ensemble_of("distilbert"), examples, with_mean=True)
    )
    assert mean["tokens"] == first["tokens"] + second["tokens"]
    assert 0 < max(first["seconds"], second["seconds"]) < mean["seconds"]
    assert first["device_s"] == pytest.approx(first["seconds"] * torch.get_num_threads())


# Places


def test_accuracies_count_the_characters_of_any_answer_at_its_offset() -> None:
    context = "ada and ben and ada"
    answers = (Answer("ada", 16), Answer(" ben ", 7), Answer("and ben", 4), Answer("zzz", 0), Answer("x", -1))
    example = Example("q", "a", context, "who ?", answers)
    cases = {(16, 19): (1, 1, 1), (0, 3): (0, 0, 0), (8, 11): (1, 1, 1), (4, 11): (1, 1, 1), (8, 19): (1, 1, 0)}
    for place, expected in cases.items():
        found = span_accuracies(np.array([place]), [example])
        assert found["num_with_offsets"] == 1
        assert tuple(found[f"{name}_accuracy"] for name in ("start", "end", "span")) == tuple(
            100 * hit for hit in expected
        )


def test_questions_without_an_answer_at_its_offset_are_left_out() -> None:
    true = Example("q", "a", "ada and ben", "who ?", (Answer("ben", 8),))
    false = Example("r", "a", "ada and ben", "who ?", (Answer("ben", 7), Answer(" ", 3)))
    places = np.array([[8, 11], [8, 11], [8, 11]])
    mixed = span_accuracies(places, [true, false, Example("s", "a", "ada", "who ?", ())])
    assert mixed == {"start_accuracy": 100, "end_accuracy": 100, "span_accuracy": 100, "num_with_offsets": 1}
    none = span_accuracies(places[:1], [false])
    assert none == {"start_accuracy": None, "end_accuracy": None, "span_accuracy": None, "num_with_offsets": 0}
