"""A sweep's files in a bucket of a real S3 server (moto's, on loopback)."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qa_train.errors import DataError, SweepError
from qa_train.storage import write_json
from sweeps.lock import DEAD_AFTER_S
from sweeps.object_store import ObjectStore, StoreUnavailableError
from sweeps.records import MANIFEST, read_records
from sweeps.store_lock import CLAIMS
from sweeps.sweep_store import SweepStore, local_copy
from sweeps.trial_store import TrialStore
from tests.sweeps.s3_server import credentials, s3_server
from tests.sweeps.test_sweep_store import row
from tests.sweeps.test_trial_store import checkpoint, files, write

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as found:
        yield found


@pytest.fixture
def address(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Of a sweep that no other test knows; this process is on the machine `first`."""
    for name, value in credentials(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path / "first"))
    return f"s3://bucket/{tmp_path.name}/sweep"


def begin(address: str) -> SweepStore:
    """Writes what a driver and its trial, two epochs long, leave."""
    store = SweepStore(address)
    with store.locked():
        store.start()
        write_json(store.directory / MANIFEST, {"sweep_id": "x"})
        store.push(MANIFEST)
        trial = TrialStore.of(address, "00000")
        trial.pull()
        write(trial, config_dot_json="{}", model__model_dot_safetensors="weights", empty_dot_txt="")
        for epoch in (1, 2):
            checkpoint(trial, epoch * 100, f"of epoch {epoch}")
            write(trial, reports_dot_jsonl="{}\n" * epoch)
            trial.push()
            store.append(row(epoch - 1))
    return store


def test_a_sweep_goes_on_on_another_machine(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = begin(address)
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path / "second"))
    TrialStore.of.cache_clear()
    second, trial = SweepStore(address), TrialStore.of(address, "00000")
    assert second.directory != first.directory
    with second.locked():
        second.pull()
        assert len(read_records(second.directory)) == 2
        assert {*files(second.directory / "trials")} == {"00000/config.json", "00000/reports.jsonl"}
        trial.pull()
        expected = {
            name: text for name, text in files(first.directory / "trials/00000").items() if "model/" not in name
        }
        assert files(trial.directory) == expected
        for path in trial.directory.glob("checkpoints/checkpoint-00000100/*"):
            path.unlink()
        (trial.directory / "checkpoints/checkpoint-00000100").rmdir()
        write(trial, reports_dot_jsonl="{}\n" * 3)
        trial.push()
        second.append(row(2))
    copy = local_copy(address, "trials/*/checkpoints/*", "trials/*/model/*")
    assert len(read_records(copy)) == 3
    assert [path.name for path in copy.glob("trials/00000/checkpoints/*")] == ["checkpoint-00000200"]
    assert (copy / "trials/00000/model/model.safetensors").read_text() == "weights"


def test_the_endpoint_may_stand_in_the_address(address: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    store = ObjectStore(f"{address}?endpoint_override={endpoint}&region=us-east-1")
    store.write("x", b"1")
    assert store.read("x") == b"1"


def test_a_second_driver_is_refused_until_the_first_is_dead(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(address)
    objects = ObjectStore(address)
    objects.write(f"{CLAIMS}/other-host-1-abcdef01.json", b"{}")
    store = SweepStore(address)
    with pytest.raises(SweepError, match="a process on other-host ran this sweep"), store.locked():
        pass
    monkeypatch.setattr("sweeps.store_lock.DEAD_AFTER_S", -DEAD_AFTER_S)  # for S3's times cannot be set
    with store.locked():
        assert len(objects.entries(CLAIMS)) == 1


def test_a_model_is_removed_with_all_its_files(address: str) -> None:
    store = begin(address)
    store.remove("trials/00000/model")
    names = {*ObjectStore(address).entries()}
    assert not [name for name in names if "/model/" in name]
    assert "trials/00000/config.json" in names


def test_objects_of_several_parts_come_back_as_they_were(address: str, tmp_path: Path) -> None:
    objects, content = ObjectStore(address), bytes(range(256)) * 100_000  # S3 wants parts of at least 5 MiB
    (tmp_path / "large").write_bytes(content)
    objects.upload("large", tmp_path / "large")
    objects.download("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_a_bucket_that_is_not_there_is_an_error_of_one_line(address: str) -> None:
    store = SweepStore(address.replace("bucket", "no-such-bucket"))
    with pytest.raises(DataError, match="there is no such bucket; create it first") as found, store.locked():
        pass
    assert "\n" not in str(found.value)


def test_an_unknown_option_is_an_error_of_one_line(address: str) -> None:
    with pytest.raises(DataError, match="cannot be opened: Unexpected query parameter in S3 URI: 'colour'"):
        SweepStore(f"{address}?colour=red")


def test_a_server_that_does_not_answer_may_do_so_later(address: str) -> None:
    objects = ObjectStore(f"{address}?endpoint_override=http://127.0.0.1:9&region=us-east-1", waits_s=())
    with pytest.raises(StoreUnavailableError, match=r"x cannot be written: .*NETWORK_CONNECTION"):
        objects.write("x", b"1")


def test_a_forked_process_of_a_trial_can_use_the_store(address: str, endpoint: str, tmp_path: Path) -> None:
    begin(address)
    code = (
        "import multiprocessing, sys\n"
        "from sweeps.trial_store import TrialStore\n"
        "def body(address):\n"
        "    store = TrialStore.of(address, '00000')\n"
        "    store.pull()\n"
        "    (store.directory / 'done.txt').write_text('1')\n"
        "    store.push()\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    context.set_forkserver_preload(['sweeps.trial_store'])\n"
        "    process = context.Process(target=body, args=(sys.argv[1],))\n"
        "    process.start()\n"
        "    process.join(100)\n"
        "    sys.exit(process.exitcode)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    env = {"PYTHONPATH": str(ROOT), "SPANSWEEP_CACHE_DIR": str(tmp_path / "second"), **credentials(endpoint)}
    subprocess.run([sys.executable, str(script), address], env=env, check=True, timeout=120)
    assert ObjectStore(address).read("trials/00000/done.txt") == b"1"
