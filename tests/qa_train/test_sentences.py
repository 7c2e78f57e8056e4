import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.sentences import split_sentences


def sentences(text: str, max_words: int = 30) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text, max_words)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Ada ran. "Why?" he asked. 3 cats sat!', ["Ada ran.", '"Why?" he asked.', "3 cats sat!"]),
        ("Mr. J. Smith ran (Dr. Who did not). Ada sat.", ["Mr. J. Smith ran (Dr. Who did not).", "Ada sat."]),
        ("It was 3.5 m. wide, e.g. here.", ["It was 3.5 m. wide, e.g. here."]),
        ("one\n\ntwo", ["one", "two"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_end_at_marks_before_capitals(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_long_sentence_is_cut_at_a_comma_else_after_so_many_words() -> None:
    assert sentences("a b c, d e f g", 4) == ["a b c,", "d e f g"]
    assert sentences("a, b c d e f g", 4) == ["a, b c d", "e f g"]


@given(st.text("aB. ,!\n\"'1", max_size=80), st.integers(1, 6))
def test_every_word_is_in_one_sentence(text: str, max_words: int) -> None:
    parts = sentences(text, max_words)
    assert re.findall(r"\S+", " ".join(parts)) == text.split()
    assert all(1 <= len(part.split()) <= max_words for part in parts)


def test_a_long_row_of_stops_takes_no_long_time() -> None:
    text = "." * 200_000 + "a"  # minutes, were each of them tried as the first
    assert sentences(text) == [text]
