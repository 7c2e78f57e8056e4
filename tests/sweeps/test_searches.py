"""Sweeps on a real Ray whose searchers do more than sample: several seeds, finalists, answers from the records."""

from pathlib import Path
from typing import Any

import pytest

from sweeps.records import Row
from tests.sweeps.shared_ray import finish, ray_env

__all__ = ["ray_env"]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def ends(rows: list[Row]) -> dict[str, Row]:
    return {str(row["trial_id"]): row for row in rows if row["status"] == "completed"}


def test_a_grid_with_two_seeds_has_its_best_configuration_trained_again_and_tested(
    ray_env: dict[str, str], tmp_path: Path
) -> None:
    sections: dict[str, Any] = {
        "search": {"searcher": "grid", "seeds": [0, 1], "max_concurrent_trials": 2},
        "space": {"num_epochs": {"choice": [1, 3]}},
        "finalists": {"top": 1, "seeds": [1, 4]},
    }
    found = ends(finish(tmp_path / "sweep", sections, ray_env))
    searched = {"00000": (1, 0), "00000-seed1": (1, 1), "00001": (3, 0), "00001-seed1": (3, 1)}
    final = {"final-00001-seed1": (3, 1), "final-00001-seed4": (3, 4)}
    assert {name: (row["epochs_trained"], row["seed"]) for name, row in found.items()} == searched | final
    assert {name for name, row in found.items() if row.get("final")} == final.keys()
    assert {name for name, row in found.items() if row.get("test.clean.f1")} == final.keys()


def test_what_was_trained_before_is_answered_from_the_records_of_this_sweep_and_of_another(
    ray_env: dict[str, str], tmp_path: Path
) -> None:
    points = [{"num_epochs": epochs, "optim.learning_rate": 1e-4} for epochs in (2, 2, 1)]
    search = {"searcher": "list", "enqueue": points, "max_concurrent_trials": 2}
    first = ends(finish(tmp_path / "first", {"search": search}, ray_env))
    assert {name: row.get("reused_from") for name, row in first.items()} == {
        "00000": None,
        "00001": "first/00000",
        "00002": None,
    }
    assert first["00001"]["dev.f1"] == first["00000"]["dev.f1"]
    assert not (tmp_path / "first" / "trials" / "00001" / "epochs.txt").exists()
    search |= {"reuse_from": [str(tmp_path / "first")]}
    second = ends(finish(tmp_path / "second", {"search": search}, ray_env))
    assert [second[name]["reused_from"] for name in sorted(second)] == ["first/00000", "first/00000", "first/00002"]
    assert [second[name]["dev.f1"] for name in sorted(second)] == [first[name]["dev.f1"] for name in sorted(first)]


def test_poor_trials_are_stopped_at_a_rung_and_their_rows_never_rank(ray_env: dict[str, str], tmp_path: Path) -> None:
    rates = (2e-4, 9e-4, 1e-4, 8e-4)  # the fake score is best at 1e-4
    points = [{"num_epochs": 4, "optim.learning_rate": rate} for rate in rates]
    sections: dict[str, Any] = {
        "search": {"searcher": "list", "enqueue": points, "max_concurrent_trials": 1},
        "stop": {"trial_scheduler": "asha", "rungs": [0.5], "reduction_factor": 2},
    }
    rows = finish(tmp_path / "sweep", sections, ray_env)
    last = {str(row["trial_id"]): row for row in rows}
    assert {name: (row["status"], row["epochs_trained"]) for name, row in last.items()} == {
        "00000": ("completed", 4),
        "00001": ("stopped_early", 2),
        "00002": ("completed", 4),
        "00003": ("stopped_early", 2),
    }
    assert [row["trial_id"] for row in rows if row["budget_epochs"]] == ["00000", "00002"]
