"""What runs on the cluster checks what arrived there before anything starts."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import entry
from cluster.entry import EntryError, differences, find_root, parse, pins

ROOT = Path(__file__).parents[2]


def test_a_command_line_is_taken_apart() -> None:
    line = ["run", "C.yaml", "search.num_trials=4", "--out", "s3://b/x", "stop.rungs=[0.25,0.5]", "--nodes=3"]
    asked = parse(line)
    assert asked.path == "C.yaml"
    assert asked.overrides == ("search.num_trials=4", "stop.rungs=[0.25,0.5]")
    assert (asked.out, asked.num_nodes, asked.any_versions) == ("s3://b/x", 3, False)
    assert parse(["run", "C.yaml", "--resume", "--out", "/x"]).resume
    assert parse(["run", "a/C.yaml", "--any-versions"]).out.startswith("~/spansweep-runs/C-")


@pytest.mark.parametrize(
    ("sent", "position"),
    [
        ("note='two words'", 4),
        ("space.num_epochs='{int: [1, 3]}'", 3),
        ("space.num_epochs={int:[1,3]}", 3),
        ("""name='say "hi there" to all'""", 4),
        ("stop.rungs='[0.25, 0.5]'", 3),
    ],
)
def test_an_argument_that_ray_submit_mangled_is_named(sent: str, position: int) -> None:
    # Our shell takes the quotes off, Ray joins with spaces, the head's shell takes the words apart again.
    typed = subprocess.run(["bash", "-c", f"printf '%s ' {sent}"], capture_output=True, text=True, check=True).stdout
    joined = f"printf '%s\\0' run C.yaml {typed}"
    arrived = subprocess.run(["bash", "-c", joined], capture_output=True, text=True, check=True).stdout
    with pytest.raises(EntryError, match=rf"argument {position}: expected key=value, found .* arrived mangled"):
        parse(arrived.removesuffix("\0").split("\0"))


@pytest.mark.parametrize("argument", ["note=it's", "a.b={x: {int: [1, 2]}}", 'note="a ] b"', "note='['"])
def test_an_argument_whose_brackets_and_quotes_close_is_left_alone(argument: str) -> None:
    assert parse(["run", "C.yaml", argument]).overrides == (argument,)


@pytest.mark.parametrize(
    "line", [[], ["run"], ["walk", "C.yaml"], ["run", "C.yaml", "--nodes", "many"], ["run", "C.yaml", "--nodes=²"]]
)
def test_another_command_line_is_refused_with_the_usage(line: list[str]) -> None:
    with pytest.raises(EntryError, match=r"usage: entry\.py run"):
        parse(line)


def test_the_pinned_versions_are_those_of_the_direct_dependencies() -> None:
    pinned = pins(ROOT)
    assert {"torch", "ray", "transformers", "optuna", "pydantic"} <= {*pinned}
    assert "ruff" not in pinned
    assert pinned["ray"] == "2.60.0"


def test_another_version_than_the_pinned_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"torch": "2.13.0+cpu", "ray": "2.61.0"}.__getitem__)
    assert differences({"torch": "2.13.0", "ray": "2.60.0"}) == ["ray 2.60.0, found 2.61.0"]
    monkeypatch.undo()
    assert differences({"no-such-library": "1"}) == ["no-such-library 1, found none"]


def test_the_package_is_found_where_ray_up_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "__file__", str(tmp_path / "entry.py"))
    monkeypatch.setenv("SPANSWEEP_HOME", str(tmp_path / "there"))
    with pytest.raises(EntryError, match="there: expected the package"):
        find_root()
    monkeypatch.setenv("SPANSWEEP_HOME", "~nobody-here/there")
    with pytest.raises(EntryError, match="~nobody-here/there: expected the package"):
        find_root()
    monkeypatch.setenv("SPANSWEEP_HOME", str(ROOT))
    assert find_root() == ROOT


def test_a_package_without_its_pinned_versions_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        EntryError, match=r"constraints\.txt: expected the pinned versions, found No such file.*--any-v"
    ):
        pins(tmp_path)


def test_a_signal_while_nodes_are_waited_for_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr("subprocess.run", interrupted)
    assert entry.main(["run", "C.yaml", "--any-versions"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_alone_in_a_home_directory_it_explains_itself_in_one_line(tmp_path: Path) -> None:
    shutil.copy(entry.__file__, tmp_path / "entry.py")
    command = [sys.executable, "entry.py", "run", "C.yaml", "note=two", "words"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: argument 4: expected key=value, found 'words'")
    assert done.stderr.count("\n") == 1
