"""Fetches the public data sets over HTTP; every file is checked against a published checksum before it is kept."""

import hashlib
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from filelock import Timeout as LockedElsewhere
from tqdm import tqdm

from qa_train.config import DEFAULT_DATA_DIR
from qa_train.errors import DataError
from qa_train.storage import Pathlike, sha256_file

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
"""Longest silence of a server within an answer, not of the whole transfer."""
NUM_RETRIES = 3
RETRY_WAIT_S = 1.0
CHUNK_BYTES = 1 << 14
"""Written at a time. Small, since a transfer that is cut off loses the chunk that was coming."""
_AGAIN = "run the same command again"

Digest = Literal["git-blob", "sha256"]


@dataclass(frozen=True)
class RemoteFile:
    """A public file that never changes.

    Attributes:
        name: Its name on disk.
        url: Where it is.
        size: Its length in bytes; None where it was not published.
        digest: Its checksum in hexadecimal digits.
        kind: Of the checksum: `sha256`, or `git-blob`, the name that git gives to the content (see `digest_file`).
    """

    name: str
    url: str
    size: int | None
    digest: str
    kind: Digest


@dataclass(frozen=True)
class Dataset:
    """Files that belong together, the directory they go to by default, and whom to thank for them."""

    files: tuple[RemoteFile, ...]
    directory: Path
    source: str
    licence: str
    citation: str


def _spoken(name: str, digest: str) -> RemoteFile:
    commit = "834be9a52253a2563ba87d1f22c7fb95243769ca"
    url = f"https://raw.githubusercontent.com/Chia-Hsuan-Lee/Spoken-SQuAD/{commit}/{name}"
    return RemoteFile(name, url, None, digest, "git-blob")


def _squad(name: str, size: int, digest: str) -> RemoteFile:
    return RemoteFile(name, f"https://rajpurkar.github.io/SQuAD-explorer/dataset/{name}", size, digest, "sha256")


# Sizes and SHA-256 of SQuAD: datasets/squad/dataset_infos.json and datasets/squad_v2/dataset_infos.json of
# huggingface/datasets (commit 040102f); ParlAI's build.py of both sets gives the same SHA-256.
# Spoken-SQuAD: git's own names of the four files in the tree of the commit in their URLs.
DATASETS = MappingProxyType(
    {
        "spoken-squad": Dataset(
            (
                _spoken("spoken_train-v1.1.json", "c1a3761f0f7ba18052e96d37eab8bb2b0e37e482"),
                _spoken("spoken_test-v1.1.json", "11cd8adf669883c1f15855b05932f0a26aeb2002"),
                _spoken("spoken_test-v1.1_WER44.json", "1671f2380fc17a9441318e5be7f5abdb499e4ec3"),
                _spoken("spoken_test-v1.1_WER54.json", "10614cdc6bf0e17d1ff6e3c65ad243cbd7d84483"),
            ),
            DEFAULT_DATA_DIR,
            "Spoken-SQuAD, https://github.com/Chia-Hsuan-Lee/Spoken-SQuAD",
            # Nothing states a licence at the commit that is fetched; LICENSE.md and issue 2 came later.
            "CC BY-SA 4.0 by its author's word of 2025-05-03 (issue 2 there; the commit fetched names no licence); "
            "derived from SQuAD 1.1, CC BY-SA 4.0",
            "Lee, Wu, Liu, Lee: Spoken SQuAD: A Study of Mitigating the Impact of Speech Recognition Errors on "
            "Listening Comprehension. Interspeech 2018, 3459-3463",
        ),
        "squad-1.1": Dataset(
            (
                _squad("train-v1.1.json", 30288272, "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955"),
                _squad("dev-v1.1.json", 4854279, "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"),
            ),
            Path("~/data/squad"),
            "SQuAD 1.1, https://rajpurkar.github.io/SQuAD-explorer/",
            "CC BY-SA 4.0",
            "Rajpurkar, Zhang, Lopyrev, Liang: SQuAD: 100,000+ Questions for Machine Comprehension of Text. EMNLP 2016",
        ),
        "squad-2.0": Dataset(
            (
                _squad("train-v2.0.json", 42123633, "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"),
                _squad("dev-v2.0.json", 4370528, "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"),
            ),
            Path("~/data/squad"),
            "SQuAD 2.0, https://rajpurkar.github.io/SQuAD-explorer/",
            "CC BY-SA 4.0",
            "Rajpurkar, Jia, Liang: Know What You Don't Know: Unanswerable Questions for SQuAD. ACL 2018",
        ),
    }
)
"""The sets that `python -m qa_train download --set` knows."""


