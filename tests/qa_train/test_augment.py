import os
import random
from pathlib import Path

import jellyfish
import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.alignment import align_answers
from qa_train.augment import DEFAULT_SHARES, Edit, RecognitionNoise, apply_edits, count_words, has_true_offset
from qa_train.confusions import Confusions, spoken_words
from qa_train.data import Answer, Example, read_squad
from qa_train.errors import ConfigError

SPOKEN = """
    the a of and in was it mill meal male night knight knit rome room roam ada added built build bold first fist fast
    great grate greet river rover prize price press stone stain city sit set for far four won one wan
"""
WORDS = SPOKEN.split()
VOCABULARY = {word: 1000 // rank for rank, word in enumerate(WORDS, start=1)}
# Of this size a share is met within 0.02 by far.
LONG = " ".join(random.Random(0).choices(WORDS, k=20_000))

PIECES = st.sampled_from(
    [*WORDS, "Rome", "NASA", "(e.g.", "don't", "“Élan”", "жук.", "हिन्दी", "1,903", "—", "well-known,"]
)
GAPS = st.sampled_from([" ", " ", " ", "\n", "  ", "\u00a0", "\t"])


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """A context of some words, or any text, and answers anywhere in it; some offsets are wrong."""
    pieces = draw(st.lists(st.tuples(PIECES, GAPS), max_size=20))
    context = draw(st.just("".join(word + gap for word, gap in pieces)) | st.text(max_size=30))
    answers = []
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(context))] * 2)))
        answers.append(Answer(context[start:end], start + draw(st.sampled_from([0, 0, 0, 1, -7, 99]))))
    return Example("q1", "title", context, "who?", tuple(answers))


def example(context: str, *answers: tuple[str, int]) -> Example:
    return Example("q1", "title", context, "who?", tuple(Answer(text, start) for text, start in answers))


def noisy(context: str, *answers: tuple[str, int], rate: float = 0.99, seed: int = 0) -> Example:
    generator = np.random.default_rng(seed)
    return RecognitionNoise(rate, VOCABULARY).noise(example(context, *answers), generator)


rates = st.floats(0, 1, exclude_max=True)
seeds = st.integers(0, 2**32)


@given(examples(), rates, seeds)
def test_answers_survive_and_their_offsets_are_true(before: Example, rate: float, seed: int) -> None:
    after = RecognitionNoise(rate, VOCABULARY).noise(before, np.random.default_rng(seed))
    assert [answer.text for answer in after.answers] == [answer.text for answer in before.answers]
    for old, new in zip(before.answers, after.answers, strict=True):
        if has_true_offset(before, old):
            assert after.context[new.start : new.start + len(new.text)] == new.text
        else:
            assert new == old
    assert (after.id, after.title, after.question) == (before.id, before.title, before.question)


@given(examples(), rates, seeds)
def test_a_context_with_words_is_never_empty(before: Example, rate: float, seed: int) -> None:
    after = RecognitionNoise(rate, VOCABULARY).noise(before, np.random.default_rng(seed))
    assert bool(count_words([after])) == bool(count_words([before]))
    assert bool(after.context.strip()) == bool(before.context.strip())


@given(examples(), rates, seeds)
def test_the_result_depends_on_the_example_and_the_generator_alone(before: Example, rate: float, seed: int) -> None:
    noise = RecognitionNoise(rate, VOCABULARY)
    first = noise.noise(before, np.random.default_rng(seed))
    noise.noise(example(LONG[:500]), np.random.default_rng(1))
    assert noise.noise(before, np.random.default_rng(seed)) == first
    assert RecognitionNoise(rate, VOCABULARY).noise(before, np.random.default_rng(seed)) == first


@given(examples(), seeds)
def test_the_generator_moves_on_alike_whatever_the_answers_and_the_rate(before: Example, seed: int) -> None:
    one, other = np.random.default_rng(seed), np.random.default_rng(seed)
    RecognitionNoise(0.0, VOCABULARY).noise(before, one)
    RecognitionNoise(0.9, VOCABULARY).noise(example(before.context), other)
    assert one.random() == other.random()


