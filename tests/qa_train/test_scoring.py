import json
import os
from pathlib import Path

import pytest

from qa_train.data import read_squad
from qa_train.errors import DataError
from qa_train.scoring import read_predictions, score_files

ANSWERS = {"q1": ["york", "new york"], "q2": ["paris"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    qas = [
        {"id": key, "question": "where?", "answers": [{"text": text, "answer_start": 999} for text in texts]}
        for key, texts in ANSWERS.items()
    ]
    path = tmp_path / "data" / "dev.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"data": [{"title": "A", "paragraphs": [{"context": "york, paris", "qas": qas}]}]}))
    return path


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(content))
    return path


def test_scores_are_keyed_by_the_name_of_the_data_file(data: Path, tmp_path: Path) -> None:
    scores = score_files(data, write(tmp_path, {"q1": "New York.", "q2": "paris france"}))
    assert list(scores) == ["dev.json"]
    assert scores["dev.json"] == pytest.approx(
        {
            "exact_match": 50.0,
            "f1": (100 + 200 / 3) / 2,
            "num_questions": 2,
            "num_missing": 0,
            "num_unknown": 0,
        }
    )
    assert json.loads(json.dumps(scores)) == scores


def test_missing_predictions_count_as_wrong_and_unknown_ones_are_counted(data: Path, tmp_path: Path) -> None:
    [scores] = score_files(data, write(tmp_path, {"q1": "york", "q8": "x", "q9": "y"})).values()
    assert (scores["exact_match"], scores["num_missing"], scores["num_unknown"]) == (50.0, 1, 2)
    [scores] = score_files(data, write(tmp_path, {})).values()
    assert (scores["exact_match"], scores["num_missing"], scores["num_unknown"]) == (0.0, 2, 0)


def test_predictions_for_other_data_are_refused(data: Path, tmp_path: Path) -> None:
    predictions = write(tmp_path, {"q8": "x", "q9": "y"})
    with pytest.raises(DataError, match=r"such as 'q1'; found 2 ids that are not there, such as 'q8'"):
        score_files(data, predictions)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (["york"], "expected an object {question id: answer text}, found a list"),
        (None, "expected an object {question id: answer text}, found null"),
        ({"q1": None}, "question 'q1': expected the answer as a string, found null"),
        ({"q1": "york", "q2": 3.5}, "question 'q2': expected the answer as a string, found the number 3.5"),
        ({"q1": ["york"]}, "question 'q1': expected the answer as a string, found a list"),
    ],
)
def test_predictions_that_are_no_object_of_strings_are_refused(tmp_path: Path, content: object, complaint: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert str(caught.value) == f"{path}: {complaint}"


def test_files_that_cannot_be_read_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.json: no such file"):
        score_files(data, tmp_path / "missing.json")
    with pytest.raises(DataError, match=r"missing\.json: no such file"):
        score_files(tmp_path / "missing.json", write(tmp_path, {}))
    (tmp_path / "broken.json").write_text("{'q1': 'york'}")
    with pytest.raises(DataError, match=r"broken\.json, line 1, column 2: not valid JSON"):
        score_files(data, tmp_path / "broken.json")


@pytest.mark.parametrize("name", ["dev_clean.json", "dev_noise_v2.json"])
def test_first_gold_answers_of_spoken_squad_score_100(tmp_path: Path, name: str) -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    path = Path(directory) / name
    gold = {key: texts[0] for key, texts in read_squad(path).references.items()}
    scores = score_files(path, write(tmp_path, gold))[name]
    assert (scores["exact_match"], scores["f1"], scores["num_questions"]) == (100.0, 100.0, 1277)
