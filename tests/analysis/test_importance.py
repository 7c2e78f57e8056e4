import warnings
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from analysis.importance import importance_table
from tests.analysis.fixtures import manifest

COLUMNS = ["config.optim.learning_rate", "config.num_epochs", "config.optim.schedule"]
MANIFESTS = {"demo-1": manifest()}


def models(count: int = 40, **changes: Any) -> pd.DataFrame:
    """Models whose score depends on the learning rate alone."""
    rng = np.random.default_rng(3)
    rate = 10 ** rng.uniform(-6, -4, count)
    values = {
        "config.optim.learning_rate": rate,
        "config.num_epochs": rng.integers(1, 11, count),
        "config.optim.schedule": rng.choice(["linear", "trunk"], count),
        "dev.f1": 70 - 10 * np.abs(np.log10(rate) + 4.5),
    }
    return pd.DataFrame({**values, **changes})


def test_what_the_score_depends_on_is_the_most_important_and_all_together_are_1() -> None:
    found = importance_table(models(), COLUMNS, MANIFESTS, "dev.f1", "max")
    assert found["hyperparameter"].tolist()[0] == "optim.learning_rate"
    assert found["importance"].iloc[0] > 0.8
    assert found["importance"].sum() == pytest.approx(1.0)


def test_it_is_what_optuna_says_of_a_study_with_these_trials() -> None:
    table = models().drop(columns="config.optim.schedule")
    rates, epochs = table["config.optim.learning_rate"], table["config.num_epochs"]

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("optim.learning_rate", float(rates.min()), float(rates.max()), log=True)
        trial.suggest_int("num_epochs", int(epochs.min()), int(epochs.max()))
        return float(table["dev.f1"][trial.number])

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for rate, number in zip(rates, epochs, strict=True):
        study.enqueue_trial({"optim.learning_rate": float(rate), "num_epochs": int(number)})
    study.optimize(objective, n_trials=len(table))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=5 / 40)
        expected = optuna.importance.get_param_importances(study, evaluator=evaluator)
    found = importance_table(table, COLUMNS[:2], MANIFESTS, "dev.f1", "max")
    assert dict(zip(found["hyperparameter"], found["importance"], strict=True)) == pytest.approx(expected)


def test_a_loss_is_the_same_with_its_sign_turned() -> None:
    table = models()
    as_loss = table.assign(eval_loss=-table["dev.f1"])
    found = importance_table(as_loss, COLUMNS, MANIFESTS, "eval_loss", "min")
    pd.testing.assert_frame_equal(found, importance_table(table, COLUMNS, MANIFESTS, "dev.f1", "max"))


@pytest.mark.parametrize(
    "table",
    [
        models(9),
        models(40)[:0],
        models(40).assign(**{"dev.f1": 70.0}),
        models(40).assign(**{"dev.f1": [np.nan] * 31 + [float(n) for n in range(9)]}),
        models(40).assign(**dict.fromkeys(COLUMNS, 1)),
        models(40).assign(**{name: [np.nan] + [1.0] * 39 for name in COLUMNS}),
    ],
    ids=["few", "none", "all equal", "few scores", "nothing varied", "values missing"],
)
def test_where_nothing_can_be_said_the_table_is_empty_and_nobody_is_warned(table: pd.DataFrame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert importance_table(table, COLUMNS, MANIFESTS, "dev.f1", "max").empty
