"""Reads report.html as a browser does, without one."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "br"}


@dataclass
class Page(HTMLParser):
    """What a page holds.

    Attributes:
        texts: The text in each element, by tag, in their order; of nested elements of one tag the inner one's only.
        elements: Tag and attributes of each element.
        scripts: The scripts that run.
        charts: What is given to plotly, by the figure's id.
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    charts: dict[str, Any] = field(default_factory=dict)
    _open: list[tuple[str, list[str]]] = field(default_factory=list)
    _figure: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "figure":
            self._figure = attributes["id"] or ""
        if tag not in _VOID:
            self._open.append((tag, []))

    def handle_data(self, data: str) -> None:
        for _, parts in self._open:
            parts.append(data)

    def handle_endtag(self, tag: str) -> None:
        opened, parts = self._open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"
        text = "".join(parts)
        self.texts.setdefault(tag, []).append(text)
        if tag == "script" and self.elements[-1] == ("script", {"type": "application/json"}):
            self.charts[self._figure] = json.loads(text)
        elif tag == "script":
            self.scripts.append(text)


def check_page(text: str) -> Page:
    """Returns a page that is well-formed, loads nothing, and lets only its own two scripts run."""
    page = Page()
    page.feed(text)
    page.close()
    assert not page._open
    assert not {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object", "embed", "base", "form", "a"}
    assert not any(name in {"src", "href", "style"} or name.startswith("on") for _, at in page.elements for name in at)
    policy = next(at["content"] for tag, at in page.elements if tag == "meta" and "http-equiv" in at)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert len(page.scripts) == 2
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    return page
