import json
import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qa_train.errors import SweepError
from sweeps.journal import Journal
from sweeps.records import RECORDS, Row, read_records


@contextmanager
def full_disk(path: Path, free_bytes: int) -> Iterator[None]:
    """Lets no file grow beyond the present size of `path` and `free_bytes`, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + free_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_appended_rows_are_read_back(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"trial_id": "00000", "dev.f1": 32.578, "budget_epochs": None, "ok": True, "report": 0},
        {"trial_id": "00001", "error.message": "a\nb\u2028\u00fc \U0001f600 \udcff"},
    ]
    with Journal(tmp_path) as journal:
        assert [journal.append(row) for row in rows] == rows
    assert read_records(tmp_path) == rows


def test_a_second_journal_goes_on_after_the_first(tmp_path: Path) -> None:
    for number in range(3):
        with Journal(tmp_path) as journal:
            journal.append({"report": number})
    assert read_records(tmp_path) == [{"report": 0}, {"report": 1}, {"report": 2}]


def test_each_row_is_on_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        sync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").read_text())

    monkeypatch.setattr(os, "fsync", note)
    with Journal(tmp_path) as journal:
        for number in range(2):
            journal.append({"report": number})
            assert synced[-1] == (tmp_path / RECORDS).read_text()
    assert synced == ['{"report": 0}\n', '{"report": 0}\n{"report": 1}\n']


@pytest.mark.parametrize("torn", [b'{"report": 1', b'{"report": 1}', b"\0" * 5000, b"\xc3"])
def test_a_torn_last_line_is_cut_off_before_the_next_row(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / RECORDS).write_bytes(b'{"report": 0}\n' + torn)
    with Journal(tmp_path) as journal:
        assert (tmp_path / RECORDS).read_bytes() == b'{"report": 0}\n'
        journal.append({"report": 2})
    assert read_records(tmp_path) == [{"report": 0}, {"report": 2}]


def test_only_a_torn_line_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / RECORDS).write_bytes(b'{"rep')
    with Journal(tmp_path):
        pass
    assert (tmp_path / RECORDS).read_bytes() == b""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_json_does_not_know_become_null(tmp_path: Path, value: float) -> None:
    with Journal(tmp_path) as journal:
        assert journal.append({"train_loss": value, "dev.f1": 1.5}) == {"train_loss": None, "dev.f1": 1.5}
    assert json.loads((tmp_path / RECORDS).read_text()) == {"train_loss": None, "dev.f1": 1.5}


def test_a_journal_that_cannot_be_opened_is_a_sweep_error(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"none/records\.jsonl: cannot be written: No such file"):
        Journal(tmp_path / "none")
    (tmp_path / RECORDS).mkdir()
    with pytest.raises(SweepError, match=r"records\.jsonl: cannot be written: Is a directory"):
        Journal(tmp_path)


@pytest.mark.parametrize("free_bytes", [0, 10])
def test_a_full_disk_is_a_sweep_error_and_loses_no_earlier_row(tmp_path: Path, free_bytes: int) -> None:
    with pytest.raises(SweepError, match=r"records\.jsonl: a row cannot be written: "), Journal(tmp_path) as journal:
        journal.append({"report": 0})
        with full_disk(tmp_path / RECORDS, free_bytes):
            try:
                journal.append({"report": 1})
            finally:
                # Closing tries to write what is left: that must not hide the reason.
                journal.__exit__(None, None, None)
    assert read_records(tmp_path) == [{"report": 0}]
    with Journal(tmp_path) as journal:
        journal.append({"report": 1})
    assert read_records(tmp_path) == [{"report": 0}, {"report": 1}]
