import json
from pathlib import Path

import jiwer
import pytest

from qa_train.cli import main
from qa_train.data import read_squad
from qa_train.word_errors import WordErrors, compare_transcript, count_word_errors


def write(path: Path, contexts: dict[str, list[str]]) -> Path:
    """Writes {article: [context]} with a question about each."""
    answers = [{"text": "x", "answer_start": 0}]
    data = [
        {
            "title": title,
            "paragraphs": [
                {"context": text, "qas": [{"id": f"{title}{number}", "question": "?", "answers": answers}]}
                for number, text in enumerate(texts)
            ],
        }
        for title, texts in contexts.items()
    ]
    path.write_text(json.dumps({"data": data}))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    written = {"A": ["The mill, of 1990, fell down.", "It rained."], "B": ["A café opened."], "C": ["Nobody heard."]}
    heard = {"A": ["the meal of nineteen ninety fell", "it rained"], "B": ["a cafe cafe opened"], "C": ["[inaudible]"]}
    return str(write(tmp_path / "heard.json", heard)), str(write(tmp_path / "written.json", written))


def test_word_errors_are_counted_over_all_and_by_article(files: tuple[str, str]) -> None:
    report = compare_transcript(read_squad(files[0]), read_squad(files[1]))
    assert report
    assert report.by_article == {"A": WordErrors(9, 1, 1, 0), "B": WordErrors(3, 0, 0, 1), "C": WordErrors(2, 0, 2, 0)}
    assert report.overall == WordErrors(14, 1, 3, 1)
    assert report.overall.rate == pytest.approx(5 / 14)
    assert ("mill", "meal", 1) in report.confusions


def test_the_rate_is_that_of_jiwer() -> None:
    written, heard = ["a b c d", "e f"], ["a x c c d", "f"]
    errors = count_word_errors((one.split(), other.split()) for one, other in zip(written, heard, strict=True))
    assert errors.rate == pytest.approx(jiwer.wer(written, heard))
    assert count_word_errors([]).rate is None
    assert count_word_errors([([], ["a"])]) == WordErrors(0, 0, 0, 1)


def test_files_of_other_questions_or_of_the_same_contexts_are_not_compared(
    files: tuple[str, str], tmp_path: Path
) -> None:
    other = read_squad(write(tmp_path / "other.json", {"Z": ["a"]}))
    assert compare_transcript(read_squad(files[0]), other) is None
    assert compare_transcript(read_squad(files[1]), read_squad(files[1])) is None


def test_inspect_shows_the_word_errors_of_a_transcript(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *files]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["all", "14", "35.7", "%", "1", "3", "1"] in lines
    assert ["B", "3", "33.3", "%", "0", "0", "1"] in lines
    assert ["mill", "meal", "1"] in lines
    assert main(["inspect", *files, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    errors = described[files[0]]["word_errors"]
    assert (errors["written"], errors["substitutions"], errors["by_article"]["C"]["rate"]) == (files[1], 1, 1.0)
    assert "word_errors" not in described[files[1]]


def test_inspect_of_files_without_common_questions_is_as_before(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", files[0], str(write(tmp_path / "other.json", {"Z": ["a"]}))]) == 0
    assert "transcript" not in capsys.readouterr().out
