"""Shows in a terminal how a running sweep gets on: a few lines that stay below those of its events."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO, TypeVar

from sweeps.progress import Progress
from sweeps.records import Row, Value

T = TypeVar("T")


class LiveView:
    """Hears of what happens and says what to show of it.

    A picture of a sweep must never end it: should it fail, it says so in place of the picture, and hears no more.
    """

    def __init__(self, progress: Progress | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Shows nothing by itself, see `live_view`; without a `progress` there is nothing to show."""
        self._progress, self._clock = progress, clock
        self._lock = threading.Lock()  # who refreshes runs in another thread than who tells of events
        self._lines: list[str] = []

    def started(self, trial_id: str, values: Mapping[str, Value]) -> None:
        """Notes that a trial runs, with the searched `values` by dotted name."""
        self._harmless(lambda progress, now: progress.started(trial_id, values, now))

    def record(self, row: Row) -> None:
        """Takes note of a row, once it is written."""
        self._harmless(lambda progress, now: progress.record(row, now))

    def lines(self) -> list[str]:
        """Returns what to show now."""
        if lines := self._harmless(lambda progress, now: progress.lines(now)):
            self._lines = lines
        return self._lines

    def _harmless(self, action: Callable[[Progress, float], T]) -> T | None:
        with self._lock:
            if self._progress is None:
                return None
            try:
                return action(self._progress, self._clock())
            except Exception as error:
                self._progress, self._lines = None, [f"the live view ended: {type(error).__name__}: {error}"]
                return None


@contextlib.contextmanager
def live_view(progress: Progress, stream: TextIO, *, wanted: bool = True) -> Iterator[LiveView]:
    """Shows a sweep's progress while the `with` block runs; what that prints stands above it, see `lines_below`.

    Args:
        progress: Of the sweep.
        stream: Such as `sys.stderr`. If it is no terminal, or a dumb one, nothing is shown.
        wanted: Whether to show anything at all.

    Yields:
        Who wants to hear of all that happens.
    """
    if not (wanted and can_show(stream)):
        yield LiveView(None)
        return
    from sweeps.live_terminal import lines_below  # imports rich, which nobody else needs

    view = LiveView(progress)
    with lines_below(view.lines, stream):
        yield view


def can_show(stream: TextIO) -> bool:
    """Returns whether a stream is a terminal whose lines can be written again."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