def download(files: Sequence[RemoteFile], directory: Pathlike, *, progress: bool = False) -> list[Path]:
    """Fetches the files that are not there yet; says on stderr what became of each.

    While a file is fetched it is `NAME.part`. An interrupted download leaves that, and the next one asks the server
    for the rest only. A file gets its name only when its checksum is right.

    Args:
        files: What is wanted.
        directory: Where it goes; `~` is expanded, missing directories are created.
        progress: Whether to show a bar on stderr for each file.

    Returns:
        The paths of all `files`, in their order, all of them checked.

    Raises:
        DataError: If a file of that name is there but has another checksum (nothing is fetched then), the server
            cannot be reached or refuses, a transfer is cut off more than `NUM_RETRIES` times (the part is kept), what
            came has another checksum (it is removed), nothing can be written, or another download is at work there.
    """
    directory = Path(os.path.expanduser(directory))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{directory}: cannot be created: {error.strerror}") from error
    with _locked(directory), requests.Session() as session:
        missing = _missing(files, directory)
        for file in files:
            if file in missing:
                _fetch(session, file, directory, progress)
            print(f"{file.name}: {'fetched' if file in missing else 'there already'}, checked", file=sys.stderr)
    return [directory / file.name for file in files]


def digest_file(path: Pathlike, kind: Digest) -> str:
    """Returns a file's checksum in hexadecimal digits.

    Args:
        path: The file.
        kind: `sha256` of its bytes, or `git-blob`: the SHA-1 of `blob <size>`, a zero byte and its bytes, which is
            what `git hash-object` prints.

    Raises:
        DataError: If there is no such file, it is a directory, or cannot be read.
    """
    if kind == "sha256":
        return sha256_file(path)
    try:
        with open(path, "rb") as file:
            # usedforsecurity: a system in FIPS mode refuses SHA-1 otherwise; git's names leave no choice.
            digest = hashlib.sha1(b"blob %d\0" % Path(path).stat().st_size, usedforsecurity=False)
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keeps a second download out of the directory; the lock ends with the process, however that ends."""
    lock = FileLock(directory / ".download.lock")
    try:
        lock.acquire(timeout=0)
    except LockedElsewhere:
        raise DataError(f"{directory}: another download is writing there; wait for it or stop it") from None
    except (OSError, NotImplementedError) as error:
        raise DataError(f"{directory}: cannot be written: {_text(error)}") from error
    try:
        yield
    finally:
        # Removed while it is held: who opened it meanwhile sees that it has no name any more and makes a new one.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _missing(files: Sequence[RemoteFile], directory: Path) -> list[RemoteFile]:
    """Returns the files that are not there; refuses all those that are there with another content."""
    there = [file for file in files if (directory / file.name).exists()]
    wrong = [
        f"{directory / file.name}: expected {file.kind} {file.digest}, found {found}"
        for file, found in ((file, digest_file(directory / file.name, file.kind)) for file in there)
        if found != file.digest
    ]
    if wrong:
        raise DataError("; ".join(wrong) + "; nothing is overwritten, move it away or give another directory")
    return [file for file in files if file not in there]


class _CutOffError(Exception):
    """The body ended too early; says why."""


def _fetch(session: requests.Session, file: RemoteFile, directory: Path, progress: bool) -> None:
    part = directory / f"{file.name}.part"
    for retries_left in reversed(range(NUM_RETRIES + 1)):
        try:
            _fetch_rest(session, file, part, progress)
            break
        except _CutOffError as cut:
            if not retries_left:
                tries = f"cut off {NUM_RETRIES + 1} times, at last: {cut}"
                raise DataError(f"{file.url}: {tries}{_how_to_go_on(part)}") from cut
            time.sleep(RETRY_WAIT_S)
        except requests.RequestException as error:
            raise DataError(f"{file.url}: {_reason(error)}{_how_to_go_on(part)}") from error
        except OSError as error:
            raise DataError(f"{part}: cannot be written: {error.strerror}{_how_to_go_on(part)}") from error
    found, size = digest_file(part, file.kind), part.stat().st_size
    if found != file.digest:
        part.unlink()
        raise DataError(
            f"{file.url}: expected {file.kind} {file.digest}, found {found} in {size:,} bytes; they were removed. "
            f"To fetch all of it anew, {_AGAIN}; if that ends so too, the source or something on the way changed it"
        )
    part.replace(directory / file.name)


def _fetch_rest(session: requests.Session, file: RemoteFile, part: Path, progress: bool) -> None:
    """Appends to `part` what it lacks, or fills it from the start where the server cannot continue.

    No If-Range is sent: a part of another version of the file cannot survive the check of the whole.
    """
    have = part.stat().st_size if part.exists() else 0
    # identity: a range of a compressed body could not be appended.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeouts = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with session.get(file.url, headers=headers, stream=True, timeout=timeouts) as response:
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is lacking, or too much is there: the check will tell
        if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
            raise DataError(f"{response.url}: HTTP {response.status_code} {response.reason}{_how_to_go_on(part)}")
        start = have if response.status_code == requests.codes.partial_content else 0
        if start and not _continues(response, start):
            part.unlink()
            raise _CutOffError("the server did not continue at the byte asked for")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else file.size
        with (
            open(part, "ab" if start else "wb") as to,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=file.name, disable=not progress) as bar,
        ):
            for chunk in _body(response):
                to.write(chunk)
                bar.update(len(chunk))
    # A body without Content-Length may end early without any sign.
    if file.size is not None and (have := part.stat().st_size) < file.size:
        raise _CutOffError(f"{have:,} of {file.size:,} bytes came")


def _continues(response: requests.Response, start: int) -> bool:
    """Whether the body can be appended: it begins at that byte and is not compressed after all."""
    in_range = re.match(rf"bytes {start}-", response.headers.get("Content-Range", ""))
    return in_range is not None and response.headers.get("Content-Encoding", "identity") == "identity"


def _body(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(CHUNK_BYTES)
    except requests.RequestException as error:
        raise _CutOffError(_reason(error)) from error


def _reason(error: requests.RequestException) -> str:
    """Says in a few words why there was no answer: what lies deepest in the chain of causes."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s"
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    if isinstance(error, requests.Timeout) or isinstance(cause, TimeoutError):
        return f"the server was silent for {READ_TIMEOUT_S:g} s"
    if isinstance(cause, socket.gaierror):
        host = urlsplit(str(error.request.url)).hostname if error.request else None
        return f"the address of {host} was not found (DNS): {_text(cause)}"
    return f"no connection: {_text(cause)}" if isinstance(cause, ConnectionRefusedError) else _text(cause)


def _text(error: BaseException) -> str:
    """Returns what an exception says, in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def _how_to_go_on(part: Path) -> str:
    size = part.stat().st_size if part.exists() else 0
    return (
        f"; {part} keeps the first {size:,} bytes, to go on {_AGAIN}" if size else f"; nothing was kept, {_AGAIN} later"
    )
