"""Turns the prose in `written/` into the demo's data: `python -m qa_train.demo_data.build`.

A file `written/*.txt` holds articles. Each begins with `# Title`; its passages are separated by blank lines; a passage
is one line of prose followed by its questions, one on a line: `? question | answer`, the answer word for word as the
passage has it. From these come `written/*.json`, and from those, read aloud and heard, the demo's data.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from qa_train.errors import DataError, run_command
from qa_train.flite_sphinx import FliteSphinx
from qa_train.spoken import SpeechFiles, describe_speech, speak_file
from qa_train.spoken_squad import Form
from qa_train.storage import read_json, read_text, sha256_file, write_json

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recording:
    """How one of the demo's files is spoken; voice, seed and all else are the defaults of `speak_file`."""

    source: str  # the file in written/
    form: Form
    target_wer: float | None = None  # percent


ENGINES = FliteSphinx(duration_stretch=0.9)
"""With this stretch fewest words of the test text are misheard: 23.8 %; at 0.8 and 1.0 it is 25.3 and 24.7 %."""
# The targets are the word error rates of Spoken-SQuAD's noisy test sets, which has 22.7 % without noise (Lee, Wu, Liu,
# Lee, Interspeech 2018).
RECORDINGS = {
    "test_wer23": Recording("test", "test"),
    "test_wer44": Recording("test", "test", 44.2),
    "test_wer55": Recording("test", "test", 54.8),
    "dev": Recording("dev", "test"),
    "train": Recording("train", "training"),
}
QUESTIONS_PER_PASSAGE = 5
PASSAGE_WORDS = (40, 60)
_LONGEST_COMMON_RUN = 3
"""Words that a question may share with its passage in one piece; more would make it a copy of the sentence."""


@dataclass(frozen=True)
class Passage:
    """A passage in written form with its (question, answer) pairs."""

    title: str
    text: str
    questions: tuple[tuple[str, str], ...]


