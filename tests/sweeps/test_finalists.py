from typing import Any

from qa_train.config import TrainConfig, build_config, with_values
from sweeps.config import SweepConfig
from sweeps.finalists import choose_finalists, finalists_left
from sweeps.records import Row


def config(top: int = 2, **search: Any) -> SweepConfig:
    plain = {
        "train": {"data": {"train": "x"}},
        "space": {"num_epochs": {"int": [1, 9]}},
        "search": search,
        "finalists": {"top": top, "seeds": [0, 5]},
    }
    return build_config(SweepConfig, plain, "test")


def row(trial_id: str, f1: float | None, epochs: int | None = None, status: str = "completed") -> Row:
    number = int(trial_id.removeprefix("final-")[:5])
    return {
        "trial_id": trial_id,
        "status": status,
        "budget_epochs": 1 if status == "completed" else None,
        "dev.f1": f1,
        "eval_loss": f1,
        "config.num_epochs": number + 1 if epochs is None else epochs,
    }


ROWS = [row("00000", 30.0), row("00001", 50.0), row("00002", 40.0), row("00003", 20.0)]


def test_the_best_configurations_are_finalists() -> None:
    assert choose_finalists(config(), ROWS) == [1, 2]
    assert choose_finalists(config(9), ROWS) == [1, 2, 0, 3]
    assert choose_finalists(config(metric="eval_loss", mode="min"), ROWS) == [3, 0]
    assert choose_finalists(config(), []) == []


def test_what_counts_is_the_mean_over_the_seeds() -> None:
    rows = [
        *ROWS,
        row("00001-seed1", 10.0),
        row("00002-seed1", 41.0),
        row("00000-seed1", 31.0),
        row("00003-seed1", 1.0),
    ]
    assert choose_finalists(config(), rows) == [2, 0]


def test_a_configuration_that_failed_or_was_stopped_or_has_no_score_is_none() -> None:
    rows = [*ROWS, row("00001-seed1", None, status="failed"), row("00004", 90.0, status="stopped_early")]
    rows += [row("00005", None), row("00006", 90.0, status="running"), row("final-00003-seed5", 99.0)]
    assert choose_finalists(config(), rows) == [2, 0]


def test_of_a_trial_with_several_budgets_the_best_counts() -> None:
    smaller = row("00003", 60.0, status="running") | {"budget_epochs": 1}
    assert choose_finalists(config(1), [smaller, *ROWS]) == [3]


def test_of_equal_configurations_the_first_is_chosen() -> None:
    assert choose_finalists(config(), [*ROWS, row("00004", 50.0, epochs=2)]) == [1, 2]


def test_each_finalist_is_trained_with_each_seed_and_those_that_ended_are_not_again() -> None:
    left = finalists_left(config(), ROWS)
    assert [str(item.name) for item in left] == [
        "final-00001-seed0",
        "final-00001-seed5",
        "final-00002-seed0",
        "final-00002-seed5",
    ]
    assert [(item.values, item.seed) for item in left[:2]] == [({"num_epochs": 2}, 0), ({"num_epochs": 2}, 5)]
    rows = [*ROWS, row("final-00001-seed0", 51.0), row("final-00002-seed0", 1.0, status="failed")]
    assert [str(item.name) for item in finalists_left(config(), rows)] == ["final-00001-seed5", "final-00002-seed5"]


def test_interrupted_finalists_come_first_even_if_others_are_better_by_now() -> None:
    rows = [
        *ROWS,
        row("final-00003-seed5", 20.0, status="interrupted"),
        row("final-00002-seed0", 20.0, status="running"),
    ]
    left = finalists_left(config(), rows)
    names = [str(item.name) for item in left]
    assert names == [
        "final-00003-seed5",
        "final-00002-seed0",
        "final-00001-seed0",
        "final-00001-seed5",
        "final-00002-seed5",
    ]
    assert [item.has_begun for item in left] == [True, True, False, False, False]
    assert left[0].values == {"num_epochs": 4}


RATE = {"optim.learning_rate": {"loguniform": [1e-6, 1e-3]}}
WARMUP = {"optim.warmup_ratio": {"uniform": [0.0, 0.2]}}


def of_space(space: dict[str, Any], top: int = 2) -> SweepConfig:
    """A sweep of 3 epochs over this space, maybe not the one that its trials were sampled from."""
    plain = {"train": {"data": {"train": "x"}}, "space": space, "finalists": {"top": top, "seeds": [0]}}
    return build_config(SweepConfig, plain, "test")


def sampled(trial_id: str, f1: float, **values: float) -> Row:
    return row(trial_id, f1, epochs=3) | {f"config.optim.{key}": value for key, value in values.items()}


def recipes(config: SweepConfig, rows: list[Row]) -> list[TrainConfig]:
    return [with_values(config.train, item.values) for item in finalists_left(config, rows)]


def test_a_finalist_trains_what_its_trial_did_before_a_dimension_was_added() -> None:
    config = of_space(RATE | WARMUP)
    rows = [sampled("00000", 60.0, learning_rate=1e-4), sampled("00001", 50.0, learning_rate=2e-4, warmup_ratio=0.1)]
    assert [(found.optim.learning_rate, found.optim.warmup_ratio) for found in recipes(config, rows)] == [
        (1e-4, config.train.optim.warmup_ratio),
        (2e-4, 0.1),
    ]
    interrupted = sampled("final-00000-seed0", 1.0, learning_rate=1e-4) | {"status": "interrupted"}
    [first, _] = finalists_left(config, [*rows, interrupted])
    assert (str(first.name), with_values(config.train, first.values).optim.learning_rate) == ("final-00000-seed0", 1e-4)


def test_a_finalist_trains_what_its_trial_did_before_a_dimension_was_removed() -> None:
    rows = [
        sampled("00000", 60.0, learning_rate=1e-4, warmup_ratio=0.1),
        sampled("00001", 50.0, learning_rate=1e-5, warmup_ratio=0.1),  # another one, though alike in this space
    ]
    found = recipes(of_space(WARMUP), rows)
    assert [recipe.optim.learning_rate for recipe in found] == [1e-4, 1e-5]
    assert [recipe.num_epochs for recipe in recipes(of_space(RATE), [row("00000", 1.0, epochs=7)])] == [7]


def test_a_trial_that_was_given_the_value_that_another_had_by_default_is_equal_to_it() -> None:
    config = of_space(RATE | WARMUP)
    default = config.train.optim.warmup_ratio
    rows = [
        sampled("00000", 60.0, learning_rate=1e-4),
        sampled("00001", 60.0, learning_rate=1e-4, warmup_ratio=default),
        sampled("00002", 50.0, learning_rate=1e-4, warmup_ratio=0.1),
    ]
    assert choose_finalists(config, rows) == [0, 2]