@given(examples(), seeds)
def test_rate_0_changes_nothing(before: Example, seed: int) -> None:
    assert RecognitionNoise(0.0, VOCABULARY).noise(before, np.random.default_rng(seed)) == before


def test_another_state_of_the_generator_gives_other_noise() -> None:
    noise, generator = RecognitionNoise(0.2, VOCABULARY), np.random.default_rng(0)
    assert len({noise.noise(example(LONG[:600]), generator).context for _ in range(20)}) == 20


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_the_rate_and_the_shares_are_met(rate: float) -> None:
    edits = RecognitionNoise(rate, VOCABULARY).edits(example(LONG), np.random.default_rng(0))
    num_dropped = sum(not edit.text for edit in edits)
    num_inserted = sum(edit.start == edit.end for edit in edits)
    assert len(edits) / 20_000 == pytest.approx(rate, abs=0.02)
    shares = np.array([len(edits) - num_dropped - num_inserted, num_dropped, num_inserted]) / len(edits)
    assert shares == pytest.approx(np.array(DEFAULT_SHARES) / 100, abs=0.04)


def test_only_words_outside_answers_count_for_the_rate() -> None:
    half = LONG[: LONG.index(" ", len(LONG) // 2)]
    edits = RecognitionNoise(0.2, VOCABULARY).edits(example(LONG, (half, 0)), np.random.default_rng(0))
    assert min(edit.start for edit in edits) > len(half)
    assert len(edits) / 10_000 == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_jiwer_measures_a_word_error_rate_near_the_rate(rate: float) -> None:
    after = noisy(LONG[:20_000], rate=rate)
    # An alignment of fewest errors makes one of a deletion beside an insertion.
    assert jiwer.wer(LONG[:20_000], after.context) == pytest.approx(rate, abs=0.03)


def test_what_replaces_a_word_sounds_alike() -> None:
    code = jellyfish.metaphone
    words = ["night", "built", "prize", "river", "stone", "first"]
    edits = [
        (word, edit.text)
        for word in words
        for edit in RecognitionNoise(0.99, VOCABULARY).edits(example(" ".join([word] * 300)), np.random.default_rng(0))
        if edit.end - edit.start == len(word)
    ]
    assert len(edits) > 1000
    assert all(word != other and other in VOCABULARY for word, other in edits)
    assert all(jellyfish.levenshtein_distance(code(word), code(other)) <= 1 for word, other in edits)
    assert ("night", "knight") in edits


def test_what_sounds_like_nothing_is_replaced_by_a_frequent_word() -> None:
    noise = RecognitionNoise(0.99, {**VOCABULARY, "жук": 5, "rare": 1})
    edits = noise.edits(example("жук 1903 " * 200), np.random.default_rng(0))
    assert {edit.text.strip() for edit in edits} <= {"", "жук", *WORDS, "rare"}
    assert sum(edit.text == "the" for edit in edits) > 50


def test_frequent_words_replace_more_often() -> None:
    noise = RecognitionNoise(0.99, {"knight": 9, "knit": 1})
    texts = [edit.text for edit in noise.edits(example("night " * 2000), np.random.default_rng(0))]
    assert texts.count("knight") / (texts.count("knight") + texts.count("knit")) == pytest.approx(0.9, abs=0.03)


CONFUSIONS = Confusions(100, {"night": {"squid out": 3, "kiri": 1}, "dont": {"do": 1}}, {}, {"um": 1})


def test_confusions_beat_phonetics() -> None:
    noise = RecognitionNoise(0.99, VOCABULARY, CONFUSIONS)
    texts = [edit.text for edit in noise.edits(example("Night mill don't " * 500), np.random.default_rng(0))]
    replaced = [text for text in texts if not text.endswith(" ")]
    assert "" not in texts
    assert {*texts} - {*replaced} == {"um "}
    assert {text for text in replaced if text.lower() not in VOCABULARY} == {"Squid out", "Kiri", "do"}
    assert replaced.count("Squid out") / replaced.count("Kiri") == pytest.approx(3, rel=0.3)
    assert len(replaced) / len(texts) == pytest.approx(5 / 6, abs=0.03)


@pytest.mark.parametrize(
    ("confusions", "kinds"),
    [
        (Confusions(9, {"a": {"b": 1}}, {}, {}), {"replaced"}),
        (Confusions(9, {}, {"a": 1}, {}), {"dropped", "replaced"}),
        (Confusions(9, {}, {}, {"a": 1}), {"inserted"}),
        (Confusions(9, {}, {}, {}), {"replaced", "dropped", "inserted"}),
    ],
)
def test_the_shares_are_those_of_the_confusions(confusions: Confusions, kinds: set[str]) -> None:
    edits = RecognitionNoise(0.9, VOCABULARY, confusions).edits(example(LONG[:3000]), np.random.default_rng(0))

    def kind(edit: Edit) -> str:
        return "dropped" if not edit.text else "inserted" if edit.start == edit.end else "replaced"

    assert {kind(edit) for edit in edits} == kinds


def test_answers_without_a_true_offset_protect_nothing() -> None:
    context = "rome " * 50
    after = noisy(context, ("rome " * 50, 3), ("rome", -5), ("rome", 9999), (" ", 4), ("", 7))
    assert after.context.split().count("rome") < 25
    assert [answer.start for answer in after.answers] == [3, -5, 9999, 4, 7]


def test_words_that_an_answer_cuts_are_spared_whole() -> None:
    after = noisy("x" * 4 + "start, stop. " + LONG[:200], ("tar", 5), ("op", 13))
    assert after.context.split().count("xxxxstart,") == 1
    assert " stop. " in f" {after.context} "


@pytest.mark.parametrize("seed", range(20))
def test_capitals_and_punctuation_stay(seed: int) -> None:
    after = noisy("(Night, \u201cNIGHT\u201d Night! night. I", seed=seed)
    words = after.context.split()
    marked = [word for word in words if not word.isalpha()]
    assert next(word for word in marked if not word[0].isalpha())[0] == "("
    assert sum(word[-1] in ",!.\u201d" for word in words) == 4
    assert any(word.strip("\u201c\u201d").isupper() and len(word) > 3 for word in marked)


def test_punctuation_alone_is_no_word() -> None:
    assert noisy("- \u2014 ... ? (!)").context == "- \u2014 ... ? (!)"
    assert count_words([example("Rome's (well-known) “mill”, 1,903 — !"), example("rome's")]) == {
        "rome's": 2,
        "well-known": 1,
        "mill": 1,
        "1,903": 1,
    }


def test_each_context_is_counted_once() -> None:
    assert count_words([example("a b"), example("a b"), example("b")]) == {"a": 1, "b": 2}


@pytest.mark.parametrize("vocabulary", [{}, {"rome": 3}])
def test_without_another_word_nothing_is_replaced(vocabulary: dict[str, int]) -> None:
    after = RecognitionNoise(0.9, vocabulary).noise(example("rome " * 100), np.random.default_rng(0))
    assert {*after.context.split()} == {"rome"}


@pytest.mark.parametrize("rate", [-0.1, 1.0, 20.0, float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"rate of recognition noise: expected a number >= 0 and < 1, found"):
        RecognitionNoise(rate, VOCABULARY)


def test_edits_are_applied_from_left_to_right() -> None:
    before = example("one two three four", ("two", 4), ("four", 14))
    after = apply_edits(before, [Edit(0, 3, "won"), Edit(4, 4, "a "), Edit(8, 14, "")])
    assert after == example("won a two four", ("two", 6), ("four", 10))
    assert apply_edits(before, []) is before


def test_real_transcripts_stay_alignable() -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    aligned = align_answers(read_squad(Path(directory) / "train_clean.json").examples, "train").examples[:1000]
    noise, generator = RecognitionNoise(0.2, count_words(aligned)), np.random.default_rng(0)
    after = [noise.noise(question, generator) for question in aligned]
    assert align_answers(after, "train").counts.exact == 1000
    written, heard = ([" ".join(spoken_words(one.context)) for one in side[:300]] for side in (aligned, after))
    assert 0.17 < jiwer.wer(written, heard) < 0.21
