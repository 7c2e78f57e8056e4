import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qa_train.errors import SweepError
from sweeps import lock
from sweeps.lock import LOCAL_LOCK, LOCK, locked

_HOLD = """
import sys, time
from pathlib import Path
from sweeps.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_holder_is_named_and_the_directory_is_free_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            deadline = time.monotonic() + 60
            while not (tmp_path / LOCK).exists():
                assert time.monotonic() < deadline
            found = json.loads((tmp_path / LOCK).read_text())
            assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
            assert abs(found["heartbeat"] - time.time()) < 60
        assert not (tmp_path / LOCK).exists()


def test_a_second_process_is_refused_while_the_first_lives_and_not_after_it_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(SweepError, match="another process runs this sweep; wait for it or stop it"),
            locked(tmp_path),
        ):
            pass
        holder.kill()
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCAL_LOCK).exists()


def test_a_refused_process_leaves_the_lock_of_the_living_one(tmp_path: Path) -> None:
    with locked(tmp_path):
        for _ in range(2):
            with pytest.raises(SweepError, match="another process runs this sweep"), locked(tmp_path):
                pass
            assert (tmp_path / LOCAL_LOCK).exists()


def test_a_lock_on_a_file_that_its_holder_has_removed_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed_before(file: int, operation: int) -> None:
        (tmp_path / LOCAL_LOCK).unlink()

    monkeypatch.setattr("fcntl.flock", removed_before)
    with pytest.raises(SweepError, match="another process runs this sweep"), locked(tmp_path):
        pass


def test_a_process_of_another_host_is_refused_while_its_heart_beats(tmp_path: Path) -> None:
    beat = {"host": "elsewhere", "pid": 1, "heartbeat": time.time() - 5}
    (tmp_path / LOCK).write_text(json.dumps(beat))
    with pytest.raises(SweepError, match=r"a process on elsewhere ran this sweep [5-9] s ago"), locked(tmp_path):
        pass
    (tmp_path / LOCK).write_text(json.dumps(beat | {"heartbeat": time.time() - lock.DEAD_AFTER_S - 1}))
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "[]", '{"host": "elsewhere"}', '{"host": "elsewhere", "heartbeat": "x"}'])
def test_a_note_that_cannot_be_read_keeps_nobody_out(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    with locked(tmp_path):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(SweepError, match="absent: cannot be written: No such file or directory"),
        locked(tmp_path / "absent"),
    ):
        pass
