import hashlib
import os
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from filelock import FileLock

from qa_train import download as module
from qa_train.config import DEFAULT_DATA_DIR
from qa_train.download import CHUNK_BYTES, DATASETS, Digest, RemoteFile, digest_file, download
from qa_train.errors import DataError

BODY = os.urandom(600_000)
HALF = len(BODY) // 2


@dataclass
class Server:
    """What a server on 127.0.0.1 does, and the `Range` of each request it got (None where none was sent)."""

    body: bytes = BODY
    status: int = 200
    knows_range: bool = True
    says_length: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes sent before it hangs up, one for each request
    silent: bool = False
    stalls: int = 0  # requests after whose body, cut or not, it waits before it hangs up
    skews: int = 0  # continues so many bytes beside the one asked for
    ranges: list[str | None] = field(default_factory=list)
    port: int = 0

    def file(self, kind: Digest = "sha256", body: bytes = BODY, path: str = "f.json") -> RemoteFile:
        digest = hashlib.sha256(body).hexdigest() if kind == "sha256" else git_blob(body)
        size = len(body) if kind == "sha256" else None
        return RemoteFile("f.json", f"http://127.0.0.1:{self.port}/{path}", size, digest, kind)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        if urlsplit(request.path).path == "/moved":
            request.send_response(302)
            request.send_header("Location", "/f.json")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "") if self.knows_range else None
        start = int(match[1]) + self.skews if match else 0
        status = self.status if self.status != 200 or not match else 206 if start < len(self.body) else 416
        body = self.body[start:] if status < 300 else b"sorry"
        if self.silent:
            time.sleep(0.3)
        request.send_response(status)
        if self.says_length:
            request.send_header("Content-Length", str(len(body)))
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        request.end_headers()
        with suppress(ConnectionError):
            request.wfile.write(body[: self.cut_after.pop(0)] if self.cut_after else body)
            if self.stalls:
                self.stalls -= 1
                time.sleep(2.0)  # much longer than any client here waits, also on a busy machine


def git_blob(body: bytes) -> str:
    return hashlib.sha1(b"blob " + str(len(body)).encode() + b"\0" + body).hexdigest()


@pytest.fixture(autouse=True)
def without_waiting_or_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_WAIT_S", 0)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        served.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        http.shutdown()
        thread.join()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def refusal(file: RemoteFile, directory: Path) -> str:
    with pytest.raises(DataError) as caught:
        download([file], directory)
    message = str(caught.value)
    assert "\n" not in message
    assert not (directory / "f.json").exists()
    return message


@pytest.mark.parametrize("kind", ["sha256", "git-blob"])
def test_a_file_is_fetched_checked_and_named(server: Server, tmp_path: Path, kind: Digest) -> None:
    directory = tmp_path / "new" / "data"
    assert download([server.file(kind)], directory) == [directory / "f.json"]
    assert (directory / "f.json").read_bytes() == BODY
    assert names(directory) == ["f.json"]
    assert server.ranges == [None]


def test_a_file_that_is_there_is_checked_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(BODY)
    assert download([server.file("git-blob")], tmp_path) == [tmp_path / "f.json"]
    assert server.ranges == []


def test_a_file_that_is_there_with_another_content_is_kept_and_nothing_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(b"mine")
    other = RemoteFile("g.json", server.file().url, None, server.file().digest, "sha256")
    with pytest.raises(DataError) as caught:
        download([other, server.file()], tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'f.json'}: expected sha256 {server.file().digest}, found {hashlib.sha256(b'mine').hexdigest()}; "
        "nothing is overwritten, move it away or give another directory"
    )
    assert (tmp_path / "f.json").read_bytes() == b"mine"
    assert (names(tmp_path), server.ranges) == (["f.json"], [])


@pytest.mark.parametrize("kind", ["sha256", "git-blob"])
def test_a_body_with_another_checksum_is_refused_and_removed(server: Server, tmp_path: Path, kind: Digest) -> None:
    server.body = BODY[::-1]
    message = refusal(server.file(kind), tmp_path)
    found = hashlib.sha256(server.body).hexdigest() if kind == "sha256" else git_blob(server.body)
    assert f"f.json: expected {kind} {server.file(kind).digest}, found {found} in 600,000 bytes" in message
    assert names(tmp_path) == []


