"""What the keys of a configuration are called and may hold, and what is said of a value that does not fit.

Nothing here knows a particular key; pydantic models elsewhere declare them. A field may carry, in its
`json_schema_extra`, `expected` (words for its type and range, where the derived ones are poor) and `lookup`
(`data` or `model`: its value is a path, which `load_config` looks up).
"""

import copy
import difflib
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from qa_train.errors import ConfigError
from qa_train.storage import dump_yaml, parse_yaml


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    @classmethod
    def misplaced(cls, keys: Collection[str]) -> str | None:
        """Says, by a file's top-level keys, that it is a configuration of another kind; None if it is not."""
        return None


ConfigT = TypeVar("ConfigT", bound=Config)


class CrossCheckError(ValueError):
    """Raised in a model's validator for values that are good alone but not together.

    Attributes:
        problems: What is wrong, by the key's name relative to that model.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__(self.problems)


def known_keys(model_class: type[Config], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yields the dotted name and field of every key, sections included."""
    for name, field in model_class.model_fields.items():
        yield prefix + name, field
        if section := section_of(field):
            yield from known_keys(section, f"{prefix}{name}.")


def unknown_key(key: str, model_class: type[Config]) -> str:
    """Returns the problem line for a key that does not exist, with the nearest one that does."""

    def likeness(known: str) -> tuple[float, float]:
        short, last = key.rpartition(".")[2].lower(), known.rpartition(".")[2]
        words = last.split("_")
        abbreviates = short == "".join(word[0] for word in words) or {*short.split("_")} <= {*words}
        ratio = difflib.SequenceMatcher(None, short, last).ratio()
        return max(ratio, 0.9 * abbreviates), difflib.SequenceMatcher(None, key, known).ratio()

    names = [name for name, _ in known_keys(model_class)]
    nearest = max(names, key=likeness)
    if likeness(nearest)[0] >= 0.6:
        return f"{key}: unknown key, the nearest known one is {nearest}"
    parent = key.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent]
    return f"{key}: unknown key, expected one of {', '.join(siblings or list(model_class.model_fields))}"


def field_problem(model_class: type[Config], key: str, value: object) -> str | None:
    """Checks a value against the type and range of one key alone.

    Returns:
        The problem, without the key's name; None if the value fits.

    Raises:
        ConfigError: If there is no such key.
    """
    located = locate(model_class, key)
    if located is None:
        raise ConfigError([unknown_key(key, model_class)], "configuration")
    field = located.field
    annotated = cast(Any, Annotated[field.annotation, field])
    adapter: TypeAdapter[Any] = TypeAdapter(annotated, config=model_class.model_config)
    try:
        adapter.validate_python(value)
    except ValidationError:
        return mismatch(expected(field), value)
    return None


def section_of(field: FieldInfo) -> type[Config] | None:
    """Returns the model of a field that holds keys of its own, else None."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Config) else None


def extra_of(field: FieldInfo, name: str) -> Any:
    """Returns what a field carries in its `json_schema_extra`, else None."""
    return field.json_schema_extra.get(name) if isinstance(field.json_schema_extra, dict) else None


class Located(NamedTuple):
    """Where a dotted name leads: the names on the way, the field, and the type of the value there."""

    path: list[str]
    field: FieldInfo
    kind: Any


def locate(model_class: type[Config], key: str) -> Located | None:
    """Follows a dotted name; below a field whose default is a mapping, any name is good, dots included."""
    name, _, rest = key.partition(".")
    field = model_class.model_fields.get(name)
    if field is None:
        return None
    if not rest:
        return Located([name], field, field.annotation)
    if section := section_of(field):
        below = locate(section, rest)
        return below and below._replace(path=[name, *below.path])
    if isinstance(field.get_default(), Mapping):
        return Located([name, rest], field, (Any, *get_args(field.annotation))[-1])
    return None


def fill_sections(model_class: type[Config], tree: dict[str, Any]) -> None:
    """Makes missing sections empty, missing mappings their defaults: a required key is then itself named."""
    for name, field in model_class.model_fields.items():
        section, default = section_of(field), field.get_default()
        if section and tree.get(name) is None:
            tree[name] = {}
        elif isinstance(default, Mapping):
            tree.setdefault(name, copy.deepcopy(dict(default)))
        if section and isinstance(tree[name], dict):
            fill_sections(section, tree[name])


def validate(model_class: type[ConfigT], tree: dict[str, Any]) -> tuple[ConfigT | None, list[str]]:
    """Returns the configuration, or None, and one line for each mistake, which opens with the key's name."""
    fill_sections(model_class, tree)
    try:
        return model_class.model_validate(tree), []
    except ValidationError as error:
        problems: dict[str, str] = {}
        for item in error.errors(include_url=False):
            names = [str(name) for name in item["loc"] if name != "[key]"]
            for key, problem in _problems(model_class, names, item):
                problems.setdefault(key, problem)  # a union complains once for each of its kinds
        return None, list(problems.values())


