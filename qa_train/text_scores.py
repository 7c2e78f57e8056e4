"""Scores that are not official, as others report them: by (question, answer) row, the study's, BLEU and ROUGE-L.

All run from 0 to 100, count a question without a prediction as wrong and leave out questions without reference answers
(SQuAD 2.0); where no question has one, they are None.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any, Protocol

from qa_train.data import Example
from qa_train.errors import QAError
from qa_train.metrics import exact_match_score, f1_score


class Tokenizer(Protocol):
    """What is needed of a fast Hugging Face tokenizer."""

    @property
    def backend_tokenizer(self) -> Any:
        """The tokenizer of the library tokenizers behind it."""

    def tokenize(self, text: str) -> list[str]:
        """Returns the tokens of a text, without special ones."""

    def convert_tokens_to_ids(self, tokens: list[str]) -> Any:
        """Returns the tokens' ids."""

    def decode(self, token_ids: Any) -> Any:
        """Returns the text of tokens."""


def row_scores(predictions: Mapping[str, str], examples: Sequence[Example]) -> dict[str, float | None]:
    """Returns `per_answer_f1` and `per_answer_exact_match`, means over (question, answer) rows.

    Many public runs average in this way. It is lower than the official score, which takes the best reference of each
    question, and gives questions with more references more weight.
    """
    rows = _rows(predictions, examples)
    return {
        "per_answer_f1": _mean([f1_score(prediction or "", text) for prediction, text in rows]),
        "per_answer_exact_match": _mean(
            [0.0 if prediction is None else exact_match_score(prediction, text) for prediction, text in rows]
        ),
    }


def study_f1(predictions: Mapping[str, str], examples: Sequence[Example], tokenizer: Tokenizer | None) -> float | None:
    """Returns F1 as the study computed it, only to stand beside the study's 52.25 and 54.05.

    It is wrong in two ways, and so no measure of quality. The reference of a row is its WordPiece tokens joined by
    spaces, `##` pieces and all, while the prediction is tokenised and decoded, so put together again: a word that the
    vocabulary cuts into pieces never matches itself, and the score depends on the tokenizer. And it is a mean over
    (question, answer) rows instead of the best reference of each question. The same predictions of one public BERT run
    score 69.57 officially and 60.13 in this way.

    Returns:
        0 to 100; None without a tokenizer, or with one whose tokens are not WordPieces.
    """
    if tokenizer is None or not _makes_word_pieces(tokenizer):
        return None
    scores = []
    for prediction, text in _rows(predictions, examples):
        tokens = tokenizer.tokenize(prediction or "")
        decoded = tokenizer.decode(tokenizer.convert_tokens_to_ids(tokens))
        scores.append(f1_score(decoded, " ".join(tokenizer.tokenize(text))))
    return _mean(scores)


def _makes_word_pieces(tokenizer: Tokenizer) -> bool:
    return getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None) == "##"


def overlap_scores(predictions: Mapping[str, str], examples: Sequence[Example]) -> dict[str, float | None]:
    """Returns `bleu` and `rouge_l`, which are made for longer texts than most answers are.

    BLEU is sacrebleu's of the whole data set, with all references of a question, whatever the case (signature
    `case:lc|eff:yes|tok:13a|smooth:exp`). Its order is effective: where no prediction has four words, it counts the
    n-grams up to the longest instead of being 0. ROUGE-L is torchmetrics': the mean over questions of the best F1 over
    references, of longest common subsequences of words of a to z and 0 to 9.

    Raises:
        QAError: If one of the two libraries is not installed.
    """
    try:
        from sacrebleu import BLEU
        from torchmetrics.functional.text import rouge_score
    except ModuleNotFoundError as error:
        raise QAError(
            f'BLEU and ROUGE-L need sacrebleu and torchmetrics: {error}; pip install -c constraints.txt -e ".[overlap]"'
        ) from error
    asked = [example for example in examples if example.answers]
    if not asked:
        return {"bleu": None, "rouge_l": None}
    texts = [predictions.get(example.id, "") for example in asked]
    references = [[answer.text for answer in example.answers] for example in asked]
    # sacrebleu takes the first reference of each question, then the second of each (None where there is none), ….
    bleu = BLEU(lowercase=True, effective_order=True, force=True).corpus_score(texts, [*zip_longest(*references)])
    # ROUGE-Lsum alone would look for sentences, with a model that nltk fetches.
    rouge_l = rouge_score(texts, references, accumulate="best", rouge_keys="rougeL")
    return {"bleu": bleu.score, "rouge_l": 100.0 * rouge_l["rougeL_fmeasure"].item()}


def _rows(predictions: Mapping[str, str], examples: Sequence[Example]) -> list[tuple[str | None, str]]:
    """Returns prediction, None where there is none, and reference of each (question, answer) row."""
    return [(predictions.get(example.id), answer.text) for example in examples for answer in example.answers]


def _mean(scores: Sequence[float]) -> float | None:
    return 100.0 * fmean(scores) if scores else None
