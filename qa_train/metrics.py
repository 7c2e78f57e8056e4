"""Exact match and F1 by the rule of the official SQuAD 1.1 script.

Source: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (2016), section 6.1, and its
`evaluate-v1.1.py`. Scores of a question or of a data set run from 0 to 100.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qa_train.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """The score of one question: each value the best over its references, 0 to 100."""

    exact_match: float
    f1: float


@dataclass(frozen=True)
class QAScores:
    """The score of a data set.

    Attributes:
        exact_match: Mean over all questions, 0 to 100.
        f1: Mean over all questions, 0 to 100.
        num_questions: Questions scored, those without a prediction included.
        num_missing: Questions without a prediction; they count as wrong.
        per_question: Score of each question by its id, in the order of the references.
    """

    exact_match: float
    f1: float
    num_questions: int
    num_missing: int
    per_question: dict[str, AnswerScore]


def normalize_answer(text: str) -> str:
    """Lower-cases, drops ASCII punctuation and the words a, an and the, and collapses white space."""
    without_punctuation = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", without_punctuation).split())


def exact_match_score(prediction: str, reference: str) -> float:
    """Returns 1.0 if the two texts are equal after `normalize_answer`, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def f1_score(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words of the two normalised texts, as multisets.

    Returns:
        0.0 to 1.0; 0.0 where no word is common. So two texts that are both empty after normalisation match exactly
        and yet have F1 0, as in the SQuAD 1.1 script (the script of SQuAD 2.0 gives 1 there).
    """
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(reference).split()
    num_common = sum((Counter(predicted) & Counter(expected)).values())
    return 2.0 * num_common / (len(predicted) + len(expected)) if num_common else 0.0


def score_answer(prediction: str, references: Sequence[str]) -> AnswerScore:
    """Scores one prediction against all reference answers of its question.

    Returns:
        The best exact match and the best F1 over the references, each for itself, 0 to 100. A question without
        references has no answer in its context (SQuAD 2.0): there an empty prediction scores 100, any other 0.
    """
    if not references:
        score = 100.0 * (not normalize_answer(prediction))
        return AnswerScore(score, score)
    return AnswerScore(
        exact_match=100.0 * max(exact_match_score(prediction, reference) for reference in references),
        f1=100.0 * max(f1_score(prediction, reference) for reference in references),
    )


def score_predictions(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> QAScores:
    """Scores a data set: the mean over its questions.

    Args:
        predictions: Answer text by question id. Ids that are not in `references` are ignored.
        references: Reference answers by question id. A question without a prediction counts as wrong.

    Raises:
        DataError: If `references` holds no question.
    """
    if not references:
        raise DataError("no questions to score: expected reference answers of at least one question, found none")
    wrong = AnswerScore(0.0, 0.0)
    per_question = {
        key: score_answer(predictions[key], texts) if key in predictions else wrong for key, texts in references.items()
    }
    num_questions = len(per_question)
    return QAScores(
        exact_match=sum(score.exact_match for score in per_question.values()) / num_questions,
        f1=sum(score.f1 for score in per_question.values()) / num_questions,
        num_questions=num_questions,
        num_missing=sum(key not in predictions for key in references),
        per_question=per_question,
    )
