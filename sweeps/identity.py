"""What makes two trials the same training: then one need not be run."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import qa_train
from qa_train.config import TrainConfig
from qa_train.storage import sha256_file

_WITHOUT_EFFECT = ("use_gpu", "launcher", "cpus_per_worker")
"""Keys of `train.scale` that decide where and how fast a trial runs; the number of workers decides its dropout."""
_FILES = ("train", "dev", "test", "extra_train")
"""Keys of `train.data` whose files are known by their hashes, wherever they lie."""


def surroundings(
    data: Mapping[str, Mapping[str, Any]],
    versions: Mapping[str, str],
    precision: str,
    device: str,
    models: Mapping[str, str],
) -> dict[str, Any]:
    """Returns what all trials of a sweep have in common and their configuration does not say.

    Args:
        data: Of the manifest; test sets do not take part in a training.
        versions: Library versions by name.
        precision: As it was resolved.
        device: Kind of device.
        models: See `hash_models`; in a trial's identity only its own takes part.
    """
    hashes = {name: entry["sha256"] for name, entry in data.items() if not name.startswith("test.")}
    return {
        "data": hashes,
        "sources": hash_sources(Path(qa_train.__file__).parent),
        "versions": {name: version for name, version in versions.items() if name not in ("spansweep", "optuna", "ray")},
        "precision": precision,
        "device": device,
        "models": dict(models),
    }


def identify(train: TrainConfig, common: Mapping[str, Any]) -> str:
    """Returns the identity of a trial: equal for two trials if and only if they train the same model.

    Args:
        train: Its resolved configuration, its seed included.
        common: Its `surroundings`.

    Returns:
        16 hexadecimal digits.
    """
    plain = train.model_dump(mode="json")
    for section, keys in (("scale", _WITHOUT_EFFECT), ("data", _FILES), ("augment", ("confusions",))):
        plain[section] = {key: value for key, value in plain[section].items() if key not in keys}
    del plain["precision"]
    model = common.get("models", {}).get(train.model.name)
    content = json.dumps(
        [plain, model, {key: value for key, value in common.items() if key != "models"}], sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@cache
def hash_sources(package: Path) -> str:
    """Returns the SHA-256 of a package's modules, their names included."""
    digest = hashlib.sha256()
    for path in sorted(package.glob("*.py")):
        digest.update(f"{path.name}:{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def hash_models(names: Iterable[str]) -> dict[str, str]:
    """Returns the SHA-256 of each pretrained model in a local directory; others are known by their names alone.

    Raises:
        DataError: If a model's file cannot be read.
    """
    return {name: _hash_directory(Path(name)) for name in names if Path(name).is_dir()}


def _hash_directory(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        digest.update(f"{path.name}:{sha256_file(path)}\n".encode())
    return digest.hexdigest()
