"""Reads a configuration from YAML with overrides, naming all mistakes at once; changes and prints it."""

import copy
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from qa_train.config_schema import (
    Config,
    ConfigT,
    expected,
    extra_of,
    fill_sections,
    locate,
    section_of,
    shown,
    unknown_key,
    validate,
)
from qa_train.errors import ConfigError, DataError
from qa_train.storage import dump_yaml, parse_yaml, read_text

DATA_DIR_VARIABLE = "SPOKEN_SQUAD_DIR"
DEFAULT_DATA_DIR = Path("~/data/spoken-squad")
"""Where `python -m qa_train download` puts the data; expand the `~` before use."""


def load_config(
    model_class: type[ConfigT],
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    find_files: bool = True,
) -> ConfigT:
    """Reads a YAML file, applies overrides and validates the result.

    Args:
        model_class: The kind of configuration expected.
        path: The YAML file; `2e-6` is a number in it.
        overrides: `key=value` with the dotted name of a key; the value is YAML, or taken as it stands where
            the key holds text. A section given as a mapping changes only the keys it names.
        find_files: Whether paths are looked up (`find_data_file`, `find_model`) and made absolute; without it
            they stay as given, for a configuration that will be used on another machine.

    Raises:
        ConfigError: With all mistakes at once, those of the file and those of the overrides.
    """
    path = Path(os.path.expanduser(path))
    tree, problems = _read_tree(path)
    if wrong_kind := model_class.misplaced(tree.keys()):
        raise ConfigError([wrong_kind], str(path))
    fill_sections(model_class, tree)
    problems += _apply_overrides(model_class, tree, overrides)
    if find_files:
        problems += _find_files(model_class, tree, path.absolute().parent)
    config, mistakes = validate(model_class, tree)
    if config is None or problems:
        raise ConfigError([*problems, *mistakes], str(path))
    return config


def build_config(model_class: type[ConfigT], values: Mapping[str, object], source: str) -> ConfigT:
    """Validates a configuration held in memory, such as one out of a manifest; paths stay as they are.

    Raises:
        ConfigError: With all mistakes at once; `source` opens its message.
    """
    config, mistakes = validate(model_class, copy.deepcopy(dict(values)))
    if config is None:
        raise ConfigError(mistakes, source)
    return config


def with_overrides(config: ConfigT, overrides: Sequence[str], source: str) -> ConfigT:
    """Returns a validated copy in which overrides, `key=value` as for `load_config`, have been applied.

    Raises:
        ConfigError: With all mistakes at once; `source` opens its message.
    """
    tree = config.model_dump(mode="json")
    problems = _apply_overrides(type(config), tree, overrides)
    changed, mistakes = validate(type(config), tree)
    if changed is None or problems:
        raise ConfigError([*problems, *mistakes], source)
    return changed


def with_values(config: ConfigT, values: Mapping[str, object], source: str = "values") -> ConfigT:
    """Returns a validated copy in which the keys with these dotted names have other values.

    Raises:
        ConfigError: If a key is unknown or a value does not fit: all mistakes at once, opened by `source`.
    """
    tree, problems = config.model_dump(), []
    for key, value in values.items():
        if located := locate(type(config), key):
            _assign(tree, located.path, value)
        else:
            problems.append(unknown_key(key, type(config)))
    changed, mistakes = validate(type(config), tree)
    if changed is None or problems:
        raise ConfigError([*problems, *mistakes], source)
    return changed


def get_dotted(config: Config, key: str) -> Any:
    """Returns the plain value at a dotted name such as `optim.learning_rate`; a section is a dict.

    Raises:
        ConfigError: If there is no such key.
    """
    located = locate(type(config), key)
    value: Any = config.model_dump()
    for name in located.path if located else (key,):
        if name not in value:
            raise ConfigError([unknown_key(key, type(config))], "configuration")
        value = value[name]
    return value


