"""Two drivers and one sweep in a store."""

import os
import time
from pathlib import Path

import pytest

from qa_train.errors import SweepError
from sweeps.lock import DEAD_AFTER_S
from sweeps.object_store import ObjectStore
from sweeps.store_lock import CLAIMS, StoreLock, newest_claim
from tests.sweeps.test_object_store import stand_in


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore("s3://bucket/prefix", opened=stand_in(tmp_path / "store"))


def age(tmp_path: Path, seconds: float) -> None:
    """Makes all claims as old as if their drivers had been silent for so long."""
    for path in (tmp_path / "store/bucket/prefix" / CLAIMS).iterdir():
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_a_second_driver_is_refused_while_the_first_lives(objects: ObjectStore) -> None:
    with StoreLock(objects):
        with pytest.raises(SweepError, match="ran this sweep 0 s ago; stop it"), StoreLock(objects):
            pass
        assert len(objects.entries(CLAIMS)) == 1
    assert objects.entries(CLAIMS) == {}
    with StoreLock(objects):
        pass


def test_the_claim_of_a_driver_that_died_is_taken_over(objects: ObjectStore, tmp_path: Path) -> None:
    dead = StoreLock(objects, heartbeat_every_s=1e6)
    dead.__enter__()
    age(tmp_path, DEAD_AFTER_S - 5)
    with pytest.raises(SweepError, match="55 s ago"), StoreLock(objects):
        pass
    age(tmp_path, DEAD_AFTER_S + 5)
    with StoreLock(objects) as lock:
        lock.check()
        assert len(objects.entries(CLAIMS)) == 1


def test_of_two_that_start_at_the_same_moment_never_do_both_stay(objects: ObjectStore) -> None:
    first, second = StoreLock(objects), StoreLock(objects)
    first._write()
    second._write()
    for lock in (first, second):
        with pytest.raises(SweepError):
            lock._refuse_others()


def test_a_driver_that_was_taken_for_dead_ends(objects: ObjectStore, tmp_path: Path) -> None:
    with StoreLock(objects, heartbeat_every_s=1e6) as silent:
        silent.check()
        age(tmp_path, DEAD_AFTER_S + 5)
        with StoreLock(objects):
            silent._seen -= DEAD_AFTER_S
            with pytest.raises(SweepError, match="another process took this sweep over"):
                silent.check()


def test_a_driver_that_was_silent_and_not_missed_goes_on(objects: ObjectStore) -> None:
    with StoreLock(objects, heartbeat_every_s=1e6) as silent:
        silent._seen -= DEAD_AFTER_S
        silent.check()
        silent.check()


def test_the_heartbeat_renews_the_claim(objects: ObjectStore, tmp_path: Path) -> None:
    with StoreLock(objects, heartbeat_every_s=0.01):
        age(tmp_path, 1000)
        deadline = time.monotonic() + 60
        while time.time() - next(iter(objects.entries(CLAIMS).values())).written > 500:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_newest_claim_is_that_of_the_last_driver(objects: ObjectStore, tmp_path: Path) -> None:
    assert newest_claim({}) is None
    objects.write(f"{CLAIMS}/a.json", b"{}")
    age(tmp_path, 10)
    objects.write(f"{CLAIMS}/b.json", b"{}")
    assert newest_claim(objects.entries(CLAIMS)) == f"{CLAIMS}/b.json"
