"""A trial that goes on where it was left, on another node with a cache of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps import object_store
from sweeps.object_store import ObjectStore
from sweeps.trial_store import TrialStore
from tests.sweeps.test_object_store import stand_in

ADDRESS = "s3://bucket/prefix"
Node = Callable[[str], TrialStore]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Opens the trial on a node."""

    def on(name: str) -> TrialStore:
        objects = ObjectStore(ADDRESS, opened=stand_in(tmp_path / "store"))
        return TrialStore(ADDRESS, tmp_path / name / "trials/00003", objects)

    return on


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "store/bucket/prefix/trials/00003"


def write(store: TrialStore, **files: str) -> None:
    """Writes files; `__` stands for a slash and `_dot_` for a point."""
    for key, content in files.items():
        path = store.directory / key.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def checkpoint(store: TrialStore, step: int, content: str) -> None:
    place = store.directory / f"checkpoints/checkpoint-{step:08d}"
    place.mkdir(parents=True)
    for name in ("model.safetensors", "progress.json", "state.pt"):
        (place / name).write_text(f"{name} {content}")


def train(store: TrialStore, epochs: int) -> None:
    write(store, config_dot_json="{}", attempts_dot_json="[1.0]", log_dot_txt="line\n" * epochs)
    for epoch in range(1, epochs + 1):
        for old in store.directory.glob("checkpoints/*"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        checkpoint(store, epoch * 100, f"of epoch {epoch}")
        write(store, reports_dot_jsonl="{}\n" * epoch)
        store.push()


def files(place: Path) -> dict[str, str]:
    return {str(path.relative_to(place)): path.read_text() for path in sorted(place.rglob("*")) if path.is_file()}


def test_a_trial_goes_on_from_its_checkpoint_on_another_node(node: Node) -> None:
    first, second = node("first"), node("second")
    train(first, 2)
    second.pull()
    assert files(second.directory) == files(first.directory)
    assert [path.name for path in second.directory.glob("checkpoints/*")] == ["checkpoint-00000200"]


def test_a_model_stays_in_the_store(node: Node, bucket: Path) -> None:
    first, second = node("first"), node("second")
    write(first, config_dot_json="{}", model__model_dot_safetensors="weights", scores_dev_2_dot_parquet="scores")
    first.push()
    second.pull()
    assert (bucket / "model/model.safetensors").read_text() == "weights"
    assert {*files(second.directory)} == {"config.json", "scores_dev_2.parquet"}


def test_what_is_being_written_is_not_stored(node: Node, bucket: Path) -> None:
    store = node("first")
    write(
        store,
        config_dot_json="{}",
        _dot_x_dot_tmp="1",
        checkpoints__checkpoint_dot_partial__state="1",
        tensorboard__events="1",
    )
    store.push()
    assert {*files(bucket)} == {"config.json"}


def order_of_uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list to which the name of each uploaded or removed object is added."""
    seen: list[str] = []
    for action in ("upload", "remove"):
        real = getattr(ObjectStore, action)

        def spy(self: ObjectStore, name: str, *rest: Path, real: Callable[..., None] = real) -> None:
            seen.append(name.removeprefix("trials/00003/"))
            real(self, name, *rest)

        monkeypatch.setattr(object_store.ObjectStore, action, spy)
    return seen


def test_a_checkpoint_is_complete_before_the_report_and_the_older_one_is_removed_after(
    node: Node, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = node("first")
    train(store, 1)
    seen = order_of_uploads(monkeypatch)
    for path in [*store.directory.glob("checkpoints/*/*")]:
        path.unlink()
    (store.directory / "checkpoints/checkpoint-00000100").rmdir()
    checkpoint(store, 200, "of epoch 2")
    write(store, reports_dot_jsonl="{}\n{}\n")
    store.push()
    new, old = "checkpoints/checkpoint-00000200", "checkpoints/checkpoint-00000100"
    assert seen == [
        f"{new}/model.safetensors",
        f"{new}/state.pt",
        f"{new}/progress.json",
        "reports.jsonl",
        f"{old}/progress.json",
        old,
    ]
    assert {path.name for path in (bucket / "checkpoints").iterdir()} == {"checkpoint-00000200"}


def test_what_has_not_changed_is_not_stored_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    store = node("first")
    train(store, 2)
    seen = order_of_uploads(monkeypatch)
    store.push()
    assert seen == []
    other = node("second")
    other.pull()
    seen.clear()
    other.push()
    assert [name for name in seen if name.endswith((".safetensors", ".pt"))] == []


def test_a_checkpoint_cut_off_on_its_way_to_the_store_is_not_taken(node: Node, bucket: Path) -> None:
    first, second = node("first"), node("second")
    train(first, 1)
    torn = bucket / "checkpoints/checkpoint-00000200"
    torn.mkdir()
    (torn / "model.safetensors").write_text("weights of epoch 2")
    second.pull()
    assert [path.name for path in second.directory.glob("checkpoints/*")] == ["checkpoint-00000100"]


def test_a_checkpoint_that_is_here_is_not_fetched_again_but_one_of_another_attempt_is(node: Node) -> None:
    first, second = node("first"), node("second")
    train(first, 2)
    second.pull()
    weights = second.directory / "checkpoints/checkpoint-00000200/model.safetensors"
    before = weights.stat().st_ino
    second.pull()
    assert weights.stat().st_ino == before
    weights.with_name("progress.json").write_text("progress.json of EPOCH 2")
    weights.write_text("MODEL.safetensors of epoch 2")
    second.pull()
    assert weights.read_text() == "model.safetensors of epoch 2"


def test_what_did_not_reach_the_store_did_not_happen(node: Node) -> None:
    store = node("first")
    train(store, 1)
    checkpoint(store, 200, "of epoch 2")
    write(store, reports_dot_jsonl="{}\n{}\n")
    again = node("first")
    again.pull()
    assert (again.directory / "reports.jsonl").read_text() == "{}\n"
    assert [path.name for path in again.directory.glob("checkpoints/*")] == ["checkpoint-00000100"]


def test_a_trial_that_the_store_does_not_know_starts_from_nothing(node: Node) -> None:
    store = node("first")
    write(store, config_dot_json="{}", reports_dot_jsonl="{}\n")
    checkpoint(store, 100, "of another sweep")
    store.pull()
    assert files(store.directory) == {}
    assert store.directory.is_dir()


def test_weights_that_the_store_has_are_removed_here(node: Node, bucket: Path) -> None:
    store = node("first")
    train(store, 1)
    write(store, model__model_dot_safetensors="weights")
    store.push()
    store.drop_weights()
    assert {*files(store.directory)} == {"attempts.json", "config.json", "log.txt", "reports.jsonl"}
    assert (bucket / "model/model.safetensors").exists()
    node("second").pull()


def test_one_file_can_be_stored_alone(node: Node, bucket: Path) -> None:
    store = node("first")
    write(store, config_dot_json="{}", attempts_dot_json="[1.0]", log_dot_txt="1")
    store.push("config.json", "attempts.json")
    assert {*files(bucket)} == {"config.json", "attempts.json"}


def test_a_trial_of_a_local_sweep_is_left_alone(tmp_path: Path) -> None:
    store = TrialStore.of(str(tmp_path), "00003")
    assert store.directory == tmp_path / "trials/00003"
    write(store, checkpoints__x="1", reports_dot_jsonl="{}")
    before = files(tmp_path)
    store.pull()
    store.push()
    store.push("reports.jsonl")
    store.drop_weights()
    assert files(tmp_path) == before
