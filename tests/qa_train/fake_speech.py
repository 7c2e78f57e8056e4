"""A voice and a recogniser for tests: characters become samples and samples characters, so that noise makes errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qa_train.speech import Recogniser, Samples, Voice

_STEP = 200


@dataclass(frozen=True)
class FakeEngines:
    """Engines that hear all that was said.

    Attributes:
        deaf_to: Nothing is heard of a sentence with this word.
        mishears: What each word is heard as instead.
        stop_after: Recordings after which Ctrl-C is pressed; None: never.
        version: Of both.
    """

    deaf_to: str = ""
    mishears: tuple[tuple[str, str], ...] = ()
    stop_after: int | None = None
    version: str = "1"

    def describe(self) -> dict[str, str | float]:
        return {"voice": "fake", "version": self.version}

    def open_voice(self) -> Voice:
        return FakeVoice()

    def open_recogniser(self) -> Recogniser:
        return FakeRecogniser(self)


class FakeVoice:
    def speak(self, text: str) -> Samples:
        assert not any(char.isdigit() for char in text)
        return np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int16) * _STEP


class FakeRecogniser:
    def __init__(self, engines: FakeEngines) -> None:
        self._engines = engines
        self._heard = 0

    def hear(self, utterances: Sequence[Samples]) -> list[list[str]]:
        if self._heard == self._engines.stop_after:
            raise KeyboardInterrupt
        self._heard += 1
        return [self._hear_one(samples) for samples in utterances]

    def _hear_one(self, samples: Samples) -> list[str]:
        codes = np.clip(np.rint(samples / _STEP), 0, 127).astype(np.uint8)
        words = "".join(char if char.isalpha() else " " for char in codes.tobytes().decode().lower()).split()
        if self._engines.deaf_to in words:
            return []
        heard = dict(self._engines.mishears)
        return " ".join(heard.get(word, word) for word in words).split()
