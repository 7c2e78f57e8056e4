"""Keeps the columns of large records as Parquet on this machine, so that they are parsed once.

Nothing is written into a sweep's directory, which may be somebody else's and running. An entry belongs to one state of
one file: its path, size and time of change. A directory that cannot be written only costs the time.
"""

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from qa_train.errors import DataError
from qa_train.storage import cache_directory, write_bytes

_VERSION = 1  # of the form of the entries: raise it when `analysis.rows` makes other columns of the same records
_MIN_BYTES = 1 << 20
_MIN_AGE_S = 2.0


def default_directory() -> Path:
    """Returns where tables are kept: `analysis` in `qa_train.storage.cache_directory`."""
    return cache_directory().expanduser() / "analysis"


def cached_table(path: Path, read: Callable[[Path], pa.Table], min_bytes: int = _MIN_BYTES) -> pa.Table:
    """Returns what `read` makes of a file, from the cache if it was read before and has not changed.

    A file that was changed a moment ago is not kept: it might change again without a trace in its time. Small ones
    are not worth it.

    Args:
        path: The file; it need not exist.
        read: Reads it.
        min_bytes: Size from which a file is kept.

    Raises:
        DataError: As `read` does.
    """
    state = _state(path)
    if state is None or state.st_size < min_bytes:
        return read(path)
    name = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    entry = default_directory() / f"{name}-{state.st_size}-{state.st_mtime_ns}-{_VERSION}.parquet"
    with suppress(OSError, pa.ArrowException):  # there is none, or it is damaged
        return parquet.read_table(entry, partitioning=None)
    table = read(path)
    later = _state(path)
    is_settled = later is not None and (later.st_size, later.st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    if is_settled and time.time() - state.st_mtime >= _MIN_AGE_S:
        _write(entry, table, name)
    return table


def _state(path: Path) -> os.stat_result | None:
    with suppress(OSError):
        return path.stat()
    return None


def _write(entry: Path, table: pa.Table, name: str) -> None:
    """Writes an entry and removes those of earlier states of the same file; leaves it where that is impossible."""
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer, compression="lz4")
    with suppress(DataError, OSError):
        write_bytes(entry, buffer.getvalue().to_pybytes())
        for old in entry.parent.glob(f"{name}-*.parquet"):
            if old != entry:
                old.unlink(missing_ok=True)
