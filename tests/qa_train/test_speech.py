import wave
from pathlib import Path

import numpy as np
import pytest

from qa_train.speech import SAMPLE_RATE, add_white_noise, write_wav


@pytest.mark.parametrize("snr_db", [40.0, 20.0, 0.0])
def test_the_noise_has_the_power_that_was_asked_for(snr_db: float) -> None:
    tone = np.rint(6000 * np.sin(np.arange(2 * SAMPLE_RATE) / 10)).astype(np.int16)
    tone[SAMPLE_RATE:] = 0  # the pause counts as much as the tone
    noise = add_white_noise(tone, snr_db, np.random.default_rng(0)).astype(float) - tone
    reached = 10 * np.log10(np.mean(tone.astype(float) ** 2) / np.mean(noise**2))
    assert reached == pytest.approx(snr_db, abs=0.2)


def test_loud_noise_is_clipped_and_silence_stays_silent() -> None:
    loud = np.full(1000, 30_000, np.int16)
    noisy = add_white_noise(loud, 0.0, np.random.default_rng(0))
    assert noisy.dtype == np.int16
    assert noisy.max() == 32_767
    assert not add_white_noise(np.zeros(9, np.int16), 0.0, np.random.default_rng(0)).any()
    assert len(add_white_noise(np.zeros(0, np.int16), 0.0, np.random.default_rng(0))) == 0


def test_a_wav_file_holds_the_samples(tmp_path: Path) -> None:
    samples = np.arange(-500, 500, dtype=np.int16)
    write_wav(tmp_path / "new" / "a.wav", samples)
    with wave.open(str(tmp_path / "new" / "a.wav")) as file:
        assert (file.getnchannels(), file.getframerate()) == (1, 16_000)
        assert np.array_equal(np.frombuffer(file.readframes(2000), "<i2"), samples)
