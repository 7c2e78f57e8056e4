import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.alignment import AlignmentCounts, align_answers, count_alignment
from qa_train.data import Answer, Example, read_squad
from qa_train.errors import DataError

CONTEXT = "In 1774 Priestley found oxygen; later the oxygen was named by Lavoisier."


def example(*answers: tuple[str, int], context: str = CONTEXT, question_id: str = "q1") -> Example:
    return Example(question_id, "Oxygen", context, "what?", tuple(Answer(text, start) for text, start in answers))


def align(*answers: tuple[str, int], context: str = CONTEXT) -> tuple[str, Answer]:
    """Returns how the one question was aligned and its answer."""
    alignment = align_answers([example(*answers, context=context)], "train.json")
    [aligned] = alignment.examples
    [way] = [way for way in ("exact", "shifted", "searched") if getattr(alignment.counts, way)]
    return way, aligned.answers[0]


def test_an_answer_at_its_offset_is_exact() -> None:
    assert align(("oxygen", 24)) == ("exact", Answer("oxygen", 24))


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_an_answer_one_or_two_characters_beside_its_offset_is_shifted(shift: int) -> None:
    assert align(("oxygen", 24 + shift)) == ("shifted", Answer("oxygen", 24))


@pytest.mark.parametrize(("start", "found"), [(0, 24), (30, 24), (36, 42), (70, 42)])
def test_an_answer_elsewhere_is_searched_and_the_nearest_taken(start: int, found: int) -> None:
    assert align(("oxygen", start)) == ("searched", Answer("oxygen", found))


def test_case_and_outer_white_space_do_not_matter_and_the_context_gives_the_text() -> None:
    assert align(("OXYGEN", 24)) == ("exact", Answer("oxygen", 24))
    assert align((" lavoisier ", 61)) == ("exact", Answer("Lavoisier", 62))
    assert align(("PRIESTLEY", 50)) == ("searched", Answer("Priestley", 8))


def test_whole_words_win_over_nearer_parts_of_words() -> None:
    context = "an art, and then some artless smart start"
    assert align(("art", 18), context=context) == ("searched", Answer("art", 3))
    assert align(("less", 0), context=context) == ("searched", Answer("less", context.index("less")))


def test_overlapping_occurrences_are_all_seen() -> None:
    assert align(("la la", 7), context="so la la la") == ("shifted", Answer("la la", 6))
    assert align(("la la", 0), context="so xx la la la") == ("searched", Answer("la la", 6))
    assert align(("la la", 13), context="so la la la xx") == ("searched", Answer("la la", 6))


def test_an_answer_is_text_not_a_pattern() -> None:
    assert align(("(c+)", 0), context="grades a (b) (c+)") == ("searched", Answer("(c+)", 13))


def test_the_answer_found_most_surely_is_used() -> None:
    assert align(("Lavoisier", 0), ("oxygen", 25), ("1774", 3), ("oxygen", 24)) == ("exact", Answer("1774", 3))


def test_questions_without_a_findable_answer_are_left_out_and_counted() -> None:
    examples = [
        example(("phlogiston", 5), question_id="q1"),
        example(question_id="q2"),
        example((" ", 500), question_id="q3"),
        example(("oxygen", 24), question_id="q4"),
    ]
    alignment = align_answers(examples, "train.json")
    assert [aligned.id for aligned in alignment.examples] == ["q4"]
    assert alignment.counts == count_alignment(examples) == AlignmentCounts(1, 0, 0, 3)


@pytest.mark.parametrize("start", [-1, len(CONTEXT), 9999])
def test_an_answer_outside_its_context_is_refused(start: int) -> None:
    examples = [example(("oxygen", 24)), example(("1774", 3), ("phlogiston", start), question_id="q2")]
    with pytest.raises(DataError) as caught:
        align_answers(examples, "train.json")
    assert str(caught.value) == (
        f"train.json: article 'Oxygen', question 'q2': answers[1].answer_start is {start}, outside the context of "
        f"{len(CONTEXT)} characters, which does not contain 'phlogiston' anywhere; correct the offset or remove the "
        "answer"
    )
    assert count_alignment(examples) == AlignmentCounts(2, 0, 0, 0)


def test_an_answer_that_only_its_offset_puts_outside_is_searched() -> None:
    assert align(("1774", 9999)) == ("searched", Answer("1774", 3))


def test_data_of_which_nothing_aligns_are_refused_with_what_stands_there() -> None:
    with pytest.raises(DataError, match=r"answer_start is 8, but the context there reads 'Priestley', not 'the years'"):
        align_answers([example(("the years", 8))], "train.json")
    with pytest.raises(DataError, match="expected at least one of 'answers', found none; none of the 1 questions"):
        align_answers([example()], "train.json")


words = st.lists(st.sampled_from(["la", "LA", "lala", "é", "İ", "x.", "(a)"]), min_size=1, max_size=12).map(" ".join)


@given(words, st.data())
def test_a_span_of_the_context_is_found_from_any_offset(context: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    text = context[start:end]
    if not text.strip():
        return
    assert align((text, start), context=context)[0] == "exact"
    _, answer = align((text, data.draw(st.integers(-20, 60))), context=context)
    assert context[answer.start : answer.start + len(answer.text)] == answer.text
    assert answer.text.lower() == text.strip().lower()


def test_every_answer_of_clean_spoken_squad_is_at_its_offset() -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    path = Path(directory) / "train_clean.json"
    alignment = align_answers(read_squad(path).examples, str(path))
    assert alignment.counts == AlignmentCounts(exact=2681, shifted=0, searched=0, unaligned=0)
