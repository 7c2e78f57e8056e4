"""How the configurations of a sweep are sampled and compared, and how many of them there are."""

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from qa_train.config_schema import Config, CrossCheckError, shown
from sweeps.space import Choice, IntRange, Scalar, Space

SEEDS: dict[str, Any] = {"expected": "a list of different integers from 0 to 4294967295"}
_ENQUEUE: dict[str, Any] = {"expected": "a list of points, each with a value for every field of space"}
_REUSE: dict[str, Any] = {"expected": "a list of sweep directories"}

DEFAULT_NUM_TRIALS = 20

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Seeds = Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)]


class SearchConfig(Config):
    """How configurations are sampled and compared."""

    searcher: Literal["tpe", "random", "grid", "list"] = Field(
        default="tpe", description="how the space is sampled; list: the points of enqueue alone"
    )
    num_trials: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="configurations to sample; null: 20, or all points of a grid or list"
    )
    max_concurrent_trials: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = Field(
        default="auto", description="trials that run at once; auto: as many as fit"
    )
    metric: Literal["dev.f1", "dev.exact_match", "eval_loss"] = Field(
        default="dev.f1", description="what trials are ranked by"
    )
    mode: Literal["max", "min"] = Field(default="max", description="min goes with eval_loss, max with the rest")
    cost_metric: Literal["cost.device_s", "cost.tflop"] | None = Field(
        default=None, description="second objective, minimized; the searcher then looks for the whole trade-off"
    )
    curve: Literal["best", "hypervolume"] = Field(
        default="best", description="what a trial of several budgets counts as: its best model, or score over epochs"
    )
    seed: Seed = Field(default=0, description="of the sampling")
    enqueue: Annotated[tuple[dict[str, Scalar], ...], Field(strict=False)] = Field(
        default=(), description="tried first", json_schema_extra=_ENQUEUE
    )
    seeds: Seeds = Field(
        default=(0,),
        description="each configuration is trained with each; the searcher gets their mean",
        json_schema_extra=SEEDS,
    )
    reuse_from: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="other sweeps that may have trained the same before", json_schema_extra=_REUSE
    )

    @model_validator(mode="after")
    def _mode_fits_metric(self) -> Self:
        better = "min" if self.metric == "eval_loss" else "max"
        if self.mode != better:
            raise CrossCheckError({"mode": f"expected {better} for metric {self.metric}, found {self.mode}"})
        if self.curve == "hypervolume" and (self.mode == "min" or self.cost_metric):
            text = (
                "expected best with metric eval_loss or a cost_metric: a hypervolume is of a score and of cost already"
            )
            raise CrossCheckError({"curve": f"{text}; found hypervolume"})
        if problem := repeated(self.seeds):
            raise CrossCheckError({"seeds": problem})
        return self


def repeated(seeds: tuple[int, ...]) -> str | None:
    """Returns what is wrong with seeds that are not all different, else None."""
    different = "expected different seeds, for equal ones train the same model twice"
    return None if len({*seeds}) == len(seeds) else f"{different}; found {plain(seeds)}"


def plain(value: object) -> str:
    """Returns a value as a configuration file would have it."""
    return shown(list(value) if isinstance(value, tuple) else value)


def num_configurations(search: SearchConfig, space: Space) -> int:
    """Returns how many configurations a search samples."""
    if search.searcher not in ("grid", "list"):
        return search.num_trials or (DEFAULT_NUM_TRIALS if space.dimensions else 1)
    num_points = len(search.enqueue) if search.searcher == "list" else math.prod(map(len, grid_values(space).values()))
    return min(search.num_trials or num_points, num_points)


def grid_values(space: Space) -> dict[str, tuple[Scalar, ...]]:
    """Returns all values of each dimension; none of one that has no finite number of them."""
    values: dict[str, tuple[Scalar, ...]] = {}
    for key, dimension in space.dimensions.items():
        if isinstance(dimension, Choice):
            values[key] = dimension.values
        else:
            is_finite = isinstance(dimension, IntRange)
            values[key] = tuple(range(int(dimension.low), int(dimension.high) + 1)) if is_finite else ()
    return values


def grid_points(space: Space) -> Iterator[dict[str, Scalar]]:
    """Yields all combinations of `grid_values`, the last dimension varying fastest."""
    values = grid_values(space)
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def search_problems(search: SearchConfig, space: Space) -> dict[str, str]:
    """Returns what is wrong between the search and its space, by the key of the sweep."""
    problems = {}
    for number, point in enumerate(search.enqueue):
        if not space.contains(point):
            text = f"expected a value within space for each of {', '.join(space.dimensions)}, found {point}"
            problems[f"search.enqueue.{number}"] = text
    if search.searcher == "list" and not search.enqueue:
        problems["search.enqueue"] = "expected at least one point with searcher list, found none"
    if search.searcher == "grid":
        endless = [key for key, values in grid_values(space).items() if not values]
        problems |= {f"space.{key}": "expected {choice: [a, b]} or {int: [lo, hi]} in a grid" for key in endless}
        if endless:
            return problems
    num_trials = num_configurations(search, space)
    if search.num_trials and search.num_trials != num_trials:
        text = f"expected at most the {num_trials} points of the {search.searcher}, found {search.num_trials}"
        problems["search.num_trials"] = text
    elif not space.dimensions and num_trials > 1:
        text = f"expected 1 with an empty space (all trials would be alike), found {num_trials}"
        problems["search.num_trials"] = text
    elif len(search.enqueue) > num_trials:
        problems["search.num_trials"] = f"expected at least the {len(search.enqueue)} points of search.enqueue"
    return problems
