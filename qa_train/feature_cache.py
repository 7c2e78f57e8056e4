"""Tokenises each data set once per node: features in files that all processes map into their memory.

An entry is one safetensors file, `features-<key>.safetensors`. The key is a hash of all that the features follow from,
so an entry is never out of date. The file's last tensor, `crc32`, is the checksum of all bytes before it.

- Whoever finds no entry takes the entry's lock, tokenises, writes beside and renames into place; others wait for it.
  The kernel frees the lock of a process that dies.
- A damaged entry counts as none.
- A new entry drives out the least recently used ones beyond `MAX_BYTES`. On Linux whoever has mapped one keeps it: its
  disk space is freed when the last process ends. NFS keeps that promise only among processes of one machine, so the
  directory belongs on the node's own disk.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
import transformers
from filelock import FileLock

from qa_train import tokenization
from qa_train.data import Example
from qa_train.storage import CACHE_DIR_VARIABLE, cache_directory
from qa_train.tokenization import Features, encode

FORMAT_VERSION = 1
"""Of the entries' files; raise it with each change of their layout."""
MAX_BYTES = 20_000_000_000
"""Size of all entries above which the least recently used are removed; 37,000 questions have about 100 MB."""
LOCK_TIMEOUT_S = 600.0
"""How long to wait for another process that tokenises the same, before doing it without the cache."""

_ABANDONED_AFTER_S = 3600.0
"""Age at which a temporary file's writer must be dead: writing takes seconds."""
_OWN_FILE = re.compile(r"features-[0-9a-f]{64}\.(safetensors|lock|[0-9a-f]{8}\.tmp)")
_CHECKSUM = "crc32"
_CHECKSUM_BYTES = 4
# An edit of the tokenisation makes new entries. Read now: later the file may be newer than what this process runs.
_SOURCE = Path(tokenization.__file__).read_bytes()

_log = logging.getLogger(__name__)
Array = npt.NDArray[Any]


def cached_encode(
    examples: Sequence[Example],
    tokenizer: Any,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    single_window: bool = False,
) -> Features:
    """Returns what `encode` returns, bit for bit, from the cache if it is there; puts it there if not.

    A directory that cannot be used, or a full disk, is said once per process, in a warning of this module's logger.

    Args:
        examples: See `encode`.
        tokenizer: See `encode`.
        max_seq_length: See `encode`.
        doc_stride: See `encode`.
        cache_dir: Where the entries are; `cache_directory()` by default. `~` is expanded.
        single_window: See `encode`.

    Returns:
        Features whose arrays are `np.memmap`, read-only; plain arrays where the cache could not be used.

    Raises:
        DataError: As `encode` does.
    """
    chosen = Path(cache_dir or cache_directory())
    window: dict[str, Any] = {
        "max_seq_length": int(max_seq_length),
        "doc_stride": int(doc_stride),
        "single_window": bool(single_window),
    }
    features = None
    try:
        path = _expanded(chosen) / f"features-{entry_key(examples, tokenizer, window)}.safetensors"
        features = _read(path)
        if features is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Not filelock's substitute for file systems without locks: it outlives a process that is killed.
            with FileLock(path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S, fallback_to_soft=False):
                features = _read(path)  # another process may have been first
                if features is None:
                    features = encode(examples, tokenizer, **window)
                    _write(path, features)
                    features = _read(path) or features
                    prune(path.parent)
    except OSError as error:  # a lock that was waited for in vain is one, too
        _warn_once(
            f"{chosen}: tokenised features cannot be cached there: {error.strerror or error}; tokenising without; "
            f"set {CACHE_DIR_VARIABLE} to a directory on this machine's own disk"
        )
    return encode(examples, tokenizer, **window) if features is None else features


def _expanded(directory: Path) -> Path:
    try:
        return directory.expanduser()
    except RuntimeError as error:
        raise OSError("there is no home directory") from error


@cache
def _warn_once(message: str) -> None:
    _log.warning(message)


