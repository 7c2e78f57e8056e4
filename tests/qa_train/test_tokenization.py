from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.data import Answer, Example, read_squad
from qa_train.errors import DataError
from qa_train.tokenization import UNKNOWN, Features, SquadDataset, encode
from tests.tiny_models import Kind, tiny_squad, tiny_tokenizer

KINDS: list[Kind] = ["distilbert", "bert", "roberta"]
every_kind = pytest.mark.parametrize("kind", KINDS)
MAX_SEQ_LENGTH, DOC_STRIDE = 40, 12


@cache
def tokenizer_of(kind: Kind) -> Any:
    return tiny_tokenizer(kind)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, ...]:
    """Questions whose contexts take several windows each."""
    data = read_squad(tiny_squad(tmp_path_factory.mktemp("data") / "data.json", 3)).examples
    filler = "children like to play there when the weather is good . " * 4
    return tuple(
        replace(
            example,
            context=filler + example.context,
            answers=tuple(replace(answer, start=answer.start + len(filler)) for answer in example.answers),
        )
        for example in data
    )


def example_of(
    context: str, answer: str | None = None, question: str = "who was it ?", start: int | None = None
) -> Example:
    answers = () if answer is None else (Answer(answer, context.index(answer) if start is None else start),)
    return Example("id", "title", context, question, answers)


def window(features: Features, index: int) -> slice:
    return slice(int(features.splits[index]), int(features.splits[index + 1]))


def labelled_text(features: Features, examples: tuple[Example, ...], index: int) -> str:
    """Cuts the labelled span of a window out of its context."""
    offsets = features.offsets[window(features, index)]
    first, past = offsets[features.start_positions[index], 0], offsets[features.end_positions[index], 1]
    context: str = examples[features.example_index[index]].context
    return context[first:past]


