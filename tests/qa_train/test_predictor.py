import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForQuestionAnswering

from qa_train import answering
from qa_train.data import Example, read_squad
from qa_train.ensemble import join_members
from qa_train.errors import CheckpointError, ConfigError, DataError, QAError
from qa_train.evaluate import BATCH_SIZE, EvalSet, evaluate_model, qa_logits
from qa_train.model import load_model, load_tokenizer
from qa_train.postprocess import Span, context_log_sums, distinct_spans, n_best_spans
from qa_train.predictor import Predictor
from qa_train.tokenization import encode
from tests.tiny_models import MAX_LENGTH, Kind, tiny_model_dir, tiny_squad, tiny_tokenizer

CPU = torch.device("cpu")
KINDS: list[Kind] = ["distilbert", "bert", "roberta"]
WINDOWS: dict[str, Any] = {"max_seq_length": 48, "doc_stride": 16}
CONTEXT = "the old mill was built by ada in the city of cairo . it opened for all in 1774 . " * 4
QUESTIONS = ["who built the mill ?", "where is it ?", "when did it open ?"]


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    root = tmp_path_factory.mktemp("models")
    return cache(lambda kind: tiny_model_dir(root / kind, kind, seed=3))


@pytest.fixture(scope="module")
def predictor_of(directory_of: Callable[[Kind], Path]) -> Callable[[Kind], Predictor]:
    return cache(lambda kind: Predictor(directory_of(kind), **WINDOWS))


@pytest.fixture(scope="module")
def predictor(predictor_of: Callable[[Kind], Predictor]) -> Predictor:
    return predictor_of("distilbert")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, ...]:
    """Questions whose contexts take one or two windows each."""
    return read_squad(tiny_squad(tmp_path_factory.mktemp("data") / "data.json", 6)).examples


