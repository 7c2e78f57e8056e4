from pathlib import Path

import pytest

from analysis.chart_tables import curve_table, failure_table, ledger_table, noise_table, word_error_rates
from analysis.load import load_sweeps
from qa_train.errors import DataError
from tests.analysis.fixtures import DEV, manifest, model, row, write_sweep


def test_the_rates_of_spoken_squads_own_test_sets_are_known_and_others_are_given() -> None:
    files = {"clean": "/x/spoken_test-v1.1.json", "v2": "spoken_test-v1.1_WER54.json", "mine": "mine.json"}
    data = {"dev": DEV, **{f"test.{name}": {"path": path} for name, path in files.items()}}
    manifests = {"demo-1": manifest(data=data)}
    assert word_error_rates(manifests) == {"clean": 22.7, "v2": 54.8}
    assert word_error_rates(manifests, {"mine": 30.0, "v2": 55.0}) == {"clean": 22.7, "v2": 55.0, "mine": 30.0}
    with pytest.raises(DataError, match="word error rate of mine: expected 0 or more percent, found nan"):
        word_error_rates(manifests, {"mine": float("nan")})


def test_a_model_goes_from_the_cleanest_set_to_the_noisiest_if_it_has_two(tmp_path: Path) -> None:
    rows = [
        model("a", 70.0, 1.0, test__clean__f1=69.0, test__loud__f1=40.0),
        model("b", 71.0, 1.0, test__clean__f1=66.0),
        model("c", 72.0, 1.0, test__loud__f1=50.0, test__clean__f1=68.0),
    ]
    models = load_sweeps(write_sweep(tmp_path, rows)).models
    found = noise_table(models, {"loud": 50.0, "clean": 20.0, "absent": 1.0})
    assert found[["trial_id", "data_set", "word_error_rate", "f1"]].to_numpy().tolist() == [
        ["a", "clean", 20.0, 69.0],
        ["a", "loud", 50.0, 40.0],
        ["c", "clean", 20.0, 68.0],
        ["c", "loud", 50.0, 50.0],
    ]
    assert len(noise_table(models, {"dev": 10.0, "clean": 20.0})) == 6
    assert noise_table(models, {}).empty


def test_the_parts_of_a_trial_are_device_hours_and_copies_cost_nothing(tmp_path: Path) -> None:
    rows = [
        row("a", cost__training_s=1800.0, cost__evaluating_s=900.0, cost__unexplained_s=-1.0, cost__device_s=5400.0),
        row("b", cost__device_s=3600.0),
        row("c", cost__training_s=1800.0, cost__device_s=3600.0, reused_from="x/0"),
        row("d", cost__device_s=None),
    ]
    found = ledger_table(load_sweeps(write_sweep(tmp_path, rows, devices_per_trial=2)))
    assert list(found.columns) == ["sweep", "trial_id", "status", "training", "evaluating", "not split up"]
    assert found.drop(columns=["sweep", "status"]).to_numpy().tolist() == [["a", 1.0, 0.5, 0.0], ["b", 0.0, 0.0, 1.0]]


def test_a_curve_has_each_epoch_once_as_it_was_told_last(tmp_path: Path) -> None:
    rows = [
        row("a", report=0, epochs_trained=1.0, budget_epochs=None, dev__f1=50.0),
        row("a", attempt=1, report=0, epochs_trained=1.0, budget_epochs=None, dev__f1=51.0),
        row("a", attempt=1, report=1, epochs_trained=2.0, dev__f1=60.0),
        row("b", epochs_trained=None, dev__f1=None, budget_epochs=None),
    ]
    found = curve_table(load_sweeps(write_sweep(tmp_path, rows)))
    columns = ["trial_id", "epochs_trained", "dev.f1", "is_finished"]
    assert found[columns].to_numpy().tolist() == [["a", 1.0, 51.0, False], ["a", 2.0, 60.0, True]]


def test_failures_keep_their_configuration_and_whole_message(tmp_path: Path) -> None:
    failed = row("a", status="failed", budget_epochs=None, error__type="E", error__message="x" * 500)
    found = failure_table(load_sweeps(write_sweep(tmp_path, [failed, row("b")])))
    assert found["trial_id"].tolist() == ["a"]
    assert found["error.message"].tolist() == ["x" * 500]
    assert found["config.num_epochs"].tolist() == [2]
    assert failure_table(load_sweeps(write_sweep(tmp_path / "new", []))).empty