@pytest.mark.parametrize("cuts", [[HALF], [CHUNK_BYTES, 2 * CHUNK_BYTES + 1, CHUNK_BYTES + 9], [0, CHUNK_BYTES, 5]])
def test_a_body_that_is_cut_off_is_resumed_after_its_last_whole_chunk(
    server: Server, tmp_path: Path, cuts: list[int]
) -> None:
    server.cut_after = list(cuts)
    download([server.file("git-blob")], tmp_path)
    assert (tmp_path / "f.json").read_bytes() == BODY
    kept = accumulate(cut - cut % CHUNK_BYTES for cut in cuts)
    assert server.ranges == [None, *(f"bytes={size}-" if size else None for size in kept)]


def test_a_body_without_length_that_ends_early_is_resumed_where_the_size_is_known(
    server: Server, tmp_path: Path
) -> None:
    server.says_length, server.cut_after = False, [HALF]
    download([server.file()], tmp_path)
    assert (tmp_path / "f.json").read_bytes() == BODY
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_after_four_cuts_the_part_is_kept_and_the_same_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.cut_after = [CHUNK_BYTES] * 4
    message = refusal(server.file(), tmp_path)
    assert "cut off 4 times, at last: " in message
    assert message.endswith(
        f"; {tmp_path / 'f.json.part'} keeps the first 65,536 bytes, to go on run the same command again"
    )
    assert (tmp_path / "f.json.part").read_bytes() == BODY[: 4 * CHUNK_BYTES]
    download([server.file()], tmp_path)
    assert server.ranges[-1] == "bytes=65536-"
    assert (tmp_path / "f.json").read_bytes() == BODY
    assert names(tmp_path) == ["f.json"]


def test_a_part_is_fetched_anew_from_a_server_without_range(server: Server, tmp_path: Path) -> None:
    server.knows_range = False
    (tmp_path / "f.json.part").write_bytes(b"x" * HALF)
    download([server.file()], tmp_path)
    assert (tmp_path / "f.json").read_bytes() == BODY
    assert server.ranges == [f"bytes={HALF}-"]


def test_a_part_that_is_complete_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.json.part").write_bytes(BODY)
    download([server.file("git-blob")], tmp_path)
    assert (tmp_path / "f.json").read_bytes() == BODY


@pytest.mark.parametrize("part", [b"x" * HALF, BODY + b"x"])
def test_a_part_of_something_else_is_removed_so_that_the_next_call_succeeds(
    server: Server, tmp_path: Path, part: bytes
) -> None:
    (tmp_path / "f.json.part").write_bytes(part)
    assert "To fetch all of it anew, run the same command again" in refusal(server.file(), tmp_path)
    assert names(tmp_path) == []
    download([server.file()], tmp_path)


def test_a_server_that_continues_elsewhere_is_asked_for_everything(server: Server, tmp_path: Path) -> None:
    server.skews = 7
    (tmp_path / "f.json.part").write_bytes(BODY[:HALF])
    download([server.file()], tmp_path)
    assert (tmp_path / "f.json").read_bytes() == BODY
    assert server.ranges == [f"bytes={HALF}-", None]


def test_redirects_are_followed_with_the_range(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.json.part").write_bytes(BODY[:HALF])
    download([server.file(path="moved")], tmp_path)
    assert (tmp_path / "f.json").read_bytes() == BODY
    assert server.ranges == [f"bytes={HALF}-"] * 2


@pytest.mark.parametrize(("status", "words"), [(404, "HTTP 404 Not Found"), (500, "HTTP 500 Internal Server Error")])
def test_a_refusal_of_the_server_is_told_and_the_part_kept(
    server: Server, tmp_path: Path, status: int, words: str
) -> None:
    server.status = status
    url = server.file().url
    assert refusal(server.file(), tmp_path) == f"{url}: {words}; nothing was kept, run the same command again later"
    (tmp_path / "f.json.part").write_bytes(BODY[:HALF])
    assert "keeps the first 300,000 bytes" in refusal(server.file(), tmp_path)
    assert names(tmp_path) == ["f.json.part"]
    assert len(server.ranges) == 2


def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/f.json"
        message = refusal(RemoteFile("f.json", url, None, "0", "sha256"), tmp_path)
    assert message == f"{url}: no connection: Connection refused; nothing was kept, run the same command again later"


def test_a_name_that_no_server_has_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = refusal(RemoteFile("f.json", "http://nowhere.invalid/f.json", None, "0", "sha256"), tmp_path)
    assert (
        "the address of nowhere.invalid was not found (DNS): Name or service not known; nothing was kept, run"
        in message
    )


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.1)
    server.silent = True
    assert "f.json: the server was silent for 0.1 s; nothing was kept, run" in refusal(server.file(), tmp_path)


