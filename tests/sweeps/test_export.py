import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from qa_train.config import TrainConfig, load_config, with_values
from qa_train.errors import DataError, SweepError
from qa_train.output import claim_output, train_into
from qa_train.storage import sha256_file, write_json
from sweeps.export import choose, config_of, export_model
from sweeps.records import RECORDS, Manifest, Row, read_manifest, read_records, write_manifest
from sweeps.retention import model_dir, remove_model

FILES = {"config.json": "{}", "model.safetensors": "weights", "training.json": "{}"}


def manifest(config: dict[str, Any] | None = None, **changes: Any) -> Manifest:
    whole = {"train": config} if config else {}
    return replace(Manifest("s", "s", "", "now", whole, "dev.f1", "max", "fp32", "cpu-core", 1, {}), **changes)


def row(trial_id: str, status: str = "completed", score: float | None = None, **changes: Any) -> Row:
    budget = 2 if status == "completed" else None
    scores: Row = {"dev.f1": score, "dev.exact_match": score and score / 2}
    return {"trial_id": trial_id, "status": status, "budget_epochs": budget, **scores, **changes}


ROWS = [
    *(row("00000", score=40.0), row("00001", score=60.0), row("00002", "running"), row("00003", "interrupted")),
    row("00004", "failed") | {"error.type": "QAError", "error.message": "loss is nan"},
]


def sweep(directory: Path, rows: list[Row], files: dict[str, str] = FILES) -> Path:
    directory.mkdir(exist_ok=True)
    write_manifest(directory, manifest())
    (directory / RECORDS).write_text("".join(json.dumps(item) + "\n" for item in rows))
    for item in rows:
        if item["budget_epochs"]:
            model = model_dir(directory, str(item["trial_id"]))
            model.mkdir(parents=True)
            for name, text in files.items():
                (model / name).write_text(f"{text} of {item['trial_id']}")
    return directory


def content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.mark.parametrize(("trial_id", "found"), [(None, "00001"), ("00000", "00000")])
def test_the_best_or_the_named_model_is_copied_whole(tmp_path: Path, trial_id: str | None, found: str) -> None:
    directory = sweep(tmp_path / "sweep", ROWS)
    result = export_model(directory, tmp_path / "new" / "model", trial_id)
    assert content(tmp_path / "new" / "model") == {name: f"{text} of {found}" for name, text in FILES.items()}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]
    assert content(model_dir(directory, found)) == content(tmp_path / "new" / "model")
    score = 60.0 if found == "00001" else 40.0
    assert (result.trial_id, result.retrained, result.directory) == (found, False, tmp_path / "new" / "model")
    assert result.scores == result.recorded == {"dev.f1": score, "dev.exact_match": score / 2}


