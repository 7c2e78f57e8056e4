"""What may change when a sweep is gone on with: how it searches and when it stops, not what its trials train."""

from collections.abc import Mapping
from typing import Any

from qa_train.config import flatten
from qa_train.errors import ConfigError, DataError
from sweeps.config import SweepConfig
from sweeps.records import Manifest

_FREE = ("scale",)
"""Sections of `train` that do not change the recipe."""


def refuse_changes(before: SweepConfig, after: SweepConfig) -> None:
    """Checks that trials to come can be compared with those that ended.

    Raises:
        ConfigError: If what all trials train has changed; each key is named with both values. Or if there would be
            fewer trials than before.
    """
    old, new = flatten(before.train), flatten(after.train)
    problems = [
        f"train.{key}: expected {old.get(key)!r}, as the sweep has had it so far, found {new.get(key)!r}; "
        "start another sweep for that"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and key.partition(".")[0] not in _FREE and not _is_moved(key, old, new)
    ]
    if after.num_trials < before.num_trials and after.search.searcher not in ("grid", "list"):
        least = f"at least the {before.num_trials} of the sweep so far"
        problems.append(f"search.num_trials: expected {least}, found {after.num_trials}")
    if problems:
        raise ConfigError(problems, "resume")


def _is_moved(key: str, old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    """Returns whether only the place of a data file has changed; `refuse_other_data` looks at what is in it."""
    return key.startswith("data.") and isinstance(old.get(key), str) and isinstance(new.get(key), str)


def refuse_other_device(before: Manifest, device: str) -> None:
    """Checks that trials run on the kind of device of those so far: else their costs cannot be compared.

    Raises:
        ConfigError: If they do not; both kinds are named.
    """
    if device != before.device:
        problem = f"device: expected {before.device!r}, as the sweep has had it so far, found {device!r}"
        raise ConfigError([f"{problem}; go on where there is the former, or start another sweep"], "resume")


def refuse_other_data(before: Manifest, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that the data files are those of the sweep so far, by their SHA-256.

    Raises:
        DataError: If one is not.
    """
    for name, found in data.items():
        expected = before.data.get(name, {})
        if expected.get("sha256") != found["sha256"]:
            raise DataError(
                f"{found['path']}: expected the {name} data of the sweep so far (SHA-256 "
                f"{str(expected.get('sha256'))[:16]}…), found others ({found['sha256'][:16]}…); put the file back, or "
                "start another sweep"
            )


def refuse_other_models(before: Manifest, models: Mapping[str, str]) -> None:
    """Checks that pretrained models in local directories are those of the sweep so far.

    Args:
        before: The manifest so far; one of an older version names no models, and nothing is compared.
        models: SHA-256 by name, see `identity.hash_models`.

    Raises:
        DataError: If one is not.
    """
    for name, found in models.items():
        expected = before.models.get(name, found)
        if expected != found:
            raise DataError(
                f"{name}: expected the model of the sweep so far (SHA-256 {expected[:16]}…), found another "
                f"({found[:16]}…); put its files back, or start another sweep"
            )
