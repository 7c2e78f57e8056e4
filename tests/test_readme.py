"""Runs what the README tells a reader to run, section by section, word for word, on a tiny model and tiny data."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qa_train.storage import dump_yaml, parse_yaml
from tests.tiny_models import tiny_model_dir, tiny_squad

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA_DIR = os.environ.get("SPOKEN_SQUAD_DIR")

_BLOCK = re.compile(r"(?:<!-- needs: (?P<needs>\w+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_START_UP = "source .venv/bin/activate"
_INSTALLING = re.compile(r"(\w+=\S+ )*make \w+")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and what the comment before it says that it needs."""

    language: str
    text: str
    needs: str | None

    @property
    def commands(self) -> list[str]:
        return self.text.replace("\\\n", " ").strip().splitlines() if self.language == "bash" else []


def blocks_of(text: str) -> list[Block]:
    return [Block(found["language"], found["text"], found["needs"]) for found in _BLOCK.finditer(text)]


def sections_of(text: str) -> dict[str, list[Block]]:
    """The blocks under each heading of the second level."""
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    return {heading: blocks_of(part) for heading, part in zip(parts[1::2], parts[2::2], strict=True)}


SECTIONS = sections_of(README)
BLOCKS = blocks_of(README)


def starts_ray(blocks: list[Block]) -> bool:
    texts = [block.text for block in blocks if not block.needs]
    return any("sweeps run" in text.replace("--print-config", "") or "run_sweep" in text for text in texts)


def runnable_sections() -> Iterator[Any]:
    for heading, blocks in SECTIONS.items():
        if any(block.needs in {None, "data"} and is_run(block) for block in blocks):
            yield pytest.param(heading, marks=[pytest.mark.ray] if starts_ray(blocks) else [], id=heading)


def is_run(block: Block) -> bool:
    return block.language == "python" or any(map(needs_running, block.commands))


def needs_running(command: str) -> bool:
    return command != _START_UP and not _INSTALLING.fullmatch(command)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A copy of the checkout whose configurations train a tiny model on tiny data."""
    for name in ("qa_train", "sweeps", "analysis"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    model = tiny_model_dir(tmp_path / "tiny" / "model")
    data = tiny_squad(tmp_path / "tiny" / "train.json", num_articles=4)
    for path in [*tmp_path.glob("*/configs/*.yaml")]:
        config, problems = parse_yaml(path.read_text(encoding="utf-8"))
        assert isinstance(config, dict)
        assert not problems
        train = config.get("train", config)
        train["model"] |= {"name": str(model), "max_seq_length": 128, "doc_stride": 32}
        dev = train["data"].get("dev") or str(data)
        # The demo's dev set is small enough, and the README scores its predictions.
        train["data"] = {"train": str(data), "dev": dev if "demo_data" in dev else str(data)}
        if "space" in config and "budgets" not in train:
            config["space"]["num_epochs"] = {"int": [1, 2]}
        train["precision"] = "fp32"
        path.write_text(dump_yaml(config), encoding="utf-8")
    return tmp_path


def run(command: list[str], workspace: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        command,
        cwd=workspace,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"
    return done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize("heading", list(runnable_sections()))
def test_a_section_does_what_it_says(heading: str, workspace: Path) -> None:
    ran = 0
    for block in SECTIONS[heading]:
        if block.needs not in {None, "data"} or (block.needs == "data" and not DATA_DIR):
            continue
        for command in filter(needs_running, block.commands):
            run(["bash", "-euc", command], workspace)
            ran += 1
        if block.language == "python":
            run([sys.executable, "-c", block.text], workspace)
            ran += 1
    if not ran:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not shutil.which("flite"), reason="needs flite")
def test_data_are_spoken_as_it_says(workspace: Path) -> None:
    for block in BLOCKS:
        if block.needs == "flite":
            for command in block.commands:
                run(["bash", "-euc", command], workspace)


@pytest.mark.parametrize(
    "command", [line for block in BLOCKS for line in block.commands if _INSTALLING.fullmatch(line)]
)
def test_a_make_command_names_a_target(command: str) -> None:
    *_, target = command.split()
    plan = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.strip()


def test_the_two_commands_come_first() -> None:
    assert BLOCKS[0].commands == ["make demo", "make test"]


def test_every_block_says_what_it_is_and_needs_something_known() -> None:
    assert {block.language for block in BLOCKS} <= {"bash", "python", "yaml"}
    assert {block.needs for block in BLOCKS} <= {None, "cloud", "hub", "data", "flite"}
    assert len(BLOCKS) == README.count("\n```") / 2


def test_commands_that_cannot_run_here_at_least_parse() -> None:
    for block in BLOCKS:
        for command in block.commands:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.M)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in anchors


def test_the_blocks_of_a_text_are_found_with_what_they_need() -> None:
    text = "## One\n```bash\na \\\n  b\nc\n```\n<!-- needs: hub -->\n```python\nx\n```\n## Two\n"
    assert sections_of(text) == {
        "One": [Block("bash", "a \\\n  b\nc\n", None), Block("python", "x\n", "hub")],
        "Two": [],
    }
    assert [shlex.split(command) for command in sections_of(text)["One"][0].commands] == [["a", "b"], ["c"]]
