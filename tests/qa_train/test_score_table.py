from typing import Any

import pytest

from qa_train.score_table import format_scores


@pytest.fixture
def scores() -> dict[str, Any]:
    whole = {"f1": 52.25, "exact_match": 40.0, "num_questions": 1277, "num_missing": 3, "num_empty": 0}
    attainable = {"answerable_share": 98.2, "best_possible_f1": 99.1}
    return {
        **whole,
        **attainable,
        "f1_interval": [50.1, 54.4],
        "exact_match_interval": [38.0, 42.0],
        "num_articles": 9,
        "per_answer_f1": 47.5,
        "study_f1": None,
        "articles": {"1973": whole | attainable},
    }


def test_the_first_line_holds_the_official_scores(scores: dict[str, Any]) -> None:
    line = "dev.json: F1 52.25, exact match 40.00 on 1277 questions, 3 of them without a prediction (counted as wrong)"
    assert format_scores("dev.json", scores).splitlines()[0] == line
    blank = format_scores("dev.json", scores | {"num_empty": 2})
    assert blank.splitlines()[0] == f"{line}, 2 with a blank one"


def test_the_table_holds_the_scores_that_there_are(scores: dict[str, Any]) -> None:
    text = format_scores("dev.json", scores)
    assert "95 % interval over 9 articles" in text
    assert "50.10 to 54.40" in text
    assert [line.split() for line in text.splitlines() if line.startswith("F1,")] == [
        ["F1,", "mean", "over", "answers", "(not", "official)", "47.50"]
    ]
    assert "study" not in text
    assert "BLEU" not in text
    assert "1973" not in text


def test_without_intervals_their_column_is_left_out(scores: dict[str, Any]) -> None:
    text = format_scores("dev.json", scores | {"f1_interval": None, "exact_match_interval": None})
    assert "95 %" not in text
    assert "52.25" in text


def test_articles_have_a_table_of_their_own(scores: dict[str, Any]) -> None:
    text = format_scores("dev.json", scores, articles=True)
    assert text.splitlines()[-1].split() == ["1973", "1,277", "52.25", "40.00", "3", "0", "98.20", "99.10"]
