import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from qa_train.data import Answer, Example
from qa_train.errors import DataError
from qa_train.metrics import QAScores, score_predictions
from qa_train.question_scores import QuestionScores, read_question_scores, write_question_scores

ARTICLES = {"q1": "Rome", "q2": "1973", "q3": "Café “Ö”"}
EXAMPLES = [Example(key, title, "york", "what?", (Answer("new york", 0),)) for key, title in ARTICLES.items()]
COLUMNS = QuestionScores(
    question_id=("q1", "q2", "q3"),
    article=("Rome", "1973", "Café “Ö”"),
    f1=(100.0, 2 / 3 * 100, 0.0),
    exact_match=(100.0, 0.0, 0.0),
)


@pytest.fixture
def scores() -> QAScores:
    return score_predictions({"q1": "New York", "q2": "york"}, {key: ["new york"] for key in ARTICLES})


def table(**changes: object) -> pa.Table:
    columns = {"question_id": ["q1"], "article": ["A"], "f1": [50.0], "exact_match": [0.0], **changes}
    return pa.table({name: column for name, column in columns.items() if column is not None})


def test_scores_are_read_back_as_written(tmp_path: Path, scores: QAScores) -> None:
    path = tmp_path / "new" / "set=clean" / "scores.parquet"
    write_question_scores(path, scores, EXAMPLES)
    assert read_question_scores(path) == COLUMNS
    assert [file.name for file in path.parent.iterdir()] == ["scores.parquet"]


def test_others_read_the_same_columns(tmp_path: Path, scores: QAScores) -> None:
    write_question_scores(tmp_path / "scores.parquet", scores, EXAMPLES)
    found = parquet.read_table(tmp_path / "scores.parquet")
    assert found.column_names == ["question_id", "article", "f1", "exact_match"]
    assert [str(column.type) for column in found.columns] == ["string", "string", "double", "double"]
    assert found["article"].to_pylist() == [*ARTICLES.values()]


def test_rows_are_in_the_order_of_the_examples(tmp_path: Path, scores: QAScores) -> None:
    write_question_scores(tmp_path / "scores.parquet", scores, EXAMPLES[::-1])
    found = read_question_scores(tmp_path / "scores.parquet")
    assert found.question_id == ("q3", "q2", "q1")
    assert found.f1 == COLUMNS.f1[::-1]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, scores: QAScores, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.parquet"
    write_question_scores(path, scores, EXAMPLES)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"scores\.parquet: cannot be written: No space left"):
        write_question_scores(path, scores, EXAMPLES[:1])
    assert read_question_scores(path) == COLUMNS


def test_other_types_of_the_same_values_and_further_columns_are_read(tmp_path: Path) -> None:
    large = pa.array(["q1"], pa.large_string())
    content = table(question_id=large, article=pa.array(["A"]).dictionary_encode(), f1=[50], more=[1])
    parquet.write_table(content, tmp_path / "scores.parquet")
    assert read_question_scores(tmp_path / "scores.parquet") == QuestionScores(("q1",), ("A",), (50.0,), (0.0,))


def test_a_file_that_holds_no_scores_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with pytest.raises(DataError, match=r"scores\.parquet: no such file"):
        read_question_scores(path)
    with pytest.raises(DataError, match="expected a file, found a directory"):
        read_question_scores(tmp_path)
    for content in (b"", b"{}", b"PAR1" + bytes(100) + b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"scores\.parquet: expected scores of questions as Parquet"):
            read_question_scores(path)


def test_a_file_that_was_cut_off_is_explained(tmp_path: Path, scores: QAScores) -> None:
    path = tmp_path / "scores.parquet"
    write_question_scores(path, scores, EXAMPLES)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="as Parquet"):
        read_question_scores(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (table(f1=None), "with the columns question_id, article, f1, exact_match; found question_id, article, exact_m"),
        (pa.table({}), "found none"),
        (table(f1=["high"]), "expected texts and numbers"),
        (table(f1=pa.array([None], pa.float64())), "expected texts and numbers, none missing"),
        (table(f1=[[1.0]]), "expected texts and numbers"),
    ],
)
def test_columns_that_are_wrong_are_explained(tmp_path: Path, content: pa.Table, complaint: str) -> None:
    parquet.write_table(content, tmp_path / "scores.parquet")
    with pytest.raises(DataError) as caught:
        read_question_scores(tmp_path / "scores.parquet")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
