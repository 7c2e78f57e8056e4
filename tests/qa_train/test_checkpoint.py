import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qa_train import checkpoint
from qa_train.checkpoint import (
    checkpoint_path,
    copy_to_cpu,
    latest_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from qa_train.errors import CheckpointError

FILES = ("model.safetensors", "state.pt", "progress.json")


class Killed(BaseException):
    """Ends a test's run as a kill does: no handler of errors may see it."""


class Custom:
    """What no checkpoint may hold."""


def state(value: float) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    weights = {"a": torch.full((3, 2), value), "b": torch.arange(4)}
    tensors = {"optimizer": {"state": {0: {"step": torch.tensor(value), "on": True}}, "groups": [{"lr": 1e-3}]}}
    return weights, tensors, {"step": 1, "reports": [{"f1": value}], "nothing": None}


def save(directory: Path, step: int) -> Path:
    return save_checkpoint(directory, step, *state(step))


def holds(path: Path | None, step: int) -> bool:
    """Whether a checkpoint is the one that `save` wrote."""
    assert path is not None
    weights, tensors, progress = load_checkpoint(path)
    expected = state(step)
    return (
        weights.keys() == expected[0].keys()
        and all(torch.equal(weights[name], tensor) for name, tensor in expected[0].items())
        and str(tensors) == str(expected[1])
        and progress == expected[2]
    )


def test_a_checkpoint_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    path = save(tmp_path / "new" / "checkpoints", 12)
    assert path == latest_checkpoint(tmp_path / "new" / "checkpoints")
    assert holds(path, 12)


def test_weights_that_share_memory_or_are_not_contiguous_are_saved(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    path = save_checkpoint(tmp_path, 1, {"a": matrix, "tied": matrix, "turned": matrix.T}, {}, {})
    weights = load_checkpoint(path)[0]
    assert torch.equal(weights["tied"], matrix)
    assert torch.equal(weights["turned"], matrix.T)


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save(tmp_path, step)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000100"]
    assert holds(latest_checkpoint(tmp_path), 100)


def test_an_older_one_that_is_still_needed_stays(tmp_path: Path) -> None:
    for step, needed in ((3, None), (4, 3), (5, 3)):
        save_checkpoint(tmp_path, step, *state(step), keep=needed)
    assert sorted(tmp_path.iterdir()) == [checkpoint_path(tmp_path, 3), checkpoint_path(tmp_path, 5)]
    assert holds(checkpoint_path(tmp_path, 3), 3)
    assert holds(latest_checkpoint(tmp_path), 5)
    save(tmp_path, 6)
    assert [*tmp_path.iterdir()] == [checkpoint_path(tmp_path, 6)]


def test_a_copy_on_the_cpu_has_its_own_memory() -> None:
    values: dict[str, Any] = {"a": torch.ones(2), "b": [torch.zeros(1), 3, None], "c": {0: (torch.ones(1), "text")}}
    copied = copy_to_cpu(values)
    assert str(copied) == str(values)
    values["a"].zero_()
    assert copied["a"].tolist() == [1, 1]


def test_a_run_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


def killed_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int, *, after: bool) -> None:
    """Makes the `call`th call of a function the last thing that the process does."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def last(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, last)


MOMENTS = [
    (checkpoint, "save_file", 1),
    (torch, "save", 1),
    (checkpoint, "write_json", 1),
    (checkpoint, "_sync", 1),
    (checkpoint, "_sync", 2),
    (Path, "rename", 1),
    (checkpoint, "_sync", 3),
    (checkpoint, "_checkpoints", 1),
    (shutil, "rmtree", 2),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name", "call"), MOMENTS, ids=[f"{name}-{call}" for _, name, call in MOMENTS])
def test_a_kill_at_any_moment_leaves_a_complete_checkpoint(
    owner: object, name: str, call: int, after: bool, tmp_path: Path
) -> None:
    save(tmp_path, 1)
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Killed):
        killed_at(monkeypatch, owner, name, call, after=after)
        save(tmp_path, 2)
    latest = latest_checkpoint(tmp_path)
    assert holds(latest, 1) or holds(latest, 2)
    save(tmp_path, 3)  # the next one clears up
    assert holds(latest_checkpoint(tmp_path), 3)
    assert [path.name for path in tmp_path.glob("*[0-9]")] == ["checkpoint-00000003"]


def test_the_first_checkpoint_killed_half_way_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at(monkeypatch, checkpoint, "write_json", 1, after=True)
    with pytest.raises(Killed):
        save(tmp_path, 1)
    assert latest_checkpoint(tmp_path) is None
    assert list(tmp_path.iterdir())
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_step_saved_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, *state(4))
    save(tmp_path, 5)
    assert holds(latest_checkpoint(tmp_path), 5)


@pytest.mark.parametrize("name", ["save_file", "write_json", "_sync"])
def test_a_full_disk_is_explained_and_the_older_checkpoint_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, name, full)
    with pytest.raises(CheckpointError, match=r"checkpoint-00000002: .* cannot be written: .*No space left"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001"]
    assert holds(latest_checkpoint(tmp_path), 1)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/checkpoints/checkpoint-00000001: .* cannot be written"):
        save(tmp_path / "file" / "checkpoints", 1)


def test_an_object_that_would_have_to_be_unpickled_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    torch.save({"optimizer": Custom()}, path / "state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt: refused, it .* holds more than tensors"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = save(tmp_path, 1)
    torch.save({"optimizer": Attack()}, path / "state.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: the checkpoint cannot be read: .*remove .* to start afresh"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_refused(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    content = (path / name).read_bytes()
    for size in sorted({*range(0, len(content) - 2, max(1, len(content) // 40)), 0, 1, 2, 10}):
        (path / name).write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes_raise_nothing_else(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    content = (path / name).read_bytes()
    for place in range(0, len(content), max(1, len(content) // 150)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (path / name).write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x80\x02N.", b"{}", b"[]"])
def test_files_of_another_kind_are_refused(content: bytes, tmp_path: Path) -> None:
    for step, name in enumerate(FILES, start=1):
        path = save(tmp_path, step)
        (path / name).write_bytes(content)
        if (name, content) != ("progress.json", b"{}"):
            with pytest.raises(CheckpointError):
                load_checkpoint(path)
