"""Fills the templates of what other systems start: a RayJob for kubectl, a script for sbatch."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from qa_train.errors import QAError
from qa_train.storage import read_text

RAYJOB = Path(__file__).parent / "kuberay" / "rayjob.yaml"
SBATCH = Path(__file__).parent / "slurm" / "sweep.sbatch"

_WHOLE = re.compile(r'"@[A-Z]+@"|"[^"@]*"')
_PART = re.compile(r"""["'].*@[A-Z]+@|[^\s=]@[A-Z]+@|@[A-Z]+@\S""")
"""In what is left of a line without `_WHOLE`: a name within quotes that hold more, or joined to other text."""


def fill(template: Path, values: Mapping[str, str | int], quote: Callable[[str | int], str]) -> str:
    """Returns a template's text with each `@NAME@` replaced, the double quotes around it included.

    Args:
        template: The file.
        values: By name, in upper case.
        quote: Makes a value one word of the file's language, such as `quote_yaml`; `str` where they are words already.

    Raises:
        DataError: If the template cannot be read.
        QAError: If it has a name without a value, lacks one, or has one that is a part of something longer.
    """
    text = read_text(template)
    found = {*re.findall(r"@([A-Z]+)@", text)}
    if found != {*values}:
        raise QAError(f"{template}: expected {_names(values)}, found {_names(found)}; start from the original")
    for number, line in enumerate(text.splitlines(), start=1):
        if _PART.search(_WHOLE.sub("", line)):
            raise QAError(f'{template}: line {number}: expected a whole value such as "@ID@", found {line.strip()}')
    return re.sub(r'"@([A-Z]+)@"|@([A-Z]+)@', lambda match: quote(values[match[1] or match[2]]), text)


def _names(names: Collection[str]) -> str:
    return ", ".join(f"@{name}@" for name in sorted(names)) or "none"


def quote_yaml(value: str | int) -> str:
    """Returns a text as a double-quoted scalar, a number as it is: YAML's are a superset of JSON's."""
    return json.dumps(value, ensure_ascii=False)