@every_kind
def test_windows_and_labels_are_those_of_the_procedure_that_hugging_face_documents(
    kind: Kind, examples: tuple[Example, ...]
) -> None:
    features = encode(examples, tokenizer_of(kind), MAX_SEQ_LENGTH, DOC_STRIDE)
    encoded = tokenizer_of(kind)(
        [example.question for example in examples],
        [example.context for example in examples],
        truncation="only_second",
        max_length=MAX_SEQ_LENGTH,
        stride=DOC_STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert len(features) == len(encoded["input_ids"]) > 3 * len(examples)
    assert features.example_index.tolist() == encoded["overflow_to_sample_mapping"]
    for index, sample in enumerate(encoded["overflow_to_sample_mapping"]):
        tokens = window(features, index)
        assert features.input_ids[tokens].tolist() == encoded["input_ids"][index]
        assert features.offsets[tokens].tolist() == [list(pair) for pair in encoded["offset_mapping"][index]]
        types = encoded["token_type_ids"][index] if kind == "bert" else [0] * len(encoded["input_ids"][index])
        assert features.token_type_ids[tokens].tolist() == types
        in_context = [position for position, part in enumerate(encoded.sequence_ids(index)) if part == 1]
        assert [features.context_begin[index], features.context_end[index]] == [in_context[0], in_context[-1] + 1]
        answer = examples[sample].answers[0]
        start = encoded.char_to_token(index, answer.start, sequence_index=1)
        end = encoded.char_to_token(index, answer.start + len(answer.text) - 1, sequence_index=1)
        label = (0, 0) if start is None or end is None else (start, end)
        assert (features.start_positions[index], features.end_positions[index]) == label


@every_kind
def test_each_labelled_span_decodes_to_its_answer(kind: Kind, examples: tuple[Example, ...]) -> None:
    features = encode(examples, tokenizer_of(kind), MAX_SEQ_LENGTH, DOC_STRIDE)
    labelled = np.flatnonzero(features.start_positions)
    assert set(features.example_index[labelled]) == set(range(len(examples)))
    for index in labelled.tolist():
        answer = examples[features.example_index[index]].answers[0]
        # RoBERTa's first token of a later window has the blank before it in its offsets.
        assert labelled_text(features, examples, index).strip() == answer.text


@every_kind
def test_neighbouring_windows_share_doc_stride_tokens_and_miss_none(kind: Kind, examples: tuple[Example, ...]) -> None:
    features = encode(examples, tokenizer_of(kind), MAX_SEQ_LENGTH, DOC_STRIDE)
    assert features.lengths.max() == MAX_SEQ_LENGTH
    contexts = []
    for index in range(len(features)):
        tokens = features.input_ids[window(features, index)]
        contexts.append(tokens[features.context_begin[index] : features.context_end[index]].tolist())
    for index, example in enumerate(examples):
        own = [contexts[position] for position in np.flatnonzero(features.example_index == index)]
        assert all(one[-DOC_STRIDE:] == other[:DOC_STRIDE] for one, other in pairwise(own))
        whole = [*own[0], *(token for other in own[1:] for token in other[DOC_STRIDE:])]
        assert whole == tokenizer_of(kind)(example.context, add_special_tokens=False)["input_ids"]


@every_kind
@given(
    context=st.text(min_size=1, max_size=60),
    ends=st.sampled_from([("x ", " x"), ("", " x"), ("x ", "")]),
    bounds=st.tuples(st.integers(0, 59), st.integers(1, 10)),
)
def test_a_label_covers_its_answer_and_nothing_beside_it_but_the_rest_of_a_token(
    kind: Kind, context: str, ends: tuple[str, str], bounds: tuple[int, int]
) -> None:
    context = context.join(ends)
    text = context[bounds[0] : sum(bounds)].strip()
    if not text:
        return
    start = context.index(text)
    one = example_of(context, text)
    encoding = tokenizer_of(kind)(one.question, context, return_offsets_mapping=True)
    tokens = [encoding.char_to_token(start + index, sequence_index=1) for index in range(len(text))]
    features = encode([one], tokenizer_of(kind), 512, DOC_STRIDE)
    found = features.start_positions[0], features.end_positions[0]
    kept = [token for token in tokens if token is not None]
    if not kept:  # the tokenizer drops all of its characters
        assert found == (UNKNOWN, UNKNOWN)
        return
    # A character that is several tokens counts as its first one to Hugging Face, here all of them are in the span.
    assert found[0] == kept[0]
    assert features.offsets[found[1]].tolist() == features.offsets[kept[-1]].tolist()
    assert found[1] >= kept[-1]


@every_kind
def test_an_answer_is_in_the_windows_that_hold_all_of_it(kind: Kind) -> None:
    context = ",".join("abcdefghij" * 2)  # each character is a token
    for start in range(len(context) - 2):
        features = encode([example_of(context, context[start : start + 3], start=start)], tokenizer_of(kind), 24, 8)
        assert len(features) > 2
        for index in range(len(features)):
            offsets = features.offsets[window(features, index)]
            kept = offsets[features.context_begin[index] : features.context_end[index]].tolist()
            holds = all([character, character + 1] in kept for character in range(start, start + 3))
            assert (features.start_positions[index] > 0) == (features.end_positions[index] > 0) == holds


def test_an_answer_of_one_character_that_is_several_tokens_has_a_label() -> None:
    features = encode([example_of("the word 日 is short", "日")], tokenizer_of("roberta"))
    assert labelled_text(features, (example_of("the word 日 is short"),), 0) == "日"


def test_a_label_does_not_reach_back_over_a_character_that_the_tokenizer_drops() -> None:
    one = example_of("it was \u200bparis then", "\u200bparis")
    assert labelled_text(encode([one], tokenizer_of("bert")), (one,), 0) == "paris"


@pytest.mark.parametrize(
    ("context", "answer", "label"),
    [
        ("ada went to the cafe\u0301", "cafe\u0301", "cafe"),
        ("\u200bparis is far", "\u200bparis", "paris"),
        ("\u200bparis\u200b", "\u200bparis\u200b", "paris"),
    ],
)
def test_an_answer_has_a_label_where_the_tokenizer_drops_the_first_or_last_character_of_the_context(
    context: str, answer: str, label: str
) -> None:
    one = example_of(context, answer)
    assert labelled_text(encode([one], tokenizer_of("bert")), (one,), 0) == label


def test_an_answer_that_goes_on_behind_a_window_is_not_in_it_and_a_last_dropped_character_is_in_the_last() -> None:
    one = example_of("a b c d e f g h i j k l m n o p cafe\u0301", "o p cafe\u0301")
    for single_window in (False, True):
        features = encode([one], tokenizer_of("bert"), 18, 8, single_window=single_window)
        texts = [
            labelled_text(features, (one,), index) for index in np.flatnonzero(features.start_positions > 0).tolist()
        ]
        assert texts == ([] if single_window else ["o p cafe"])
    assert features.start_positions.tolist() == [UNKNOWN]


@every_kind
def test_a_question_too_long_for_a_quarter_of_the_window_is_cut_and_counted(kind: Kind) -> None:
    long, short = "where was the bridge " * 20, "where ?"
    context = "it was in paris"
    features = encode(
        [example_of(context, "paris", question) for question in (long, short)], tokenizer_of(kind), 64, 16
    )
    assert features.num_questions_cut == 1
    special = 1 if kind != "roberta" else 2  # tokens between question and context
    assert features.context_begin[0] == 1 + 64 // 4 + special
    of_short, cut = features.input_ids[window(features, 1)], features.input_ids[window(features, 0)]
    assert cut[1 : 1 + 16].tolist() == tokenizer_of(kind)(long, add_special_tokens=False)["input_ids"][:16]
    assert (
        of_short[1 : features.context_begin[1] - special].tolist()
        == (tokenizer_of(kind)(short, add_special_tokens=False)["input_ids"])
    )


@every_kind
def test_even_the_smallest_windows_hold_any_question(kind: Kind) -> None:
    question = "unbelievableness 日本 " * 9
    features = encode([example_of("it was in paris " * 9, "paris", question)], tokenizer_of(kind), 16, 8)
    assert features.num_questions_cut == 1
    assert len(features) > 1


@every_kind
def test_an_empty_question_is_no_obstacle(kind: Kind) -> None:
    one = example_of("it was in paris", "paris", question=" ")
    features = encode([one], tokenizer_of(kind))
    assert labelled_text(features, (one,), 0) == "paris"


@pytest.mark.parametrize(
    "one",
    [
        example_of("it was in paris"),
        example_of("it was in paris", "paris", start=3),
        example_of("it was in paris", "paris", start=-5),
        example_of("it was in paris", "paris", start=1000),
        example_of("it was in paris", " ", start=2),
    ],
    ids=["no answer", "wrong offset", "negative offset", "offset behind the end", "blank answer"],
)
def test_an_answer_without_a_true_offset_has_an_unknown_label(one: Example) -> None:
    features = encode([one, example_of("he went to rome", "rome")], tokenizer_of("bert"))
    assert [features.start_positions[0], features.end_positions[0]] == [UNKNOWN, UNKNOWN]
    assert features.start_positions[1] > 0


def test_the_first_answer_with_a_true_offset_is_the_label() -> None:
    one = replace(example_of("paris or rome"), answers=(Answer("paris", 3), Answer(" rome", 8), Answer("paris", 0)))
    assert labelled_text(encode([one], tokenizer_of("bert")), (one,), 0) == "rome"


def test_the_dataset_gives_the_windows_one_by_one(examples: tuple[Example, ...]) -> None:
    features = encode(examples, tokenizer_of("bert"), MAX_SEQ_LENGTH, DOC_STRIDE)
    dataset = SquadDataset(features)
    assert len(dataset) == len(features)
    item = dataset[2]
    assert item["input_ids"].tolist() == features.input_ids[window(features, 2)].tolist()
    assert item["token_type_ids"].shape == item["input_ids"].shape
    assert (item["start_positions"], item["end_positions"]) == (
        features.start_positions[2],
        features.end_positions[2],
    )


def test_many_examples_are_encoded_as_each_alone(
    examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(examples, tokenizer_of("bert"), MAX_SEQ_LENGTH, DOC_STRIDE)
    monkeypatch.setattr("qa_train.tokenization._CHUNK", 4)
    chunked = encode(examples, tokenizer_of("bert"), MAX_SEQ_LENGTH, DOC_STRIDE)
    for name in ("input_ids", "splits", "example_index", "start_positions", "end_positions"):
        assert np.array_equal(getattr(whole, name), getattr(chunked, name))


def test_a_single_window_is_the_first_of_each_example(examples: tuple[Example, ...]) -> None:
    every = encode(examples, tokenizer_of("bert"), MAX_SEQ_LENGTH, DOC_STRIDE)
    single = encode(examples, tokenizer_of("bert"), MAX_SEQ_LENGTH, DOC_STRIDE, single_window=True)
    assert single.example_index.tolist() == list(range(len(examples)))
    for index, first in enumerate(np.unique(every.example_index, return_index=True)[1]):
        assert single.input_ids[window(single, index)].tolist() == every.input_ids[window(every, first)].tolist()
    # The answers of these examples lie in later windows.
    assert set(single.start_positions) == set(single.end_positions) == {UNKNOWN}
    short = encode([example_of("it was in paris", "paris")], tokenizer_of("bert"), single_window=True)
    assert short.start_positions[0] > 0


def test_no_example_and_a_context_without_tokens_are_refused() -> None:
    with pytest.raises(DataError, match="no questions to tokenise"):
        encode([], tokenizer_of("bert"))
    with pytest.raises(
        DataError, match=r"'who was it \?': expected a context with at least one token, found '\\u200b'"
    ):
        encode([example_of("\u200b")], tokenizer_of("bert"))


def test_windows_without_a_known_label_are_left_out_of_training() -> None:
    tokenizer = tokenizer_of("bert")
    examples = [
        example_of("ada built the mill .", "ada"),
        example_of("ben sold the boat " * 20 + "to clara .", "clara"),
        example_of("emma came home .", "emma"),
    ]
    features = encode(examples, tokenizer, max_seq_length=32, doc_stride=8, single_window=True)
    labelled = features.labelled()
    assert features.start_positions.tolist().count(UNKNOWN) == 1
    assert labelled.example_index.tolist() == [0, 2]
    whole = encode([examples[0], examples[2]], tokenizer, max_seq_length=32, doc_stride=8)
    for name in ("input_ids", "offsets", "splits", "start_positions", "end_positions", "context_begin"):
        assert getattr(labelled, name).tolist() == getattr(whole, name).tolist()
    assert whole.labelled() is whole
