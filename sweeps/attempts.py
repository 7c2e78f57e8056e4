"""How often a trial was started and how long each time it held its devices: kept in its directory, for whoever goes on.

Written by the actor that holds the devices, so that it is true also where the driver, the actor or the node was killed
in between; what a kill leaves unknown is the last moments since `ALIVE_EVERY_S`.
"""

import json
import threading
import time
from pathlib import Path
from typing import Self

from qa_train.errors import DataError
from qa_train.storage import read_json, write_json

ATTEMPTS = "attempts.json"
ALIVE_EVERY_S = 2.0


class Attempt:
    """One start of a trial; use it in a `with` statement, or call `end`.

    Attributes:
        number: From 0.
        earlier_s: Seconds that the attempts before held their devices.
    """

    def __init__(self, directory: Path) -> None:
        """Notes the start, and from then on, every `ALIVE_EVERY_S` seconds, that the trial still holds its devices.

        Args:
            directory: The trial's own, existing.

        Raises:
            DataError: If what earlier attempts left cannot be read, or the note cannot be written.
        """
        self._path = directory / ATTEMPTS
        self._earlier = held_times(directory)
        self.number, self.earlier_s = len(self._earlier), sum(self._earlier)
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._note()
        self._thread = threading.Thread(target=self._stay_noted, daemon=True)
        self._thread.start()

    @property
    def held_s(self) -> float:
        """Seconds that all attempts held their devices so far, this one included."""
        return self.earlier_s + time.monotonic() - self._started

    def end(self) -> None:
        """Notes the end; may be called again."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            self._note()

    def _note(self) -> None:
        write_json(self._path, [*self._earlier, time.monotonic() - self._started])

    def _stay_noted(self) -> None:
        while not self._ended.wait(ALIVE_EVERY_S):
            try:
                self._note()
            except DataError:
                continue  # such as on a full disk; the trial itself will say so

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def held_times(directory: Path) -> list[float]:
    """Returns the seconds that each attempt of a trial held its devices; empty if it was never started.

    Raises:
        DataError: If the note is there and cannot be read.
    """
    path = directory / ATTEMPTS
    if not path.exists():
        return []
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(seconds, int | float) for seconds in found):
        raise DataError(f"{path}: expected a list of seconds, found {json.dumps(found)[:40]}; remove the file")
    return [float(seconds) for seconds in found]
