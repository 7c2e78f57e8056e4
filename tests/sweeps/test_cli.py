import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qa_train.errors import SweepError
from sweeps import runner
from sweeps.cli import main
from sweeps.config import SweepConfig
from sweeps.records import RECORDS, Manifest, Row, write_manifest
from sweeps.runner import SweepResult

BEST: Row = {"trial_id": "00001", "dev.f1": 50.5}


@pytest.fixture
def sweep_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.json").touch()
    path = tmp_path / "my sweep.yaml"
    path.write_text("name: tiny\ntrain: {data: {train: train.json}}\nsearch: {num_trials: 4}\n")
    return path


class FakeRun:
    """Takes the place of `run_sweep`."""

    def __init__(self, num_completed: int = 4, num_failed: int = 0, error: BaseException | None = None) -> None:
        self.result = SweepResult("/runs/a b", num_completed, 0, num_failed, BEST if num_completed else None)
        self.error, self.calls = error, list[tuple[SweepConfig, str | None]]()

    def __call__(self, config: SweepConfig, directory: str | None = None, *, live: bool = False) -> SweepResult:
        self.calls.append((config, directory))
        if self.error:
            raise self.error
        return self.result


def fake(monkeypatch: pytest.MonkeyPatch, **result: Any) -> FakeRun:
    run = FakeRun(**result)
    monkeypatch.setattr(runner, "run_sweep", run)
    return run


@pytest.mark.parametrize(("num_completed", "num_failed", "status"), [(4, 0, 0), (3, 1, 1), (0, 4, 1), (0, 0, 1)])
def test_the_exit_status_says_whether_all_trials_succeeded(
    sweep_yaml: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_completed: int,
    num_failed: int,
    status: int,
) -> None:
    fake(monkeypatch, num_completed=num_completed, num_failed=num_failed)
    assert main(["run", str(sweep_yaml)]) == status
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{num_completed} trials completed, {num_failed} failed",
        "Wrote manifest.json, records.jsonl and trials/ in /runs/a b",
    ]
    assert ("warning" in err) == bool(num_failed)
    assert len(err.splitlines()) == (1 if num_failed else 0)


@pytest.mark.parametrize(("num_completed", "best"), [(3, BEST), (0, None)])
def test_the_result_for_machines_is_json(
    sweep_yaml: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_completed: int,
    best: dict[str, object] | None,
) -> None:
    fake(monkeypatch, num_completed=num_completed, num_failed=1)
    assert main(["run", str(sweep_yaml), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "directory": "/runs/a b",
        "completed": num_completed,
        "stopped_early": 0,
        "failed": 1,
        "best": best,
    }


def test_overrides_and_the_directory_reach_the_sweep(sweep_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake(monkeypatch)
    main(["run", str(sweep_yaml), "search.num_trials=7", "train.optim.weight_decay=2e-2", "--out", "new dir"])
    [(config, directory)] = run.calls
    assert (config.search.num_trials, config.train.optim.weight_decay, config.name) == (7, 0.02, "tiny")
    assert directory == "new dir"
    main(["run", str(sweep_yaml)])
    assert run.calls[1][1] is None


def test_print_config_runs_nothing_and_can_be_read_back(
    sweep_yaml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fake(monkeypatch)
    assert main(["run", str(sweep_yaml), "search.seed=5", "--print-config"]) == 0
    assert not run.calls
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["search"]["seed"] == 5
    sweep_yaml.write_text(printed)
    main(["run", str(sweep_yaml)])
    assert run.calls[0][0].search.seed == 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["search.num_trials=0"], "search.num_trials: expected an integer from 1"),
        (["search.trials=3"], "search.trials: unknown key, the nearest known one is search.num_trials"),
        (["--overwrite"], "No such option"),
        (["num_trials"], "num_trials"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    sweep_yaml: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    run = fake(monkeypatch)
    assert main(["run", str(sweep_yaml), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert named in err
    assert len(err.splitlines()) == 1
    assert not run.calls


@pytest.mark.parametrize("arguments", [["run"], ["run", "none.yaml"], ["walk"], ["run", "."]])
def test_without_a_configuration_nothing_runs(
    sweep_yaml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    run = fake(monkeypatch)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not run.calls


def test_the_configuration_of_one_training_is_sent_to_the_other_command(
    sweep_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_yaml.write_text("data: {train: train.json}\n")
    assert main(["run", str(sweep_yaml)]) == 2
    assert "python -m qa_train train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(SweepError("Ray failed: x"), 2, "error: Ray failed: x\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_how_a_sweep_ended_early_is_one_line(
    sweep_yaml: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    line: str,
) -> None:
    fake(monkeypatch, error=error)
    assert main(["run", str(sweep_yaml)]) == status
    out, err = capsys.readouterr()
    assert (out, err.lstrip("\n")) == ("", line)  # after ^C the line ends first


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    assert "python -m sweeps run sweeps/configs/demo.yaml" in capsys.readouterr().out


def test_what_runs_nothing_needs_neither_ray_nor_torch(sweep_yaml: Path) -> None:
    code = (
        "import sys; from sweeps.cli import main; status = main(sys.argv[1:]); "
        "assert status == 0 and not {'ray', 'torch', 'optuna'} & {*sys.modules}"
    )
    command = [sys.executable, "-c", code, "run", str(sweep_yaml), "--print-config"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


@pytest.fixture
def ended_sweep(tmp_path: Path) -> Path:
    """A sweep of one finished model and one trial that failed."""
    directory = tmp_path / "ended"
    config = {"search": {"num_trials": 2}}
    write_manifest(directory, Manifest("s", "tiny", "", "now", config, "dev.f1", "max", "fp32", "cpu-core", 1, {}))
    rows = [{"trial_id": "00000", "status": "completed", "budget_epochs": 2, "dev.f1": 50.5}]
    rows += [{"trial_id": "00001", "status": "failed", "error.type": "QAError", "error.message": "loss is nan"}]
    (directory / RECORDS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "trials" / "00000" / "model").mkdir(parents=True)
    (directory / "trials" / "00000" / "model" / "config.json").write_text("{}")
    return directory


def test_the_status_is_for_people_or_for_machines(ended_sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(ended_sweep)]) == 0
    assert "trials: 2 of 2: 1 completed, 1 failed" in capsys.readouterr().out.splitlines()
    assert main(["status", str(ended_sweep), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"completed": 1, "failed": 1}


def test_an_exported_model_is_told_with_its_place(ended_sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = ended_sweep.parent / "new model"
    assert main(["export", str(ended_sweep), "--to", str(new)]) == 0
    assert capsys.readouterr() == (f"trial 00000: dev.f1 50.50\nWrote the model in {new}\n", "")
    assert main(["export", str(ended_sweep), "--to", str(new / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["directory"], found["trial_id"], found["retrained"]) == (str(new / "b"), "00000", False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["status", "none"], "none: expected a sweep directory, found nothing there"),
        (["export", "ended"], "Missing option '--to'"),
        (["export", "ended", "--to", "ended"], "ended: exists and is not empty; give another directory with --to"),
        (["export", "ended", "--to", "b", "--trial", "00001"], "trial 00001 has no finished model, it failed"),
        (["export", "ended", "--to", "b", "--trial", "7"], "there is no trial '7'; models were finished by 00000"),
    ],
)
def test_a_mistake_about_a_sweep_is_one_line(
    ended_sweep: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(ended_sweep.parent)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert named in err


@pytest.mark.parametrize("command", ["status", "export"])
def test_help_on_a_sweep_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"python -m sweeps {command} runs/first" in capsys.readouterr().out
