"""What speaking and hearing need of their engines, the noise between the two, and how audio is kept."""

import io
import wave
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from qa_train.storage import Pathlike, write_bytes

SAMPLE_RATE = 16_000
"""Samples of a second, everywhere."""

Samples: TypeAlias = npt.NDArray[np.int16]
"""One channel of 16-bit audio at `SAMPLE_RATE`, of shape (samples,)."""


class Voice(Protocol):
    """Reads aloud."""

    def speak(self, text: str) -> Samples:
        """Returns the audio of a text of ASCII characters without digits, one word at least."""


class Recogniser(Protocol):
    """Writes down what it hears."""

    def hear(self, utterances: Sequence[Samples]) -> list[list[str]]:
        """Returns the words of each utterance of one recording, in lower case; none where it hears none.

        Recognisers adapt to a recording. What one call returns must depend on its utterances alone, never on earlier
        calls, or results would depend on how work is shared among processes.
        """


class Engines(Protocol):
    """A voice and a recogniser that can be opened in any process; can be pickled itself."""

    def describe(self) -> Mapping[str, str | float]:
        """Returns all that decides what is spoken and heard: names, settings, versions, as JSON knows them.

        Raises:
            QAError: If an engine is not installed, or has no such voice.
        """

    def open_voice(self) -> Voice:
        """Returns the voice."""

    def open_recogniser(self) -> Recogniser:
        """Returns the recogniser."""


def add_white_noise(samples: Samples, snr_db: float, generator: np.random.Generator) -> Samples:
    """Adds white Gaussian noise.

    Args:
        samples: A sentence; silence stays silent, there being no power to relate the noise to.
        snr_db: Signal-to-noise ratio in dB: the mean power of the whole sentence, its pauses included, over that of
            the noise.
        generator: Draws the noise.

    Returns:
        New samples, clipped to 16 bits.
    """
    signal = samples.astype(np.float64)
    power = float(np.mean(signal**2)) if len(signal) else 0.0
    noisy = signal + generator.normal(0.0, np.sqrt(power / 10 ** (snr_db / 10)), len(signal))
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(noisy), limits.min, limits.max).astype(np.int16)


def write_wav(path: Pathlike, samples: Samples) -> None:
    """Writes audio as a WAV file, complete or not at all.

    Raises:
        DataError: If the file cannot be written.
    """
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, len(samples), "NONE", "not compressed"))
        file.writeframes(samples.astype("<i2").tobytes())
    write_bytes(path, content.getvalue())
