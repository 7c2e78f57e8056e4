"""Before a sweep starts every node is asked for what it needs; a node that lacks something is named."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster import nodes
from cluster.nodes import check_nodes, lacking, paths_of, wait_for_nodes
from qa_train.config import build_config
from qa_train.errors import SweepError
from sweeps.config import SweepConfig

Answer = Callable[[Sequence[str], Mapping[str, str]], list[str]]


class FakeCluster:
    """Nodes that answer at once with what a function of each says, or, without one, never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Answer | None) -> None:
        self.answers = answers
        monkeypatch.setattr(nodes, "living_nodes", self.living)
        monkeypatch.setattr(nodes, "_ask", self.ask)
        monkeypatch.setattr("ray.wait", self.wait)
        monkeypatch.setattr("ray.get", lambda answer: answer[1])

    def living(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "NodeManagerAddress": f"10.0.0.{i}"} for i, name in enumerate(self.answers)]

    def ask(self, task: Any, node_id: str, paths: Sequence[str], pinned: Mapping[str, str]) -> Any:
        answer = self.answers[node_id]
        return node_id, tuple(answer(paths, pinned)) if answer else None

    def wait(self, asked: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return [item for item in asked if item[1] is not None], [item for item in asked if item[1] is None]


def without_file_system_of_others(paths: Sequence[str], pinned: Mapping[str, str]) -> list[str]:
    return [path for path in paths if ".shared-" in path]


def test_nodes_that_see_the_same_pass_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCluster(monkeypatch, a=lacking, b=lacking)
    (tmp_path / "train.json").touch()
    check_nodes([str(tmp_path / "train.json")], str(tmp_path / "out"), {})
    assert not (tmp_path / "out").exists()


def test_a_node_that_does_not_share_the_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCluster(monkeypatch, a=lacking, b=without_file_system_of_others)
    with pytest.raises(SweepError, match=r"node 10\.0\.0\.1 \(b\) lacks .*out.*shared-.*--out s3://"):
        check_nodes([], str(tmp_path / "out"), {})
    assert not (tmp_path / "out").exists()
    check_nodes([], "s3://bucket/out", {})


def test_missing_files_other_versions_and_silent_nodes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCluster(monkeypatch, a=lacking, b=None)
    with pytest.raises(SweepError) as raised:
        check_nodes(["/nowhere/train.json"], "s3://bucket/out", {"no-such-library": "1"})
    assert "node 10.0.0.1 (b) does not answer" in str(raised.value)
    assert "node 10.0.0.0 (a) lacks /nowhere/train.json, no-such-library 1, found none" in str(raised.value)


def test_one_machine_alone_needs_no_shared_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCluster(monkeypatch, a=without_file_system_of_others)
    check_nodes([], str(tmp_path / "out"), {})


def test_nodes_that_do_not_join_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCluster(monkeypatch, a=lacking, b=lacking)
    wait_for_nodes(2)
    with pytest.raises(SweepError, match="--nodes: expected 3 nodes within 0 s, found 2"):
        wait_for_nodes(3, joining_s=0.0)


def test_the_wait_for_nodes_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nodes, "ray_session", contextlib.nullcontext)
    monkeypatch.setattr(nodes, "wait_for_nodes", interrupted)
    assert (
        nodes.main("{}", "3", "s3://bucket/out", str(Path(nodes.__file__).parents[1] / "sweeps/configs/demo.yaml"))
        == 130
    )


def test_all_inputs_of_a_sweep_are_looked_for() -> None:
    data = {"train": "/a", "dev": "/b", "test": {"x": "/c"}, "extra_train": {"y": "/d"}}
    train = {"data": data, "model": {"name": "distilbert-base-uncased"}, "augment": {"confusions": "/e"}}
    assert {*paths_of(build_config(SweepConfig, {"train": train}, "test"))} == {"/a", "/b", "/c", "/d", "/e"}
