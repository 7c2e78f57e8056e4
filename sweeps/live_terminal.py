"""Lines that stay at the bottom of a terminal, drawn by rich, while others are printed above them."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

REFRESH_PER_S = 2.0


@contextlib.contextmanager
def lines_below(lines: Callable[[], Sequence[str]], stream: TextIO, **console: Any) -> Iterator[None]:
    """Shows lines while the `with` block runs; what it prints to `sys.stdout` and `sys.stderr` stands above them.

    Afterwards nothing is left of them. The cursor is never hidden, so that a process which is killed leaves a terminal
    in good order, too.

    Args:
        lines: Asked `REFRESH_PER_S` times a second, in another thread. Each is cut where the window ends.
        stream: A terminal. Should it go away, what would be written there is lost and nothing else happens.
        console: More arguments of `rich.console.Console`.
    """

    def draw() -> Group:
        return Group(*(Text(line, style="bold", no_wrap=True, overflow="ellipsis") for line in lines()))

    terminal: Any = _Harmless(stream)
    # What is printed is not broken into lines by rich: it could not be copied in one piece any more.
    screen = _Console(file=terminal, force_terminal=True, soft_wrap=True, highlight=False, **console)
    live = Live(console=screen, get_renderable=draw, auto_refresh=False, transient=True)
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(1 / REFRESH_PER_S):
            with screen:
                live.refresh()

    thread = threading.Thread(target=refresh, daemon=True)
    try:
        with screen:
            live.start()
            screen.show_cursor(True)
        thread.start()
        yield
    finally:
        ended.set()
        with screen:
            live.stop()


class _Console(Console):
    """Lets a thread write what it has composed before another one composes: both start where the last one ended."""

    def __init__(self, **arguments: Any) -> None:
        self._turn = threading.RLock()
        super().__init__(**arguments)

    def __enter__(self) -> Self:
        self._turn.acquire()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            self._turn.release()


class _Harmless:
    """A stream that takes no offence if the terminal has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes what can be written."""
        with contextlib.suppress(OSError, ValueError):  # a ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
