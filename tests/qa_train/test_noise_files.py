import json
from pathlib import Path
from typing import Any

import pytest

from qa_train.cli import main
from qa_train.confusions import Confusions, read_confusions, write_confusions
from qa_train.data import read_squad
from qa_train.errors import DataError
from qa_train.inspection import inspect_file
from qa_train.noise_files import NoiseCounts, confuse_files, write_noisy_copy
from qa_train.storage import read_json
from tests.tiny_models import tiny_squad

# A possible question with two answers, and an impossible one; fields that nobody reads are copied.
SQUAD_2 = {
    "version": "v2.0",
    "data": [
        {
            "title": "Mills",
            "paragraphs": [
                {
                    "context": "Ada built the old stone mill, and the river drove it until it burnt down one night.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "What did Ada build?",
                            "is_impossible": False,
                            "answers": [
                                {"text": "the old stone mill", "answer_start": 10},
                                {"text": "mill", "answer_start": 24},
                                {"text": "stone", "answer_start": 3},
                            ],
                        },
                        {
                            "id": "q2",
                            "question": "Who burnt it down?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "the river", "answer_start": 34}],
                        },
                    ],
                },
                {"context": "nobody asks about this one", "qas": []},
            ],
        }
    ],
}


def without_noise(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy in which what noise may change is blanked."""
    content = json.loads(json.dumps(content))
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["context"] = ""
            for qa in paragraph["qas"]:
                for answer in [*qa["answers"], *qa.get("plausible_answers", [])]:
                    answer["answer_start"] = 0
    return content


@pytest.mark.parametrize("seed", range(10))
def test_answers_of_all_questions_survive_and_all_else_is_copied(seed: int, tmp_path: Path) -> None:
    source, out = tmp_path / "in.json", tmp_path / "new" / "out.json"
    source.write_text(json.dumps(SQUAD_2))
    counts = write_noisy_copy(source, out, rate=0.9, seed=seed)
    content = read_json(out)
    assert without_noise(content) == without_noise(SQUAD_2)
    [asked, unasked] = content["data"][0]["paragraphs"]
    assert asked["context"] != SQUAD_2["data"][0]["paragraphs"][0]["context"]  # type: ignore[index]
    assert (unasked["context"] != "nobody asks about this one") and unasked["context"]
    [possible, impossible] = asked["qas"]
    for answer in [*possible["answers"][:2], *impossible["plausible_answers"]]:
        assert asked["context"][answer["answer_start"] :].startswith(answer["text"])
    assert possible["answers"][2]["answer_start"] == 3
    assert (counts.num_paragraphs, counts.num_words, counts.num_answers, counts.num_untrue) == (2, 22, 4, 1)
    num_words = sum(len(paragraph["context"].split()) for paragraph in (asked, unasked))
    assert num_words == 22 - counts.num_dropped + counts.num_inserted
    assert 5 < counts.num_replaced + counts.num_dropped + counts.num_inserted <= 22 - 6


def test_the_same_seed_gives_the_same_copy_and_rate_0_the_same_contexts(tmp_path: Path) -> None:
    source = tiny_squad(tmp_path / "in.json", 2)
    for name, rate, seed in (("one", 0.3, 5), ("again", 0.3, 5), ("other", 0.3, 6), ("none", 0.0, 5)):
        write_noisy_copy(source, tmp_path / f"{name}.json", rate=rate, seed=seed)
    one, again, other, none = (read_squad(tmp_path / f"{name}.json") for name in ("one", "again", "other", "none"))
    assert one.examples == again.examples != other.examples
    assert none.examples == read_squad(source).examples
    assert inspect_file(one.path).alignment == inspect_file(source).alignment


def test_a_file_that_is_there_is_replaced_only_when_asked_and_never_the_source(tmp_path: Path) -> None:
    source, out = tiny_squad(tmp_path / "in.json", 1), tmp_path / "out.json"
    out.write_text("old")
    with pytest.raises(DataError, match=r"out\.json: expected a new file, found one there; .* pass --overwrite"):
        write_noisy_copy(source, out, rate=0.2)
    assert out.read_text() == "old"
    with pytest.raises(DataError, match=r"in\.json: expected a new file, found one there; name another one$"):
        write_noisy_copy(source, source, rate=0.2, overwrite=True)
    assert write_noisy_copy(source, out, rate=0.0, overwrite=True) == NoiseCounts(
        num_paragraphs=2,
        num_words=write_noisy_copy(source, tmp_path / "more.json", rate=0.5).num_words,
        num_replaced=0,
        num_dropped=0,
        num_inserted=0,
        num_answers=6,
        num_untrue=0,
    )


def test_the_words_of_the_confusions_come_in(tmp_path: Path) -> None:
    source = tiny_squad(tmp_path / "in.json", 2)
    write_noisy_copy(source, tmp_path / "out.json", rate=0.5, confusions=Confusions(9, {"the": {"thud": 1}}, {}, {}))
    assert all(" thud " in f" {example.context} " for example in read_squad(tmp_path / "out.json").examples)


def test_half_a_surrogate_pair_in_a_field_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps({**SQUAD_2, "version": "\ud800"}))
    with pytest.raises(DataError, match="found half of a surrogate pair"):
        write_noisy_copy(source, tmp_path / "out.json", rate=0.2)


@pytest.fixture
def heard(tmp_path: Path) -> tuple[Path, Path]:
    """The demo in writing, and the transcript of a recogniser that hears `designed` as `the sign`."""
    written = tiny_squad(tmp_path / "written.json", 2)
    transcript = tmp_path / "heard.json"
    transcript.write_text(written.read_text().replace("designed", "the sign"))
    return written, transcript


def test_confusions_of_two_files_are_learned_and_written(heard: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "confusions.json"
    learned = confuse_files(*heard, out)
    assert learned.substitutions == {"designed": {"the sign": 4}}
    assert read_confusions(out) == learned
    with pytest.raises(DataError, match="pass --overwrite"):
        confuse_files(*heard, out)
    assert confuse_files(*heard, out, overwrite=True) == learned
    with pytest.raises(DataError, match="expected a new file"):
        confuse_files(*heard, heard[1], overwrite=True)


def test_the_commands_say_what_they_did(
    heard: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, transcript = map(str, heard)
    learned, out = str(tmp_path / "learned.json"), str(tmp_path / "out.json")
    assert main(["confusions", written, transcript, learned]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("word error rate ")
    assert lines[1].split() == ["4", "designed", "->", "the", "sign"]
    assert lines[-1] == f"Wrote {learned}"
    assert main(["noise", written, out, "--rate", "0.2", "--confusions", learned, "--seed", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("4 contexts of ")
    assert "12 of 12 answers are as they were" in captured.out
    assert captured.out.splitlines()[-1] == f"Wrote {out}"
    assert captured.err == ""


def test_the_commands_print_json(heard: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, transcript = map(str, heard)
    assert main(["confusions", written, transcript, str(tmp_path / "learned.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_substitutions"] == 4
    assert main(["noise", written, str(tmp_path / "out.json"), "--rate", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_answers"] == 12


def test_answers_that_are_not_spared_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps(SQUAD_2))
    assert main(["noise", str(source), str(tmp_path / "out.json"), "--rate", "0.2"]) == 0
    assert capsys.readouterr().err == "warning: 1 answers are not at their offset and were not spared\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--rate", "1"], "error: rate of recognition noise: expected a number >= 0 and < 1, found 1.0"),
        (["--rate", "nan"], "found nan"),
        (["--rate", "0.2", "--seed", "-1"], "--seed"),
        (["--rate", "0.2", "--confusions", "in.json"], "in.json: expected an object with 'num_words'"),
        (["--rate", "0.2", "--confusions", "absent.json"], "absent.json: no such file"),
        ([], "--rate"),
    ],
)
def test_a_mistake_is_explained_in_one_line(
    options: list[str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_squad("in.json", 1)
    assert main(["noise", "in.json", "out.json", *options]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert complaint in captured.err
    assert not Path("out.json").exists()


def test_confusions_written_by_hand_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_confusions(path, Confusions(3, {"mill": {"meal": 2}}, {}, {}))
    assert read_confusions(path) == Confusions(3, {"mill": {"meal": 2}}, {}, {})
