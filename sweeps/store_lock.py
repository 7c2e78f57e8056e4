"""Keeps a second driver out of a sweep in an object store while the first one lives, on whatever machine.

pyarrow writes objects without conditions, so there is no "create it unless it is there". Instead each driver writes a
claim of its own and only then lists all claims; one that finds another that is alive withdraws. As listings are
strongly consistent, of two that start at the same moment at least one sees the other: both may withdraw, never do both
stay. What is left is a driver that was silent for `DEAD_AFTER_S` and was taken for dead: it ends at its next row, as
its claim is gone, and what it writes does not replace a row of the other (`sweeps.sweep_store`).
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from types import TracebackType
from typing import Self

from qa_train.errors import DataError, SweepError
from sweeps.lock import DEAD_AFTER_S, HEARTBEAT_EVERY_S
from sweeps.object_store import Entry, ObjectStore

CLAIMS = "lock"


class StoreLock:
    """One driver's claim, renewed by a thread; use it in a `with` statement."""

    def __init__(self, objects: ObjectStore, heartbeat_every_s: float = HEARTBEAT_EVERY_S) -> None:
        """Claims nothing yet."""
        self._objects, self._every_s = objects, heartbeat_every_s
        self._name = f"{CLAIMS}/{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.json"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._is_lost = False
        self._seen = 0.0

    def __enter__(self) -> Self:
        """Takes the sweep.

        Raises:
            SweepError: If another driver lives, or was alive a moment ago.
            DataError: If the store cannot be used.
        """
        self._write()
        try:
            self._refuse_others()
        except BaseException:
            self._objects.remove(self._name)
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(DataError):  # it ages by itself
            self._objects.remove(self._name)

    def _write(self) -> None:
        note = {"host": socket.gethostname(), "pid": os.getpid(), "heartbeat": time.time()}
        self._objects.write(self._name, json.dumps(note).encode())
        self._seen = time.monotonic()

    def _refuse_others(self) -> None:
        claims = self._objects.entries(CLAIMS)
        now = claims[self._name].written  # all by the store's clock: those of the machines may differ
        for name, claim in claims.items():
            if name == self._name:
                continue
            if now - claim.written < DEAD_AFTER_S:
                raise SweepError(
                    f"{self._objects.address}: a process on {_owner(name)} ran this sweep "
                    f"{now - claim.written:.0f} s ago; stop it, or wait until {DEAD_AFTER_S:.0f} s have passed since "
                    "its end"
                )
            self._objects.remove(name)

    def check(self) -> None:
        """Checks that the sweep is still this driver's; asks the store only after a long silence.

        Raises:
            SweepError: If another driver took it over.
        """
        if time.monotonic() - self._seen > DEAD_AFTER_S / 2:
            with contextlib.suppress(DataError):  # what is to be written next will tell
                self._renew()
        if self._is_lost:
            raise SweepError(
                f"{self._objects.address}: another process took this sweep over while this one could not be heard for "
                f"{DEAD_AFTER_S:.0f} s; its rows are safe, this process ends"
            )

    def _renew(self) -> None:
        if self._name in self._objects.entries(CLAIMS):
            self._write()
        else:
            self._is_lost = True

    def _beat(self) -> None:
        while not self._ended.wait(self._every_s) and not self._is_lost:
            with contextlib.suppress(DataError):  # as while the network is gone
                self._renew()


def newest_claim(claims: dict[str, Entry]) -> str | None:
    """Returns the name of the claim that was renewed last; None if there is none."""
    return max(claims, key=lambda name: claims[name].written, default=None)


def _owner(name: str) -> str:
    return name.removeprefix(f"{CLAIMS}/").rsplit("-", 2)[0]