def plain(text: str) -> str:
    """Returns the words of a text in lower case, without punctuation; apostrophes inside words stay."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower()))


def read_written(path: Path) -> Iterator[Passage]:
    """Reads the passages of one file.

    Raises:
        DataError: If a line does not have the form described above, or a passage breaks one of the rules that
            `problems` names.
    """
    title = ""
    for block in re.split(r"\n\s*\n", read_text(path).strip()):
        lines = [line.strip() for line in block.splitlines()]
        if lines[0].startswith("# "):
            title = lines.pop(0).removeprefix("# ").strip()
        if not lines:
            continue
        pairs = [line.removeprefix("?").strip().rpartition(" | ") for line in lines[1:]]
        passage = Passage(title, lines[0], tuple((question, answer) for question, _, answer in pairs))
        if found := list(problems(passage)):
            raise DataError(f"{path}: article {title!r}, passage {lines[0][:40]!r}: {'; '.join(found)}")
        yield passage


def problems(passage: Passage) -> Iterator[str]:
    """Yields each rule that a passage breaks."""
    words = plain(passage.text).split()
    shortest, longest = PASSAGE_WORDS
    if not passage.title:
        yield "expected a '# Title' above it"
    if not shortest <= len(words) <= longest:
        yield f"expected {shortest} to {longest} words, found {len(words)}"
    if re.search(r"\d", passage.text):
        yield "expected numbers in words, found digits"
    if len(passage.questions) != QUESTIONS_PER_PASSAGE:
        yield f"expected {QUESTIONS_PER_PASSAGE} questions, found {len(passage.questions)}"
    if len({answer for _, answer in passage.questions}) < len(passage.questions):
        yield "expected a different answer to each question"
    for question, answer in passage.questions:
        if not question.endswith("?") or not answer:
            yield f"{question!r}: expected '? question? | answer'"
        elif _start(passage.text, answer) is None:
            yield f"{question!r}: the answer {answer!r} does not stand in the passage"
        elif common := _common_run(plain(question).split(), words):
            yield f"{question!r}: shares {common!r} with the passage, ask in other words"


def _common_run(question: list[str], passage: list[str]) -> str | None:
    size = _LONGEST_COMMON_RUN + 1
    runs = {tuple(passage[start : start + size]) for start in range(len(passage) - size + 1)}
    pieces = (tuple(question[start : start + size]) for start in range(len(question) - size + 1))
    return next((" ".join(piece) for piece in pieces if piece in runs), None)


def to_squad(passages: list[Passage]) -> dict[str, Any]:
    """Returns passages in SQuAD form, as they are written."""
    articles: dict[str, list[dict[str, Any]]] = {}
    for passage in passages:
        paragraphs = articles.setdefault(passage.title, [])
        prefix = f"{plain(passage.title).replace(' ', '-')}-{len(paragraphs) + 1}"
        qas = [
            {
                "id": f"{prefix}-{number}",
                "question": question,
                "answers": [{"text": answer, "answer_start": _start(passage.text, answer)}],
            }
            for number, (question, answer) in enumerate(passage.questions, start=1)
        ]
        paragraphs.append({"context": passage.text, "qas": qas})
    data = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in articles.items()]
    return {"version": "1.1", "data": data}


def _start(text: str, answer: str) -> int | None:
    """Returns where an answer stands in a passage, as whole words."""
    match = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)
    return match.start() if match else None


def split_titles(titles: list[str]) -> dict[str, list[str]]:
    """Assigns whole articles: of every eight in a row, the fourth to dev, the eighth to test, the others to train."""
    return {
        "train": [title for index, title in enumerate(titles) if index % 4 != 3],
        "dev": titles[3::8],
        "test": titles[7::8],
    }


def written_passages() -> list[Passage]:
    """Returns all passages of `written/`.

    Raises:
        DataError: See `read_written`.
    """
    return [passage for path in sorted((FOLDER / "written").glob("*.txt")) for passage in read_written(path)]


def build() -> None:
    """Writes `written/*.json` and what is heard of them, and prints what became of the questions.

    Raises:
        QAError: If flite or a library of the extra `speech` is missing.
    """
    passages = written_passages()
    for name, titles in split_titles(list(dict.fromkeys(passage.title for passage in passages))).items():
        chosen = [passage for passage in passages if passage.title in titles]
        write_json(FOLDER / "written" / f"{name}.json", to_squad(chosen))
    for name, recording in RECORDINGS.items():
        source, files = FOLDER / "written" / f"{recording.source}.json", SpeechFiles(FOLDER / f"{name}.json")
        if _is_made(source, files, recording):
            continue
        manifest = speak_file(
            source,
            files.out,
            ENGINES,
            target_wer=recording.target_wer,
            form=recording.form,
            resume=True,
            overwrite=True,
            progress=sys.stderr.isatty(),
        )
        print(f"{name}.json: {describe_speech(manifest)}", flush=True)
        files.fates.unlink()  # as long as the data, and nobody's need here


def _is_made(source: Path, files: SpeechFiles, recording: Recording) -> bool:
    """Returns whether a file was made of this text in this way, by whichever versions."""
    if files.journal.exists() or not files.out.exists() or not files.manifest.exists():
        return False
    manifest = read_json(files.manifest)
    wanted = {"input_sha256": sha256_file(source), "target_wer": recording.target_wer, "form": recording.form}
    voice = ENGINES.describe()
    return all(manifest.get(key) == value for key, value in wanted.items()) and all(
        manifest["engines"][key] == voice[key] for key in ("voice", "duration_stretch")
    )


@click.command()
def command() -> None:
    r"""Makes the demo's data of the prose in written/; goes on where it was interrupted.

    \b
    Example:
      python -m qa_train.demo_data.build
    """
    build()


if __name__ == "__main__":
    sys.exit(run_command(command, "python -m qa_train.demo_data.build"))
