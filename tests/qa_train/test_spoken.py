import errno
import json
import os
import signal
import time
import wave
from pathlib import Path
from typing import Any

import pytest

from qa_train.alignment import align_answers, count_alignment
from qa_train.cli import main
from qa_train.data import read_squad
from qa_train.errors import ConfigError, DataError, QAError
from qa_train.spoken import SpeechFiles, speak_file
from qa_train.storage import read_json
from tests.commands import running
from tests.qa_train.fake_speech import FakeEngines
from tests.tiny_models import tiny_squad

ENGINES = FakeEngines()


def qa(key: str, *answers: tuple[str, int]) -> dict[str, Any]:
    return {"id": key, "question": f"{key}?", "answers": [{"text": text, "answer_start": at} for text, at in answers]}


SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Mills",
            "paragraphs": [
                {
                    "context": "Ada built the old mill in 1990. It fell, alas.",
                    "qas": [qa("exact", ("the old mill", 10)), qa("aligned", ("1990", 26)), qa("lost", ("alas", 41))],
                },
                {"context": "nothing to hear", "qas": [qa("unheard", ("nothing", 0))]},
                {"context": " ", "qas": []},
                {"context": "\u8336 \u6c34", "qas": [qa("unspoken", ("\u8336", 0))]},
                {"context": "caf\u00e9 here", "qas": [qa("two", ("caf\u00e9", 0), ("here", 5)), qa("none")]},
            ],
        }
    ],
}
HARD = FakeEngines(deaf_to="nothing", mishears=(("alas", "a lass"),))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(SQUAD))
    return path


def fates(out: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in SpeechFiles(out).fates.read_text().splitlines()]
    return {row["id"]: row["fate"] for row in rows}


ALL_FATES = {
    "exact": "exact", "aligned": "aligned", "lost": "lost", "unheard": "lost", "unspoken": "lost", "two": "exact",
    "none": "no_answer",
}  # fmt: skip


