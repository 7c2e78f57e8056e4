import pytest

from qa_train.data import Answer
from qa_train.realignment import Found, HeardContext, HeardSentence
from qa_train.speech_pool import spoken_sentences


def heard_context(written: str, *heard: str) -> HeardContext:
    spoken = spoken_sentences(written)
    sentences = [HeardSentence(one.words, text.split()) for one, text in zip(spoken, heard, strict=True)]
    return HeardContext(written, sentences)


def find(written: str, heard: str, answer: str) -> Found:
    context = heard_context(written, heard)
    found = context.find(Answer(answer, written.index(answer)))
    assert found.fate == "lost" or context.transcript[found.start :].startswith(found.text)
    return found


@pytest.mark.parametrize(
    ("written", "heard", "answer", "fate", "text", "error"),
    [
        ("Ada built the mill.", "ada built the mill", "the mill", "exact", "the mill", 0.0),
        ("Ada built the mill.", "ada built a mill", "the mill", "exact", "mill", 0.0),
        ("Ada O'Neil built it.", "ada o'neil built it", "O'Neil", "exact", "o'neil", 0.0),
        ("Newton's laws of motion", "newton's loss of motion", "Newton's laws", "aligned", "newton's loss", 0.5),
        ("Ada's 1990 mill fell", "ada's nineteen ninety mill fell", "Ada's 1990 mill", "aligned",
         "ada's nineteen ninety mill", 0.0),
        ("the U.S. army went", "the u.s. army went", "U.S. army", "exact", "u.s. army", 0.0),
        ("the well-known U.S. mill", "the well-known u.s. meal", "well-known U.S. mill", "aligned",
         "well-known u.s. meal", 0.2),
        ("It opened in 1990 here.", "it opened in nineteen ninety here", "1990", "aligned", "nineteen ninety", 0.0),
        ("the battle of ely was", "the bat all of ely was", "battle of ely", "aligned", "bat all of ely", 2 / 3),
        ("the old stone mill fell", "the stone mill fell", "old stone mill", "aligned", "stone mill", 1 / 3),
        ("one old mill fell", "one cold meal fell", "old mill", "lost", "", None),
        ("one old mill fell", "one fell", "old mill", "lost", "", None),
        ("one old mill fell", "one fell", "fell", "exact", "fell", 0.0),
        ("one old mill fell", "", "fell", "lost", "", None),
    ],
)  # fmt: skip
def test_an_answer_is_found_where_it_was_heard(
    written: str, heard: str, answer: str, fate: str, text: str, error: float | None
) -> None:
    found = find(written, heard, answer)
    assert (found.fate, found.text) == (fate, text)
    assert found.error == (None if error is None else pytest.approx(error))


def test_of_several_occurrences_the_one_in_the_answers_place_counts() -> None:
    written = "the mill and the mill and the mill"
    context = heard_context(written, written)
    assert [context.find(Answer("mill", start)).start for start in (4, 17, 30)] == [4, 17, 30]


def test_a_misheard_word_that_is_heard_in_another_sentence_is_lost() -> None:
    context = heard_context("Ada built a mill. The mill fell.", "ada built a meal", "the mill fell")
    assert context.transcript == "ada built a meal the mill fell"
    assert context.find(Answer("mill", 12)).fate == "lost"
    assert context.find(Answer("mill", 22)) == Found("exact", 21, "mill", 0.0)


def test_an_answer_beside_its_offset_is_taken_where_it_stands_and_one_that_stands_nowhere_as_text() -> None:
    context = heard_context("Ada built a mill here.", "ada built a mill here")
    assert context.find(Answer("MILL", 3)) == Found("exact", 12, "mill", 0.0)
    assert context.find(Answer("Ada, built!", 9)) == Found("exact", 0, "ada built", 0.0)
    assert context.find(Answer("a river", 0)).fate == "lost"
    assert context.find(Answer(" ", 3)).fate == "lost"


def test_an_answer_over_two_sentences_is_found() -> None:
    context = heard_context("Ada built it. The mill fell.", "ada built it", "the mill fell")
    assert context.find(Answer("it. The mill", 10)).text == "it the mill"
