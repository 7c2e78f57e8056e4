"""Objects at an address such as `s3://bucket/prefix`, through pyarrow's file systems; knows nothing of sweeps.

S3 and Google Cloud Storage write an object whole or not at all, and who reads or lists sees it at once (strong
consistency). Credentials come from the environment, as for any other program that uses these stores.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from qa_train.errors import DataError
from qa_train.storage import cache_directory, write_bytes

WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Before each further try of what failed and may go better; with pyarrow's own tries about three minutes."""

_SCHEMES = ("s3", "gs")
_NUM_THREADS = 16
_CHUNK = 16 * 2**20
_PERMANENT_CODES = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
_PERMANENT_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR)
"""Of the local disk."""

Result = TypeVar("Result")


class StoreUnavailableError(DataError):
    """A store that does not answer, or not now: the same may go better later."""


@dataclass(frozen=True)
class Entry:
    """An object in a listing.

    Attributes:
        size: In bytes.
        written: By the store's clock, in seconds since the epoch.
    """

    size: int
    written: float


def is_address(place: str | os.PathLike[str]) -> bool:
    """Returns whether a place is in an object store; paths and `file://` are not."""
    return "://" in str(place) and not str(place).startswith("file://")


def local_path(place: str | os.PathLike[str]) -> Path:
    """Returns the path that a place which is no address means; `~` is expanded.

    Raises:
        DataError: If the host after `file://` cannot be read, or the name after `~` is no user's.
    """
    text = str(place)
    try:
        return Path(unquote(urlsplit(text).path) if text.startswith("file://") else text).expanduser()
    except ValueError:
        raise DataError(f"{text}: expected a path, or file:///path, found a host that cannot be read") from None
    except RuntimeError:
        raise DataError(f"{text}: expected a path, found no user of that name to expand ~ to") from None


def checked_address(address: str) -> str:
    """Returns an address without a slash at its end.

    Raises:
        DataError: If it is of an unknown kind, names no bucket or no prefix, or holds credentials: it would be written
            to manifests and logs.
    """
    expected = " or ".join(f"{scheme}://bucket/prefix" for scheme in _SCHEMES)
    try:
        parts = urlsplit(address)
    except ValueError:
        scheme, _, rest = address.partition("?")[0].partition("://")
        shown = f"{scheme}://{'…@' if '@' in rest else ''}{rest.rpartition('@')[2]}"
        raise DataError(f"{shown}: expected {expected}, found one that cannot be read") from None
    shown = address.replace(f"{parts.netloc.rpartition('@')[0]}@", "…@", 1) if "@" in parts.netloc else address
    if parts.scheme not in _SCHEMES:
        raise DataError(f"{shown}: expected a path or {expected}, found {parts.scheme}://")
    secret = [key for key, _ in parse_qsl(parts.query) if re.search("key|secret|token|password", key)]
    if "@" in parts.netloc or secret:
        remedy = "give them through the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        raise DataError(f"{shown.partition('?')[0]}: expected an address without credentials; {remedy}")
    if not parts.netloc or not parts.path.strip("/") or parts.fragment:
        raise DataError(f"{shown}: expected {parts.scheme}://bucket/prefix, found no prefix, or a #")
    return parts._replace(path=parts.path.rstrip("/")).geturl()


