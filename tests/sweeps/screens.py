"""What a terminal shows of what was written to it: as much of one as `rich.live` needs."""

import re

_TOKEN = re.compile(r"\x1b\[(?P<argument>\?25|\d*(?:;\d+)*)(?P<command>[A-Za-z])|(?P<other>.)", re.DOTALL)


class Screen:
    """A terminal without a bottom.

    Attributes:
        cursor_shown: Whether the cursor can be seen.
        styles: The arguments of all `m` commands that were met.
    """

    def __init__(self, written: str, width: int) -> None:
        """Writes to an empty screen of this width; unknown escape codes are an error."""
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self._width = width
        self.cursor_shown, self.styles = True, set[str]()
        for token in _TOKEN.finditer(written):
            if token["command"]:
                self._command(token["command"], token["argument"])
            else:
                self._write(token["other"])

    @property
    def lines(self) -> list[str]:
        """What can be read; empty lines at the end are left out."""
        lines = ["".join(row).rstrip() for row in self._rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _command(self, name: str, argument: str) -> None:
        if name == "A":
            self._row = max(0, self._row - int(argument or 1))
        elif (name, argument) == ("K", "2"):
            self._rows[self._row] = []
        elif argument == "?25" and name in "hl":
            self.cursor_shown = name == "h"
        elif name == "m":
            self.styles.add(argument)
        else:
            raise ValueError(f"unknown escape code {argument}{name}")

    def _write(self, character: str) -> None:
        if character == "\r":
            self._column = 0
            return
        if character == "\n" or self._column == self._width:
            self._row, self._column = self._row + 1, 0
            self._rows += [[]] * (self._row == len(self._rows))
        if character == "\n":
            return
        if not character.isprintable():
            raise ValueError(f"unknown control character {character!r}")
        row = self._rows[self._row] = list(self._rows[self._row])
        row += " " * (self._column + 1 - len(row))
        row[self._column] = character
        self._column += 1