def refusal(error: type[QAError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Answers


@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_those_that_evaluation_scores(
    kind: Kind,
    directory_of: Callable[[Kind], Path],
    predictor_of: Callable[[Kind], Predictor],
    examples: tuple[Example, ...],
) -> None:
    tokenizer = load_tokenizer(str(directory_of(kind)))
    questions = EvalSet("data", examples, encode(examples, tokenizer, **WINDOWS))
    expected = evaluate_model(load_model(str(directory_of(kind))), questions, tokenizer.pad_token_id, CPU).predictions
    found = predictor_of(kind)([(example.question, example.context) for example in examples])
    assert {example.id: answer["answer"] for example, answer in zip(examples, found, strict=True)} == expected
    assert {answer["window"] for answer in found} >= {0, 1}


@torch.no_grad()
def plain_n_best(predictor: Predictor, question: str, context: str) -> list[tuple[float, int, int, int]]:
    """All (probability, start, end, window), best first, by a loop over unpadded windows and all their spans."""
    (member,) = predictor.ensemble.members
    encoded = member.tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=predictor.max_seq_length,
        stride=predictor.doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for index in range(len(encoded["input_ids"])):
        names = [name for name in member.tokenizer.model_input_names if name in encoded]
        output = member.model(**{name: torch.tensor([encoded[name][index]]) for name in names})
        inside = [position for position, part in enumerate(encoded.sequence_ids(index)) if part == 1]
        start, end = (logits[0, inside].double() for logits in (output.start_logits, output.end_logits))
        windows.append((start, end, [encoded["offset_mapping"][index][position] for position in inside]))
    start_sum = sum(float(start.exp().sum()) for start, _, _ in windows)
    end_sum = sum(float(end.exp().sum()) for _, end, _ in windows)
    best: dict[tuple[int, int], tuple[float, int, int, int]] = {}
    for number, (start, end, offsets) in enumerate(windows):
        for first in range(len(offsets)):
            for last in range(first, min(first + 30, len(offsets))):
                begin, past = offsets[first][0], offsets[last][1]
                text = context[begin:past]
                begin, past = begin + len(text) - len(text.lstrip()), past - (len(text) - len(text.rstrip()))
                score = math.exp(float(start[first])) / start_sum * math.exp(float(end[last])) / end_sum
                best[begin, past] = max(best.get((begin, past), (0.0,)), (score, begin, past, number))  # type: ignore[assignment]
    return sorted(best.values(), reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_n_best_are_those_of_a_plain_loop_over_all_spans(
    kind: Kind, predictor_of: Callable[[Kind], Predictor]
) -> None:
    predictor = predictor_of(kind)
    expected = plain_n_best(predictor, QUESTIONS[0], CONTEXT)[:25]
    found = predictor(question=QUESTIONS[0], context=CONTEXT, n_best=25)
    assert [answer["score"] for answer in found] == pytest.approx([score for score, *_ in expected], rel=1e-4)
    assert [(answer["start"], answer["end"], answer["window"]) for answer in found[:5]] == [
        tuple(place) for _, *place in expected[:5]
    ]


def test_answers_come_best_first_without_the_same_characters_twice(predictor: Predictor) -> None:
    found = predictor(question=QUESTIONS[0], context=CONTEXT, n_best=200)
    scores = [answer["score"] for answer in found]
    places = {(answer["start"], answer["end"]) for answer in found}
    assert scores == sorted(scores, reverse=True)
    assert len(found) == len(places) == 200
    assert 0 < min(scores) <= sum(scores) <= 1
    assert all(CONTEXT[answer["start"] : answer["end"]] == answer["answer"] for answer in found)


def test_the_probabilities_of_all_spans_of_one_window_add_up(predictor: Predictor) -> None:
    # Without a limit of length all pairs with start <= end are spans; the others hold the rest of the probability.
    context = "ada built it"
    found = predictor(question="who ?", context=context, n_best=100)
    assert len(found) == 6  # fewer where fewer exist
    (word,) = predictor(question="who ?", context="ada", n_best=5)
    assert word == {"score": pytest.approx(1), "start": 0, "end": 3, "answer": "ada", "window": 0}


def test_an_answer_is_no_longer_than_asked(predictor: Predictor) -> None:
    found = predictor(question=QUESTIONS[0], context=CONTEXT, n_best=1000, max_answer_length=2)
    assert {len(answer["answer"].split()) for answer in found} == {1, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_same_alone_and_among_others(
    kind: Kind, predictor_of: Callable[[Kind], Predictor], examples: tuple[Example, ...]
) -> None:
    predictor = predictor_of(kind)
    pairs = [(example.question, example.context) for example in examples[:8]] + [("who ?", "ada .")]
    for pair, among_others in zip(pairs, predictor(pairs, n_best=3), strict=True):
        alone = predictor([pair], n_best=3)[0]
        assert [answer["score"] for answer in alone] == pytest.approx(
            [answer["score"] for answer in among_others], abs=1e-5
        )
        assert [answer["answer"] for answer in alone] == [answer["answer"] for answer in among_others]


def test_a_long_context_is_read_to_its_end_a_few_windows_at_a_time(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = "children like to play there . " * 3000 + CONTEXT
    sizes = []

    def count(model: torch.nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(batch))
        return qa_logits(model, batch)

    monkeypatch.setattr(answering, "qa_logits", count)
    found = predictor(question=QUESTIONS[0], context=context, n_best=3)
    assert max(sizes) <= BATCH_SIZE < sum(sizes)
    assert [context[answer["start"] : answer["end"]] for answer in found] == [answer["answer"] for answer in found]


def test_the_last_window_of_a_long_context_is_read_too(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    context = "children like to play there . " * 300 + "ada"
    ada = predictor.ensemble.tokenizer.convert_tokens_to_ids("ada")

    def favour_ada(_: object, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        scores = 9.0 * (batch.input_ids == ada)
        return scores, scores

    monkeypatch.setattr(answering, "qa_logits", favour_ada)
    found = predictor(question="who ?", context=context)
    assert (found["answer"], found["end"]) == ("ada", len(context))
    assert found["window"] > 30
    assert 0.5 < found["score"] < 1


def test_many_contexts_are_read_in_chunks_with_the_same_answers(
    predictor: Predictor, examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(example.question, example.context) for example in examples]
    at_once = predictor(pairs)
    monkeypatch.setattr(answering, "_CHUNK_CHARACTERS", 500)
    chunked = predictor(pairs)
    assert [answer["answer"] for answer in chunked] == [answer["answer"] for answer in at_once]
    assert [answer["score"] for answer in chunked] == pytest.approx([answer["score"] for answer in at_once], abs=1e-5)


# Forms of questions


def test_all_forms_of_questions_give_the_same_answers_in_their_order(predictor: Predictor) -> None:
    contexts = [CONTEXT, "ada was here .", CONTEXT[40:]]
    pairs = list(zip(QUESTIONS, contexts, strict=True))
    mappings = [{"question": question, "context": context} for question, context in pairs]
    expected = predictor(question=QUESTIONS, context=contexts)
    assert len(expected) == 3
    assert expected[1]["answer"] in contexts[1]
    assert predictor(pairs) == predictor(mappings) == predictor(tuple(pairs)) == expected
    assert [predictor(mapping)["answer"] for mapping in mappings] == [answer["answer"] for answer in expected]
    one_context = predictor(question=QUESTIONS, context=CONTEXT)
    assert one_context == predictor(question=QUESTIONS, context=[CONTEXT] * 3)
    assert predictor(question=QUESTIONS[0], context=contexts) == predictor([QUESTIONS[0]] * 3, contexts)
    assert predictor([]) == predictor([], CONTEXT) == []


def test_the_result_is_as_deep_as_what_was_asked(predictor: Predictor) -> None:
    one = predictor(question="who ?", context="ada and ben")
    assert predictor(question=["who ?"], context="ada and ben") == [one]
    assert predictor(question="who ?", context="ada and ben", n_best=1) == [one]
    assert predictor(question=["who ?"], context="ada and ben", n_best=1) == [[one]]
    assert one.keys() == {"score", "start", "end", "answer", "window"}
    assert json.loads(json.dumps(one)) == one


@pytest.mark.parametrize(
    ("question", "context", "message"),
    [
        ("", "ada", "question 1 of 1: expected a question with words, found the string ''"),
        ("who ?", " \n", "expected a context with words"),
        (["who ?", " "], "ada", "question 2 of 2: expected a question with words"),
        (["who ?", None], "ada", "question 2 of 2: expected a question with words, found null"),
        ("who ?", "ada \ud800", "half of a surrogate pair"),
        ("who ?", 7, "contexts: expected a string or a list, found the number 7"),
        (["who ?", "when ?"], ["ada"], "found 2 questions and 1 contexts"),
        ("who ?", None, "pass context=…"),
        (["who ?"], None, "pass context=…"),
        ([("who ?", "ada", "ben")], None, "expected a (question, context) pair"),
        ([{"question": "who ?"}], None, "found only 'question'"),
        (None, None, "questions: expected a string or a list, found null"),
    ],
)
def test_what_cannot_be_answered_is_refused(question: Any, context: Any, message: str, predictor: Predictor) -> None:
    assert message in refusal(DataError, lambda: predictor(question, context))


@pytest.mark.parametrize("arguments", [{"n_best": 0}, {"n_best": True}, {"max_answer_length": 0}])
def test_counts_below_one_are_refused(arguments: dict[str, Any], predictor: Predictor) -> None:
    assert "at least 1" in refusal(ConfigError, lambda: predictor("who ?", "ada", **arguments))


# Opening a model


def test_the_windows_are_those_of_the_training(tmp_path: Path) -> None:
    tiny_model_dir(tmp_path)
    untrained = Predictor(str(tmp_path))
    assert (untrained.max_seq_length, untrained.doc_stride) == (384, 128)
    record = tmp_path / "training.json"
    record.write_text(json.dumps({"config": {"model": {"name": "x", **WINDOWS, "single_window": True}}}))
    assert (Predictor(tmp_path).max_seq_length, Predictor(tmp_path).doc_stride) == (48, 16)
    given = Predictor(tmp_path, doc_stride=8)
    assert (given.max_seq_length, given.doc_stride) == (48, 8)
    record.write_text("[]")
    assert "training.json: expected config.model" in refusal(CheckpointError, lambda: Predictor(tmp_path))


def test_windows_too_long_for_a_model_are_named_as_the_caller_names_them(tmp_path: Path) -> None:
    config = json.loads((tiny_model_dir(tmp_path) / "config.json").read_text())
    short = AutoConfig.for_model(**config | {"max_position_embeddings": 64})
    AutoModelForQuestionAnswering.from_config(short).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    message = refusal(ConfigError, lambda: Predictor(tmp_path))
    assert message.startswith("Predictor: max_seq_length: expected at most 64, ")
    assert Predictor(tmp_path, max_seq_length=64, doc_stride=16).max_seq_length == 64


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_a_head_is_refused(kind: Kind, tmp_path: Path) -> None:
    tiny_model_dir(tmp_path, kind)
    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    message = refusal(CheckpointError, lambda: Predictor(tmp_path))
    assert "qa_outputs" in message
    assert "train it first" in message
    load_model(str(tmp_path))  # to be trained, it is welcome


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "expected" in refusal(CheckpointError, lambda: Predictor(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "abacus"}, "device: expected auto or one that is here, found 'abacus'"),
        ({"precision": "fp8"}, "precision: expected auto, fp32, bf16, fp16, found 'fp8'"),
        ({"max_seq_length": MAX_LENGTH + 1}, f"expected at most {MAX_LENGTH}"),
        ({"max_seq_length": 48, "doc_stride": 40}, "doc_stride: expected at most half"),
    ],
)
def test_what_the_model_or_machine_cannot_do_is_refused(
    arguments: dict[str, Any], message: str, directory_of: Callable[[Kind], Path]
) -> None:
    assert message in refusal(ConfigError, lambda: Predictor(directory_of("distilbert"), **arguments))


def test_half_precision_gives_nearly_the_same_probabilities(directory_of: Callable[[Kind], Path]) -> None:
    directory = directory_of("distilbert")
    exact, rough = Predictor(directory, **WINDOWS), Predictor(directory, precision="bf16", **WINDOWS)
    assert [(member.precision, member.device) for member in exact.ensemble.members] == [("fp32", CPU)]
    one, other = (predictor("who ?", CONTEXT)["score"] for predictor in (exact, rough))
    assert one == pytest.approx(other, rel=0.1)
    assert one != other


def test_scores_that_are_not_finite_are_refused(directory_of: Callable[[Kind], Path]) -> None:
    broken = Predictor(directory_of("distilbert"))
    with torch.no_grad():
        broken.ensemble.members[0].model.get_parameter("qa_outputs.bias").fill_(torch.nan)
    assert "expected finite scores" in refusal(CheckpointError, lambda: broken("who ?", "ada"))


# Decoding


@st.composite
def scored_windows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
    seq_len, batch = draw(st.integers(1, 10)), draw(st.integers(1, 3))
    # A few whole numbers make equal scores frequent, of both signs of 0 too.
    score = draw(st.sampled_from([st.floats(-1e4, 1e4, width=32), st.sampled_from([-1.0, -0.0, 0.0, 1.0])]))
    rows = st.lists(st.lists(score, min_size=seq_len, max_size=seq_len), min_size=batch, max_size=batch)
    bounds = []
    for _ in range(batch):
        begin = draw(st.integers(0, seq_len - 1))
        bounds.append((begin, draw(st.integers(begin + 1, seq_len))))
    return torch.tensor(draw(rows)), torch.tensor(draw(rows)), bounds


def all_spans(
    start: torch.Tensor, end: torch.Tensor, begin: int, past: int, longest: int
) -> Iterator[tuple[float, int, int]]:
    for first in range(begin, past):
        for last in range(first, min(first + longest, past)):
            yield float(start[first] + end[last]), first, last


@given(scored_windows(), st.integers(1, 120), st.integers(1, 12))
def test_the_best_spans_are_those_of_a_search_through_all(
    windows: tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]], n_best: int, max_answer_length: int
) -> None:
    start, end, bounds = windows
    begins, pasts = torch.tensor(bounds).unbind(dim=1)
    scores, firsts, lasts = n_best_spans(start, end, begins, pasts, n_best, max_answer_length)
    for row, (begin, past) in enumerate(bounds):
        # Python's sort is stable: equal ones stay in the order of their start, then of their length.
        expected = sorted(all_spans(start[row], end[row], begin, past, max_answer_length), key=lambda span: -span[0])
        valid = scores[row] > -torch.inf
        found = zip(*(part[row][valid].tolist() for part in (scores, firsts, lasts)), strict=True)
        assert list(found) == expected[:n_best]


@given(scored_windows())
def test_the_denominator_is_the_sum_over_the_context(
    windows: tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]],
) -> None:
    start, _, bounds = windows
    found = context_log_sums(start, *torch.tensor(bounds).unbind(dim=1))
    for row, (begin, past) in enumerate(bounds):
        assert float(found[row]) == pytest.approx(float(np.logaddexp.reduce(start[row, begin:past].double().numpy())))


def test_as_many_different_spans_are_found_as_there_are_though_tokens_are_the_same_characters() -> None:
    # Five tokens of one character, then two words: the best ten spans of tokens are all that one character.
    offsets = np.array([[0, 1]] * 5 + [[2, 5], [6, 9]])
    start, end = torch.tensor([[9.0] * 5 + [1.0, 0.0]]), torch.tensor([[9.0] * 5 + [0.0, 1.0]])
    begin, past = torch.tensor([0]), torch.tensor([7])
    (found,) = distinct_spans(start, end, begin, past, [offsets], ["€ ada ben"], 3).as_lists()
    assert found == [Span(18, 0, 1), Span(10, 0, 9), Span(9, 0, 5)]
    (everything,) = distinct_spans(start, end, begin, past, [offsets], ["€ ada ben"], 100).as_lists()
    assert {span[1:] for span in everything} == {(0, 1), (0, 5), (0, 9), (2, 5), (2, 9), (6, 9)}


contexts = st.text(st.sampled_from("aé€😀 \n\t\u3000.#-'1Z"), min_size=1, max_size=60).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), contexts, st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_no_answer_is_blank_or_has_blanks_at_its_edges_or_pieces_of_the_tokenizer(
    predictor_of: Callable[[Kind], Predictor], kind: Kind, context: str, seed: int, n_best: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    class RandomScores(torch.nn.Module):
        config = SimpleNamespace(type_vocab_size=1)

        def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
            start, end = 10 * torch.randn((2, *input_ids.shape), generator=generator)
            return SimpleNamespace(start_logits=start, end_logits=end)

    predictor = predictor_of(kind)
    (member,) = predictor.ensemble.members
    windows = member.windows.model_copy(update={"max_seq_length": 24, "doc_stride": 6})
    scripted = object.__new__(Predictor)
    scripted.ensemble = join_members([replace(member, model=cast(Any, RandomScores()), windows=windows)])
    answers = scripted("who # ?", context, n_best=n_best)
    assert 1 <= len(answers) <= n_best
    assert len({(answer["start"], answer["end"]) for answer in answers}) == len(answers)
    for answer in answers:
        text = answer["answer"]
        assert text == context[answer["start"] : answer["end"]] == text.strip() != ""
        assert "##" not in text or "##" in context
        assert not any(token in text for token in tiny_tokenizer(kind).all_special_tokens)
        assert 0 <= answer["score"] <= 1
