import sys

import jellyfish
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.errors import QAError
from qa_train.sound_alikes import SoundAlikes

SPOKEN = "night knight nit knit note the they thy though a eh add mill meal male milk build built bold 1903 жук"
WORDS = SPOKEN.split()
VOCABULARY = {word: number for number, word in enumerate(WORDS, start=1)}


def test_words_of_the_same_sound_are_found_with_their_counts() -> None:
    alike = SoundAlikes(VOCABULARY).of("nite")
    assert {"night": 1, "knight": 2, "knit": 4}.items() <= alike.items()
    assert not {"mill", "bold", "1903"} & alike.keys()


@given(st.sampled_from(WORDS) | st.text(), st.lists(st.sampled_from(WORDS) | st.text(max_size=4)))
def test_all_words_within_one_edit_of_the_code_are_found_and_no_other(word: str, others: list[str]) -> None:
    code = jellyfish.metaphone(word)
    expected = {
        other
        for other in others
        if code and (near := jellyfish.metaphone(other)) and jellyfish.levenshtein_distance(code, near) <= 1
    }
    assert SoundAlikes(dict.fromkeys(others, 1)).of(word).keys() == expected


@pytest.mark.parametrize("word", ["1903", "жук", "हिन्दी", "", "—"])
def test_what_has_no_code_sounds_like_nothing(word: str) -> None:
    assert SoundAlikes(VOCABULARY).of(word) == {}


def test_without_jellyfish_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jellyfish", None)
    with pytest.raises(QAError, match=r'jellyfish, not found; pip install -c constraints.txt -e ".\[noise\]"'):
        SoundAlikes({})
