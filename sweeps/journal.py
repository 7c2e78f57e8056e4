"""Appends to a sweep's records: one writer, the driver; each row is on disk before the next one."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from qa_train.errors import SweepError
from sweeps.records import RECORDS, Row, Value


class Journal:
    """The records of one sweep, open for appending; use it in a `with` statement."""

    def __init__(
        self, directory: Path, durable: bool = True, store: Callable[[bytes], None] = lambda line: None
    ) -> None:
        """Opens or creates the records; a torn last line, left by a driver that died, is cut off first.

        Args:
            directory: Of the sweep.
            durable: Whether to wait until each row is on disk; not needed of records that are only simulated.
            store: Called with each line before it is written here; raises SweepError if it cannot keep it.

        Raises:
            SweepError: If the file cannot be written.
        """
        self._path, self._durable, self._store = directory / RECORDS, durable, store
        try:
            self._file = open(self._path, "a+b")  # noqa: SIM115 - closed in __exit__
            self._cut_torn_line()
        except OSError as error:
            raise SweepError(f"{self._path}: cannot be written: {error.strerror}") from error

    def _cut_torn_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)

    def append(self, row: Mapping[str, Value]) -> Row:
        """Writes a row and, if `durable`, waits until it is on disk; numbers JSON does not know become null.

        Returns:
            The row as it was written.

        Raises:
            SweepError: If it cannot be written, such as on a full disk.
        """
        plain: Row = {key: None if _is_not_json(value) else value for key, value in row.items()}
        try:
            line = json.dumps(plain, ensure_ascii=False, allow_nan=False)
            # A name that is no UTF-8 is a lone surrogate in Python; its replacement is also JSON's form of it.
            encoded = line.encode(errors="backslashreplace") + b"\n"
            self._store(encoded)
            self._file.write(encoded)
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise SweepError(f"{self._path}: a row cannot be written: {error.strerror}") from error
        return plain

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what could not be written was told by append
            self._file.close()


def _is_not_json(value: Value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
