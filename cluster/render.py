"""Fills the templates of what other systems start: a RayJob for kubectl, a script for sbatch."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from qa_train.errors import QAError
from qa_train.storage import read_text

RAYJOB = Path(__file__).parent / "kuberay" / "rayjob.yaml"
SBATCH = Path(__file__).parent / "slurm" / "sweep.sbatch"


def fill(template: Path, values: Mapping[str, str], quote: Callable[[str], str]) -> str:
    """Returns a template's text with each `@NAME@` replaced, and with what surrounds it in double quotes too.

    Args:
        template: The file.
        values: By name, in upper case.
        quote: Makes a value one word of the file's language, such as `json.dumps` for YAML, `shlex.quote` for a shell.

    Raises:
        DataError: If the template cannot be read.
        QAError: If it has a name without a value, or lacks one.
    """
    text = read_text(template)
    found = {*re.findall(r"@([A-Z]+)@", text)}
    if found != {*values}:
        raise QAError(f"{template}: expected {_names(values)}, found {_names(found)}; start from the original")
    return re.sub(r'"?@([A-Z]+)@"?', lambda match: quote(values[match[1]]), text)


def _names(names: Mapping[str, str] | set[str]) -> str:
    return ", ".join(f"@{name}@" for name in sorted(names)) or "none"


def quote_yaml(value: str) -> str:
    """Returns a text as a double-quoted scalar, a number as it is: YAML's are a superset of JSON's."""
    return value if value.isdigit() else json.dumps(value, ensure_ascii=False)
