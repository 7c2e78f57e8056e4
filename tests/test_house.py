"""What must agree between the files at the root, and what CI's plugin does."""

import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from qa_train.storage import parse_yaml

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def requirement_name(requirement: str) -> str:
    """The name of a requirement as packages are compared by it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def test_the_version_is_the_same_everywhere() -> None:
    citation, problems = parse_yaml(read("CITATION.cff"))
    assert isinstance(citation, dict)
    assert not problems
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert re.findall(r"^## \[(\d.*)\]", read("CHANGELOG.md"), re.M)[0] == PROJECT["version"]


def test_every_dependency_is_pinned() -> None:
    pinned = {requirement_name(line) for line in read("constraints.txt").splitlines() if "==" in line}
    wanted = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
    assert {requirement_name(name) for name in wanted} - pinned == {PROJECT["name"]}  # dev has the other extras


def test_ci_runs_make_check_and_nothing_twice() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    assert sum("make check" in line for line in commands) == 1
    assert not any("pytest" in line.lower() and "PYTEST_ADDOPTS" not in line for line in commands)
    plan = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert plan.count("-m pytest") == 1


SKIPPING = """
import pytest

@pytest.mark.ray
@pytest.mark.skip(reason="too slow here")
def test_that_starts_ray(): ...

@pytest.mark.ray
def test_that_wants_ray(): pytest.skip("no ray here")

@pytest.mark.skip(reason="no data here")
def test_of_data(): ...

@pytest.mark.ray
@pytest.mark.xfail
def test_known_to_fail(): raise ValueError
"""


@pytest.mark.parametrize(
    ("source", "summary"),
    [
        (SKIPPING, "1 failed, 1 skipped, 1 xfailed, 1 error in"),
        ("import pytest\npytest.importorskip('no_such_module')\n", "1 error in"),
    ],
)
def test_in_ci_a_skipped_ray_test_fails(source: str, summary: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "tests.ci_plugin", "-o", "markers=ray", "--rootdir", "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode
    assert summary in done.stdout
    assert "must not be skipped here" in done.stdout
