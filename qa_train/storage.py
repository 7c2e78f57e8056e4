"""Small files: JSON, text and bytes, written atomically; YAML with exact complaints; checksums; new directories."""

import hashlib
import json
import math
import os
import re
import secrets
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from qa_train.errors import DataError

Pathlike: TypeAlias = str | os.PathLike[str]


def write_json(path: Pathlike, obj: object) -> None:
    """Writes `obj` as JSON, atomically; numbers JSON does not know (NaN, infinity) become null.

    Raises:
        DataError: If the file cannot be written.
        TypeError: If `obj` holds something JSON has no form for.
    """
    write_text(path, json.dumps(_finite(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(obj: object) -> object:
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    if isinstance(obj, dict):
        return {key: _finite(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_finite(value) for value in obj]
    return obj


def write_text(path: Pathlike, text: str) -> None:
    """Writes `text` in UTF-8 as `write_bytes` does.

    Raises:
        DataError: If the file cannot be written; nothing is left behind.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Pathlike, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old one or the new one, never a part.

    Missing parent directories are created.

    Raises:
        DataError: If the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def read_text(path: Pathlike) -> str:
    """Reads a UTF-8 text file (a byte order mark is dropped).

    Raises:
        DataError: If there is no such file, it is a directory, cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8, found byte {error.start} to be none") from error
    except OSError as error:
        raise DataError(f"{path}: {_reason(error)}") from error


def read_bytes(path: Pathlike) -> bytes:
    """Reads a file whole.

    Raises:
        DataError: If there is no such file, it is a directory, or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "expected a file, found a directory"
    return f"cannot be read: {error.strerror}"


def read_json(path: Pathlike) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: As `read_text` does, or if it is not JSON; then line and column are named.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise DataError(f"{where}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{path}: not usable JSON: nested too deeply") from error


CACHE_DIR_VARIABLE = "SPANSWEEP_CACHE_DIR"


def cache_directory() -> Path:
    """Returns `$SPANSWEEP_CACHE_DIR`, else `$XDG_CACHE_HOME/spansweep`, else `~/.cache/spansweep` with its `~`."""
    if chosen := os.environ.get(CACHE_DIR_VARIABLE):
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache")) / "spansweep"  # a relative one is void by XDG's rules


def sha256_file(path: Pathlike) -> str:
    """Returns the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        DataError: If there is no such file, it is a directory, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {_reason(error)}") from error


def unused_dir(path: Pathlike, remedy: str = "give another directory") -> Path:
    """Creates a directory for results, or takes an empty one; never one that holds something.

    Args:
        path: The directory; `~` is expanded.
        remedy: What the user can do if it is in use, such as `or pass --overwrite`; ends the message.

    Returns:
        The directory as an absolute path.

    Raises:
        DataError: If it holds something, is a file, or cannot be created.
    """
    directory = Path(os.path.abspath(os.path.expanduser(path)))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        used = any(directory.iterdir())
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{directory}: expected a directory, found a file there; {remedy}") from error
    except OSError as error:
        raise DataError(f"{directory}: cannot be created: {error.strerror}") from error
    if used:
        raise DataError(f"{directory}: exists and is not empty; {remedy}")
    return directory


# PyYAML follows YAML 1.1, where 2e-6 is text (it has no point) and 2024-01-01 a date; in YAML 1.2 they are a
# number and text.
_FLOAT, _DATE = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
_EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$")
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
    + ([(_FLOAT, _EXPONENT)] if first in [*"-+.0123456789"] else [])
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[object, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in first_lines:
                    first = first_lines[key.value]
                    self.duplicates.append(f"line {line}: {key.value!r} is given twice, first in line {first}")
                first_lines.setdefault(key.value, line)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: object) -> bool:
        return True


def parse_yaml(text: str) -> tuple[object, list[str]]:
    """Reads one YAML document in which `2e-6` is a number.

    Returns:
        The value (None if the text is broken or empty), and one line for each mistake: what is broken and
        where, or each key given twice in one mapping.
    """
    loader = _Loader("")
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
        return value, loader.duplicates
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        hint = "; indent with spaces, not with tabs" if "\\t" in str(error.problem) else ""
        return None, [*loader.duplicates, f"{where}not valid YAML: {error.problem or error.context}{hint}"]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return None, [*loader.duplicates, f"not valid YAML: {' '.join(str(error).split())}"]


def dump_yaml(value: object, *, inline: bool = False) -> str:
    """Returns `value` as YAML that `parse_yaml` reads back; `inline` gives one line without a line end."""
    if not inline:
        return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None)
    # Only double quotes keep a text with line breaks on one line.
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=True,
        width=math.inf,
        default_style=style,
    )
    return text.removesuffix("...\n").rstrip("\n")
