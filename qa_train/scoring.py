"""All scores of one data set, and those of a file of predictions against a data file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_train.attainable import are_answerable, best_possible_f1s
from qa_train.data import Example, describe_value, read_squad
from qa_train.errors import DataError
from qa_train.intervals import article_interval
from qa_train.metrics import AnswerScore, QAScores, score_predictions
from qa_train.question_scores import write_question_scores
from qa_train.storage import Pathlike, read_json
from qa_train.text_scores import Tokenizer, overlap_scores, row_scores, study_f1


def summarize(scores: QAScores, examples: Sequence[Example]) -> dict[str, Any]:
    """Returns F1 and exact match, 0 to 100, with their 95 % intervals over articles (null where there are too few)."""
    articles = [example.title for example in examples]
    values = {name: [getattr(score, name) for score in scores.per_question.values()] for name in ("f1", "exact_match")}
    intervals = {name: article_interval(value, articles) for name, value in values.items()}
    return {
        "f1": scores.f1,
        "exact_match": scores.exact_match,
        **{f"{name}_interval": found and [found.low, found.high] for name, found in intervals.items()},
        "num_questions": scores.num_questions,
        "num_articles": len(set(articles)),
    }


def score_examples(
    predictions: Mapping[str, str],
    examples: Sequence[Example],
    *,
    tokenizer: Tokenizer | None = None,
    overlap: bool = False,
) -> dict[str, Any]:
    """Returns all scores of one data set, as JSON knows them.

    Args:
        predictions: Answer text by question id. Ids that are not among the examples are ignored; a question without a
            prediction counts as wrong.
        examples: The questions.
        tokenizer: For `study_f1`.
        overlap: Whether to compute `bleu` and `rouge_l`, too.

    Returns:
        Scores and shares from 0 to 100:

        - those of `summarize`, by the official rule;
        - `num_missing`, questions without a prediction; `num_empty`, questions that have reference answers, but whose
          prediction is blank (where there are none, as in SQuAD 2.0, a blank one is right and not counted);
        - `answerable_share`, the share of questions of which a reference answer stands in the context, and
          `best_possible_f1`, the F1 of the best span of every context: see `attainable`;
        - `per_answer_f1`, `per_answer_exact_match`, `study_f1`, `bleu`, `rouge_l`, which are not official: see
          `text_scores`; None where they are not defined;
        - `articles`: of each, by title, `f1`, `exact_match`, `num_questions`, `num_missing`, `num_empty`,
          `answerable_share` and `best_possible_f1`.

    Raises:
        DataError: If there are no examples.
        QAError: If `overlap` needs a library that is not installed.
    """
    scores = score_predictions(predictions, _references(examples))
    questions = _describe_questions(scores, predictions, examples)
    titles = dict.fromkeys(example.title for example in examples)
    return {
        **summarize(scores, examples),
        **_summarize_questions(questions),
        **row_scores(predictions, examples),
        "study_f1": study_f1(predictions, examples, tokenizer),
        **(overlap_scores(predictions, examples) if overlap else {}),
        "articles": {title: _summarize_questions([q for q in questions if q.article == title]) for title in titles},
    }


@dataclass(frozen=True, slots=True)
class _Question:
    """What is averaged over questions."""

    article: str
    score: AnswerScore
    is_missing: bool
    is_empty: bool
    is_answerable: bool
    best_possible_f1: float


def _describe_questions(
    scores: QAScores, predictions: Mapping[str, str], examples: Sequence[Example]
) -> list[_Question]:
    attainable = zip(examples, are_answerable(examples), best_possible_f1s(examples), strict=True)
    return [
        _Question(
            article=example.title,
            score=scores.per_question[example.id],
            is_missing=example.id not in predictions,
            is_empty=bool(example.answers) and not predictions.get(example.id, "missing").strip(),
            is_answerable=answerable,
            best_possible_f1=best_f1,
        )
        for example, answerable, best_f1 in attainable
    ]


def _summarize_questions(questions: Sequence[_Question]) -> dict[str, float]:
    count = len(questions)
    return {
        "f1": sum(question.score.f1 for question in questions) / count,
        "exact_match": sum(question.score.exact_match for question in questions) / count,
        "num_questions": count,
        "num_missing": sum(question.is_missing for question in questions),
        "num_empty": sum(question.is_empty for question in questions),
        "answerable_share": 100 * sum(question.is_answerable for question in questions) / count,
        "best_possible_f1": sum(question.best_possible_f1 for question in questions) / count,
    }


def score_files(
    data_path: str | Path,
    predictions_path: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    overlap: bool = False,
    question_scores: Pathlike | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores a file of predictions.

    Args:
        data_path: Data in SQuAD form; offsets do not matter.
        predictions_path: A JSON object, {question id: answer text}.
        tokenizer: As for `score_examples`.
        overlap: As for `score_examples`.
        question_scores: Where the score of each question goes, if anywhere; see `write_question_scores`.

    Returns:
        By the name of the data file (without its directories): `score_examples` and `num_unknown`, the number of
        predictions whose id is no question of the data. They do not count; a caller should say so.

    Raises:
        DataError: If a file cannot be read or written, the predictions are no object of strings, or there are some and
            not one belongs to a question of the data.
        QAError: If `overlap` needs a library that is not installed.
    """
    examples = read_squad(data_path).examples
    predictions = read_predictions(predictions_path)
    references = _references(examples)
    num_unknown = sum(question_id not in references for question_id in predictions)
    if predictions and num_unknown == len(predictions):
        raise DataError(
            f"{predictions_path}: expected ids of questions in {data_path}, such as {next(iter(references))!r}; found "
            f"{len(predictions)} ids that are not there, such as {next(iter(predictions))!r}; predict for this file"
        )
    scores = score_examples(predictions, examples, tokenizer=tokenizer, overlap=overlap)
    if question_scores is not None:
        write_question_scores(question_scores, score_predictions(predictions, references), examples)
    return {Path(data_path).name: scores | {"num_unknown": num_unknown}}


def read_predictions(path: Pathlike) -> dict[str, str]:
    """Reads predictions, answer text by question id.

    Raises:
        DataError: If the file cannot be read or is not a JSON object whose values are all strings of Unicode text.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: expected an object {{question id: answer text}}, found {describe_value(content)}; "
            "give one answer text by the id of each question"
        )
    for question_id, text in content.items():
        if not isinstance(text, str):
            raise DataError(
                f"{path}: question {question_id!r}: expected the answer as a string, found {describe_value(text)}; "
                "give one answer text, not several nor their scores"
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(
                f"{path}: question {question_id!r}: expected the answer as Unicode text, found half of a surrogate "
                "pair in it"
            )
    return content


def _references(examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    return {example.id: tuple(answer.text for answer in example.answers) for example in examples}
