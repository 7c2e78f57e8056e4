"""Makes `report.html`: one file that opens from disk, needs no network, and shows text of data as text."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis.panels import Panel
from analysis.sections import Section
from sweeps.records import Manifest

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class _Chart:
    panel: Panel
    json: Markup


def make_page(
    sections: Sequence[Section], panels: Sequence[Panel], charts: Mapping[str, str], manifests: Mapping[str, Manifest]
) -> str:
    """Returns the report as HTML.

    Nothing in it may load anything, and of scripts only its own two run, whatever the data say: its policy names their
    hashes. All texts are escaped.

    Args:
        sections: Of the report, the opening first.
        panels: Its pictures.
        charts: By the panel's name, plotly's JSON; panels without are left out.
        manifests: By sweep id; shown whole.
    """
    scripts = [get_plotlyjs(), (_HERE / "page.js").read_text(encoding="utf-8")]
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("page.html").render(
        title=sections[0].title,
        opening=sections[0],
        sections=sections[1:],
        charts=[_Chart(panel, _script_json(charts[panel.name])) for panel in panels if panel.name in charts],
        manifests={name: json.dumps(asdict(each), indent=2, ensure_ascii=False) for name, each in manifests.items()},
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
    )


def _script_json(text: str) -> Markup:
    """JSON as it may stand in a script element, which any `</script` would end."""
    return Markup(text.replace("<", "\\u003c"))


def _policy(scripts: Sequence[str]) -> str:
    """What the page may do: run these scripts and style itself; nothing is loaded from anywhere."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
