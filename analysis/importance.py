"""How much each hyperparameter mattered, by Optuna's PED-ANOVA."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.frontier import signed_score
from sweeps.records import Manifest

MIN_MODELS = 10
"""Below this number nothing is said: half of them would be "the best"."""
_NUM_BEST = 5


def importance_table(
    models: pd.DataFrame, columns: Iterable[str], manifests: Mapping[str, Manifest], metric: str, mode: str
) -> pd.DataFrame:
    """Tells how much each hyperparameter mattered for being among the best models.

    PED-ANOVA (Watanabe, Bansal and Hutter 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
    Arbitrary Subspaces") compares how the values of the best tenth, or of the best five models where that is more, are
    spread with how those of all models are. It sees each hyperparameter alone, and says nothing of the direction; with
    some tens of models it is a hint.

    Args:
        models: [num_models, …] or configurations.
        columns: Of the hyperparameters.
        manifests: By sweep id; they tell which were sampled on a log scale.
        metric: The column that ranks.
        mode: `max` or `min`.

    Returns:
        [num_hyperparameters, 2] with `hyperparameter` and `importance` (0 to 1, together 1), the largest first. Empty
        under 10 models with a score, or where all are equally good; hyperparameters that lack a value in some model, or
        have but one, are left out.
    """
    score = signed_score(models, metric, mode).dropna()
    scored = models.loc[score.index]
    used = [name for name in columns if scored[name].notna().all() and scored[name].nunique() > 1]
    are_told = len(score) >= MIN_MODELS and (score < score.nlargest(_NUM_BEST).min()).any()
    found = _ped_anova(scored[used], score, _log_scaled(manifests)) if used and are_told else {}
    rows = sorted(found.items(), key=lambda item: -item[1])
    return pd.DataFrame(rows, columns=["hyperparameter", "importance"])


def _log_scaled(manifests: Mapping[str, Manifest]) -> set[str]:
    """The columns that a sweep sampled on a log scale."""
    spaces = [manifest.config.get("space") or {} for manifest in manifests.values()]
    items = [(name, form) for space in spaces for name, form in space.items() if isinstance(form, dict)]
    return {f"config.{name}" for name, form in items if "loguniform" in form or form.get("log")}


def _ped_anova(values: pd.DataFrame, score: pd.Series, log_scaled: set[str]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in a notebook without widgets
        import optuna  # takes a second, which those who want no importance do not wait for
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
        from optuna.trial import create_trial

    distributions = {str(name): _distribution(values[name], name in log_scaled) for name in values}
    columns = {name: _plain(values[name]) for name in distributions}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(direction="maximize")
            for place, value in enumerate(score):
                params = {name: column[place] for name, column in columns.items()}
                study.add_trial(create_trial(params=params, distributions=distributions, value=float(value)))
            evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, _NUM_BEST / len(score)))
            found = get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name.removeprefix("config."): float(value) for name, value in found.items()}


def _distribution(column: pd.Series, is_log: bool) -> Any:
    """Optuna's form of the range that a hyperparameter's values were found in."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return CategoricalDistribution(sorted(set(_plain(column)), key=str))
    low, high = column.min(), column.max()
    if pd.api.types.is_integer_dtype(column):
        return IntDistribution(int(low), int(high), log=is_log and low > 0)
    return FloatDistribution(float(low), float(high), log=is_log and low > 0)


def _plain(column: pd.Series) -> list[Any]:
    """The values as Python's own types, which Optuna wants."""
    return list(column.astype(object).map(lambda value: value.item() if hasattr(value, "item") else value))
