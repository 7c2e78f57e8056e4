import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from qa_train.cli import main
from qa_train.data import read_squad
from qa_train.errors import ConfigError, QAError
from qa_train.flite_sphinx import FliteSphinx
from qa_train.speech import add_white_noise
from tests.qa_train.test_word_errors import write

pytestmark = pytest.mark.skipif(shutil.which("flite") is None, reason="no flite here: apt-get install flite")


def test_what_is_spoken_is_heard_whatever_was_heard_before() -> None:
    engines = FliteSphinx()
    voice, recogniser = engines.open_voice(), engines.open_recogniser()
    speech = voice.speak("--help. the river was cold")
    assert speech.dtype == np.int16
    assert 16_000 < len(speech) < 6 * 16_000
    assert np.array_equal(speech, voice.speak("--help. the river was cold"))
    noisy = add_white_noise(speech, 15.0, np.random.default_rng(0))
    [first, nothing, second] = recogniser.hear([speech, np.zeros(0, np.int16), noisy])
    assert first[-4:-1] == ["the", "river", "was"]  # then `called`
    assert nothing == []
    recogniser.hear([noisy, noisy])
    assert recogniser.hear([speech, speech[:0], noisy]) == [first, [], second]


def test_an_unknown_voice_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(QAError, match=r"expected one of the voices .*rms.*, found 'nobody'"):
        FliteSphinx("nobody").describe()


@pytest.mark.parametrize("stretch", [float("nan"), 0.1, 6.0])
def test_a_stretch_out_of_its_range_is_refused(stretch: float) -> None:
    with pytest.raises(ConfigError, match=r"--duration-stretch: expected 0\.2 to 5\.0, found"):
        FliteSphinx("rms", stretch).describe()


def test_audio_that_a_full_disk_cut_off_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = shutil.which("flite")
    # As on a full disk, which flite does not notice: the header promises all, half of it is there.
    cutting = f"""#!/bin/sh
{engine} "$@" || exit
for audio; do :; done
case "$audio" in *.wav) truncate -s 20000 "$audio";; esac
"""
    (tmp_path / "flite").write_text(cutting)
    (tmp_path / "flite").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(QAError, match=r"expected [\d,]+ samples of speech, found 9,978; free some space"):
        FliteSphinx().open_voice().speak("the river was cold and the mill fell")


def test_a_flite_that_may_not_be_started_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flite").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QAError, match=r"^flite: cannot be started: Permission denied$"):
        FliteSphinx().describe()


def test_a_model_that_is_not_there_is_an_error_of_one_line_in_a_worker_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.json", {"A": ["The river was cold.", "The mill fell."]})
    monkeypatch.setenv("POCKETSPHINX_PATH", str(tmp_path))
    assert main(["speak", str(source), str(tmp_path / "out.json"), "--num-workers", "2"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("error: pocketsphinx: its English model cannot be opened")


def test_a_voice_of_another_rate_is_brought_to_16_khz() -> None:
    lengths = [len(FliteSphinx(voice).open_voice().speak("one two three")) for voice in ("kal", "kal16")]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.2)


def test_the_command_makes_spoken_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.json", {"A": ["The river was cold in 1990."]})
    out = tmp_path / "out.json"
    assert main(["speak", str(source), str(out), "--form", "test", "--num-workers", "1"]) == 0
    captured = capsys.readouterr()
    assert "1 contexts of 7 words, no noise: word error rate" in captured.out
    assert captured.out.splitlines()[-1].startswith(f"Wrote {out}")
    assert "in nineteen ninety" in read_squad(out).examples[0].context