def test_a_server_that_falls_silent_in_the_middle_is_asked_for_the_rest(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.1)
    server.stalls, server.cut_after = 1, [CHUNK_BYTES]
    download([server.file()], tmp_path)
    assert server.ranges == [None, f"bytes={CHUNK_BYTES}-"]
    (tmp_path / "f.json").unlink()
    server.stalls, server.cut_after = 4, [CHUNK_BYTES] * 4
    assert "cut off 4 times, at last: the server was silent for 0.1 s; " in refusal(server.file(), tmp_path)


def test_a_connection_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib3.util.connection.create_connection", never)
    message = refusal(RemoteFile("f.json", "http://127.0.0.1:9/f.json", None, "0", "sha256"), tmp_path)
    assert "no connection within 10 s" in message


def test_a_file_that_cannot_grow_is_told_and_the_part_kept(server: Server, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, limits[1]))
    try:
        message = refusal(server.file(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "f.json.part: cannot be written: File too large; " in message
    assert message.endswith("keeps the first 300,000 bytes, to go on run the same command again")
    download([server.file()], tmp_path)
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert (tmp_path / "f.json").read_bytes() == BODY


def test_a_directory_that_is_a_file_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(DataError, match="data: cannot be created: "):
        download([server.file()], tmp_path / "data")


def test_a_second_download_into_the_directory_is_refused(server: Server, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".download.lock"):
        assert "another download is writing there; wait for it or stop it" in refusal(server.file(), tmp_path)
    assert server.ranges == []
    download([server.file()], tmp_path)


def test_downloads_at_once_leave_one_good_file(server: Server, tmp_path: Path) -> None:
    results: list[object] = []

    def attempt() -> None:
        try:
            results.append(download([server.file()], tmp_path))
        except DataError as error:
            results.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f.json").read_bytes() == BODY
    assert len(results) == 8
    assert [tmp_path / "f.json"] in results
    assert all(result == [tmp_path / "f.json"] or "another download" in str(result) for result in results)
    assert names(tmp_path) == ["f.json"]


def test_progress_and_what_became_of_each_file_go_to_stderr(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download([server.file()], tmp_path, progress=True)
    download([server.file()], tmp_path)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "100%" in captured.err
    assert captured.err.splitlines()[-2:] == ["f.json: fetched, checked", "f.json: there already, checked"]


def test_a_git_blob_is_named_as_git_names_it(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "file").write_bytes(BODY)
    assert digest_file(tmp_path / "empty", "git-blob") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert digest_file(tmp_path / "file", "git-blob") == git_blob(BODY)
    if git := shutil.which("git"):
        command = [git, "hash-object", "--no-filters", str(tmp_path / "file")]
        assert digest_file(tmp_path / "file", "git-blob") == subprocess.check_output(command, text=True).strip()
    with pytest.raises(DataError, match="missing"):
        digest_file(tmp_path / "missing", "git-blob")


def test_every_known_set_is_fetched_over_tls_and_has_a_checksum_and_a_source() -> None:
    lengths: dict[Digest, int] = {"git-blob": 40, "sha256": 64}
    for dataset in DATASETS.values():
        assert dataset.source and dataset.licence and dataset.citation
        for file in dataset.files:
            assert file.url.startswith("https://") and file.url.endswith(f"/{file.name}")
            assert re.fullmatch(f"[0-9a-f]{{{lengths[file.kind]}}}", file.digest)
    files = [file for dataset in DATASETS.values() for file in dataset.files]
    assert len({file.digest for file in files}) == len({file.name for file in files}) == len(files) == 8
    assert DATASETS["spoken-squad"].directory == DEFAULT_DATA_DIR
