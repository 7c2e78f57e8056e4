"""What `python -m qa_train train` leaves and prints where one run gives several models."""

import json
from pathlib import Path
from typing import Any

import pytest

from qa_train.cli import main
from qa_train.config import TrainConfig, load_config
from qa_train.model import load_model
from qa_train.output import claim_output, train_into
from qa_train.training import Training

WEIGHTS = "model.safetensors"
OVERRIDES = ["optim.schedule=trunk", "budgets=[1, 2, 3]", "num_epochs=3", "optim.cooldown=0.4"]


@pytest.fixture(scope="module")
def trained(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The directory of a training, and what was printed to stdout and stderr."""
    directory = tmp_path_factory.mktemp("trunk") / "model"
    with pytest.MonkeyPatch.context() as monkeypatch:
        out, err = Printed(), Printed()
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", err)
        status = main(["train", "--config", str(tiny_run / "run.yaml"), "--to", str(directory), *OVERRIDES])
    assert status == 0, err.text
    return directory, out.text, err.text


class Printed:
    """A stream that is no terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False


@pytest.fixture
def directory(trained: tuple[Path, str, str]) -> Path:
    return trained[0]


def record_in(directory: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((directory / "training.json").read_text())
    return record


def models_in(directory: Path) -> dict[int, Path]:
    return {1: directory / "budgets" / "1", 2: directory / "budgets" / "2", 3: directory}


def test_each_budget_leaves_its_model_with_its_own_record(directory: Path) -> None:
    reports = json.loads((directory / "reports.json").read_text())
    assert [report["budget_epochs"] for report in reports] == [1, 2, 3]
    for budget, place in models_in(directory).items():
        record, report = record_in(place), reports[budget - 1]
        assert record["budget_epochs"] == budget
        assert record["scores"]["dev"]["f1"] == report["f1"]
        assert [entry["budget_epochs"] for entry in record["budgets"]] == list(range(1, budget + 1))
        assert record["budgets"][-1]["f1"] == report["f1"]
        assert record["cost"]["model_cost.tokens"] == report["cost"]["model_cost.tokens"]
        assert (place / f"scores_dev_{budget}.parquet").is_file()
        load_model(str(place))
    assert len({(place / WEIGHTS).read_bytes() for place in models_in(directory).values()}) == 3


def test_the_last_budget_s_model_alone_is_scored_on_the_test_sets(directory: Path) -> None:
    scored = {budget: [*record_in(place)["scores"]] for budget, place in models_in(directory).items()}
    assert scored == {1: ["dev"], 2: ["dev"], 3: ["dev", "test.other"]}


def test_there_is_a_line_for_each_budget(trained: tuple[Path, str, str]) -> None:
    directory, out, err = trained
    lines = out.splitlines()
    starts = ["1 epochs: dev F1 ", "2 epochs: dev F1 ", "3 epochs: dev F1 ", "dev: F1 ", "test.other: F1 "]
    assert len(lines) == len(starts) + 1
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=False))
    assert f"budgets/1, budgets/2 in {directory}" in lines[-1]
    assert [line.split(":")[0] for line in err.splitlines()] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_a_model_card_tells_of_its_own_model(directory: Path) -> None:
    cards = {budget: (place / "README.md").read_text() for budget, place in models_in(directory).items()}
    for budget, card in cards.items():
        assert f"for {budget} epochs (learning_rate 0.001, schedule trunk, warmup_epochs 0.1, cooldown 0.4," in card
        assert "warmup_ratio" not in card
        assert "its share of a run that gives a model for each of several budgets" in card
        assert ("The models that this run gave so far" in card) == (budget > 1)


def test_nothing_but_the_result_stays(directory: Path) -> None:
    assert not {path.name for path in directory.iterdir()} & {"run.yaml", "checkpoints", ".lock"}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_training_killed_as_it_saves_a_budget_ends_with_the_same_models(
    after: bool, directory: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    save, seen = Training.save, set()

    def save_or_die(training: Training, place: Path) -> None:
        """Dies once at each model."""
        first = place not in seen
        seen.add(place)
        if after or not first:
            save(training, place)
        if first:
            raise Killed

    monkeypatch.setattr(Training, "save", save_or_die)
    config = load_config(TrainConfig, tiny_run / "run.yaml", OVERRIDES)
    claim_output(tmp_path / "model", config)
    for _ in range(3):
        with pytest.raises(Killed):
            train_into(tmp_path / "model", config)
    summary = train_into(tmp_path / "model", config)
    assert [budget["budget_epochs"] for budget in summary["budgets"]] == [1, 2, 3]
    for budget, place in models_in(tmp_path / "model").items():
        assert (place / WEIGHTS).read_bytes() == (models_in(directory)[budget] / WEIGHTS).read_bytes()
    found, expected = (
        sorted(path.relative_to(top) for path in top.rglob("*")) for top in (tmp_path / "model", directory)
    )
    assert found == expected
    claim_output(tmp_path / "model", config, overwrite=True)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["run.yaml"]
