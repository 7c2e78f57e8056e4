"""Keeps a second driver out of a sweep's directory while the first one lives, on this host or another."""

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from qa_train.errors import DataError, SweepError
from qa_train.storage import read_json, write_json

LOCK = "lock.json"
LOCAL_LOCK = ".lock"
HEARTBEAT_EVERY_S = 10.0
DEAD_AFTER_S = 60.0
"""Without a heartbeat for so long a driver on another host is taken for dead."""


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory: a system's lock against drivers on this host, a heartbeat against those on others.

    The lock ends with the process, however that ends; `lock.json` is left by one that was killed, and says when it
    lived last. The locked file is removed while the lock is held, so never that of another driver.

    Raises:
        SweepError: If another driver lives, or the directory cannot be written.
    """
    path = directory / LOCAL_LOCK
    refused = SweepError(f"{directory}: another process runs this sweep; wait for it or stop it")
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - the errors of its body are others
    except OSError as error:
        raise SweepError(f"{directory}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refused from None
        if not _is_at(path, file.fileno()):  # its holder has just ended; a third process may lock a new file
            raise refused
        try:
            _refuse_other_hosts(directory)
            with _heartbeat(directory):
                yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _refuse_other_hosts(directory: Path) -> None:
    try:
        found = read_json(directory / LOCK)
        host, age = found["host"], time.time() - float(found["heartbeat"])
    except (DataError, KeyError, TypeError, ValueError):
        return  # none, or none that could be read; the lock of this host is held
    if host != socket.gethostname() and age < DEAD_AFTER_S:
        raise SweepError(
            f"{directory}: a process on {host} ran this sweep {age:.0f} s ago; stop it, or wait until "
            f"{DEAD_AFTER_S:.0f} s have passed since its end"
        )


@contextlib.contextmanager
def _heartbeat(directory: Path) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while True:
            with contextlib.suppress(DataError):  # such as on a full disk; the journal will say so
                write_json(
                    directory / LOCK, {"host": socket.gethostname(), "pid": os.getpid(), "heartbeat": time.time()}
                )
            if ended.wait(HEARTBEAT_EVERY_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            (directory / LOCK).unlink()
