"""Objects in a store, and what is said when it does not do as it is told."""

import errno
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from qa_train.errors import DataError
from sweeps.object_store import ObjectStore, StoreUnavailableError, cache_dir, checked_address, is_address, local_path


def stand_in(root: Path) -> tuple[Any, str]:
    """A directory in the place of a store."""
    root.mkdir(parents=True, exist_ok=True)
    return fs.SubTreeFileSystem(str(root), fs.LocalFileSystem()), "bucket/prefix"


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore("s3://bucket/prefix", opened=stand_in(tmp_path / "store"))


def test_what_was_written_is_read_and_listed(objects: ObjectStore) -> None:
    assert objects.entries() == {}
    objects.write("a/b.json", b"12")
    objects.write("c", b"")
    assert (objects.read("a/b.json"), objects.read("c"), objects.read("d")) == (b"12", b"", None)
    assert {name: entry.size for name, entry in objects.entries().items()} == {"a/b.json": 2, "c": 0}
    assert [*objects.entries("a")] == ["a/b.json"]


def test_files_are_uploaded_and_downloaded_whole(objects: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20)
    (tmp_path / "file").write_bytes(content)
    objects.upload("x/file", tmp_path / "file")
    objects.upload("x/gone", tmp_path / "gone")
    objects.download_all(["x/file"], tmp_path / "back")
    assert (tmp_path / "back/x/file").read_bytes() == content
    assert [path.name for path in (tmp_path / "back/x").iterdir()] == ["file"]
    assert objects.read("x/gone") is None


def test_downloading_what_is_not_there_is_an_error_and_leaves_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none cannot be fetched to"):
        objects.download("none", tmp_path / "back/none")
    assert [*(tmp_path / "back").iterdir()] == []


def test_a_file_a_directory_and_nothing_can_be_removed(objects: ObjectStore) -> None:
    for name in ("a", "b/c", "b/d/e", "bb"):
        objects.write(name, b"1")
    objects.remove("a")
    objects.remove("b")
    objects.remove("none")
    assert [*objects.entries()] == ["bb"]


class Broken:
    """A file system whose every listing fails, but the last ones."""

    type_name = "s3"

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors

    def get_file_info(self, selector: object) -> list[object]:
        if self.errors:
            raise self.errors.pop(0)
        return []


NETWORK = OSError("AWS Error NETWORK_CONNECTION during ListObjectsV2 operation:\n could not connect")


def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_what_may_go_better_is_tried_again_after_growing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = waits(monkeypatch)
    objects = ObjectStore("s3://bucket/prefix", (1, 2, 4), (Broken([NETWORK, NETWORK]), "bucket/prefix"))
    assert objects.entries() == {}
    assert waited == [1, 2]


def test_what_fails_each_time_is_an_error_of_one_line_that_says_it_may_go_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = waits(monkeypatch)
    objects = ObjectStore("s3://bucket/prefix", (1, 2), (Broken([NETWORK] * 9), "bucket/prefix"))
    with pytest.raises(StoreUnavailableError) as found:
        objects.entries()
    assert str(found.value) == (
        "s3://bucket/prefix: cannot be listed: AWS Error NETWORK_CONNECTION during ListObjectsV2 operation: could not "
        "connect"
    )
    assert waited == [1, 2]
    assert type(pickle.loads(pickle.dumps(found.value))) is StoreUnavailableError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject operation: x"), "there is no such bucket; create it first"),
        (OSError("AWS Error ACCESS_DENIED during PutObject operation: x"), "access is denied; check the credentials"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ValueError("Unexpected query parameter in S3 URI: 'foo'"), "Unexpected query parameter"),
    ],
)
def test_what_cannot_go_better_is_not_tried_again(
    error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = waits(monkeypatch)
    objects = ObjectStore("s3://bucket/prefix", (1, 2), (Broken([error]), "bucket/prefix"))
    with pytest.raises(DataError, match=expected) as found:
        objects.entries()
    assert not isinstance(found.value, StoreUnavailableError)
    assert waited == []


@pytest.mark.parametrize(
    ("place", "expected"),
    [("s3://bucket/x", True), ("gs://b/x", True), ("runs/x", False), ("file:///x", False), (Path("/x"), False)],
)
def test_an_address_is_told_from_a_path(place: str | Path, expected: bool) -> None:
    assert is_address(place) is expected


def test_a_path_may_be_given_as_an_address() -> None:
    assert local_path("file:///a%20b") == Path("/a b")
    assert local_path("~/x") == Path.home() / "x"


@pytest.mark.parametrize("place", ["~nosuchuser/x", "file://[x"])
def test_a_path_that_leads_nowhere_is_refused(place: str) -> None:
    with pytest.raises(DataError) as found:
        local_path(place)
    assert str(found.value).startswith(f"{place}: expected a path")


def test_an_address_loses_the_slash_at_its_end_and_keeps_its_options() -> None:
    assert checked_address("s3://bucket/a/b/?region=x") == "s3://bucket/a/b?region=x"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://host/x", "expected a path or s3://bucket/prefix or gs://bucket/prefix, found http://"),
        ("s3://bucket", "found no prefix"),
        ("s3://bucket/", "found no prefix"),
        ("s3:///x", "found no prefix"),
        ("s3://bucket/x#y", "found no prefix, or a #"),
        ("s3://[x/y", "s3://[x/y: expected s3://bucket/prefix or gs://bucket/prefix, found one that cannot be read"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(address: str, expected: str) -> None:
    with pytest.raises(DataError) as found:
        checked_address(address)
    assert expected in str(found.value)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("s3://AKIA:hunter2@bucket/x", "without credentials; give them through the environment"),
        ("s3://hunter2@bucket/x", "without credentials; give them through the environment"),
        ("s3://bucket/x?secret_key=hunter2", "without credentials; give them through the environment"),
        ("s3://AKIA:hunter2@[x/y", "found one that cannot be read"),
        ("s3://[AKIA:hunter2@x/y", "found one that cannot be read"),
        ("s3://[x/y?secret_key=hunter2", "found one that cannot be read"),
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as found:
        checked_address(address)
    assert "hunter2" not in str(found.value)
    assert "AKIA" not in str(found.value)


def test_each_address_has_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path))
    places = {cache_dir(address, "sweeps") for address in ("s3://a/x", "s3://b/x", "s3://a/x?region=y")}
    assert len(places) == 3
    assert all(place.parent == tmp_path / "sweeps" and place.name.startswith("x-") for place in places)
