"""What is sent to a cluster: this package, its pinned versions, the resolved configuration and the inputs it names."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_train.config import find_data_file, get_dotted, load_config, to_yaml, with_values
from qa_train.errors import ConfigError, DataError, QAError
from qa_train.storage import sha256_file, write_text
from sweeps.config import SweepConfig

ROOT = Path(__file__).parents[1]
"""Of the checkout, or of a bundle that was unpacked."""
SWEEP_YAML = "sweep.yaml"
JOB_JSON = "job.json"
INPUTS = "inputs"
MOST_BYTES = 400 * 2**20
"""Ray's job server takes half a gigabyte; larger inputs belong on storage that all nodes share."""

_PACKAGES = ("qa_train", "sweeps", "analysis", "cluster")
_FILES = ("pyproject.toml", "constraints.txt", "offline-model.txt")
_DATA_KEYS = ("train.data.train", "train.data.dev", "train.augment.confusions")
_DATA_SETS = ("train.data.test", "train.data.extra_train")
_MODEL = "train.model.name"


@dataclass(frozen=True)
class Bundle:
    """What will be sent.

    Attributes:
        config: Of the sweep, overrides applied; its paths are those on the cluster.
        files: Path on this machine of each file, by its name in the bundle.
        left_there: Paths in `config` that are expected on the cluster: absolute ones, and those not found here.
    """

    config: SweepConfig
    files: dict[str, Path]
    left_there: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Of all files together."""
        return sum(path.stat().st_size for path in self.files.values())


def make_bundle(path: str, overrides: Sequence[str], *, with_inputs: bool = True) -> Bundle:
    """Validates a sweep's configuration and decides what has to be sent with it.

    Data files and a model directory that are named by relative paths and found here, where `python -m sweeps run` would
    find them, are sent along. Absolute paths stay: they are expected on every node. So do names that lead nowhere here.

    Args:
        path: The configuration.
        overrides: `key=value`, as for `python -m sweeps run`.
        with_inputs: Whether inputs can be sent; without it they must be part of the package or absolute paths.

    Raises:
        ConfigError: With all mistakes of the configuration, or the inputs that cannot be sent.
        QAError: If this is no checkout, or the inputs are too large to be sent.
    """
    config = load_config(SweepConfig, path, overrides, find_files=False)
    beside = Path(os.path.expanduser(path)).absolute().parent
    inputs = _Inputs(beside)
    changed = {key: inputs.place(get_dotted(config, key), _found_data) for key in _DATA_KEYS}
    for key in _DATA_SETS:
        changed[key] = {name: inputs.place(item, _found_data) for name, item in get_dotted(config, key).items()}
    changed[_MODEL] = inputs.place(get_dotted(config, _MODEL), _found_model)
    if inputs.files and not with_inputs:
        text = "expected absolute paths on storage that all nodes mount, or files of the package; found"
        found = ", ".join(sorted({name.partition("/")[2].partition("/")[2] for name in inputs.files}))
        raise ConfigError([f"train: {text} {found} on this machine"], path)
    bundle = Bundle(with_values(config, changed, path), {**_package(), **inputs.files}, tuple(inputs.left_there))
    if bundle.num_bytes > MOST_BYTES:
        found = f"{sum(item.stat().st_size for item in inputs.files.values()) / 2**20:.0f} MiB of inputs"
        raise QAError(
            f"{path}: expected at most {MOST_BYTES // 2**20} MiB to send, found {found}; "
            "put them on storage that all nodes share and name them by absolute paths"
        )
    return bundle


class _Inputs:
    """Gives each input of a configuration the path that it has on the cluster."""

    def __init__(self, beside: Path) -> None:
        self._beside = beside
        self.files: dict[str, Path] = {}
        self.left_there: list[str] = []

    def place(self, name: Any, find: Callable[[str, Path], Path | None]) -> Any:
        """Returns the path on the cluster of an input, which is named as in the configuration; None stays None."""
        if name is None:
            return None
        is_absolute = Path(os.path.expanduser(name)).is_absolute()
        found = None if is_absolute else find(name, self._beside)
        if found is None:
            if is_absolute or find is not _found_model:  # else it is one of the Hub
                self.left_there.append(name)
            return name
        if any(found.is_relative_to(ROOT / package) for package in _PACKAGES):
            return found.relative_to(ROOT).as_posix()
        # Named by content: the same data have the same name in every bundle, whatever machine packs it.
        digest = sha256_file(found / "config.json" if found.is_dir() else found)[:12]
        placed = f"{INPUTS}/{digest}/{found.name}"
        if found.is_dir():
            self.files |= {f"{placed}/{item.relative_to(found).as_posix()}": item for item in _walk(found)}
        else:
            self.files[placed] = found
        return placed


def _found_data(name: str, beside: Path) -> Path | None:
    try:
        return Path(find_data_file(name, beside))
    except DataError:
        return None  # it may be there


def _found_model(name: str, beside: Path) -> Path | None:
    places = [Path(os.path.abspath(folder / name)) for folder in (Path.cwd(), beside)]
    return next((place for place in places if (place / "config.json").is_file()), None)


def _walk(directory: Path) -> Iterator[Path]:
    """Yields the files of a directory; hidden ones, such as `.env` or `.git/config`, may hold secrets and stay here."""
    for item in sorted(directory.rglob("*")):
        parts = item.relative_to(directory).parts
        if item.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            yield item


def _package() -> dict[str, Path]:
    missing = [name for name in _FILES[:2] if not (ROOT / name).is_file()]
    if missing:
        remedy = "run this command from a checkout of the project, not from an installed wheel"
        raise QAError(f"{ROOT}: expected {' and '.join(missing)}, found no such file; {remedy}")
    files = {name: ROOT / name for name in _FILES if (ROOT / name).is_file()}
    for package in _PACKAGES:
        files |= {item.relative_to(ROOT).as_posix(): item for item in _walk(ROOT / package)}
    return files


def write_bundle(bundle: Bundle, directory: Path) -> None:
    """Writes a bundle into a directory.

    Raises:
        DataError: If a file cannot be copied.
    """
    try:
        for name, path in bundle.files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, directory / name)
    except OSError as error:
        raise DataError(f"{directory}: cannot be written: {error}") from error
    write_text(directory / SWEEP_YAML, to_yaml(bundle.config))


def pack_bundle(bundle: Bundle, archive: Path, arguments: Sequence[str], job_id: str) -> None:
    """Writes a bundle into one file that Python runs: it unpacks itself and calls `python -m cluster`.

    Args:
        bundle: What to pack.
        archive: A new file, `….pyz`.
        arguments: Of the command that it calls.
        job_id: Names the directory in the user's home that it is unpacked to.

    Raises:
        DataError: If it cannot be written.
    """
    try:
        with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED) as packed:
            packed.write(ROOT / "cluster" / "unpack.py", "__main__.py")
            packed.writestr(JOB_JSON, json.dumps({"id": job_id, "arguments": list(arguments)}))
            packed.writestr(SWEEP_YAML, to_yaml(bundle.config))
            for name, path in bundle.files.items():
                packed.write(path, name)
    except OSError as error:
        raise DataError(f"{archive}: cannot be written: {error}") from error
