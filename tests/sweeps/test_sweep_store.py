"""A sweep's files in a store: what is there when the driver dies, and what the next one, anywhere, finds."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qa_train.errors import DataError, SweepError
from qa_train.storage import write_json
from sweeps import object_store
from sweeps.lock import LOCK
from sweeps.records import MANIFEST, RECORDS, read_records
from sweeps.status import read_driver
from sweeps.sweep_store import SweepStore, local_copy
from tests.sweeps.test_object_store import stand_in

ADDRESS = "s3://bucket/prefix"
Machine = Callable[[str], SweepStore]


def row(number: int) -> bytes:
    return json.dumps({"trial_id": f"{number:05d}", "report": 0}).encode() + b"\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Puts this process on a machine, which has a cache of its own, and opens the sweep there."""

    def on(name: str) -> SweepStore:
        monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path / name))
        return SweepStore(ADDRESS, stand_in(tmp_path / "store"))

    yield on


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "store/bucket/prefix"


def begin(store: SweepStore, num_rows: int = 3) -> None:
    """What a driver and its trial 00000 leave in the store."""
    with store.locked():
        store.start()
        write_json(store.directory / MANIFEST, {"sweep_id": "x"})
        store.push(MANIFEST)
        for name in ("config.json", "reports.jsonl", "attempts.json", "model/model.safetensors"):
            path = store.directory / "trials/00000" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} of 00000")
            store.push(f"trials/00000/{name}")
        for number in range(num_rows):
            store.append(row(number))


def read(place: Path, name: str) -> str:
    return (place / "trials" / name).read_text()


def test_another_machine_finds_what_the_first_one_left(machine: Machine) -> None:
    begin(machine("first"))
    second = machine("second")
    with second.locked():
        second.pull()
        assert [found["trial_id"] for found in read_records(second.directory)] == ["00000", "00001", "00002"]
        assert read(second.directory, "00000/reports.jsonl") == "reports.jsonl of 00000"
        assert not (second.directory / "trials/00000/model").exists()
        second.append(row(3))
    third = machine("third")
    third.pull()
    assert len(read_records(third.directory)) == 4


def test_rows_are_immutable_segments_named_by_the_rows_before_them(machine: Machine, bucket: Path) -> None:
    store = machine("first")
    begin(store, 2)
    store.append(row(2) + row(3))
    store.append(row(4))
    assert sorted(path.name for path in (bucket / "records").iterdir()) == [
        "000000.jsonl",
        "000001.jsonl",
        "000002.jsonl",
        "000004.jsonl",
    ]


def test_what_a_killed_driver_wrote_only_locally_did_not_happen(machine: Machine) -> None:
    store = machine("first")
    begin(store)
    (store.directory / RECORDS).write_bytes(row(0) + row(1) + row(2) + row(3) + b'{"torn')
    lost = store.directory / "trials/00007"
    lost.mkdir()
    (lost / "config.json").write_text("{}")
    again = machine("first")
    again.pull()
    assert len(read_records(again.directory)) == 3
    assert not lost.exists()
    again.append(row(3))


def test_a_driver_killed_between_two_segments_leaves_all_rows_before(machine: Machine, bucket: Path) -> None:
    begin(machine("first"))
    (bucket / "records/000003.jsonl.tmp").write_bytes(b"half a")  # never seen on S3
    second = machine("second")
    second.pull()
    assert len(read_records(second.directory)) == 3


def test_a_segment_that_is_missing_is_named(machine: Machine, bucket: Path) -> None:
    begin(machine("first"))
    (bucket / "records/000001.jsonl").unlink()
    with pytest.raises(DataError, match=r"expected records/000001.jsonl, found records/000002.jsonl next"):
        machine("second").pull()


def test_two_drivers_never_write_over_each_other(machine: Machine, bucket: Path) -> None:
    first = machine("first")
    begin(first)
    second = machine("second")
    second.pull()
    second.append(row(30))
    with pytest.raises(SweepError, match=r"records/000003.jsonl was written by another process"):
        first.append(row(3))
    assert (bucket / "records/000003.jsonl").read_bytes() == row(30)


def test_a_row_whose_answer_was_lost_is_not_written_twice(machine: Machine, bucket: Path) -> None:
    store = machine("first")
    begin(store)
    (bucket / "records/000003.jsonl").write_bytes(row(3))
    store.append(row(3))
    store.append(row(4))
    again = machine("second")
    again.pull()
    assert [int(str(found["trial_id"])) for found in read_records(again.directory)] == [0, 1, 2, 3, 4]


def test_a_second_driver_is_refused_on_the_same_machine_and_on_another(machine: Machine) -> None:
    first, same, other = machine("first"), machine("first"), machine("other")
    with first.locked():
        for store in (same, other):
            with pytest.raises(SweepError, match=r"another process runs this sweep|ran this sweep"), store.locked():
                pass
    with other.locked():
        pass


