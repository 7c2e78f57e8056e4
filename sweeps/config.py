"""The configuration of a sweep: what it trains, which space it searches, how, and when it stops."""

import itertools
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer, model_validator

from qa_train.config import TrainConfig, with_values
from qa_train.config_schema import Config, CrossCheckError, shown
from qa_train.errors import ConfigError
from sweeps.pricing import FORM, Prices, parse_prices
from sweeps.search_config import SEEDS, SearchConfig, Seeds, num_configurations, plain, repeated, search_problems
from sweeps.space import Choice, Scalar, Space, parse_space

__all__ = ["FinalistsConfig", "KeepConfig", "SearchConfig", "StopConfig", "SweepConfig"]

# As in a file: a field whose default is a mapping takes overrides such as `space.num_epochs={int: [1, 3]}`.
DEFAULT_SPACE: Any = {
    "num_epochs": {"int": [1, 10]},
    "optim.learning_rate": {"loguniform": [1e-6, 1e-4]},
    "optim.warmup_ratio": {"uniform": [0.0, 0.2]},
}
NO_PRICES: Any = {}
_NAME: dict[str, Any] = {"expected": "letters, digits and . _ - (not first)"}
_SPACE: dict[str, Any] = {
    "expected": "fields of train, each with {int|uniform|loguniform: [lo, hi]} or {choice: [a, b]}"
}
_RUNGS: dict[str, Any] = {"expected": "a list of ascending fractions, each > 0 and < 1"}
_PRICES: dict[str, Any] = {"expected": f"a mapping from kinds of device to {FORM}"}

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
SpaceField = Annotated[InstanceOf[Space], BeforeValidator(parse_space), PlainSerializer(Space.to_plain)]
PricesField = Annotated[InstanceOf[Prices], BeforeValidator(parse_prices), PlainSerializer(Prices.to_plain)]


_NOT_WITH_TRUNK = {
    "num_epochs": "whose epochs are train.budgets",
    "optim.warmup_ratio": "which warms up for optim.warmup_epochs",
    "optim.schedule": "which is a schedule already",
}


class StopConfig(Config):
    """What ends a trial or the whole sweep early."""

    trial_scheduler: Literal["none", "asha", "median"] = Field(
        default="none", description="what stops poor trials, compared at rungs with trials of as many epochs"
    )
    rungs: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] = Field(
        default=(0.25, 0.5), description="of a trial's epochs; better after the warm-up", json_schema_extra=_RUNGS
    )
    reduction_factor: int = Field(default=3, ge=2, le=100, description="asha: the best 1 of so many at a rung go on")
    min_trials: int = Field(default=3, ge=1, le=10_000, description="median: others at a rung before one is stopped")
    max_usd: Positive | None = Field(default=None, description="cost of all trials together; needs prices")
    max_failures: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=2, description="how often a trial is started again after a failure, from its checkpoint"
    )
    max_device_hours: Positive | None = Field(default=None, description="device time of all trials together, in hours")
    max_wall_s: Positive | None = Field(default=None, description="time since the sweep started, in seconds")

    @model_validator(mode="after")
    def _keys_fit_trial_scheduler(self) -> Self:
        used_by = {"rungs": ("asha", "median"), "reduction_factor": ("asha",), "min_trials": ("median",)}
        problems = {}
        for key in (key for key, schedulers in used_by.items() if self.trial_scheduler not in schedulers):
            # A printed configuration holds every key, so that a default is no sign of a user's wish.
            default, found = StopConfig.model_fields[key].default, getattr(self, key)
            if found != default:
                unused = f"the default, with trial_scheduler {self.trial_scheduler}, which does not use it"
                problems[key] = f"expected {plain(default)}, {unused}; found {plain(found)}"
        if list(self.rungs) != sorted({*self.rungs}):
            problems["rungs"] = f"expected each rung above the one before, found {plain(self.rungs)}"
        if problems:
            raise CrossCheckError(problems)
        return self


class KeepConfig(Config):
    """What is kept of ended trials; records, scores and predictions always are."""

    models: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=3, description="best models of the sweep; null: all; `sweeps export` trains others again"
    )


class FinalistsConfig(Config):
    """What is trained again after the search, with several seeds, and scored on the test sets."""

    top: Annotated[int, Field(ge=0, le=1000)] = Field(default=0, description="so many best configurations; 0: none")
    seeds: Seeds = Field(default=(0, 1, 2), description="train.seed of their trials", json_schema_extra=SEEDS)

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if problem := repeated(self.seeds):
            raise CrossCheckError({"seeds": problem})
        return self


