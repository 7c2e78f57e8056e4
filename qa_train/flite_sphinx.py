"""Flite speaks, PocketSphinx hears: both offline, the second with the English model that comes with it."""

import math
import subprocess
import tempfile
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from qa_train.errors import ConfigError, QAError
from qa_train.speech import SAMPLE_RATE, Recogniser, Samples, Voice

MIN_STRETCH, MAX_STRETCH = 0.2, 5.0
_INSTALL = 'pip install -c constraints.txt -e ".[speech]"'


@dataclass(frozen=True)
class FliteSphinx:
    """The two engines.

    Attributes:
        voice: One of `flite -lv`; rms and slt are the clearest.
        duration_stretch: How much slower than by itself flite speaks, `MIN_STRETCH` to `MAX_STRETCH`.
    """

    voice: str = "rms"
    duration_stretch: float = 1.15

    def describe(self) -> Mapping[str, str | float]:
        """Returns names, settings and versions.

        Raises:
            ConfigError: If the stretch is out of its range.
            QAError: If flite or PocketSphinx is not installed, or flite has no such voice.
        """
        if not MIN_STRETCH <= self.duration_stretch <= MAX_STRETCH:
            raise ConfigError(
                [f"expected {MIN_STRETCH} to {MAX_STRETCH}, found {self.duration_stretch}"], "--duration-stretch"
            )
        # Flite takes a name that it does not know for its default voice, without a word.
        voices = _run_flite("-lv").partition(":")[2].split()
        if self.voice not in voices:
            raise QAError(f"flite: expected one of the voices {', '.join(sorted({*voices}))}, found {self.voice!r}")
        lines = (line.partition("version:")[2].strip() for line in _run_flite("--version").splitlines())
        return {
            "voice": f"flite {self.voice}",
            "duration_stretch": self.duration_stretch,
            "flite": next(filter(None, lines), "unknown"),
            "recogniser": "pocketsphinx en-us",
            "pocketsphinx": _pocketsphinx_version(),
        }

    def open_voice(self) -> Voice:
        """Returns flite."""
        return _Flite(self.voice, self.duration_stretch)

    def open_recogniser(self) -> Recogniser:
        """Returns PocketSphinx, which takes a second."""
        return _PocketSphinx()


@dataclass(frozen=True)
class _Flite:
    voice: str
    duration_stretch: float

    def speak(self, text: str) -> Samples:
        with tempfile.TemporaryDirectory(prefix="spansweep-speech-") as directory:
            # By a file: on the command line a text could be taken for an option or a file name.
            source, audio = Path(directory, "text"), Path(directory, "audio.wav")
            stretch = f"duration_stretch={self.duration_stretch}"
            try:
                source.write_text(text, encoding="ascii")
                _run_flite("-voice", self.voice, "--setf", stretch, "-f", str(source), "-o", str(audio))
                with wave.open(str(audio), "rb") as file:
                    rate, expected = file.getframerate(), file.getnframes()
                    frames = file.readframes(expected)
            except (OSError, EOFError, wave.Error) as error:
                raise QAError(f"{directory}: flite's audio cannot be kept there: {error}") from error
        samples = np.frombuffer(frames, dtype="<i2").astype(np.int16)
        if len(samples) < expected:  # flite does not notice a full disk
            raise QAError(
                f"{directory}: expected {expected:,} samples of speech, found {len(samples):,}; free some space, or "
                "set TMPDIR to where there is some"
            )
        return samples if rate == SAMPLE_RATE else _resample(samples, rate)


def _resample(samples: Samples, rate: int) -> Samples:
    """Brings audio to `SAMPLE_RATE`; of flite's voices only kal, with 8000, needs it."""
    from scipy.signal import resample_poly  # takes a second, and other commands do not need it

    common = math.gcd(rate, SAMPLE_RATE)
    resampled = resample_poly(samples.astype(np.float64), SAMPLE_RATE // common, rate // common)
    limits = np.iinfo(np.int16)
    clipped: Samples = np.clip(np.rint(resampled), limits.min, limits.max).astype(np.int16)
    return clipped


def _run_flite(*arguments: str) -> str:
    try:
        done = subprocess.run(["flite", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise QAError("speaking needs flite, not found; apt-get install flite") from error
    except OSError as error:
        raise QAError(f"flite: cannot be started: {error.strerror}") from error
    # `flite --version` ends with 1.
    if done.returncode < 0 or (done.returncode and "-o" in arguments):
        raise QAError(f"flite: ended with {done.returncode}: {done.stderr.strip() or 'without a message'}")
    return done.stdout + done.stderr


class _PocketSphinx:
    def __init__(self) -> None:
        self._decoder = _open_decoder()

    def hear(self, utterances: Sequence[Samples]) -> list[list[str]]:
        # The decoder carries its noise estimate and its last frames' best Gaussians over from utterance to utterance.
        self._decoder.reinit()
        return [self._hear_one(samples) if len(samples) else [] for samples in utterances]

    def _hear_one(self, samples: Samples) -> list[str]:
        self._decoder.start_utt()
        self._decoder.process_raw(samples.astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return str(hypothesis.hypstr).lower().split() if hypothesis else []


def _open_decoder() -> Any:
    _pocketsphinx_version()
    from pocketsphinx import Decoder

    try:
        return Decoder(loglevel="FATAL")
    except RuntimeError as error:
        raise QAError(
            f"pocketsphinx: its English model cannot be opened: {error}; is POCKETSPHINX_PATH set?"
        ) from error


def _pocketsphinx_version() -> str:
    try:
        return version("pocketsphinx")
    except PackageNotFoundError as error:
        raise QAError(f"recognising speech needs pocketsphinx, not found; {_INSTALL}") from error