def flatten(config: Config) -> dict[str, str | int | float | bool | None]:
    """Returns every scalar of a configuration by its dotted name; lists are left out."""

    def walk(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{name}.")
            elif value is None or isinstance(value, str | int | float):
                yield prefix + name, value

    return dict(walk(config.model_dump(), ""))


def to_yaml(config: Config) -> str:
    """Returns the configuration as YAML that `load_config` reads back."""
    return dump_yaml(config.model_dump())


def describe_config(config: Config) -> str:
    """Returns YAML with every key, its value and, in a comment, its range; `load_config` reads it back."""
    return "\n".join(_describe(type(config), config.model_dump(), "")) + "\n"


def _describe(model_class: type[Config], values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, field in model_class.model_fields.items():
        value, section = values[name], section_of(field)
        about = field.description if section else f"{expected(field)}: {field.description}"
        comment = f"  # {about}" if about else ""
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:{comment}"
            if section:
                yield from _describe(section, value, indent + "  ")
            else:
                lines = ((dump_yaml(key, inline=True), dump_yaml(item, inline=True)) for key, item in value.items())
                yield from (f"{indent}  {key}: {item}" for key, item in lines)
        else:
            yield f"{indent}{name}: {dump_yaml(value, inline=True)}{comment}"


def _assign(tree: dict[str, Any], path: Sequence[str], value: object) -> None:
    """Sets a value; where a section on the way is not a mapping, that mistake is left to be reported."""
    *sections, last = path
    for name in sections:
        tree = tree[name]
        if not isinstance(tree, dict):
            return
    tree[last] = value


def _read_tree(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        tree, problems = parse_yaml(read_text(path))
    except DataError as error:
        raise ConfigError([str(error).removeprefix(f"{path}: ")], str(path)) from error
    if isinstance(tree, dict):
        return {str(key): value for key, value in tree.items()}, problems
    found = "an empty file" if tree is None else shown(tree)
    raise ConfigError(problems or [f"expected lines of `key: value`, found {found}"], str(path))


def _apply_overrides(model_class: type[Config], tree: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    problems: list[str] = []
    seen: set[str] = set()
    for override in overrides:
        key, sign, text = (part.strip() for part in override.partition("="))
        if not (sign and key):
            problems.append(f"override {override!r}: expected key=value")
            continue
        located = locate(model_class, key)
        if located is None:
            problems.append(unknown_key(key, model_class))
            continue
        if key in seen:
            problems.append(f"{key}: given twice among the overrides")
        seen.add(key)
        value, mistakes = parse_yaml(text) if _is_yaml(text, located.kind) else (text, [])
        problems += [f"override {override!r}: {mistake}" for mistake in mistakes]
        for path, item in [] if mistakes else _leaves(located.path, located.field, value):
            _assign(tree, path, item)
    return problems


def _is_yaml(text: str, kind: Any) -> bool:
    """Whether to parse an override; where text is wanted it is not, so that a path may hold any character."""
    kinds = set(_kinds(kind))
    is_null = text in ("null", "~") and types.NoneType in kinds
    return str not in kinds or is_null or text.startswith(("'", '"'))


def _kinds(kind: Any) -> Iterator[Any]:
    if get_origin(kind) is Annotated:
        yield from _kinds(get_args(kind)[0])
    elif get_origin(kind) in (Union, types.UnionType):
        for part in get_args(kind):
            yield from _kinds(part)
    else:
        yield kind


def _leaves(path: list[str], field: FieldInfo | None, value: object) -> Iterator[tuple[list[str], object]]:
    """Takes the mapping given for a section apart, so that it changes only the keys it names."""
    section = section_of(field) if field else None
    if section and isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves([*path, str(name)], section.model_fields.get(str(name)), item)
    else:
        yield path, value


def _find_files(model_class: type[Config], tree: dict[str, Any], beside: Path, prefix: str = "") -> list[str]:
    """Makes the paths in `tree` absolute, in place; returns the problems."""
    problems = []

    def found(find: Callable[[str, Path], str], key: str, value: object) -> object:
        if not (value and isinstance(value, str)):
            return value  # a mistake that validation reports, or null
        try:
            return find(value, beside)
        except DataError as error:
            problems.append(f"{prefix}{key}: {error}")
            return value

    for name, field in model_class.model_fields.items():
        section, value = section_of(field), tree.get(name, field.get_default())
        find = {"data": find_data_file, "model": find_model}.get(extra_of(field, "lookup"))
        if section and isinstance(value, dict):
            problems += _find_files(section, value, beside, f"{prefix}{name}.")
        elif find and isinstance(value, dict):
            tree[name] = {key: found(find, f"{name}.{key}", item) for key, item in value.items()}
        elif find and isinstance(value, str):
            tree[name] = found(find, name, value)
    return problems


def find_data_file(name: str, beside: Path) -> str:
    """Looks a data file up in the working directory, `beside`, `$SPOKEN_SQUAD_DIR` and `DEFAULT_DATA_DIR`.

    Returns:
        The absolute path of the first that exists.

    Raises:
        DataError: If none does; it names every place looked in.
    """
    shared = os.environ.get(DATA_DIR_VARIABLE)
    folders = [Path.cwd(), beside, *([Path(shared)] if shared else []), DEFAULT_DATA_DIR]
    # Joining an absolute path to a folder gives that path, so that only one place remains for it.
    places = dict.fromkeys(os.path.abspath(folder.expanduser() / os.path.expanduser(name)) for folder in folders)
    for place in places:
        if os.path.isfile(place):
            return place
    if directory := next(filter(os.path.isdir, places), None):
        raise DataError(f"expected a file, found the directory {directory}")
    raise DataError(f"no such file {name}; looked for {', '.join(places)}")


def find_model(name: str, beside: Path) -> str:
    """Returns the absolute path of a local model directory, or the name, taken as one of the Hub.

    Raises:
        DataError: If the name is plainly a path (starts with `/`, `./`, `../` or `~`) and leads nowhere.
    """
    places = [os.path.abspath(folder / os.path.expanduser(name)) for folder in (Path.cwd(), beside)]
    for place in places:
        if os.path.isdir(place):
            return place
    if name.startswith(("/", "./", "../", "~")):
        raise DataError(f"no such directory {name}; looked for {', '.join(dict.fromkeys(places))}")
    return name
