from pathlib import Path
from typing import Any

import pytest

from analysis.configurations import configuration_table, members_of
from analysis.load import load_sweeps
from tests.analysis.fixtures import manifest, model, write_sweep


def table_of(directory: Path, rows: list[dict[str, Any]]) -> Any:
    sweeps = load_sweeps(write_sweep(directory, rows))
    return configuration_table(sweeps.models, sweeps.manifests)


def test_models_that_differ_by_their_seed_alone_are_one_configuration(tmp_path: Path) -> None:
    rows = [model(f"a{seed}", 70.0 + seed, 1.0 + seed, seed=seed, test__clean__f1=50.0 + seed) for seed in range(3)]
    table = table_of(tmp_path, [*rows, model("b", 80.0, 1.0, config__optim__learning_rate=1e-3)])
    assert table[["trial_id", "num_seeds", "seeds"]].to_numpy().tolist() == [["a0", 3, "0 1 2"], ["b", 1, "0"]]
    assert table["dev.f1"].tolist() == [71.0, 80.0]
    assert table["cost.device_s"].tolist() == [7200.0, 3600.0]
    assert table["test.clean.f1"].tolist()[0] == 51.0
    low, high = table["dev.f1.seeds_low"].tolist()[0], table["dev.f1.seeds_high"].tolist()[0]
    assert (low + high) / 2 == pytest.approx(71.0) and high - low == pytest.approx(2 * 4.302653 / 3**0.5, rel=1e-6)
    assert table["dev.f1.seeds_low"].isna().tolist() == [False, True]


def test_models_of_other_epochs_are_other_configurations(tmp_path: Path) -> None:
    rows = [model("a", 70.0, 1.0, report=epochs, budget_epochs=epochs) for epochs in (1, 2)]
    assert table_of(tmp_path, [*rows, model("b", 72.0, 1.0, seed=1)])["num_seeds"].tolist() == [1, 2]


def test_a_seed_that_was_trained_twice_stands_apart(tmp_path: Path) -> None:
    table = table_of(tmp_path, [model("a", 75.0, 1.0), model("b", 70.0, 1.0), model("c", 71.0, 1.0, seed=1)])
    assert table[["trial_id", "seeds", "dev.f1"]].to_numpy().tolist() == [["a", "0 1", 73.0], ["b", "0", 70.0]]


def test_a_model_of_the_search_gives_way_to_the_finalist_that_repeats_it(tmp_path: Path) -> None:
    finalists = [model(f"f{seed}", 70.0, 1.0, seed=seed, final=True) for seed in range(3)]
    others = [model("a", 75.0, 1.0), model("b", 60.0, 1.0, config__optim__learning_rate=1e-3)]
    table = table_of(tmp_path, [*others, *finalists])
    assert table[["trial_id", "seeds", "dev.f1"]].to_numpy().tolist() == [["b", "0", 60.0], ["f0", "0 1 2", 70.0]]


def test_a_model_of_the_search_gives_way_to_finalists_of_other_seeds_too(tmp_path: Path) -> None:
    finalists = [model(f"f{seed}", 70.0, 1.0, seed=seed, final=True) for seed in (1, 2, 3)]
    others = [model("a", 80.0, 1.0), model("b", 60.0, 1.0, config__optim__learning_rate=1e-3)]
    table = table_of(tmp_path, [*others, *finalists])
    assert table[["trial_id", "seeds", "dev.f1"]].to_numpy().tolist() == [["b", "0", 60.0], ["f1", "1 2 3", 70.0]]


@pytest.mark.parametrize("column", ["dev.f1", "eval_loss", "test.clean.f1"])
def test_a_mean_over_seeds_is_missing_where_a_seed_has_no_value(tmp_path: Path, column: str) -> None:
    values = {"dev.f1": 70.0, "eval_loss": 2.0, "test.clean.f1": 50.0, "cost.device_s": 3600.0}
    rows = [model("a", 70.0, 1.0) | values, model("b", 70.0, 1.0, seed=1) | values | {column: None}]
    table = table_of(tmp_path, rows)
    assert table["seeds"].tolist() == ["0 1"]
    assert {name for name in values if table[name].isna().any()} == {column}


def test_a_cost_that_one_seed_lacks_is_the_mean_of_the_others(tmp_path: Path) -> None:
    table = table_of(tmp_path, [model("a", 70.0, 1.0), model("b", 70.0, None, seed=1)])
    assert table["cost.device_s"].tolist() == [3600.0]


def test_the_members_are_those_of_the_table_s_labels(tmp_path: Path) -> None:
    rows = [model("a", 70.0, 1.0), model("b", 60.0, 1.0, config__x=1), model("c", 71.0, 1.0, seed=1)]
    sweeps = load_sweeps(write_sweep(tmp_path, rows))
    members = members_of(sweeps.models, sweeps.manifests)
    assert members == {0: [0, 2], 1: [1]}
    assert list(members) == list(configuration_table(sweeps.models, sweeps.manifests).index)


@pytest.mark.parametrize(("epochs", "expected"), [(3, 1), (4, 2)])
def test_sweeps_share_a_configuration_if_the_rest_of_it_is_the_same(tmp_path: Path, epochs: int, expected: int) -> None:
    config = manifest().config
    write_sweep(tmp_path / "1", [model("a", 70.0, 1.0)], "one")
    train = config["train"] | {"seed": 1, "scale": {"num_workers": 2}, "model": {"length": epochs - 3}}
    first = config["train"] | {"model": {"length": 0}}
    write_sweep(tmp_path / "1", [model("a", 70.0, 1.0)], "one", config=config | {"train": first})
    write_sweep(tmp_path / "2", [model("a", 70.0, 1.0, seed=1)], "two", config=config | {"train": train})
    sweeps = load_sweeps([tmp_path / "1", tmp_path / "2"])
    assert len(configuration_table(sweeps.models, sweeps.manifests)) == expected


def test_without_models_there_is_no_configuration(tmp_path: Path) -> None:
    table = table_of(tmp_path, [])
    assert len(table) == 0 and {"num_seeds", "seeds", "dev.f1.seeds_low"} <= {*table}
