"""What is sent to a cluster, and that it is the same after a second packing there."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster import bundle as module
from cluster.bundle import Bundle, make_bundle, pack_bundle, write_bundle
from qa_train.config import load_config
from qa_train.errors import ConfigError, QAError
from sweeps.config import SweepConfig

SWEEP = """\
name: sent
train:
  data: {train: train.json, dev: null, test: {far: /far/test.json, later: later.json}}
  model: {name: ./model}
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    room = tmp_path / "a room"
    (room / "model").mkdir(parents=True)
    (room / "train.json").write_text('{"data": []}')
    (room / "model" / "config.json").write_text("{}")
    (room / "model" / "model.safetensors").write_bytes(b"weights")
    (room / "sweep.yaml").write_text(SWEEP)
    for name in ("runs", ".venv"):
        (room / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPOKEN_SQUAD_DIR", raising=False)
    return room


def sent(room: Path) -> Bundle:
    return make_bundle(str(room / "sweep.yaml"), ["note=a 'b' [c]"])


def test_relative_inputs_are_sent_and_absolute_ones_expected_there(room: Path) -> None:
    bundle = sent(room)
    train = bundle.config.train
    assert bundle.files[train.data.train] == room / "train.json"
    assert bundle.files[f"{train.model.name}/model.safetensors"] == room / "model" / "model.safetensors"
    assert train.data.test == {"far": "/far/test.json", "later": "later.json"}
    assert {*bundle.left_there} == {"/far/test.json", "later.json"}
    assert {"constraints.txt", "pyproject.toml", "cluster/entry.py", "sweeps/__main__.py"} <= {*bundle.files}
    assert not [name for name in bundle.files if "__pycache__" in name or name.startswith((".", "runs", "tests"))]


def test_hidden_files_of_a_model_directory_are_not_sent(room: Path) -> None:
    for name in (".env", ".git/config", "more/.netrc", "more/tokenizer.json"):
        path = room / "model" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")
    of_model = {
        path.name for name, path in sent(room).files.items() if name.startswith("inputs/") and "/model/" in name
    }
    assert of_model == {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_path_of_a_user_that_there_is_not_is_expected_there(room: Path) -> None:
    bundle = make_bundle(str(room / "sweep.yaml"), ["train.data.train=~nobody-here/train.json"])
    assert "~nobody-here/train.json" in bundle.left_there


def test_a_bundle_that_is_packed_again_there_is_the_same(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = sent(room)
    there = tmp_path / "there"
    write_bundle(bundle, there)
    monkeypatch.chdir(there)
    again = make_bundle("sweep.yaml", [])
    assert again.config == bundle.config
    assert {*again.files} == {*bundle.files}
    (there / "inputs" / "test.json").write_text("{}")
    overrides = ["train.data.test={}"]
    assert load_config(SweepConfig, "sweep.yaml", overrides).note == "a 'b' [c]"


def test_data_of_the_package_are_not_sent_twice() -> None:
    bundle = make_bundle(str(module.ROOT / "sweeps" / "configs" / "demo.yaml"), [], with_inputs=False)
    assert bundle.config.train.data.train == "qa_train/demo_data/train.json"
    assert not [name for name in bundle.files if name.startswith("inputs/")]


def test_where_nothing_can_be_sent_inputs_are_named(room: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected absolute paths on storage that all nodes mount.*train\.json"):
        make_bundle(str(room / "sweep.yaml"), [], with_inputs=False)


def test_inputs_that_are_too_large_are_refused(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(QAError, match="expected at most 0 MiB to send"):
        sent(room)


def test_all_mistakes_of_a_configuration_are_told_before_anything_starts(room: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*num_epoch\b.*searcher"):
        make_bundle(str(room / "sweep.yaml"), ["train.num_epoch=3", "search.searcher=best"])


def test_an_installed_wheel_cannot_be_sent(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOT", room)
    with pytest.raises(QAError, match=r"expected pyproject\.toml and constraints\.txt.*from a checkout"):
        make_bundle(str(room / "sweep.yaml"), [])


def test_the_one_file_unpacks_itself_and_calls_the_command_with_its_arguments(room: Path, tmp_path: Path) -> None:
    archive = tmp_path / "sent-1.pyz"
    arguments = ["submit", "jobs", "a [b] 'c' \"d\""]
    pack_bundle(sent(room), archive, arguments, "sent-1")
    with zipfile.ZipFile(archive) as packed:
        assert json.loads(packed.read("job.json")) == {"id": "sent-1", "arguments": arguments}
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_ADDRESS": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, archive], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "a [b] 'c' \"d\": cannot be read" in done.stderr or "no such file" in done.stderr
    assert not archive.exists()
    assert (tmp_path / "spansweep-jobs" / "sent-1" / "sweep.yaml").is_file()