def test_a_new_sweep_is_refused_where_there_is_one(machine: Machine) -> None:
    begin(machine("first"))
    store = machine("second")
    with store.locked(), pytest.raises(DataError, match="s3://bucket/prefix: exists and is not empty; give another"):
        store.start()


def test_a_new_sweep_does_not_start_from_what_a_removed_one_left_in_the_cache(machine: Machine, bucket: Path) -> None:
    begin(machine("first"))
    shutil.rmtree(bucket)
    store = machine("first")
    with store.locked():
        store.start()
        # The lock's heartbeat may be writing its file anew just now.
        left = {path.name for path in store.directory.iterdir() if not path.name.startswith(f".{LOCK}")}
        assert left <= {LOCK, ".lock"}


def test_a_store_that_goes_away_ends_the_sweep_with_a_line_that_says_how_to_go_on(
    machine: Machine, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    store = machine("first")
    begin(store)
    shutil.rmtree(bucket / "records")
    (bucket / "records").write_text("in the way of all further rows")
    with pytest.raises(SweepError, match="python -m sweeps resume s3://bucket/prefix") as found:
        store.append(row(3))
    assert str(store.directory) in str(found.value)
    num_waited = len(waited)
    with pytest.raises(SweepError):  # as the trials that still run are recorded as interrupted
        store.append(row(4))
    assert len(waited) == num_waited


def test_a_sweep_in_a_local_directory_is_left_alone(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    assert (store.directory, store.address, store.is_remote) == (tmp_path, str(tmp_path), False)
    with store.locked():
        store.start()
        store.append(row(0))
        store.push("none")
        store.remove("none")
        store.fetch("none")
        store.pull()
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}
    assert local_copy(tmp_path, "*") == tmp_path


def test_a_removed_model_is_gone_from_the_store(machine: Machine, bucket: Path) -> None:
    store = machine("first")
    begin(store)
    store.remove("trials/00000/model")
    assert not (bucket / "trials/00000/model").exists()
    assert (bucket / "trials/00000/config.json").exists()


def test_a_directory_is_pushed_and_fetched_by_a_pattern(machine: Machine) -> None:
    store = machine("first")
    begin(store)
    for name in ("scores_dev_1.parquet", "scores_dev_2.parquet", "predictions_dev_1.json"):
        path = store.directory / "trials/00009" / name  # of a trial that was answered, and never ran
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    store.push("trials/00009")
    store.pull()
    assert read(store.directory, "00009/scores_dev_1.parquet") == "scores_dev_1.parquet"
    other = machine("second")
    other.fetch("trials/00009/scores_*")
    other.fetch("trials/00010/scores_*")
    names = {path.name for path in (other.directory / "trials/00009").iterdir()}
    assert names == {"scores_dev_1.parquet", "scores_dev_2.parquet"}


def test_a_reader_has_a_copy_of_its_own_and_fetches_what_it_asks_for(machine: Machine, tmp_path: Path) -> None:
    store = machine("first")
    begin(store)
    copy = local_copy(ADDRESS, opened=stand_in(tmp_path / "store"))
    assert not copy.is_relative_to(store.directory)
    assert len(read_records(copy)) == 3
    assert read(copy, "00000/config.json") == "config.json of 00000"
    assert not (copy / "trials/00000/model").exists()
    copy = local_copy(ADDRESS, "trials/00000/model/*", opened=stand_in(tmp_path / "store"))
    assert read(copy, "00000/model/model.safetensors") == "model/model.safetensors of 00000"


def test_a_reader_fetches_again_only_what_is_new(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("first")
    begin(store)
    local_copy(ADDRESS, opened=stand_in(tmp_path / "store"))
    store.append(row(3))
    fetched: list[str] = []
    download = object_store.ObjectStore.download

    def spy(self: object_store.ObjectStore, name: str, path: Path) -> None:
        fetched.append(name)
        download(self, name, path)

    monkeypatch.setattr(object_store.ObjectStore, "download", spy)
    assert len(read_records(local_copy(ADDRESS, opened=stand_in(tmp_path / "store")))) == 4
    assert fetched == ["records/000003.jsonl"]


def test_a_reader_sees_who_runs_the_sweep(machine: Machine, tmp_path: Path) -> None:
    store = machine("first")
    begin(store)
    with store.locked():
        driver = read_driver(local_copy(ADDRESS, opened=stand_in(tmp_path / "store")), time.time())
        assert driver
        assert driver.lives
    assert read_driver(local_copy(ADDRESS, opened=stand_in(tmp_path / "store")), time.time()) is None


def test_a_place_without_a_sweep_is_named(machine: Machine, tmp_path: Path) -> None:
    store = machine("first")
    with pytest.raises(DataError, match=r"s3://bucket/prefix: expected a sweep, found no manifest.json there"):
        store.pull()
    with pytest.raises(DataError, match="found no manifest"):
        local_copy(ADDRESS, opened=stand_in(tmp_path / "store"))