class SweepConfig(Config):
    """What `python -m sweeps run` runs."""

    name: str = Field(
        default="sweep",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="begins the name of the directory",
        json_schema_extra=_NAME,
    )
    note: str = Field(default="", description="kept in the manifest")
    train: TrainConfig = Field(description="what is trained; the whole configuration of qa_train")
    space: SpaceField = Field(
        default=DEFAULT_SPACE,
        description="replaces train's values",
        json_schema_extra=_SPACE,
    )
    search: SearchConfig = Field(default=SearchConfig(), description="how configurations are sampled and compared")
    stop: StopConfig = Field(default=StopConfig(), description="what ends trials or the sweep early")
    finalists: FinalistsConfig = Field(
        default=FinalistsConfig(), description="the best, trained with several seeds after the search"
    )
    evaluate_tests: Literal["finalists", "all"] = Field(
        default="finalists", description="whose models are scored on train.data.test; they never select"
    )
    keep: KeepConfig = Field(default=KeepConfig(), description="what is kept of ended trials")
    prices: PricesField = Field(default=NO_PRICES, description="dollars per device-hour", json_schema_extra=_PRICES)

    @classmethod
    def misplaced(cls, keys: Collection[str]) -> str | None:
        """Recognises the configuration of one training run."""
        if "train" in keys or not TrainConfig.model_fields.keys() & {*keys}:
            return None
        return (
            "this is the configuration of one training run (it has no key train); give it to "
            "`python -m qa_train train`, or move all of it under the key train"
        )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        problems = self._trunk_problems() or {f"space.{key}": text for key, text in _misfits(self.train, self.space)}
        problems |= search_problems(self.search, self.space)
        if self.stop.max_usd is not None and not self.prices.by_device:
            text = "expected null without prices; add prices.<kind of device>, or use max_device_hours"
            problems["stop.max_usd"] = f"{text}, found {shown(self.stop.max_usd)}"
        if self.stop.trial_scheduler != "none" and "optim.schedule" in self.space.dimensions:
            text = "expected none where space has optim.schedule: before their ends such trials cannot be compared"
            problems["stop.trial_scheduler"] = f"{text}, found {self.stop.trial_scheduler}"
        if self.stop.trial_scheduler != "none" and self.search.cost_metric:
            text = "expected none with search.cost_metric: a cheap trial is no worse than a good one"
            problems["stop.trial_scheduler"] = f"{text}, found {self.stop.trial_scheduler}"
        if self.train.seed not in self.search.seeds:
            text = f"expected one of search.seeds, {', '.join(map(str, self.search.seeds))}, found {self.train.seed}"
            problems["train.seed"] = f"{text}; set both alike"
        if problems:
            raise CrossCheckError(problems)
        return self

    def _trunk_problems(self) -> dict[str, str]:
        """Returns what does not go with trials of several budgets, or without them, by key."""
        if not self.budgets:
            if self.search.curve == "best":
                return {}
            return {"search.curve": "expected best without train.optim.schedule trunk: a trial has one model, no curve"}
        remedy = "give space fields such as optim.learning_rate and optim.warmup_epochs"
        problems = {
            f"space.{key}": f"expected none with train.optim.schedule trunk, {reason}; {remedy}"
            for key, reason in _NOT_WITH_TRUNK.items()
            if key in self.space.dimensions
        }
        if self.stop.rungs != StopConfig.model_fields["rungs"].default:
            text = "expected the default with train.optim.schedule trunk, whose budgets are the rungs"
            problems["stop.rungs"] = f"{text}; found {plain(self.stop.rungs)}"
        return problems

    @property
    def budgets(self) -> tuple[int, ...]:
        """After which epochs each trial has a finished model, if it has several; else empty."""
        return self.train.finished_epochs if self.train.optim.schedule == "trunk" else ()

    @property
    def num_trials(self) -> int:
        """How many configurations are sampled."""
        return num_configurations(self.search, self.space)

    @property
    def num_trainings(self) -> int:
        """How many models are trained at most: one for each configuration and seed, finalists too."""
        num_finalists = min(self.finalists.top, self.num_trials) * len(self.finalists.seeds)
        return self.num_trials * len(self.search.seeds) + num_finalists


def _misfits(train: TrainConfig, space: Space) -> Iterator[tuple[str, str]]:
    """Yields searched keys whose values, good alone, do not go together within a section or with `train`.

    The rules between keys are linear, so that the corners of the space stand for all of it.
    """
    sections = itertools.groupby(sorted(space.dimensions), key=lambda key: key.partition(".")[0])
    for _, keys in ((name, list(group)) for name, group in sections):
        for corner in itertools.product(*(_corner_values(space, key) for key in keys)):
            values = dict(zip(keys, corner, strict=True))
            try:
                with_values(train, values)
            except ConfigError as error:
                shown = ", ".join(f"{key} = {value}" for key, value in values.items())
                yield keys[0], f"with {shown}: {'; '.join(error.problems)}"
                break


def _corner_values(space: Space, key: str) -> tuple[Scalar, ...]:
    dimension = space.dimensions[key]
    if isinstance(dimension, Choice):
        numbers = [value for value in dimension.values if isinstance(value, int | float)]
        return (min(numbers), max(numbers)) if numbers else dimension.values[:1]
    return dimension.extremes
