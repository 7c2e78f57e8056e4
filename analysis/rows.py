"""Reads the records of a sweep into typed Arrow columns, a few megabytes of lines at a time."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qa_train.errors import DataError
from sweeps.records import Row

INTEGERS = ("attempt", "report")
NUMBERS = (
    "epochs_trained",
    "budget_epochs",
    "dev.f1",
    "dev.exact_match",
    "train_loss",
    "eval_loss",
    "cost.device_s",
    "cost.tokens",
    "cost.tflop",
    "cost.peak_memory_bytes",
)
_NUMBER_PREFIXES = ("dev.", "test.", "cost.", "model_cost.")
_TEXTS = ("trial_id", "status", "reused_from")
_CHUNK_BYTES = 8 << 20


def read_table(path: Path) -> pa.Table:
    """Reads records, running sweep or not; the last of rows with the same key counts.

    A last line without its line end is being written, or was when the driver died: it is left out. Numbers that are
    not finite, or too large for a float, are missing: no score or cost is meant by them. A column that holds texts and
    numbers is one of texts.

    Args:
        path: The file; it need not exist yet.

    Returns:
        [num_rows, num_columns] sorted by trial, attempt and report, which are its first columns.

    Raises:
        DataError: If the file cannot be read, a whole line is not a JSON object, or a value has no place in its column;
            file and line are named.
    """
    chunks = [_to_table(path, first, rows) for first, rows in _read_chunks(path)]
    return _sort(concat(chunks or [_to_table(path, 1, [])]))


def _read_chunks(path: Path) -> Iterator[tuple[int, list[Row]]]:
    """Yields the number of a line, from 1, and the rows from there on."""
    first = 1
    try:
        with open(path, "rb") as file:
            while lines := file.readlines(_CHUNK_BYTES):
                if not lines[-1].endswith(b"\n"):
                    lines.pop()
                yield first, _parse(path, first, lines)
                first += len(lines)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(path: Path, first: int, lines: Sequence[bytes]) -> list[Row]:
    rows: list[Row] = []
    decode = json.JSONDecoder().decode
    try:
        for line in lines:
            rows.append(decode(line.decode()))  # json.loads looks for the encoding of bytes, for half the time again
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {first + len(rows)}: not valid JSON: {error}") from error
    for number, row in enumerate(rows):
        if type(row) is not dict:
            raise DataError(f"{path}, line {first + number}: expected an object, found {lines[number][:40]!r}")
    return rows


def _to_table(path: Path, first: int, rows: Sequence[Row]) -> pa.Table:
    """Rows as typed columns: the keys first, then those that always exist, then the others as they come."""
    names: dict[str, Any] = dict.fromkeys(("trial_id", *INTEGERS, "status", "seed", *NUMBERS))
    for row in rows:
        names.update(row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        _check(path, first, name, values)
        columns[name] = _to_array(name, values)
    return pa.table(columns)


def _check(path: Path, first: int, name: str, values: Sequence[object]) -> None:
    """Raises DataError for the first value that has no place in the column."""
    allowed: set[type]
    if name == "trial_id":
        allowed, expected = {str}, "a text"
    elif name in INTEGERS:
        allowed, expected = {int}, "an integer"
    elif is_number_column(name):
        allowed, expected = {int, float, type(None)}, "a number or null"
    else:
        allowed, expected = {str, int, float, bool, type(None)}, "a single value"
    if set(map(type, values)) <= allowed:
        return
    number, value = next((i, value) for i, value in enumerate(values) if type(value) not in allowed)
    raise DataError(f"{path}, line {first + number}: {name} must be {expected}, but is {value!r}")


def is_number_column(name: str) -> bool:
    """Returns whether a column holds numbers whatever the configuration, such as a score or a cost."""
    return name in NUMBERS or name.startswith(_NUMBER_PREFIXES)


def _to_array(name: str, values: Sequence[Any]) -> pa.Array:
    kinds = set(map(type, values)) - {type(None)}
    if is_number_column(name) or (float in kinds and kinds <= {int, float}):
        return _to_floats(values)
    if name not in _TEXTS and kinds <= {int} and kinds:
        try:
            return pa.array(values, pa.int64())
        except (OverflowError, pa.ArrowInvalid):
            return _to_floats(values)
    if name not in _TEXTS and kinds == {bool}:
        return pa.array(values, pa.bool_())
    if not kinds and name not in (*_TEXTS, *INTEGERS):
        return pa.nulls(len(values))
    if not values:
        return pa.array([], pa.int64() if name in INTEGERS else pa.string())
    if kinds == {str}:
        with suppress(UnicodeEncodeError):
            return pa.array(values, pa.string())
    return pa.array([None if value is None else _to_text(value) for value in values], pa.string())


def _to_floats(values: Sequence[Any]) -> pa.Array:
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        numbers = np.array([None if value is None else _to_float(value) for value in values], dtype=np.float64)
    return pa.array(np.where(np.isfinite(numbers), numbers, np.nan), from_pandas=True)


def _to_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("nan")


def _to_text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="replace").decode()  # JSON can spell half of a surrogate pair, Arrow has no such text


def _sort(table: pa.Table) -> pa.Table:
    keys = table.select(["trial_id", *INTEGERS]).to_pandas()
    kept = keys[~keys.duplicated(keep="last")]
    order = kept.sort_values(list(kept.columns)).index.to_numpy()
    return table if np.array_equal(order, np.arange(len(keys))) else table.take(order)


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """Puts tables below each other; a column that one of them lacks is missing there.

    Whole numbers and real ones together are real; where else the types differ, all are texts.

    Args:
        tables: At least one.
    """
    types: dict[str, pa.DataType] = {}
    for table in tables:
        for field in table.schema:
            types[field.name] = _common_type(types.get(field.name, pa.null()), field.type)
    schema = pa.schema(list(types.items()))
    return pa.concat_tables([_conform(table, schema) for table in tables]).combine_chunks()


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else pa.string()


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    names = set(table.schema.names)
    columns = [
        table[field.name].cast(field.type, safe=False) if field.name in names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
