import hashlib
import json
import math
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qa_train.errors import DataError
from qa_train.storage import (
    dump_yaml,
    parse_yaml,
    read_bytes,
    read_json,
    read_text,
    sha256_file,
    unused_dir,
    write_bytes,
    write_json,
    write_text,
)


def test_json_is_read_back_as_written(tmp_path: Path) -> None:
    value = {"f1": 52.25, "names": ["é", "\u2028"], "none": None, "nested": {"n": 2e-6}}
    path = tmp_path / "new" / "file.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": math.nan, "b": [math.inf, (1.0, -math.inf)]})
    assert json.loads(path.read_text()) == {"a": None, "b": [None, [1.0, None]]}


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"file\.json: cannot be written: No space left"):
        write_text(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]
    assert path.read_text() == "old"


def test_bytes_and_line_ends_are_read_back_as_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new" / "file", bytes(range(256)))
    assert read_bytes(tmp_path / "new" / "file") == bytes(range(256))
    write_text(tmp_path / "text", "é\r\n\n")
    assert read_bytes(tmp_path / "text") == "é\r\n\n".encode()
    with pytest.raises(DataError, match=r"missing: no such file"):
        read_bytes(tmp_path / "missing")


def test_an_object_without_json_form_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_broken_json_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"a": 1,\n  "b": }')
    with pytest.raises(DataError, match=r"broken\.json, line 2, column 8: not valid JSON"):
        read_json(path)


def test_reading_says_why_there_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.json: no such file"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(DataError, match="expected a file, found a directory"):
        read_json(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'"caf\xe9"')
    with pytest.raises(DataError, match=r"latin\.json: expected text in UTF-8"):
        read_json(tmp_path / "latin.json")


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(tmp_path / "bom.json") == "{}"


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(DataError, match="no such file"):
        sha256_file(tmp_path / "missing")


def test_a_directory_with_something_in_it_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert unused_dir(tmp_path / "model") == tmp_path / "model"
    assert unused_dir(tmp_path / "a" / "b").is_dir()
    (tmp_path / "model" / "x").touch()
    with pytest.raises(DataError, match="model: exists and is not empty; or pass --overwrite"):
        unused_dir(tmp_path / "model", "or pass --overwrite")
    with pytest.raises(DataError, match="found a file"):
        unused_dir(tmp_path / "model" / "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [("2e-6", 2e-6), ("1E6", 1e6), ("-1.5e-3", -1.5e-3), (".5e3", 500.0), ("[1e-6, 3]", [1e-6, 3])],
)
def test_a_number_with_an_exponent_is_a_number(text: str, value: object) -> None:
    assert parse_yaml(text) == (value, [])


@pytest.mark.parametrize("text", ["1e5e", "e5", "2024-01-01", "'2e-6'"])
def test_what_only_resembles_a_number_or_is_a_date_or_quoted_is_text(text: str) -> None:
    assert parse_yaml(text) == (text.strip("'"), [])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_python_prints_is_read_as_that_float(number: float) -> None:
    assert parse_yaml(repr(number)) == (number, [])
    assert parse_yaml(dump_yaml(number, inline=True)) == (number, [])


@given(st.text())
def test_every_text_survives_on_one_line(text: str) -> None:
    line = dump_yaml(text, inline=True)
    assert "\n" not in line
    assert parse_yaml(line) == (text, [])


def test_a_key_given_twice_is_named_with_both_lines_at_any_depth() -> None:
    _, problems = parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 2\n")
    assert sorted(problems) == [
        "line 2: 'c' is given twice, first in line 2",
        "line 3: 'a' is given twice, first in line 1",
    ]


def test_a_tab_is_explained() -> None:
    value, [problem] = parse_yaml("optim:\n\tlearning_rate: 1")
    assert value is None
    assert problem.startswith("line 2, column 1: not valid YAML")
    assert "with spaces, not with tabs" in problem


@pytest.mark.parametrize("text", ["[1,", "a: b: c", "---\na\n---\nb", "{[1]: 2}", "a: \x01", "!!int abc", "[" * 5000])
def test_broken_yaml_is_a_problem_not_an_exception(text: str) -> None:
    value, problems = parse_yaml(text)
    assert value is None
    assert len(problems) == 1
    assert "not valid YAML" in problems[0]


def test_yaml_runs_no_python() -> None:
    value, problems = parse_yaml("!!python/object/apply:os.getcwd []")
    assert value is None
    assert "could not determine a constructor" in problems[0]


def test_written_yaml_quotes_text_that_would_be_read_as_a_number() -> None:
    assert yaml.safe_load(dump_yaml({"name": "2e-6"})) == {"name": "2e-6"}
    assert parse_yaml(dump_yaml({"name": "2e-6", "seeds": (1, 2)})) == ({"name": "2e-6", "seeds": [1, 2]}, [])
