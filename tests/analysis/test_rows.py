import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from analysis import rows as module
from analysis.rows import concat, read_table
from qa_train.errors import DataError
from tests.analysis.fixtures import row


def write(path: Path, *lines: str | dict[str, Any]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


@pytest.mark.parametrize("chunk_bytes", [1, 700, 1 << 20])
def test_the_size_of_the_pieces_that_are_read_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    values: list[Any] = [1, 2.5, None, 3]
    rows = [row(f"{number:02}", config__x=values[number % 4], new=number or None) for number in range(9, -1, -1)]
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    found = read_table(write(tmp_path / "r", *rows)).to_pandas()
    expected = pd.DataFrame(rows[::-1])
    assert found["trial_id"].tolist() == expected["trial_id"].tolist()
    assert found["config.x"].dropna().tolist() == expected["config.x"].dropna().tolist()
    assert found["new"].isna().tolist() == expected["new"].isna().tolist()
    assert found["cost.tokens"].dtype == "float64"


def test_a_broken_line_is_named_with_its_file(tmp_path: Path) -> None:
    for line, problem in (('{"trial_id": ', "not valid JSON"), ("[1]", "expected an object"), ("", "not valid JSON")):
        path = write(tmp_path / "r", row("a"), line, row("b"))
        with pytest.raises(DataError, match=f"^{path}, line 2: {problem}"):
            read_table(path)


def test_a_line_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r", row("a"))
    path.write_bytes(path.read_bytes() + b'{"trial_id": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        read_table(path)


def test_a_value_of_the_wrong_type_is_named_with_its_line_whatever_piece_it_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1)
    path = write(tmp_path / "r", *[row("a", report=number) for number in range(5)], row("a", report=5, dev__f1="high"))
    with pytest.raises(DataError, match=r"line 6: dev\.f1 must be a number or null, but is 'high'"):
        read_table(path)


def test_of_rows_with_the_same_key_the_last_counts(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "r", row("b"), row("a", seed=1), row("a", seed=2)))
    assert table["seed"].to_pylist() == [2, 0]


def test_texts_and_numbers_in_one_column_are_texts(tmp_path: Path) -> None:
    mixed = [0.5, "auto", True, None, 1]
    rows = [row(str(number), config__x=value, config__y=bool(number)) for number, value in enumerate(mixed)]
    table = read_table(write(tmp_path / "r", *rows))
    assert table["config.x"].to_pylist() == ["0.5", "auto", "true", None, "1"]
    assert table["config.y"].type == pa.bool_()


def test_half_a_surrogate_pair_and_a_number_beyond_all_measure_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r", '{"trial_id": "a", "attempt": 0, "report": 0, "host": "\\ud800", "x": 1' + 400 * "0" + "}"
    )
    table = read_table(path)
    assert table["host"].to_pylist() == ["?"] and table["x"].to_pylist() == [None]


def test_a_file_that_is_a_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_table(tmp_path)


def test_columns_of_different_type_meet_in_the_one_that_holds_both() -> None:
    tables = [pa.table({"x": [1]}), pa.table({"x": [2.5], "y": [True]}), pa.table({"x": pa.nulls(1), "y": ["no"]})]
    assert concat(tables).to_pylist() == [{"x": 1.0, "y": None}, {"x": 2.5, "y": "true"}, {"x": None, "y": "no"}]