def test_the_training_form_drops_lost_answers_and_has_true_offsets(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.json"
    manifest = speak_file(source, out, HARD, num_workers=1)
    data = read_squad(out)
    assert [example.id for example in data.examples] == ["exact", "aligned", "two", "none"]
    assert data.examples[0].context == "ada built the old mill in nineteen ninety it fell a lass"
    for example in data.examples:
        for answer in example.answers:
            assert example.context[answer.start :].startswith(answer.text)
    assert data.references["aligned"] == ("nineteen ninety",)
    assert align_answers(data.examples[:3], "out").counts.exact == 3
    assert fates(out) == ALL_FATES
    assert manifest["fates"] == {"exact": 2, "aligned": 1, "lost": 3, "no_answer": 1}
    assert (manifest["num_paragraphs"], manifest["num_inaudible"]) == (5, 1)
    assert manifest["unspoken"] == {"\u8336": 1, "\u6c34": 1}
    assert read_json(SpeechFiles(out).manifest)["word_error_rate"] == manifest["word_error_rate"]
    assert not SpeechFiles(out).journal.exists()
    assert {path.name for path in out.parent.iterdir()} == {"out.json", "out.fates.jsonl", "out.manifest.json"}


def test_the_test_form_keeps_all_questions_and_answers_as_written(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    speak_file(source, out, HARD, form="test", num_workers=1)
    written, data = read_squad(source), read_squad(out)
    assert data.references == written.references
    assert [example.question for example in data.examples] == [example.question for example in written.examples]
    context = {example.id: example.context for example in data.examples}
    assert context["unheard"] == context["unspoken"] == "[inaudible]"
    starts = {example.id: [answer.start for answer in example.answers] for example in data.examples}
    assert starts == {
        "exact": [10],
        "aligned": [26],
        "lost": [41],
        "unheard": [0],
        "unspoken": [0],
        "two": [0, 5],
        "none": [],
    }
    assert count_alignment(data.examples).exact == 2
    assert fates(out) == ALL_FATES


def run(source: Path, out: Path, engines: FakeEngines = ENGINES, **options: Any) -> bytes:
    speak_file(source, out, engines, **{"snr_db": 53.0, "num_workers": 1, **options})
    return out.read_bytes()


def test_the_data_depend_on_neither_processes_nor_interruptions_but_on_the_seed(tmp_path: Path) -> None:
    source = tiny_squad(tmp_path / "in.json", 3)
    whole = run(source, tmp_path / "one.json")
    assert run(source, tmp_path / "two.json", num_workers=2) == whole
    assert run(source, tmp_path / "other.json", seed=1) != whole
    assert run(source, tmp_path / "clear.json", snr_db=None) != whole
    out = tmp_path / "resumed.json"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(source, out, FakeEngines(stop_after=2), resume=True)
    journal = SpeechFiles(out).journal
    assert len(journal.read_text().splitlines()) == 1 + 4
    assert not out.exists()
    with open(journal, "a") as file:
        file.write('{"number": 4, "sent')  # as a kill leaves it
    assert run(source, out, FakeEngines(stop_after=2), resume=True) == whole
    assert fates(out) == fates(tmp_path / "one.json")


@pytest.fixture
def interrupted(tmp_path: Path) -> tuple[Path, Path]:
    source, out = tiny_squad(tmp_path / "in.json", 2), tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run(source, out, FakeEngines(stop_after=1))
    return source, out


@pytest.mark.parametrize(
    ("engines", "options", "changed"),
    [
        (FakeEngines(version="2"), {}, "engines was .*'version': '1'.*, is .*'version': '2'"),
        (ENGINES, {"seed": 3}, "seed was 0, is 3"),
        (ENGINES, {"snr_db": 20.0}, r"snr_db was 53\.0, is 20\.0"),
    ],
)
def test_a_run_is_not_gone_on_with_under_other_settings(
    interrupted: tuple[Path, Path], engines: FakeEngines, options: dict[str, Any], changed: str
) -> None:
    before = SpeechFiles(interrupted[1]).journal.read_bytes()
    with pytest.raises(DataError, match=rf"out\.partial\.jsonl: cannot go on with this run: {changed}"):
        run(*interrupted, engines, resume=True, **options)
    assert SpeechFiles(interrupted[1]).journal.read_bytes() == before


def test_a_run_is_not_gone_on_with_on_other_data(interrupted: tuple[Path, Path]) -> None:
    source, out = interrupted
    tiny_squad(source, 2, seed=9)
    with pytest.raises(DataError, match="input_sha256 was"):
        run(source, out, resume=True)


def test_an_interrupted_run_is_not_overwritten_unasked(interrupted: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match=r"out\.partial\.jsonl: an interrupted run left this; pass --resume"):
        run(*interrupted)


def test_a_broken_journal_is_refused(interrupted: tuple[Path, Path]) -> None:
    journal = SpeechFiles(interrupted[1]).journal
    journal.write_text(journal.read_text() + "[]\n")
    with pytest.raises(DataError, match=r"out\.partial\.jsonl, line 3: expected what an interrupted run wrote"):
        run(*interrupted, resume=True)


def test_a_target_is_met_and_its_noise_found_once(tmp_path: Path) -> None:
    source, out = tiny_squad(tmp_path / "in.json", 3), tmp_path / "out.json"
    manifest = speak_file(source, out, ENGINES, target_wer=44.2, num_workers=1)
    assert manifest["word_error_rate"] == pytest.approx(0.442, abs=0.02)
    assert manifest["noise"]["snr_db"] is not None
    other = tmp_path / "two.json"
    speak_file(source, other, ENGINES, target_wer=44.2, num_workers=2)
    assert other.read_bytes() == out.read_bytes()
    num_tried = len(manifest["noise"]["tried"])
    late = tmp_path / "late.json"
    with pytest.raises(KeyboardInterrupt):
        speak_file(source, late, FakeEngines(stop_after=6 * num_tried + 1), target_wer=44.2, num_workers=1)
    # Six paragraphs, five left: a second search would need more.
    speak_file(source, late, FakeEngines(stop_after=5), target_wer=44.2, num_workers=1, resume=True)
    assert late.read_bytes() == out.read_bytes()


def test_a_target_below_what_no_noise_gives_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(QAError, match=r"--target-wer 1\.0: expected at least \d+\.\d, the word error rate without"):
        speak_file(source, tmp_path / "out.json", HARD, target_wer=1.0, num_workers=1)


def test_audio_is_kept_if_asked_for(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out.json", keep_audio=tmp_path / "audio")
    assert len(list((tmp_path / "audio").iterdir())) == 5
    with wave.open(str(tmp_path / "audio" / "000001.wav")) as file:
        assert file.getnframes() == len("nothing to hear")


def test_nothing_is_written_where_no_answer_was_heard_but_the_work_is_kept(tmp_path: Path) -> None:
    source, out = tiny_squad(tmp_path / "in.json", 1), tmp_path / "out.json"
    deaf = FakeEngines(deaf_to="the")
    content = read_json(source)
    for paragraph in content["data"][0]["paragraphs"]:
        paragraph["context"] = paragraph["context"].replace(".", "the")
    source.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"in\.json: expected a question whose answer was heard, found none of 6"):
        run(source, out, deaf)
    assert not out.exists()
    speak_file(source, out, deaf, snr_db=53.0, form="test", num_workers=1, resume=True)
    assert len(read_squad(out).examples) == 6


def test_a_file_that_is_there_is_replaced_only_when_asked_and_never_the_source(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("old")
    with pytest.raises(DataError, match=r"out\.json: expected a new file, found one there; .* pass --overwrite"):
        run(source, out)
    with pytest.raises(DataError, match="expected a new file"):
        run(source, source, overwrite=True)
    assert run(source, out, overwrite=True) != b"old"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"snr_db": 20.0, "target_wer": 30.0}, "expected --snr-db or --target-wer, found both"),
        ({"snr_db": float("nan")}, "--snr-db: expected -50 to 100 dB, found nan"),
        ({"snr_db": None, "target_wer": 0.0}, "--target-wer: expected more than 0"),
    ],
)
def test_noise_out_of_its_range_is_refused(
    source: Path, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        run(source, tmp_path / "out.json", **options)


def test_without_flite_the_command_says_how_to_install_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["speak", str(source), str(tmp_path / "out.json")]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: speaking needs flite, not found; apt-get install flite\n")
    assert {path.name for path in tmp_path.iterdir()} == {"in.json"}


SLOW = """
import sys, time
from qa_train.spoken import speak_file
from tests.qa_train import fake_speech

hear = fake_speech.FakeRecogniser.hear
def slowly(self, utterances):
    time.sleep(0.3)
    return hear(self, utterances)
fake_speech.FakeRecogniser.hear = slowly
if __name__ == "__main__":
    speak_file("in.json", "out.json", fake_speech.FakeEngines(), snr_db=53.0, num_workers=2, resume=True)
"""


def test_a_killed_run_leaves_no_process_and_is_gone_on_with(tmp_path: Path) -> None:
    source, out = tiny_squad(tmp_path / "in.json", 10), tmp_path / "out.json"
    journal = SpeechFiles(out).journal
    (tmp_path / "slow.py").write_text(SLOW)
    root = str(Path(__file__).parents[2])
    with running(tmp_path, "killed", "slow.py", PYTHONPATH=root) as command:
        command.wait_for(lambda: journal.exists() and len(journal.read_text().splitlines()) > 3)
        os.kill(command.process.pid, signal.SIGKILL)
        command.finish()
    heard = len(journal.read_bytes().splitlines()) - 2  # but for the settings, and the last one that may be torn
    assert 1 < heard < 20
    assert run(source, out, FakeEngines(stop_after=20 - heard), resume=True) == run(source, tmp_path / "whole.json")


def test_a_question_without_answer_goes_with_a_context_of_which_nothing_was_heard(tmp_path: Path) -> None:
    source, out = tmp_path / "in.json", tmp_path / "out.json"
    paragraphs = [
        {"context": "nothing to hear", "qas": [qa("unheard")]},
        {"context": "the mill", "qas": [qa("heard", ("mill", 4))]},
    ]
    source.write_text(json.dumps({"version": "1.1", "data": [{"title": "A", "paragraphs": paragraphs}]}))
    run(source, out, HARD, snr_db=None)
    rows = [json.loads(line) for line in SpeechFiles(out).fates.read_text().splitlines()]
    assert {row["id"]: (row["fate"], row["kept"]) for row in rows} == {
        "unheard": ("no_answer", False),
        "heard": ("exact", True),
    }
    assert [example.id for example in read_squad(out).examples] == ["heard"]


@pytest.mark.parametrize("ending", ["manifest.json", "fates.jsonl"])
def test_files_beside_the_data_are_replaced_only_when_asked_and_never_the_source(tmp_path: Path, ending: str) -> None:
    source = tiny_squad(tmp_path / f"out.{ending}", 1)
    before = source.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(DataError, match=rf"out\.{ending}: expected a new file, found one there"):
            run(source, tmp_path / "out.json", overwrite=overwrite)
    assert source.read_bytes() == before
    assert run(source, tmp_path / "out.v2.json") == run(source, tmp_path / "out.v3")
    assert {path.name for path in tmp_path.glob("out.v?.manifest.json")} == {
        "out.v2.manifest.json",
        "out.v3.manifest.json",
    }


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("", "expected a file to write, found a directory"), ("x" * 300, "cannot be written: .*too long")],
)
def test_a_name_that_cannot_be_written_is_refused_before_the_work(source: Path, name: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        run(source, source.parent / name, FakeEngines(stop_after=0), overwrite=True)


def test_half_of_a_surrogate_pair_is_refused_before_the_work(source: Path, tmp_path: Path) -> None:
    source.write_text(json.dumps(SQUAD | {"note": "\ud800"}))
    with pytest.raises(DataError, match=r"in\.json: expected Unicode text, found half of a surrogate pair"):
        run(source, tmp_path / "out.json", FakeEngines(stop_after=0))
    assert not SpeechFiles(tmp_path / "out.json").journal.exists()


def test_a_target_that_cannot_be_met_leaves_nothing_that_stands_in_the_way_of_another(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(QAError, match="give another voice, or a higher target"):
        speak_file(source, out, HARD, target_wer=1.0, num_workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {"in.json"}


def test_audio_asked_for_later_is_made_of_all_paragraphs(source: Path, tmp_path: Path) -> None:
    out, audio = tmp_path / "out.json", tmp_path / "audio"
    with pytest.raises(KeyboardInterrupt):
        run(source, out, FakeEngines(stop_after=3))
    whole = run(source, tmp_path / "whole.json")
    assert run(source, out, resume=True, keep_audio=audio) == whole
    assert len(list(audio.iterdir())) == 5


def test_a_disk_that_is_full_ends_a_run_with_a_line_and_keeps_what_was_heard(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    sync, calls = os.fsync, iter(range(9))

    def full(descriptor: int) -> None:
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"out\.partial\.jsonl: cannot be written: No space .*go on with --resume"):
            run(source, out)
    assert run(source, out, FakeEngines(stop_after=3), resume=True) == run(source, tmp_path / "whole.json")


@pytest.mark.parametrize("after_s", [0.1, 0.4])
def test_ctrl_c_while_workers_start_ends_them_all_without_a_traceback(tmp_path: Path, after_s: float) -> None:
    tiny_squad(tmp_path / "in.json", 10)
    journal = SpeechFiles(tmp_path / "out.json").journal
    (tmp_path / "slow.py").write_text(SLOW)
    with running(tmp_path, "interrupted", "slow.py", PYTHONPATH=str(Path(__file__).parents[2])) as command:
        command.wait_for(journal.exists)
        time.sleep(after_s)
        os.killpg(command.process.pid, signal.SIGINT)
        command.finish()
    assert command.err.count("Traceback") == 1, command.err  # the script's own, which has no `run_command` around it
    assert command.err.rstrip().endswith("KeyboardInterrupt")
