"""What was heard so far, kept on disk paragraph by paragraph, so that a run can be gone on with."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qa_train.errors import DataError
from qa_train.storage import read_bytes


@dataclass(frozen=True)
class HeardParagraph:
    """What a recogniser heard of a context.

    Attributes:
        number: Of the paragraph in its file, from 0.
        sentences: The words of each sentence, joined by single spaces; empty where it heard none.
        audio_s: Seconds of speech.
        cpu_s: Seconds of one core that speaking and hearing took.
    """

    number: int
    sentences: tuple[str, ...]
    audio_s: float
    cpu_s: float


class SpeechJournal:
    """Lines of JSON: first what decides the results, then what was found, in the order of its finding.

    A line that a kill left unfinished, always the last one, is cut off.

    Attributes:
        paragraphs: What is heard already, by number.
        level: The `NoiseLevel` that was found, as a dictionary; None before.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
        """Opens the journal.

        Args:
            path: Its file.
            identity: All that decides the results, as JSON knows it.
            resume: Whether to go on with a journal that is there; without one, it starts anew.

        Raises:
            DataError: If there is a journal and not `resume`, if it belongs to other settings, data or versions, if a
                line of it is broken, or if it cannot be written.
        """
        self.paragraphs: dict[int, HeardParagraph] = {}
        self.level: dict[str, Any] | None = None
        self._path = path
        self._identity = json.loads(json.dumps(identity))
        if path.exists() and not resume:
            raise DataError(
                f"{path}: an interrupted run left this; pass --resume to go on with it, or delete it to start anew"
            )
        complete = self._read() if path.exists() else 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab")  # noqa: SIM115 - closed by `close`
            self._file.truncate(complete)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from error
        if not complete:
            self._append({"settings": self._identity})

    def _read(self) -> int:
        """Takes over what the journal holds; returns the size of its complete lines in bytes."""
        content = read_bytes(self._path)
        complete = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:complete].splitlines(), 1):
            try:
                row = json.loads(line)
                if number == 1:
                    self._compare(row["settings"])
                elif "level" in row:
                    self.level = row["level"]
                else:
                    heard = HeardParagraph(**{**row, "sentences": tuple(row["sentences"])})
                    self.paragraphs[heard.number] = heard
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self._path}, line {number}: expected what an interrupted run wrote, found something else; "
                    "delete the file to start anew"
                ) from error
        return complete

    def _compare(self, settings: Mapping[str, Any]) -> None:
        changed = [
            f"{key} was {settings.get(key)!r}, is {self._identity.get(key)!r}"
            for key in {**settings, **self._identity}
            if settings.get(key) != self._identity.get(key)
        ]
        if changed:
            raise DataError(
                f"{self._path}: cannot go on with this run: {'; '.join(changed)}; give what it was started with, or "
                "delete the file to start anew"
            )

    def add_level(self, level: Mapping[str, Any]) -> None:
        """Records the level of noise that was found."""
        self.level = dict(level)
        self._append({"level": self.level})

    def add(self, heard: HeardParagraph) -> None:
        """Records a paragraph; it is on disk when this returns."""
        self.paragraphs[heard.number] = heard
        self._append(asdict(heard))

    def _append(self, row: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error.strerror}; go on with --resume") from error

    def close(self) -> None:
        """Closes the file; one that holds no more than settings, which nobody misses, is removed."""
        with contextlib.suppress(OSError):  # of a row that could not be written, which was told
            self._file.close()
        if not self.paragraphs and self.level is None:
            self._path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes it, at the end of a run."""
        self.close()
        self._path.unlink(missing_ok=True)
