import os
from pathlib import Path

import pyarrow as pa
import pytest

from analysis.cache import cached_table, default_directory


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "analysis"


class Reader:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> pa.Table:
        self.calls += 1
        return pa.table({"text": [path.read_text()]})


def write(path: Path, text: str, age_s: float = 60.0) -> None:
    path.write_text(text)
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))


def read(path: Path, reader: Reader) -> str:
    return str(cached_table(path, reader, min_bytes=1)["text"][0])


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, cache: Path) -> None:
    reader, path = Reader(), tmp_path / "sweep" / "records.jsonl"
    path.parent.mkdir()
    write(path, "one")
    assert [read(path, reader) for _ in range(3)] == ["one"] * 3
    assert reader.calls == 1
    write(path, "more")
    assert [read(path, reader) for _ in range(2)] == ["more"] * 2
    write(path, "less", age_s=30)
    assert read(path, reader) == "less" and reader.calls == 3
    assert len(list(cache.iterdir())) == 1, "entries of earlier states are removed"
    assert [item.name for item in path.parent.iterdir()] == ["records.jsonl"]


def test_a_file_that_was_changed_a_moment_ago_is_not_kept(tmp_path: Path) -> None:
    reader, path = Reader(), tmp_path / "f"
    write(path, "one", age_s=0)
    assert read(path, reader) == "one"
    write(path, "two", age_s=0)
    assert read(path, reader) == "two"


def test_small_files_are_not_kept(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "f", "one")
    assert str(cached_table(tmp_path / "f", Reader())["text"][0]) == "one"
    assert not cache.exists()


def test_a_damaged_entry_is_made_anew(tmp_path: Path, cache: Path) -> None:
    reader = Reader()
    write(tmp_path / "f", "one")
    read(tmp_path / "f", reader)
    [entry] = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:50])
    assert [read(tmp_path / "f", reader) for _ in range(2)] == ["one"] * 2
    assert reader.calls == 2


def test_a_directory_that_cannot_be_used_only_costs_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    write(tmp_path / "file", "no directory")
    write(tmp_path / "f", "one")
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path / "file"))
    assert [read(tmp_path / "f", reader) for _ in range(2)] == ["one"] * 2
    assert reader.calls == 2


def test_the_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPANSWEEP_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "spansweep" / "analysis"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_directory() == tmp_path / "home" / ".cache" / "spansweep" / "analysis"
