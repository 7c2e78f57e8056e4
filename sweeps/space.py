"""The search space: which fields of a training configuration a sweep varies, and over what values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeGuard

from qa_train.config import TrainConfig
from qa_train.config_schema import (
    CrossCheckError,
    field_problem,
    known_keys,
    mismatch,
    section_of,
    unknown_key,
)

Scalar: TypeAlias = str | int | float | bool | None

_NOT_SEARCHED = {
    "data": "all trials use the same questions, or their scores could not be compared",
    "scale": "how the work is spread does not change the recipe, so there is nothing to find",
    "precision": "it is resolved once for the whole sweep; set train.precision",
    "seed": "the best of several seeds would be chosen for its luck; set search.seeds",
}
_FORMS = "{int: [lo, hi]}, {uniform: [lo, hi]}, {loguniform: [lo, hi]} or {choice: [a, b]}"


@dataclass(frozen=True)
class _Range:
    """Numbers from `low` to `high`, both included; a ValueError if they are not finite or not in order."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (_is_number(self.low) and _is_number(self.high) and self.low <= self.high):
            raise ValueError(mismatch("finite numbers [lo, hi] with lo <= hi", [self.low, self.high]))

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        """The values at the ends: if they fit the field, all others do."""
        return self.low, self.high

    def contains(self, value: object) -> bool:
        """Returns whether the value can be sampled."""
        return _is_number(value) and self.low <= value <= self.high


@dataclass(frozen=True)
class UniformRange(_Range):
    """Real numbers from `low` to `high`, both included."""

    def to_plain(self) -> dict[str, object]:
        """Returns the form that a configuration file has."""
        return {"uniform": [self.low, self.high]}


@dataclass(frozen=True)
class LogUniformRange(_Range):
    """Real numbers from `low` > 0 to `high`, both included, sampled evenly on a log scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self)

    def to_plain(self) -> dict[str, object]:
        """Returns the form that a configuration file has."""
        return {"loguniform": [self.low, self.high]}


@dataclass(frozen=True)
class IntRange(_Range):
    """Integers from `low` to `high`, both included; `log` (then `low` > 0) samples evenly on a log scale."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.low, int) and isinstance(self.high, int)):
            raise ValueError(mismatch("integers [lo, hi]", [self.low, self.high]))
        if self.log:
            _check_positive(self)

    def contains(self, value: object) -> bool:
        """Returns whether the value can be sampled."""
        return isinstance(value, int) and super().contains(value)

    def to_plain(self) -> dict[str, object]:
        """Returns the form that a configuration file has."""
        return {"int": [self.low, self.high]} | ({"log": True} if self.log else {})


@dataclass(frozen=True)
class Choice:
    """One of several values, at least one and all different."""

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("expected at least one value in choice, found none")
        if len(set(map(_typed, self.values))) < len(self.values):
            raise ValueError(mismatch("different values in choice", list(self.values)))

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        """All values: that some fit the field says nothing of the others."""
        return self.values

    def contains(self, value: object) -> bool:
        """Returns whether the value can be sampled."""
        return _typed(value) in map(_typed, self.values)

    def to_plain(self) -> dict[str, object]:
        """Returns the form that a configuration file has."""
        return {"choice": list(self.values)}


Dimension: TypeAlias = IntRange | UniformRange | LogUniformRange | Choice


@dataclass(frozen=True)
class Space:
    """The dimensions of a sweep by the dotted name of the field of `TrainConfig` that each varies.

    It may be empty; then every trial trains the same configuration.
    """

    dimensions: Mapping[str, Dimension] = field(default_factory=dict)

    def contains(self, values: Mapping[str, object]) -> bool:
        """Returns whether `values` gives each dimension, and nothing else, a value that can be sampled."""
        return values.keys() == self.dimensions.keys() and all(
            dimension.contains(values[key]) for key, dimension in self.dimensions.items()
        )

    def to_plain(self) -> dict[str, dict[str, object]]:
        """Returns the form that a configuration file has; `parse_space` reads it back."""
        return {key: dimension.to_plain() for key, dimension in self.dimensions.items()}


def parse_space(plain: object) -> Space:
    """Reads a space in the form that a configuration file has; a `Space` is returned as it is.

    Raises:
        CrossCheckError: Naming every key that is unknown, cannot be searched, or has a dimension that is
            malformed or has an end or a choice that does not fit the field.
        ValueError: If it is not a mapping at all.
    """
    if isinstance(plain, Space):
        return plain
    if not isinstance(plain, Mapping):
        raise ValueError(mismatch(f"a mapping from fields of train to {_FORMS}", plain))
    dimensions, problems = {}, {}
    for key, form in plain.items():
        try:
            dimensions[str(key)] = _parse_entry(str(key), form)
        except ValueError as error:
            problems[str(key)] = str(error)
    if problems:
        raise CrossCheckError(problems)
    return Space(dimensions)


def _parse_entry(key: str, form: object) -> Dimension:
    fields = dict(known_keys(TrainConfig))
    if key not in fields and key.partition(".")[0] != "data":
        raise ValueError(unknown_key(key, TrainConfig).removeprefix(f"{key}: "))
    if reason := _NOT_SEARCHED.get(key.partition(".")[0]):
        raise ValueError(f"cannot be searched: {reason}")
    if section_of(fields[key]):
        raise ValueError(f"this is a section; name a field of it, such as {_first_below(key, fields)}")
    dimension = _parse_dimension(form)
    problems = [field_problem(TrainConfig, key, value) for value in dimension.extremes]
    if misfits := list(filter(None, problems)):
        raise ValueError("; ".join(misfits))
    if isinstance(dimension, UniformRange | LogUniformRange) and dimension.low < dimension.high:
        between = dimension.low + 0.37 * (dimension.high - dimension.low)
        if field_problem(TrainConfig, key, between):
            integers = f"{{int: [{dimension.low}, {dimension.high}]}}"
            raise ValueError(
                f"expected {integers}, for this field holds integers, found {next(iter(dimension.to_plain()))}"
            )
    return dimension


def _first_below(section: str, keys: Mapping[str, object]) -> str:
    return next(key for key in keys if key.startswith(f"{section}."))


def _parse_dimension(form: object) -> Dimension:
    match form:
        case {"int": [low, high], **rest} if not rest:
            return IntRange(low, high)
        case {"int": [low, high], "log": bool() as log, **rest} if not rest:
            return IntRange(low, high, log)
        case {"uniform": [low, high], **rest} if not rest:
            return UniformRange(low, high)
        case {"loguniform": [low, high], **rest} if not rest:
            return LogUniformRange(low, high)
        case {"choice": list() | tuple() as values, **rest} if not rest:
            if any(isinstance(value, list | dict) for value in values):
                raise ValueError(mismatch("single values in choice", list(values)))
            return Choice(tuple(values))
    raise ValueError(mismatch(_FORMS, form))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_positive(dimension: _Range) -> None:
    if dimension.low <= 0:
        raise ValueError(mismatch("lo > 0 for a log scale", [dimension.low, dimension.high]))


def _typed(value: object) -> tuple[type, object]:
    """Tells 1, 1.0 and True apart, which are equal in Python."""
    return type(value), value
