import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics.functional.text.squad import squad

from qa_train.data import read_squad
from qa_train.errors import DataError
from qa_train.metrics import (
    AnswerScore,
    exact_match_score,
    f1_score,
    normalize_answer,
    score_answer,
    score_predictions,
)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Nobel\tPrize!", "nobel prize"),
        ("a cat, an ox and the hen", "cat ox and hen"),
        ("another theme", "another theme"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),
        ("Café — “déjà”", "café — “déjà”"),
        ("an", ""),
        (" .,;! ", ""),
        ("", ""),
    ],
)
def test_normalisation_follows_the_official_script(text: str, normalized: str) -> None:
    assert normalize_answer(text) == normalized


def test_f1_counts_common_words_as_often_as_they_occur_in_both() -> None:
    assert f1_score("new york city", "york") == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert f1_score("new new york", "new york york") == pytest.approx(2 / 3)
    assert f1_score("york new", "new york") == 1.0
    assert f1_score("paris", "new york") == 0.0


def test_exact_match_and_f1_are_each_the_best_over_the_references() -> None:
    assert score_answer("new york", ["york", "city of new york", "new york new"]).f1 == pytest.approx(80)
    assert score_answer("The York", ["new york", "york"]) == AnswerScore(100.0, 100.0)
    assert score_answer("york", ["paris"]) == AnswerScore(0.0, 0.0)


@pytest.mark.parametrize(("prediction", "reference"), [("the", "a"), ("", "The"), (".", "!"), ("", "")])
def test_two_answers_that_normalise_to_nothing_match_exactly_with_f1_zero(prediction: str, reference: str) -> None:
    assert exact_match_score(prediction, reference) == 1.0
    assert f1_score(prediction, reference) == 0.0
    assert score_answer(prediction, [reference]) == AnswerScore(exact_match=100.0, f1=0.0)


def test_without_references_only_an_empty_prediction_is_right() -> None:
    assert score_answer("", []) == score_answer("the", []) == AnswerScore(100.0, 100.0)
    assert score_answer("york", []) == AnswerScore(0.0, 0.0)


def test_a_missing_prediction_counts_as_wrong_and_an_unknown_one_not_at_all() -> None:
    references = {"q1": ["york"], "q2": ["paris"], "q3": []}
    scores = score_predictions({"q1": "york", "other": "paris"}, references)
    assert (scores.num_questions, scores.num_missing) == (3, 2)
    assert scores.exact_match == scores.f1 == pytest.approx(100 / 3)
    assert list(scores.per_question) == ["q1", "q2", "q3"]
    assert scores.per_question["q3"] == AnswerScore(0.0, 0.0)


def test_the_mean_is_over_questions_not_over_references() -> None:
    scores = score_predictions({"q1": "x", "q2": "york"}, {"q1": ["a b", "c", "d"], "q2": ["york"]})
    assert scores.f1 == 50.0


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(DataError, match="no questions to score"):
        score_predictions({}, {})


_WORDS = ["the", "The", "a", "an", "new", "York", "york", "YORK,", "city", "U.S.", "—", "the-end", "café", "Café!", "İ"]
_WORDS += ["ß", "日本", "it's", "“quoted”", "a\u00a0b", "10%", "$5", "…", "another", "\u0301", "é", ".", "theé"]


def _random_text(rng: random.Random) -> str:
    words = [rng.choice(_WORDS) for _ in range(rng.randint(0, 6))]
    return "".join(word + rng.choice([" ", " ", "  ", "\t", "\n", ""]) for word in words)


def _random_cases(number: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Draws predictions and references, without pairs of which both normalise to nothing."""
    rng = random.Random(0)
    predictions: dict[str, str] = {}
    references: dict[str, list[str]] = {}
    while len(predictions) < number:
        texts = [_random_text(rng) for _ in range(rng.randint(1, 4))]
        prediction = rng.choice(
            [_random_text(rng), texts[-1].upper(), f"The {texts[0]}!", texts[0].replace("York", "")]
        )
        if not normalize_answer(prediction) and not all(map(normalize_answer, texts)):
            continue
        predictions[f"q{len(predictions)}"] = prediction
        references[f"q{len(references)}"] = texts
    return predictions, references


@pytest.fixture
def _double_precision() -> Iterator[None]:
    """Torchmetrics sums in torch's default type; single precision would be 1e-5 off."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_double_precision")
def test_scores_agree_with_torchmetrics_on_1000_random_cases() -> None:
    predictions, references = _random_cases(1000)
    preds = [{"id": key, "prediction_text": text} for key, text in predictions.items()]
    targets: list[Any] = [{"id": key, "answers": {"text": texts}} for key, texts in references.items()]
    scores = score_predictions(predictions, references)
    theirs = squad(preds, targets)
    assert scores.f1 == pytest.approx(theirs["f1"].item(), abs=1e-6)
    assert scores.exact_match == pytest.approx(theirs["exact_match"].item(), abs=1e-6)
    for pred, target in zip(preds, targets, strict=True):
        theirs, ours = squad([pred], [target]), scores.per_question[pred["id"]]
        assert (ours.exact_match, ours.f1) == pytest.approx(
            (theirs["exact_match"].item(), theirs["f1"].item()), abs=1e-6
        )
    assert 10 < scores.exact_match < scores.f1 < 90  # The cases are neither all right nor all wrong.


def test_first_gold_answers_of_spoken_squad_score_100() -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    references = read_squad(Path(directory) / "dev_clean.json").references
    scores = score_predictions({key: texts[0] for key, texts in references.items()}, references)
    assert (scores.exact_match, scores.num_questions, scores.num_missing) == (100.0, 1277, 0)
