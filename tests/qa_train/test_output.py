import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qa_train import output
from qa_train.checkpoint import latest_checkpoint
from qa_train.config import TrainConfig, load_config, with_values
from qa_train.errors import CheckpointError, DataError
from qa_train.loop import TrainingLoop
from qa_train.output import RUN_CONFIG, claim_output, release_output, train_into
from qa_train.training import TRAINING_RECORD, Training, start_training


class Killed(BaseException):
    """Ends a test's training as a kill does."""


@pytest.fixture
def config(tiny_run: Path) -> TrainConfig:
    return load_config(TrainConfig, tiny_run / "run.yaml")


@pytest.fixture(scope="module")
def finished(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The directory and the summary of a training that was not interrupted."""
    config = load_config(TrainConfig, tiny_run / "run.yaml")
    directory = claim_output(tmp_path_factory.mktemp("finished"), config)
    return directory, train_into(directory, config)


@pytest.fixture
def earlier(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of what a training left."""
    return Path(shutil.copytree(finished[0], tmp_path / "earlier"))


def killed(directory: Path, config: TrainConfig, owner: object, name: str, *, after: bool = False) -> None:
    """Trains until a function is called, or has returned."""
    original = getattr(owner, name)

    def last(*args: Any, **kwargs: Any) -> None:
        if after:
            original(*args, **kwargs)
        raise Killed

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Killed):
        monkeypatch.setattr(owner, name, last)
        train_into(directory, config)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A directory that another training writes to."""
    directory = tmp_path / "locked"
    directory.mkdir()
    with open(directory / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield directory


# Claiming a directory


def test_a_new_directory_is_claimed_with_its_configuration(config: TrainConfig, tmp_path: Path) -> None:
    directory = claim_output(tmp_path / "a" / "b", config)
    assert directory == tmp_path / "a" / "b"
    assert load_config(TrainConfig, directory / RUN_CONFIG) == config


def test_the_home_directory_is_expanded(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert claim_output(Path("~/model"), config) == tmp_path / "model"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_with_files_of_others_is_refused(overwrite: bool, config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"exists and is not empty; .*--overwrite if an earlier training left it"):
        claim_output(tmp_path, config, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_earlier_training_is_refused_or_overwritten(config: TrainConfig, earlier: Path) -> None:
    before = sorted(earlier.iterdir())
    with pytest.raises(DataError, match="is not empty"):
        claim_output(earlier, config)
    assert sorted(earlier.iterdir()) == before
    claim_output(earlier, config, overwrite=True)
    assert [path.name for path in earlier.iterdir()] == [RUN_CONFIG]


def test_an_interrupted_training_is_overwritten(config: TrainConfig, tmp_path: Path) -> None:
    directory = claim_output(tmp_path / "model", config)
    killed(directory, config, Training, "save", after=True)
    assert latest_checkpoint(directory / "checkpoints")
    claim_output(directory, config, overwrite=True)
    assert [path.name for path in directory.iterdir()] == [RUN_CONFIG]


@pytest.mark.parametrize("name", ["thesis.tex", "other-model/training.json", "data.json"])
def test_overwriting_removes_nothing_but_a_training(name: str, config: TrainConfig, earlier: Path) -> None:
    foreign = earlier / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("years of work")
    before = sorted(earlier.iterdir())
    with pytest.raises(DataError, match=rf"found {name.split('/')[0]!r}"):
        claim_output(earlier, config, overwrite=True)
    assert sorted(earlier.iterdir()) == before
    assert foreign.read_text() == "years of work"


def test_a_link_to_a_directory_stays_a_link_when_it_is_overwritten(
    config: TrainConfig, earlier: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(earlier)
    claim_output(link, config, overwrite=True)
    assert link.is_symlink()
    assert [path.name for path in earlier.iterdir()] == [RUN_CONFIG]


def test_a_training_that_still_runs_is_not_overwritten(config: TrainConfig, locked: Path) -> None:
    (locked / RUN_CONFIG).write_text("")
    with pytest.raises(CheckpointError, match="another training is writing there"):
        claim_output(locked, config, overwrite=True)
    assert (locked / RUN_CONFIG).exists()


def test_a_directory_claimed_in_vain_is_given_back(config: TrainConfig, tmp_path: Path) -> None:
    directory = claim_output(tmp_path / "model", config)
    release_output(directory)
    assert not directory.exists()


def test_a_directory_with_a_checkpoint_is_not_given_back(config: TrainConfig, tmp_path: Path) -> None:
    directory = claim_output(tmp_path / "model", config)
    killed(directory, config, Training, "save")
    release_output(directory)
    assert (directory / RUN_CONFIG).is_file()


# Training into it


def test_a_finished_training_leaves_a_model_its_record_and_reports(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, summary = finished
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", TRAINING_RECORD, "reports.json"} <= names
    assert not names & {RUN_CONFIG, "checkpoints", ".lock"}
    reports = json.loads((directory / "reports.json").read_text())
    assert [report["epochs_trained"] for report in reports] == [1, 2]
    record = json.loads((directory / TRAINING_RECORD).read_text())
    for name in ("dev", "test.other"):
        assert summary["scores"][name]["f1"] == record["scores"][name]["f1"]
        assert summary["scores"][name]["exact_match"] == record["scores"][name]["exact_match"]
    assert summary["cost"] == record["cost"]
    assert {TRAINING_RECORD, "reports.json"} <= {*summary["files"]} <= names


def test_progress_goes_to_stderr(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_into(claim_output(tmp_path / "model", config), config)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(":")[0] for line in captured.err.splitlines()] == ["epoch 1/2", "epoch 2/2"]


MOMENTS = [
    (output, "start_training", False),
    (TrainingLoop, "_report", False),
    (TrainingLoop, "_save_checkpoint", True),
    (Training, "evaluate_tests", False),
    (Training, "save", False),
    (Training, "save", True),
]


@pytest.mark.parametrize(("owner", "name", "after"), MOMENTS, ids=[f"{name}-{after}" for _, name, after in MOMENTS])
def test_an_interrupted_training_goes_on_and_ends_as_if_it_had_not_been(
    owner: object,
    name: str,
    after: bool,
    config: TrainConfig,
    finished: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    directory = claim_output(tmp_path / "model", config)
    killed(directory, config, owner, name, after=after)
    assert load_config(TrainConfig, directory / RUN_CONFIG) == config
    summary = train_into(directory, config)
    assert summary["scores"] == finished[1]["scores"]
    weights = "model.safetensors"
    assert (directory / weights).read_bytes() == (finished[0] / weights).read_bytes()
    assert sorted(path.name for path in directory.iterdir()) == sorted(path.name for path in finished[0].iterdir())


def test_a_second_training_in_the_same_directory_is_refused_while_the_first_lives(
    config: TrainConfig, locked: Path
) -> None:
    (locked / RUN_CONFIG).write_text("")
    with pytest.raises(CheckpointError, match="another training is writing there; wait for it or stop it"):
        train_into(locked, config)


def test_a_training_keeps_others_out(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = claim_output(tmp_path / "model", config)
    start = start_training

    def start_two(*args: Any, **kwargs: Any) -> Training:
        monkeypatch.setattr(output, "start_training", start)
        with pytest.raises(CheckpointError, match="another training is writing there"):
            train_into(directory, config)
        return start(*args, **kwargs)

    monkeypatch.setattr(output, "start_training", start_two)
    assert train_into(directory, config)["scores"]


def test_the_lock_of_a_killed_training_does_not_stay(config: TrainConfig, tmp_path: Path) -> None:
    directory = claim_output(tmp_path / "model", config)
    (directory / ".lock").write_text("")  # the file alone locks nothing
    killed(directory, config, output, "start_training")
    train_into(directory, with_values(config, {"num_epochs": 1}))
    assert not (directory / ".lock").exists()


def test_a_directory_that_cannot_be_written_is_explained(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent: cannot be written: No such file or directory"):
        train_into(tmp_path / "absent", config)
