import os
import random
import time
from pathlib import Path

import pytest

from qa_train.attainable import are_answerable, best_possible_f1s
from qa_train.baseline import overlap_baseline
from qa_train.data import Answer, Example, read_squad
from qa_train.metrics import score_answer, score_predictions


def asked(context: str, *references: str) -> Example:
    return Example("q", "A", context, "what?", tuple(Answer(text, 0) for text in references))


def best_of_all_spans(example: Example) -> float:
    """The best official F1 of all spans of whole words, each scored on its own."""
    words = example.context.split()
    references = [answer.text for answer in example.answers]
    spans = [" ".join(words[first:last]) for first in range(len(words)) for last in range(first + 1, len(words) + 1)]
    return max((score_answer(span, references).f1 for span in spans), default=0.0)


@pytest.mark.parametrize(
    ("context", "reference", "answerable"),
    [
        ("it cost five dollars; in the u.s. that is a lot", "Five Dollars in U.S.", True),
        ("one two three", "tw", False),
        ("one two three", "two, three!", True),
        ("one two three", "one three", False),
        ("the cat", "The", False),
        ("in 1905", "1905.", True),
    ],
)
def test_an_answer_stands_in_a_context_in_whole_normalised_words(
    context: str, reference: str, answerable: bool
) -> None:
    assert are_answerable([asked(context, reference)]) == [answerable]
    assert are_answerable([asked(context, "elsewhere", reference)]) == [answerable]


def test_without_references_nothing_is_answerable_and_an_empty_answer_scores_100() -> None:
    assert are_answerable([asked("york")]) == [False]
    assert best_possible_f1s([asked("york")]) == [100.0] == [score_answer("", []).f1]


@pytest.mark.parametrize(
    ("context", "references", "f1"),
    [
        ("in new york city", ["new york"], 100.0),
        ("new in york", ["new york"], 80.0),  # 'new in york': precision 2/3, recall 1
        ("york is new", ["new york"], 80.0),
        ("far york and then quite far off is new", ["new york"], 100 * 2 / 3),  # one of the words alone
        ("paris", ["new york"], 0.0),
        ("new, york!", ["The New York."], 100.0),
        ("la la land", ["la la la"], 80.0),
        ("york", ["new york", "york"], 100.0),
        ("the", ["a"], 0.0),  # Both normalise to nothing.
        ("york", [""], 0.0),
    ],
)
def test_the_best_span_is_found(context: str, references: list[str], f1: float) -> None:
    example = asked(context, *references)
    assert best_possible_f1s([example]) == pytest.approx([f1])
    assert best_of_all_spans(example) == pytest.approx(f1)


_WORDS = ["the", "a", "an", "The", "york", "York,", "new", "(new)", "city", "city's", "-", "“york”", "U.S.", "10%", "é"]


def test_the_best_span_is_that_of_trying_all() -> None:
    rng = random.Random(0)
    examples = [
        asked(
            " ".join(rng.choices(_WORDS, k=rng.randint(1, 15))),
            *(" ".join(rng.choices(_WORDS, k=rng.randint(0, 6))) for _ in range(rng.randint(1, 3))),
        )
        for _ in range(300)
    ]
    expected = [best_of_all_spans(example) for example in examples]
    assert best_possible_f1s(examples) == pytest.approx(expected)
    assert len({*expected}) > 10


def test_an_answerable_question_can_be_answered_with_f1_100() -> None:
    rng = random.Random(1)
    words = [*_WORDS, "a—the—b", "“the”", "vis-à-vis"]
    examples = [
        asked(" ".join(rng.choices(words, k=10)), " ".join(rng.choices(words, k=rng.randint(0, 2)))) for _ in range(300)
    ]
    answerable = are_answerable(examples)
    assert 50 < sum(answerable) < 450
    f1s = best_possible_f1s(examples)
    assert all(f1 == 100 for f1, is_answerable in zip(f1s, answerable, strict=True) if is_answerable)


@pytest.mark.parametrize("name", ["dev_clean.json", "dev_noise_v2.json"])
def test_on_spoken_squad_no_baseline_passes_the_bound_that_is_found_in_seconds(name: str) -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    data = read_squad(Path(directory) / name)
    start = time.perf_counter()
    best = best_possible_f1s(data.examples)
    assert time.perf_counter() - start < 10  # One on an idle machine.
    scores = score_predictions(overlap_baseline(data.examples), data.references)
    pairs = zip(best, scores.per_question.values(), strict=True)
    assert all(found.f1 <= bound + 1e-9 for bound, found in pairs)
