import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.baseline import MAX_ANSWER_WORDS, overlap_baseline
from qa_train.data import Example, read_squad
from qa_train.metrics import score_predictions

CONTEXT = "The school opened in the spring. In 1903 Marie Curie won the Nobel Prize. She was buried in Paris later."


def answer(question: str, context: str = CONTEXT) -> str:
    return overlap_baseline([Example("q1", "A", context, question, ())])["q1"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Where was she buried?", "Paris"),
        ("Who won the Nobel Prize?", "Marie Curie"),
        ("What did Marie Curie win in 1903?", "won the Nobel Prize"),
    ],
)
def test_the_span_nearest_to_the_words_of_the_question_is_chosen(question: str, expected: str) -> None:
    assert expected in answer(question)


def test_a_question_that_shares_no_word_gets_an_answer_all_the_same() -> None:
    assert answer("Why?") == answer("") == "school"


def test_a_context_of_nothing_but_the_question_gets_itself() -> None:
    assert answer("Marie Curie?", " Marie Curie. ") == "Marie Curie."
    assert answer("who?", "... !") == "... !"


def test_words_that_begin_alike_count_as_one() -> None:
    assert answer("Who founded the college?", "rain fell. the founder smith was praised. snow fell.") == "smith"


def test_rare_words_count_more_than_frequent_ones() -> None:
    context = "red one. red two. " + "and so it was then on all of them. " + "blue three."
    assert answer("Which is red or blue?", context) == "three"


words = st.lists(st.sampled_from(["the", "cat", "Cat,", "sat", "on", "mat.", "U.S.", "é", "—"]), max_size=15)


@given(words.map(" ".join).filter(str.strip), words.map(" ".join))
def test_an_answer_is_a_short_piece_of_the_context_without_the_question(context: str, question: str) -> None:
    text = answer(question, context)
    assert text
    assert text in context
    if text != context.strip():
        assert sum(any(map(str.isalnum, word)) for word in text.split()) <= MAX_ANSWER_WORDS
        assert not {"cat", "sat", "mat"} & set(text.lower().split()) & set(question.lower().replace(",", "").split())


def test_every_question_is_answered_once_under_its_id() -> None:
    examples = [Example(f"q{number}", "A", CONTEXT, "Where?", ()) for number in range(3)]
    assert list(overlap_baseline(examples)) == ["q0", "q1", "q2"]


def test_on_spoken_squad_it_beats_random_spans_of_the_same_kind() -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    data = read_squad(Path(directory) / "dev_clean.json")
    rng = random.Random(0)
    chance = {}
    for example in data.examples:
        start = rng.randrange(len(example.context.split()))
        chance[example.id] = " ".join(example.context.split()[start : start + rng.randint(1, MAX_ANSWER_WORDS)])
    scores = score_predictions(overlap_baseline(data.examples), data.references)
    assert scores.f1 > 3 * score_predictions(chance, data.references).f1
    assert 15 < scores.f1 < 25