def entry_key(examples: Sequence[Example], tokenizer: Any, window: Mapping[str, int]) -> str:
    """Returns 64 hexadecimal digits that differ where `encode`'s results might.

    Ids and titles are left out: features do not depend on them. The lengths to which the tokenizer cut and padded last
    are left out too: `encode` sets its own.

    Args:
        examples: See `encode`.
        tokenizer: See `encode`.
        window: All other arguments of `encode`, by name.
    """
    settings = [
        FORMAT_VERSION,
        tokenizers.__version__,
        transformers.__version__,
        hashlib.sha256(_SOURCE).hexdigest(),
        dict(window),
        _definition(tokenizer),
        _hash_texts(examples),
    ]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _definition(tokenizer: Any) -> dict[str, Any]:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = type(tokenizer)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "special_tokens": {role: str(token) for role, token in tokenizer.special_tokens_map.items()},
        "model_input_names": list(tokenizer.model_input_names),
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": tokenizer.split_special_tokens,
        "backend": backend | {"truncation": None, "padding": None},
    }


def _hash_texts(examples: Sequence[Example]) -> str:
    """Hashes contexts, each once, questions and answers: joined, behind the numbers that take them apart."""
    contexts: dict[str, int] = {}
    numbers: list[int] = []
    asked: list[str] = []
    for example in examples:
        numbers += (contexts.setdefault(example.context, len(contexts)), len(example.question), len(example.answers))
        asked.append(example.question)
        for answer in example.answers:
            numbers += (len(answer.text), answer.start)
            asked.append(answer.text)
    text = "".join([str([len(context) for context in contexts]), str(numbers), *contexts, *asked])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _write(path: Path, features: Features) -> None:
    """Writes an entry so that a reader, or a crash, leaves no part of one under its name.

    Not synced to the disk: after a crash of the machine the checksum tells.
    """
    arrays = {field.name: np.asarray(getattr(features, field.name), order="C") for field in fields(Features)}
    # The widest first, so that each array is aligned.
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
    try:
        parts: list[bytes | memoryview] = [_header(arrays), *(array.data for array in arrays.values())]
        with open(temporary, "xb") as file:
            checksum = 0
            for part in parts:
                file.write(part)
                checksum = zlib.crc32(part, checksum)
            file.write(checksum.to_bytes(_CHECKSUM_BYTES, "little"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _header(arrays: dict[str, Array]) -> bytes:
    """Returns the head of a safetensors file: the length of a table, and that table in JSON."""
    table: dict[str, Any] = {}
    end = 0
    for name, array in [*arrays.items(), (_CHECKSUM, np.zeros((), np.uint32))]:
        dtype = f"{array.dtype.kind.upper()}{8 * array.itemsize}"
        table[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read(path: Path) -> Features | None:
    """Maps an entry and notes that it was used; returns None if it is missing or damaged."""
    try:
        content = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if not len(body) or zlib.crc32(body.data) != int.from_bytes(checksum.tobytes(), "little"):
        _log.info("%s: damaged, made anew", path)
        return None
    with suppress(OSError):  # the entry may be another user's, or just have been removed
        os.utime(path)
    values: dict[str, Any] = {name: array if array.ndim else int(array) for name, array in _arrays(content).items()}
    return Features(**values)


def _arrays(content: npt.NDArray[np.uint8]) -> dict[str, Array]:
    """Returns views of a safetensors file's arrays, the checksum left out."""
    begin = 8 + int.from_bytes(content[:8].tobytes(), "little")
    table = json.loads(content[8:begin].tobytes())
    del table[_CHECKSUM]
    return {
        name: content[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]]
        .view(f"{entry['dtype'][0].lower()}{int(entry['dtype'][1:]) // 8}")
        .reshape(entry["shape"])
        for name, entry in table.items()
    }


def prune(directory: Path, max_bytes: int = MAX_BYTES) -> None:
    """Removes the least recently used entries beyond `max_bytes`, never the last used, and what dead writers left.

    Other files in the directory are not touched.
    """
    found = []
    for path in directory.iterdir():
        if _OWN_FILE.fullmatch(path.name):
            with suppress(FileNotFoundError):
                found.append((path.stat(), path))
    total = 0
    for status, path in sorted(found, key=lambda item: item[0].st_mtime_ns, reverse=True):
        if path.suffix == ".safetensors":
            surplus = total > 0 and total + status.st_size > max_bytes
            total += status.st_size
        else:  # the lock of an entry that is gone, were it in use, would cost a second tokenisation, no more
            surplus = time.time() - status.st_mtime > _ABANDONED_AFTER_S
        if surplus:
            with suppress(OSError):
                path.unlink()
