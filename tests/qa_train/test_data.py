import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.data import Answer, Example, read_squad, split_by_title
from qa_train.errors import DataError
from qa_train.storage import sha256_file

CONTEXT = "marie curie won the nobel prize in nineteen oh three."


def qa(question_id: str = "q1", text: str = "nobel prize", start: int = 20, **more: object) -> dict[str, Any]:
    return {
        "id": question_id,
        "question": "what did she win?",
        "answers": [{"text": text, "answer_start": start}],
    } | more


def squad(*qas: object, context: object = CONTEXT, title: object = "Curie") -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}]}


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_squad(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def examples_of(sizes: Sequence[int]) -> list[Example]:
    return [
        Example(f"{title}-{number}", f"title {title}", CONTEXT, "what?", ())
        for title, size in enumerate(sizes)
        for number in range(size)
    ]


def test_a_file_is_read_in_its_order_with_its_hash(tmp_path: Path) -> None:
    content = squad(qa("q1"), qa("q2", "curie", 6))
    content["data"] += squad(qa("q3"), title="Other", context="été " + CONTEXT)["data"]
    path = write(tmp_path, content)
    data = read_squad(path)
    assert data.examples[0] == Example("q1", "Curie", CONTEXT, "what did she win?", (Answer("nobel prize", 20),))
    assert [example.id for example in data.examples] == ["q1", "q2", "q3"]
    assert data.references == {"q1": ("nobel prize",), "q2": ("curie",), "q3": ("nobel prize",)}
    assert data.num_articles == 2
    assert (data.path, data.sha256) == (str(path), sha256_file(path))


def test_all_reference_answers_are_kept_in_order(tmp_path: Path) -> None:
    answers = [{"text": "the nobel prize", "answer_start": 16}, {"text": "nobel prize", "answer_start": 20}]
    data = read_squad(write(tmp_path, squad(qa(answers=answers))))
    assert data.examples[0].answers == (Answer("the nobel prize", 16), Answer("nobel prize", 20))


def test_plausible_answers_serve_only_where_there_are_no_answers(tmp_path: Path) -> None:
    plausible = [{"text": "curie", "answer_start": 6}]
    no_answers = {"id": "q4", "question": "who?", "plausible_answers": plausible, "is_impossible": True}
    content = squad(
        qa("q1", is_impossible=False),
        qa("q2", answers=[], plausible_answers=plausible, is_impossible=True),
        qa("q3", plausible_answers=plausible),
        no_answers,
        qa("q5", answers=[], is_impossible=True),
        qa("q6", answers=[], plausible_answers=[], is_impossible=True),
    )
    assert read_squad(write(tmp_path, content)).references == {
        "q1": ("nobel prize",),
        "q2": ("curie",),
        "q3": ("nobel prize",),
        "q4": ("curie",),
        "q5": (),
        "q6": (),
    }


def test_wrong_offsets_are_read_as_they_stand(tmp_path: Path) -> None:
    data = read_squad(write(tmp_path, squad(qa("q1", start=5000), qa("q2", start=-1))))
    assert [example.answers[0].start for example in data.examples] == [5000, -1]


def test_a_blank_question_or_answer_is_kept(tmp_path: Path) -> None:
    data = read_squad(write(tmp_path, squad(qa("q1", question=" "), qa("q2", text="", start=0))))
    assert data.examples[0].question == " "
    assert data.examples[1].answers == (Answer("", 0),)


@pytest.mark.parametrize("context", ["", " \n\t"])
def test_a_blank_context_is_refused_unless_nothing_is_asked_about_it(tmp_path: Path, context: str) -> None:
    message = refusal(write(tmp_path, squad(qa(), context=context)))
    assert message.startswith(": article 'Curie', paragraphs[0]: expected a context with words, found the string ")
    content = squad(qa())
    content["data"] += squad(context=context)["data"]
    assert len(read_squad(write(tmp_path, content)).examples) == 1


def test_no_file_a_directory_and_no_json_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.json") == ": no such file"
    assert refusal(tmp_path) == ": expected a file, found a directory"
    (tmp_path / "broken.json").write_text('{"data": [')
    assert refusal(tmp_path / "broken.json").startswith(", line 1, column 11: not valid JSON")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"version": "1.1", "articles": []}, "no 'data' but 'version', 'articles'"),
        ({}, "no 'data' but an empty object"),
        ({"data": {}}, "'data' to be an object"),
        ({"data": None}, "'data' to be null"),
        ([1], "a list"),
        ("text", "the string 'text'"),
    ],
)
def test_json_without_a_list_of_articles_says_what_is_there(tmp_path: Path, content: object, found: str) -> None:
    message = refusal(write(tmp_path, content))
    assert message == f": expected the SQuAD form, an object whose 'data' is a list of articles; found {found}"


@pytest.mark.parametrize("content", [{"data": []}, squad(), {"data": [{"title": "A", "paragraphs": []}]}])
def test_a_file_without_questions_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    message = refusal(write(tmp_path, content))
    assert message == f": expected at least one question, found none in {len(content['data'])} articles"


