"""Puts what was heard of contexts back into the SQuAD form, with the answers where they were heard."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from qa_train.data import Answer
from qa_train.errors import DataError
from qa_train.realignment import Found, HeardContext, HeardSentence
from qa_train.speech_pool import spoken_sentences
from qa_train.word_errors import INAUDIBLE

Form: TypeAlias = Literal["training", "test"]

_BEST_FIRST = ("exact", "aligned", "lost")


@dataclass(frozen=True)
class SpokenQuestions:
    """A file in SQuAD form, and what became of its questions.

    Attributes:
        content: The file, as JSON knows it.
        fates: Of each question of the written file, in its order: `id`, `fate` (that of its best answer: exact,
            aligned or lost; no_answer where it has none), `kept`, and for each answer what was `written`, its `fate`,
            and the `heard` text, its `start` and its word `error` rate, null where it is lost.
    """

    content: dict[str, Any]
    fates: list[dict[str, Any]]


def respeak(content: dict[str, Any], heard: Sequence[Sequence[str]], form: Form, path: str) -> SpokenQuestions:
    """Replaces the contexts of a file by transcripts.

    The training form holds answers as they were heard, at true offsets; questions whose answers are all lost are
    dropped, and so are contexts of which nothing was heard. The test form, that of Spoken-SQuAD's test sets, keeps all
    questions with the answers as they were written; the offset of one whose text stands in the transcript where it was
    heard is true, any other is that in the written context; `INAUDIBLE` stands for what was not heard. Questions are
    not spoken, all else is copied.

    Args:
        content: A file that `read_squad` takes.
        heard: Of each paragraph, what was heard of each of its sentences.
        form: Which of the two.
        path: The file, for messages.

    Raises:
        DataError: If no question is left.
    """
    content = copy.deepcopy(content)
    fates: list[dict[str, Any]] = []
    transcripts = iter(heard)
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            fates += _respeak_paragraph(paragraph, next(transcripts), form)
        if form == "training":
            article["paragraphs"] = [paragraph for paragraph in article["paragraphs"] if paragraph["context"]]
    if not any(fate["kept"] for fate in fates):
        raise DataError(
            f"{path}: expected a question whose answer was heard, found none of {len(fates)}; take less noise, or "
            "--resume with --form test, which keeps all questions"
        )
    return SpokenQuestions(content, fates)


def _respeak_paragraph(paragraph: dict[str, Any], heard: Sequence[str], form: Form) -> list[dict[str, Any]]:
    """Changes a paragraph in place; returns the fates of its questions."""
    written = paragraph["context"]
    sentences = [
        HeardSentence(spoken.words, words.split())
        for spoken, words in zip(spoken_sentences(written), heard, strict=True)
    ]
    context = HeardContext(written, sentences)
    fates = []
    for qa in paragraph["qas"]:
        key = "answers" if qa.get("answers") else "plausible_answers"
        answers = qa.get(key) or []
        found = [context.find(Answer(item["text"], item["answer_start"])) for item in answers]
        best = min((one.fate for one in found), key=_BEST_FIRST.index, default="no_answer")
        kept = form == "test" or (best != "lost" and bool(context.transcript))
        pairs = list(zip(answers, found, strict=True))
        fates.append(
            {"id": qa["id"], "fate": best, "kept": kept, "answers": [_describe(item, one) for item, one in pairs]}
        )
        if answers:
            qa[key] = _answers(pairs, context.transcript, form)
    if form == "training":
        paragraph["qas"] = [qa for qa, fate in zip(paragraph["qas"], fates, strict=True) if fate["kept"]]
    paragraph["context"] = context.transcript or (INAUDIBLE if form == "test" and written.strip() else "")
    return fates


def _answers(pairs: Sequence[tuple[dict[str, Any], Found]], transcript: str, form: Form) -> list[dict[str, Any]]:
    if form == "training":
        return [{**item, "text": one.text, "answer_start": one.start} for item, one in pairs if one.fate != "lost"]
    return [
        {**item, "answer_start": one.start} if _stands_at(item["text"], transcript, one.start) else item
        for item, one in pairs
    ]


def _stands_at(text: str, transcript: str, start: int) -> bool:
    return start >= 0 and transcript[start : start + len(text)].lower() == text.lower()


def _describe(item: dict[str, Any], found: Found) -> dict[str, Any]:
    lost = found.fate == "lost"
    heard = None if lost else found.text
    start = None if lost else found.start
    return {"written": item["text"], "fate": found.fate, "heard": heard, "start": start, "error": found.error}
