"""What runs on the cluster: checks what arrived there and starts the sweep.

    python cluster/entry.py run C.yaml [key=value …] [--out PLACE] [--nodes N] [--resume] [--any-versions]

It is also the one file that the plain form copies to the head of a cluster that `ray up` started, where the package
lies in `~/spansweep` (`file_mounts` of the cluster's YAML):

    ray submit cluster/local.yaml cluster/entry.py run sweeps/configs/demo.yaml search.num_trials=4 --out /shared/plain

Ray joins the arguments of that with spaces and has a shell take them apart again. One that does not survive it is
named; `python -m cluster submit` has no such limits. Nothing of this project can be imported before its place is found.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "SPANSWEEP_HOME"
RUNS = "~/spansweep-runs"
"""Where sweeps go that are given no --out."""
_USAGE = "usage: entry.py run C.yaml [key=value …] [--out PLACE] [--nodes N] [--resume] [--any-versions]"
_NAME_AND_VALUE = re.compile(r"[A-Za-z_][\w.]*=.+", re.DOTALL)
_PAIRS = {")": "(", "]": "[", "}": "{"}


class EntryError(Exception):
    """A mistake that is explained by its message alone."""


def find_root() -> Path:
    """Returns where the package is: above this file, else `$SPANSWEEP_HOME`, else `~/spansweep`.

    Raises:
        EntryError: If it is in none of them.
    """
    named = os.environ.get(HOME_VARIABLE)
    places = [Path(__file__).resolve().parents[1], Path(os.path.expanduser(named or "~/spansweep"))]
    for place in places:
        if (place / "sweeps" / "__main__.py").is_file():
            return place
    remedy = f"add it to file_mounts of the cluster's YAML, or name its place in {HOME_VARIABLE}"
    raise EntryError(f"{places[-1]}: expected the package, found no sweeps/ in it; {remedy}")


@dataclass(frozen=True)
class Arguments:
    """A command line, taken apart.

    Attributes:
        path: Of the configuration.
        overrides: `key=value`.
        out: Where the results go.
        num_nodes: How many nodes to wait for.
        resume: Whether to go on with the sweep that is there.
        any_versions: Whether other versions than the pinned ones will do.
    """

    path: str
    overrides: tuple[str, ...]
    out: str
    num_nodes: int
    resume: bool
    any_versions: bool


def parse(arguments: Sequence[str]) -> Arguments:
    """Takes a command line apart.

    Raises:
        EntryError: If an argument has arrived mangled.
    """
    if len(arguments) < 2 or arguments[0] != "run":
        raise EntryError(f"expected run C.yaml, found {' '.join(arguments) or 'no arguments'}; {_USAGE}")
    path, overrides, values = arguments[1], [], {"--out": "", "--nodes": "1"}
    flags = {"--resume": False, "--any-versions": False}
    rest = iter(enumerate(arguments[2:], start=3))
    for position, argument in rest:
        name, sign, value = argument.partition("=")
        if argument in flags:
            flags[argument] = True
        elif name in values:
            values[name] = value if sign else next(rest, (0, ""))[1]
        elif not _NAME_AND_VALUE.fullmatch(argument) or not _is_closed(argument):
            raise EntryError(
                f"argument {position}: expected key=value, found {argument!r}: it arrived mangled, as `ray submit` "
                "quotes nothing; write it without spaces, quotes and commas in braces, or use python -m cluster submit"
            )
        else:
            overrides.append(argument)
    if not values["--nodes"].isdecimal():
        raise EntryError(f"--nodes: expected a number, found {values['--nodes'] or 'nothing'}; {_USAGE}")
    out = values["--out"] or f"{RUNS}/{Path(path).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Arguments(path, tuple(overrides), out, int(values["--nodes"]), flags["--resume"], flags["--any-versions"])


def _is_closed(text: str) -> bool:
    """Whether brackets and quotes of a text are closed; an apostrophe within a word is none."""
    opened: list[str] = []
    quote = ""
    for before, mark in zip(f" {text}", text, strict=False):
        if quote:
            quote = "" if mark == quote else quote
        elif mark == '"' or (mark == "'" and not before.isalnum()):
            quote = mark
        elif mark in _PAIRS.values():
            opened.append(mark)
        elif mark in _PAIRS and (not opened or opened.pop() != _PAIRS[mark]):
            return False
    return not opened and not quote


def pins(root: Path) -> dict[str, str]:
    """Returns the pinned version of each library that the package needs directly, by its name.

    Raises:
        EntryError: If the files that name them cannot be read.
    """
    try:
        lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except OSError as error:
        remedy = "put it beside sweeps/, or submit with --any-versions"
        raise EntryError(f"{error.filename}: expected the pinned versions, found {error.strerror}; {remedy}") from error
    pinned = dict(line.strip().split("==") for line in lines if "==" in line and not line.startswith("#"))
    names = (re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in project["dependencies"])
    by_name = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    return {name: by_name[name] for name in names if name in by_name}


def differences(pinned: Mapping[str, str]) -> list[str]:
    """Returns a phrase for each library that is not installed here in its pinned version, whatever its build."""
    found = []
    for name, version in pinned.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed.partition("+")[0] != version:
            found.append(f"{name} {version}, found {installed}")
    return found


def main(arguments: Sequence[str]) -> int:
    """Runs a sweep; returns 2 after a mistake, 130 after Ctrl-C while nodes are checked, else does not return."""
    try:
        asked = parse(arguments)
        root = find_root()
        pinned = {} if asked.any_versions else pins(root)
        if found := differences(pinned):
            remedy = f"pip install -c {root}/constraints.txt -e {root} on every node, or submit with --any-versions"
            raise EntryError(f"{sys.executable}: expected {'; '.join(found)}; {remedy}")
    except EntryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.chdir(root)
    if os.environ.get("RAY_ADDRESS", "http").startswith("http"):  # of the job server, or none: the plain form
        os.environ["RAY_ADDRESS"] = "auto"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    sweep = [asked.path, *asked.overrides]
    check = [sys.executable, "-m", "cluster.nodes", json.dumps(pinned), str(asked.num_nodes), asked.out, *sweep]
    try:
        if status := subprocess.run(check, check=False).returncode:
            return status
    except KeyboardInterrupt:  # also where a time limit comes while nodes are waited for
        print("interrupted", file=sys.stderr)
        return 130
    verb = ["resume", asked.out, *asked.overrides] if asked.resume else ["run", *sweep, "--out", asked.out]
    return os.execv(sys.executable, [sys.executable, "-m", "sweeps", *verb])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