def test_a_question_without_id_is_named_by_its_place(tmp_path: Path) -> None:
    second = qa()
    del second["id"]
    message = refusal(write(tmp_path, squad(qa(), second)))
    expected = "expected 'id', a string, found only 'question', 'answers'"
    assert message == f": article 'Curie', paragraphs[0], qas[1]: {expected}"


def test_an_id_given_twice_is_named_with_both_articles(tmp_path: Path) -> None:
    content = squad(qa("q1"))
    content["data"] += squad(qa("q1"), title="Other")["data"]
    message = refusal(write(tmp_path, content))
    assert "article 'Other', question 'q1'" in message
    assert "question of article 'Curie' has already" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (squad(qa(), title=7), "data[0]: expected 'title' to be a string, found the number 7"),
        ({"data": ["x"]}, "data[0]: expected an object with 'title', found the string 'x'"),
        ({"data": [{"title": "A"}]}, "article 'A': expected 'paragraphs', a list, found only 'title'"),
        (squad(qa(), context=None), "paragraphs[0]: expected 'context' to be a string, found null"),
        (squad("x"), "qas[0]: expected an object with 'id', found the string 'x'"),
        (squad(qa(question=["what?"])), "question 'q1': expected 'question' to be a string, found a list"),
        (squad(qa(answers=None)), "question 'q1': expected 'answers' to be a list, found null"),
        (squad(qa(answers=["x"])), "answers[0]: expected an object with 'text', found the string 'x'"),
        (squad(qa(answers=[{"text": "a"}])), "answers[0]: expected 'answer_start', an integer, found only 'text'"),
        (squad(qa(text="a", start=True)), "answers[0]: expected 'answer_start' to be an integer, found true"),
        (
            squad(qa(answers=[], plausible_answers=[{}])),
            "plausible_answers[0]: expected 'text', a string, found only no keys",
        ),
        (
            squad({"id": "q1", "question": "?"}),
            "question 'q1': expected 'answers', a list, found only 'id', 'question'",
        ),
        (squad(qa(), context="\ud800"), "expected 'context' to be Unicode text, found half of a surrogate pair in it"),
    ],
)
def test_a_field_that_is_missing_or_of_a_wrong_type_is_named(tmp_path: Path, content: object, expected: str) -> None:
    assert refusal(write(tmp_path, content)).endswith(expected)


def test_long_values_are_cut_in_messages(tmp_path: Path) -> None:
    assert len(refusal(write(tmp_path, squad("x\n" * 10_000)))) < 200


sizes = st.lists(st.integers(1, 60), min_size=2, max_size=20)


@given(sizes, st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_split_keeps_articles_whole_and_questions_in_order(sizes: list[int], fraction: float, seed: int) -> None:
    examples = examples_of(sizes)
    train, dev = split_by_title(examples, fraction, seed)
    dev_titles = {example.title for example in dev}
    assert train == tuple(example for example in examples if example.title not in dev_titles)
    assert dev == tuple(example for example in examples if example.title in dev_titles)
    assert train
    assert len(dev_titles) >= min(2, len(sizes) - 1)
    assert split_by_title(examples, fraction, seed) == (train, dev)


@given(st.lists(st.integers(1, 60), min_size=3, max_size=20), st.floats(0.2, 0.8), st.integers(0, 9))
def test_a_split_comes_near_to_the_fraction(sizes: list[int], fraction: float, seed: int) -> None:
    examples = examples_of(sizes)
    _, dev = split_by_title(examples, fraction, seed)
    at_least_two = sum(sorted(sizes)[-2:])
    assert abs(len(dev) - fraction * len(examples)) <= at_least_two


def test_the_seed_and_nothing_else_changes_the_split() -> None:
    examples = examples_of([40 + number % 7 for number in range(40)])
    splits = {frozenset(example.title for example in split_by_title(examples, 0.1, seed)[1]) for seed in range(5)}
    assert len(splits) == 5
    reordered = split_by_title(examples[::-1], 0.1, 3)[1]
    assert reordered[::-1] == split_by_title(examples, 0.1, 3)[1]


def test_of_articles_too_large_for_the_fraction_the_nearest_two_are_taken() -> None:
    _, dev = split_by_title(examples_of([400, 80, 300, 40, 90]), 0.01, 0)
    assert Counter(example.title for example in dev) == {"title 1": 80, "title 3": 40}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=r"expected a fraction between 0 and 1, found"):
        split_by_title(examples_of([3, 3]), fraction, 0)


def test_a_single_article_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"expected at least 2 article titles, found 1 \('title 0'\); name a dev file"):
        split_by_title(examples_of([9]), 0.1, 0)


def spoken(name: str) -> Path:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    return Path(directory) / name


def test_noisy_and_clean_spoken_squad_ask_the_same_questions() -> None:
    clean, noisy = (read_squad(spoken(name)) for name in ("dev_clean.json", "dev_noise_v1.json"))
    assert [example.id for example in clean.examples] == [example.id for example in noisy.examples]
    assert clean.num_articles == noisy.num_articles == 9


def test_a_tenth_of_spoken_squad_is_split_off_by_whole_articles() -> None:
    examples = read_squad(spoken("train_clean.json")).examples
    for seed in range(10):
        _, dev = split_by_title(examples, 0.1, seed)
        assert 0.08 < len(dev) / len(examples) < 0.12
        assert len({example.title for example in dev}) >= 2