def test_the_directory_must_be_new_or_empty(tmp_path: Path) -> None:
    directory = sweep(tmp_path / "sweep", ROWS)
    (tmp_path / "empty").mkdir()
    export_model(directory, tmp_path / "empty")
    before = content(tmp_path / "empty")
    with pytest.raises(DataError, match="empty: exists and is not empty; give another directory with --to"):
        export_model(directory, tmp_path / "empty", "00000")
    assert content(tmp_path / "empty") == before


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    directory = sweep(tmp_path / "sweep", ROWS)
    monkeypatch.setattr("sweeps.export.shutil.copytree", fail)
    with pytest.raises(SweepError, match=r"model cannot be copied to .*/model: \[Errno 28\] No space left on device"):
        export_model(directory, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


def test_a_model_that_is_removed_meanwhile_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(source: Path, target: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    directory = sweep(tmp_path / "sweep", ROWS)
    monkeypatch.setattr("sweeps.export.shutil.copytree", vanish)
    with pytest.raises(SweepError, match=r"cannot be copied to .*: No such file or directory"):
        export_model(directory, tmp_path / "model")


FINISHED = "models were finished by 00000, 00001"


@pytest.mark.parametrize(
    ("trial_id", "problem"),
    [
        ("00002", f"trial 00002 has no finished model, it runs or did not end; {FINISHED}"),
        ("00003", f"trial 00003 has no finished model, it was interrupted; {FINISHED}"),
        ("00004", f"trial 00004 has no finished model, it failed (QAError: loss is nan); {FINISHED}"),
        ("1", f"there is no trial '1'; {FINISHED}"),
        ("../..", f"there is no trial '../..'; {FINISHED}"),
    ],
)
def test_a_trial_without_a_model_is_one_line_with_those_that_have_one(
    tmp_path: Path, trial_id: str, problem: str
) -> None:
    directory = sweep(tmp_path / "sweep", ROWS)
    with pytest.raises(SweepError) as caught:
        export_model(directory, tmp_path / "model", trial_id)
    assert str(caught.value) == f"{directory}: {problem}"
    assert not (tmp_path / "model").exists()


def test_many_trials_are_not_all_named() -> None:
    rows = [row(f"{number:05d}") for number in range(40)]
    with pytest.raises(SweepError, match=r"by 00000, 00001, .* 00011, … \(40 in all\)$"):
        choose(Path("s"), manifest(), rows, "x")


@pytest.mark.parametrize(
    ("rows", "fates"),
    [([], "none was started"), (ROWS[3:], r"00003 was interrupted, 00004 failed \(QAError: loss is nan\)")],
)
def test_without_any_finished_model_what_became_of_the_trials_is_told(rows: list[Row], fates: str) -> None:
    with pytest.raises(SweepError, match=rf"s: no trial has finished a model \({fates}\)$"):
        choose(Path("s"), manifest(), rows, None)


def test_a_copy_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = (
        "import sys; from sweeps.cli import main; status = main(['export', sys.argv[1], '--to', sys.argv[2]]); "
        "assert status == 0 and not {'ray', 'torch', 'transformers'} & {*sys.modules}"
    )
    directory = sweep(tmp_path / "sweep", ROWS)
    command = [sys.executable, "-c", code, str(directory), str(tmp_path / "model")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"trial 00001: dev.f1 60.00, dev.exact_match 30.00\nWrote the model in {tmp_path / 'model'}\n"


@pytest.fixture(scope="module")
def trained(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one trial, which trained with other values than the sweep's configuration has."""
    directory = tmp_path_factory.mktemp("trained")
    config = load_config(TrainConfig, tiny_run / "run.yaml")
    searched = {"num_epochs": 1, "optim.learning_rate": 2e-3}
    model = model_dir(directory, "00000")
    summary = train_into(
        claim_output(model, with_values(config, {**searched, "seed": 3})), with_values(config, {**searched, "seed": 3})
    )
    files = {
        name: {"path": str(path := tiny_run / f"{name}.json"), "sha256": sha256_file(path)}
        for name in ("train", "dev", "test")
    }
    files["test.other"] = files.pop("test")
    plain = with_values(config, {"precision": "auto", "scale.launcher": "auto"}).model_dump(mode="json")
    write_manifest(directory, manifest(plain, data=files))
    scores = {f"dev.{name}": summary["scores"]["dev"][name] for name in ("f1", "exact_match")}
    columns = {
        "config.num_epochs": 1,
        "budget_epochs": 1,
        "config.optim.learning_rate": 2e-3,
        "seed": 3,
        "launcher": "local",
    }
    whole = row("00000") | scores | columns | {"cost.device_s": 1800.0}
    (directory / RECORDS).write_text(json.dumps(whole) + "\n")
    return directory


def test_a_model_that_was_not_kept_is_trained_again_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(trained, tmp_path / "sweep")
    before = load_file(model_dir(directory, "00000") / "model.safetensors")
    remove_model(model_dir(directory, "00000"))
    said = list[str]()
    result = export_model(directory, tmp_path / "model", say=said.append)
    assert said == [
        "trial 00000: its model was not kept; it is trained again from its record, 1 epochs, "
        "which took 0.50 device-hours in the sweep"
    ]
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    assert result.retrained
    assert result.scores == result.recorded
    assert not (tmp_path / "model" / "run.yaml").exists()
    assert not model_dir(directory, "00000").exists()


def test_what_is_trained_again_is_what_the_record_says(trained: Path) -> None:
    config = config_of(trained, read_manifest(trained), read_records(trained)[0])
    assert (config.num_epochs, config.optim.learning_rate, config.seed) == (1, 2e-3, 3)
    assert (config.precision, config.scale.launcher, config.optim.batch_size) == ("fp32", "local", 8)


def test_a_trial_that_left_its_configuration_is_trained_by_that(trained: Path, tmp_path: Path) -> None:
    """A sweep that was resumed on another machine has another precision and other workers there."""
    directory = shutil.copytree(trained, tmp_path / "sweep")
    before = config_of(directory, read_manifest(directory), read_records(directory)[0])
    write_json(directory / "trials" / "00000" / "config.json", {"train": before.model_dump()})
    whole = read_manifest(directory)
    scale = {**whole.config["train"]["scale"], "num_workers": 2}
    write_manifest(
        directory, replace(whole, precision="bf16", config={"train": whole.config["train"] | {"scale": scale}})
    )
    assert config_of(directory, read_manifest(directory), read_records(directory)[0]) == before
    write_json(directory / "trials" / "00000" / "config.json", [])
    with pytest.raises(
        SweepError, match=r"config\.json: expected the configuration of a training as train, found None"
    ):
        config_of(directory, whole, read_records(directory)[0])


def test_changed_data_train_no_other_model_under_the_same_name(trained: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(trained, tmp_path / "sweep")
    remove_model(model_dir(directory, "00000"))
    whole = read_manifest(directory)
    changed = shutil.copy(whole.data["train"]["path"], tmp_path / "train.json")
    Path(changed).write_text(Path(changed).read_text() + "\n")
    entry = whole.data["train"] | {"path": str(changed)}
    write_manifest(directory, replace(whole, data=whole.data | {"train": entry}))
    with pytest.raises(SweepError, match=r"train\.json: has changed since the sweep, so that its model cannot"):
        export_model(directory, tmp_path / "model")
    Path(changed).unlink()
    with pytest.raises(DataError, match=r"train\.json: no such file"):
        export_model(directory, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_training_that_cannot_start_leaves_nothing_behind(trained: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(trained, tmp_path / "sweep")
    remove_model(model_dir(directory, "00000"))
    whole = read_manifest(directory)
    train = whole.config["train"] | {"model": {**whole.config["train"]["model"], "name": str(tmp_path / "gone")}}
    write_manifest(directory, replace(whole, config={"train": train}))
    with pytest.raises(Exception, match="gone"):
        export_model(directory, tmp_path / "model", say=lambda line: None)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("config", [{}, {"train": None}, {"train": {}}])
def test_a_manifest_without_a_configuration_is_named(tmp_path: Path, config: dict[str, Any]) -> None:
    directory = sweep(tmp_path / "sweep", ROWS)
    write_manifest(directory, replace(manifest(), config=config))
    remove_model(model_dir(directory, "00001"))
    with pytest.raises(Exception, match=r"manifest\.json: "):
        export_model(directory, tmp_path / "model")