def _problems(model_class: type[Config], names: list[str], item: ErrorDetails) -> Iterator[tuple[str, str]]:
    """Yields the key and the problem line of each mistake in one of pydantic's errors."""
    key = ".".join(names)
    if item["type"] in ("extra_forbidden", "invalid_key"):
        yield key, unknown_key(key, model_class)
        return
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, CrossCheckError):
        for name, text in cause.problems.items():
            inner = ".".join([*names, name])
            yield inner, f"{inner}: {text}"
        return
    while (located := locate(model_class, ".".join(names))) is None:
        names.pop()  # pydantic adds the kind within a union, or the index in a list, to the field's name
    key, field = ".".join(names), located.field
    if item["type"] == "missing":
        yield key, f"{key}: required and not given, expected {expected(field)}"
    else:
        yield key, f"{key}: {cause or mismatch(expected(field), item['input'])}"


def mismatch(wanted: str, found: object) -> str:
    """Returns what was expected, what was found, and what to do about the quotes if they are the reason."""
    hint = ""
    if isinstance(found, str) and wanted.startswith(("a number", "an integer")):
        hint = "; write it without quotes" if isinstance(parse_yaml(found)[0], int | float) else ""
    elif wanted.startswith("text") and isinstance(found, int | float):
        hint = "; put it in quotes"
    return f"expected {wanted}, found {shown(found)}{hint}"


def shown(value: object) -> str:
    """Returns a value as a message shows it: with its kind where that is not obvious, and cut if long."""
    names: dict[type, str] = {str: "the text ", dict: "the mapping ", list: "the list ", tuple: "the list "}
    plain = value is None or isinstance(value, bool | int | float)
    text = dump_yaml(value, inline=True) if plain else repr(value)
    return names.get(type(value), "") + (text if len(text) <= 60 else text[:57] + "...")


def expected(field: FieldInfo) -> str:
    """Returns the type and range of a field in words, such as `a number > 0 and <= 1`."""
    return extra_of(field, "expected") or _expected(field.annotation, field.metadata)


def _expected(kind: Any, metadata: Sequence[Any] = ()) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner = [part for item in args[1:] for part in getattr(item, "metadata", [item])]
        return _expected(args[0], inner)
    if origin is Literal:
        return " | ".join(args)
    if origin in (Union, types.UnionType):
        return " | ".join(_expected(arg) for arg in args)
    names = {int: "an integer", float: "a number", str: "text", bool: "true | false", types.NoneType: "null"}
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = {sign: getattr(item, sign) for item in metadata for sign in signs if hasattr(item, sign)}
    limits = " and ".join(f"{signs[sign]} {limit}" for sign, limit in found.items())
    if found.keys() == {"ge", "le"}:
        limits = f"from {found['ge']} to {found['le']}"
    return f"{names.get(kind, 'a mapping of keys')} {limits}".strip()