def cache_dir(address: str, purpose: str) -> Path:
    """Returns where this user keeps local files of an address: `<purpose>/…` in `cache_directory`."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(address).path.rpartition("/")[2])[:40]
    return cache_directory().expanduser() / purpose / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


class ObjectStore:
    """The objects under an address, by their names relative to it."""

    def __init__(self, address: str, waits_s: Sequence[float] = (), opened: tuple[Any, str] | None = None) -> None:
        """Connects.

        Args:
            address: As `checked_address` returns it. Options of pyarrow's file systems may follow a `?`, such as
                `endpoint_override=http://127.0.0.1:9000` or `region=eu-west-1`.
            waits_s: Seconds to wait before each further try.
            opened: A file system of pyarrow and the path in it, in place of those that `address` leads to.

        Raises:
            StoreUnavailableError: If the store does not answer.
            DataError: If an option is unknown.
        """
        self.address, self._waits_s = address, tuple(waits_s)
        self._system, self._base = opened or self._trying("cannot be opened", lambda: _open(address))
        self._makes_dirs = self._system.type_name not in ("s3", "gcs")

    def _trying(self, problem: str, action: Callable[[], Result]) -> Result:
        """Does something, as often as is worth trying; names the store and, of many lines, the reason.

        Raises:
            FileNotFoundError: If there is no such object.
            StoreUnavailableError: If it failed each time, and may go better later.
            DataError: If it will not go better.
        """
        for wait_s in (*self._waits_s, None):
            try:
                return action()
            except FileNotFoundError:
                raise
            except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
                reason = _reason(error)
                if _is_permanent(error):
                    raise DataError(f"{self.address}: {problem}: {reason}") from error
                if wait_s is None:
                    raise StoreUnavailableError(f"{self.address}: {problem}: {reason}") from error
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base

    def entries(self, name: str = "") -> dict[str, Entry]:
        """Returns the objects under a name, by their names relative to the store's address; empty if there are none.

        Raises:
            DataError: If they cannot be listed.
        """
        from pyarrow import fs

        selector = fs.FileSelector(self._at(name), recursive=True, allow_not_found=True)
        found = self._trying("cannot be listed", lambda: self._system.get_file_info(selector))
        files = [info for info in found if info.type == fs.FileType.File]
        return {info.path[len(self._base) + 1 :]: Entry(info.size, info.mtime.timestamp()) for info in files}

    def read(self, name: str) -> bytes | None:
        """Returns an object's content; None if there is none.

        Raises:
            DataError: If it cannot be read.
        """

        def content() -> bytes:
            with self._system.open_input_stream(self._at(name)) as stream:
                return bytes(stream.read())

        try:
            return self._trying(f"{name} cannot be read", content)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes an object; an older one is replaced.

        Raises:
            DataError: If it cannot be written.
        """

        def put() -> None:
            with self._writing(name) as stream:
                stream.write(content)

        self._trying(f"{name} cannot be written", put)

    def _writing(self, name: str) -> Any:
        path = self._at(name)
        if self._makes_dirs:
            self._system.create_dir(path.rpartition("/")[0], recursive=True)
        return self._system.open_output_stream(path, compression=None)

    def upload(self, name: str, path: Path) -> None:
        """Writes a file to an object; one that has gone meanwhile is left out.

        Raises:
            DataError: If it cannot be written.
        """

        def copy() -> None:
            try:
                file = open(path, "rb")  # noqa: SIM115 - that the store has no such place is another error
            except FileNotFoundError:
                return
            with file, self._writing(name) as stream:
                shutil.copyfileobj(file, stream, _CHUNK)

        self._trying(f"{name} cannot be written", copy)

    def download(self, name: str, path: Path) -> None:
        """Reads an object into a file, which is there whole or not at all.

        Raises:
            DataError: If it is not there, cannot be read, or the file cannot be written.
        """
        partial = path.with_name(f".{path.name}.{threading.get_ident()}.tmp")

        def copy() -> None:
            with self._system.open_input_stream(self._at(name)) as stream, open(partial, "wb") as file:
                shutil.copyfileobj(stream, file, _CHUNK)

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._trying(f"{name} cannot be read", copy)
            partial.replace(path)
        except OSError as error:
            raise DataError(f"{self.address}: {name} cannot be fetched to {path}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def download_all(self, names: Iterable[str], directory: Path) -> None:
        """Reads objects into files of the same names, several at once; see `download`."""
        self.each(lambda name: self.download(name, directory / name), names)

    def each(self, action: Callable[[str], Result], names: Iterable[str]) -> list[Result]:
        """Does something for each name, several at once; returns the results in the order of the names."""
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            return list(pool.map(action, names))

    def remove(self, name: str) -> None:
        """Removes an object, and all that is under its name with a slash; none at all is no mistake.

        Raises:
            DataError: If one cannot be removed.
        """
        from pyarrow import fs

        def delete() -> None:
            kind = self._system.get_file_info(self._at(name)).type
            if kind == fs.FileType.Directory:
                self._system.delete_dir(self._at(name))
            elif kind == fs.FileType.File:
                self._system.delete_file(self._at(name))

        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            self._trying(f"{name} cannot be removed", delete)


def _open(address: str) -> tuple[Any, str]:
    from pyarrow import fs  # takes a while, and most sweeps need none

    if address.startswith("s3://"):  # then a small object takes one request instead of three
        address += ("&" if "?" in address else "?") + "allow_delayed_open=true"
    system, base = fs.FileSystem.from_uri(address)
    return system, base


def _reason(error: Exception) -> str:
    """Returns in a few words what pyarrow tells of an error."""
    text = " ".join(str(error).split())
    if "NO_SUCH_BUCKET" in text:
        return "there is no such bucket; create it first"
    if "ACCESS_DENIED" in text:
        return f"access is denied; check the credentials of the environment and the bucket's policy ({text[:200]})"
    return text


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in _PERMANENT_ERRNOS):
        return True
    return any(code in str(error) for code in _PERMANENT_CODES)


def write_if_changed(path: Path, content: bytes) -> None:
    """Writes a local file, unless it holds that already.

    Raises:
        DataError: If it cannot be written.
    """
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return
    write_bytes(path, content)
