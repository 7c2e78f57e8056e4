import json
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.confusions import (
    Confusions,
    learn_confusions,
    pair_contexts,
    read_confusions,
    spoken_words,
    write_confusions,
)
from qa_train.data import Example, SquadData
from qa_train.errors import DataError, QAError

WORDS = "the a mill was built by ada Rome, don't (in)"
texts = st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join)
LEARNED = Confusions(40, {"curie": {"squid out": 2, "kiri": 1}, "était": {"a": 1}}, {"the": 3}, {"of": 2})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The well-known U.S. Army's “$5” don\u2019t", "the well known u s armys 5 dont"),
        ("हिन्दी की किताब।", "हिन्दी की किताब"),
        ("Élan\u2014vital\n\tЖизнь", "élan vital жизнь"),
        ("... — !", ""),
    ],
)
def test_words_are_lower_cased_without_punctuation(text: str, words: str) -> None:
    assert spoken_words(text) == words.split()


def test_a_word_is_heard_as_what_stands_in_its_place() -> None:
    learned = learn_confusions(
        [
            ("Maria Curie, who won the prize", "maria squid out who one the price"),
            ("It was the first", "it was first"),
            ("it was first", "it was the first"),
            ("Who won?", "who one"),
        ]
    )
    assert learned == Confusions(
        num_words=15,
        substitutions={"curie": {"squid out": 1}, "won": {"one": 2}, "prize": {"price": 1}},
        deletions={"the": 1},
        insertions={"the": 1},
    )
    assert learned.word_error_rate == pytest.approx(7 / 15)
    assert learned.most_common(1) == [("won", "one", 2)]
    assert {("the", "", 1), ("", "the", 1)} < {*learned.most_common(9)}


def test_longer_stretches_are_paired_word_by_word() -> None:
    learned = learn_confusions([("so a b c end", "so x y end"), ("so a end", "so p q r s end")])
    assert learned.substitutions == {"a": {"x": 1, "p": 1}, "b": {"y": 1}}
    assert (learned.deletions, learned.insertions) == ({"c": 1}, {"q": 1, "r": 1, "s": 1})


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_errors_are_counted_as_jiwer_counts_them(pairs: list[tuple[str, str]]) -> None:
    written, heard = ([" ".join(spoken_words(text)) for text in side] for side in zip(*pairs, strict=True))
    if not any(written):
        with pytest.raises(DataError, match="expected texts with written words, found none"):
            learn_confusions(pairs)
        return
    learned, expected = learn_confusions(pairs), jiwer.process_words(written, heard)
    assert learned.word_error_rate == pytest.approx(expected.wer)
    assert learned.num_substitutions == expected.substitutions
    assert learned.num_deletions == expected.deletions
    assert not any(word in heard for word, heard in learned.substitutions.items())


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_what_is_written_is_read_back(pairs: list[tuple[str, str]]) -> None:
    learned = learn_confusions([("here", "there"), *pairs])
    with TemporaryDirectory() as directory:
        write_confusions(f"{directory}/confusions.json", learned)
        assert read_confusions(f"{directory}/confusions.json") == learned


def squad(path: str, contexts: dict[str, str]) -> SquadData:
    examples = tuple(Example(key, "title", context, "?", ()) for key, context in contexts.items())
    return SquadData(examples, path, "")


def test_contexts_are_paired_by_the_ids_of_their_questions_each_pair_once() -> None:
    written = squad("written.json", {"q1": "A.", "q2": "A.", "q3": "B.", "q4": "C."})
    transcript = squad("heard.json", {"q3": "b", "q2": "a", "q1": "a", "q9": "z"})
    assert pair_contexts(written, transcript) == [("A.", "a"), ("B.", "b")]


def test_files_that_share_no_question_are_refused() -> None:
    with pytest.raises(DataError, match=r"heard\.json: expected questions with the ids of those in written\.json"):
        pair_contexts(squad("written.json", {"q1": "A."}), squad("heard.json", {"q2": "a"}))


def as_json(**changes: Any) -> dict[str, Any]:
    fields = {
        "num_words": 40,
        "substitutions": {"curie": {"squid out": 2, "kiri": 1}, "était": {"a": 1}},
        "deletions": {"the": 3},
        "insertions": {"of": 2},
        **changes,
    }
    return {key: value for key, value in fields.items() if value is not None}


def test_the_form_of_the_file_is_that_of_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "confusions.json"
    write_confusions(path, LEARNED)
    assert json.loads(path.read_text(encoding="utf-8")) == as_json()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], ": expected an object with 'num_words', 'substitutions', 'deletions', 'insertions', as"),
        ({}, "writes it; found an empty one"),
        ({"version": "1.1", "data": []}, "writes it; found 'version', 'data'"),
        (as_json(deletions=None), "writes it; found 'num_words', 'substitutions', 'insertions'"),
        (as_json(rate=1), "writes it; found 'num_words', 'substitutions', 'deletions', 'insertions', 'rate'"),
        (as_json(num_words=0), ": num_words: expected an integer of at least 7, found the number 0"),
        (as_json(num_words=6), ": num_words: expected an integer of at least 7, found the number 6"),
        (as_json(num_words=True), ": num_words: expected an integer of at least 7, found true"),
        (as_json(num_words=40.0), ": num_words: expected an integer of at least 7, found the number 40.0"),
        (as_json(substitutions=["a"]), ": substitutions: expected an object with words as keys, found a list"),
        (as_json(substitutions={"a": "b"}), ": substitutions['a']: expected an object with words as keys, found the"),
        (as_json(substitutions={"a b": {"c": 1}}), ": substitutions['a b']: expected one word, in lower case"),
        (as_json(substitutions={"Ada": {"c": 1}}), "without punctuation, found the string 'Ada'"),
        (as_json(substitutions={"a": {"b": 0}}), ": substitutions['a']['b']: expected an integer of at least 1, found"),
        (as_json(substitutions={"a": {"b  c": 1}}), "expected 1 to 3 words with single spaces between, in lower case"),
        (as_json(substitutions={"a": {"b c d e": 1}}), "expected 1 to 3 words"),
        (as_json(substitutions={"a": {"": 1}}), "expected 1 to 3 words"),
        (as_json(substitutions={"a": {"b": 1, "a": 1}}), ": substitutions['a']: expected other words, found the word"),
        (as_json(deletions={"don't": 1}), ": deletions: expected one word, in lower case without punctuation, found"),
        (as_json(insertions={"a": -1}), ": insertions['a']: expected an integer of at least 1, found the number -1"),
        (as_json(insertions={"\ud800": 1}), ": insertions: expected one word"),
        (as_json(insertions=None, inserts={}), "found 'num_words', 'substitutions', 'deletions', 'inserts'"),
    ],
)
def test_a_file_of_another_form_is_refused(content: object, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "confusions.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_confusions(path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)


def test_without_jiwer_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(QAError, match=r'jiwer, not found; pip install -c constraints.txt -e ".\[noise\]"'):
        learn_confusions([("a", "b")])


def test_counts_of_equal_frequency_are_in_alphabetical_order(tmp_path: Path) -> None:
    path = tmp_path / "confusions.json"
    write_confusions(path, Confusions(9, {}, dict(Counter("bbac")), {}))
    assert list(json.loads(path.read_text())["deletions"]) == ["b", "a", "c"]


@given(st.text())
def test_words_are_words_of_themselves(text: str) -> None:
    words = spoken_words(text)
    assert spoken_words(" ".join(words)) == words
