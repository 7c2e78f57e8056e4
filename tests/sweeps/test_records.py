import json
from dataclasses import asdict
from pathlib import Path

import pytest

from qa_train.errors import DataError
from sweeps.records import MANIFEST, RECORDS, Manifest, read_manifest, read_records, write_manifest

MANY = Manifest(
    sweep_id="first",
    name="tiny",
    note="",
    created="2026-11-24T15:30:38+00:00",
    config={"name": "tiny", "train": {"num_epochs": 3}},
    metric="dev.f1",
    mode="max",
    precision="fp32",
    device="cpu-core",
    devices_per_trial=1,
    data={"train": {"path": "train.json", "sha256": "00", "questions": 6}},
    baselines={"untrained.f1": 3.25},
    versions={"python": "3.11.7"},
    commit="abc",
    models={"/models/a": "11"},
)
LEAST = Manifest("s", "s", "", "now", {}, "dev.f1", "max", "bf16", "cpu-core", 1, {})


def write(directory: Path, text: str | bytes) -> Path:
    (directory / RECORDS).write_bytes(text if isinstance(text, bytes) else text.encode())
    return directory


@pytest.mark.parametrize("manifest", [MANY, LEAST])
def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert read_manifest(str(tmp_path)) == manifest


def test_a_manifest_of_before_models_were_noted_is_read(tmp_path: Path) -> None:
    old = asdict(LEAST)
    del old["models"]
    (tmp_path / MANIFEST).write_text(json.dumps(old))
    assert read_manifest(tmp_path) == LEAST


def test_a_manifest_is_json_of_its_fields(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANY)
    assert json.loads((tmp_path / MANIFEST).read_text()) == asdict(MANY)


def test_a_manifest_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/manifest\.json: cannot be written"):
        write_manifest(tmp_path / "file", LEAST)


def test_where_no_sweep_is_the_error_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, found in (("none", "nothing there"), ("file", "a file"), (".", "no manifest.json in it")):
        with pytest.raises(DataError) as caught:
            read_manifest(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: expected a sweep directory, found {found}"


@pytest.mark.parametrize(
    "text", ["[]", "{}", "3", "null", '{"sweep_id": "s"}', json.dumps(asdict(LEAST) | {"more": 1})]
)
def test_another_json_file_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: expected the manifest of a sweep: "):
        read_manifest(tmp_path)


def test_a_broken_manifest_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{\n"name": }')
    with pytest.raises(DataError, match=r"manifest\.json, line 2, column 9: not valid JSON"):
        read_manifest(tmp_path)


def test_rows_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, '{"trial_id": "1", "dev.f1": 2.5}\n{"trial_id": "0", "dev.f1": null, "x": true}\n')
    assert read_records(tmp_path) == [
        {"trial_id": "1", "dev.f1": 2.5},
        {"trial_id": "0", "dev.f1": None, "x": True},
    ]


def test_a_sweep_without_a_records_file_has_no_rows(tmp_path: Path) -> None:
    assert read_records(tmp_path) == []
    assert read_records(write(tmp_path, "")) == []


@pytest.mark.parametrize("torn", ['{"a": 2', '{"a": 2}', '{"a": "\u00fc'.encode()[:-1], "\0\0\0"])
def test_a_last_line_without_its_line_end_is_left_out(tmp_path: Path, torn: str | bytes) -> None:
    rest = torn if isinstance(torn, bytes) else torn.encode()
    assert read_records(write(tmp_path, b'{"a": 1}\n' + rest)) == [{"a": 1}]
    assert read_records(write(tmp_path, rest)) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"a": 2', "not valid JSON"),
        ("", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        ("[1]", r"expected an object, found b'\[1\]'"),
        ("null", "expected an object, found b'null'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str | bytes, problem: str) -> None:
    broken = line if isinstance(line, bytes) else line.encode()
    with pytest.raises(DataError, match=rf"records\.jsonl, line 2: {problem}"):
        read_records(write(tmp_path, b'{"a": 1}\n' + broken + b'\n{"a": 3}\n'))


def test_line_separators_of_unicode_do_not_end_a_row(tmp_path: Path) -> None:
    row = {"error.message": "a\u2028b\u0085c\x1cd"}
    assert read_records(write(tmp_path, json.dumps(row, ensure_ascii=False) + "\n")) == [row]


def test_records_that_are_no_file_are_a_data_error(tmp_path: Path) -> None:
    (tmp_path / RECORDS).mkdir()
    with pytest.raises(DataError, match=r"records\.jsonl: cannot be read: Is a directory"):
        read_records(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/records\.jsonl: cannot be read: Not a directory"):
        read_records(tmp_path / "file")
