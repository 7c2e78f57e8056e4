"""Answers questions with trained models: what Transformers' question-answering pipeline was, without its loops."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from qa_train.answering import Prediction
from qa_train.data import Example, describe_value
from qa_train.ensemble import fit_weights, join_members
from qa_train.errors import ConfigError, DataError
from qa_train.members import open_members
from qa_train.postprocess import MAX_ANSWER_LENGTH
from qa_train.precision import Precision

__all__ = ["Pair", "Prediction", "Predictor"]

Pair = tuple[str, str]


class Predictor:
    """A trained model, or an ensemble of several, that answers questions about contexts of any length.

    It gives the answers that `evaluate_model` scores. Long contexts are read in windows, all of them even where the
    model was trained on the first alone. An ensemble averages its members' start and end probabilities.

    Attributes:
        ensemble: The models and their weights.

    Example:
        >>> predictor = Predictor("models/demo")
        >>> predictor(question="who built the mill ?", context="the mill was built by ada .")
        {'score': 0.93, 'start': 22, 'end': 25, 'answer': 'ada', 'window': 0}
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path],
        device: str = "auto",
        precision: Literal["auto"] | Precision = "auto",
        *,
        weights: Sequence[float] | None = None,
        max_seq_length: int | None = None,
        doc_stride: int | None = None,
    ) -> None:
        """Opens the models and their tokenizers.

        Args:
            model: The directory of a trained model, or a name on the Hub; several for an ensemble.
            device: As `torch.device` takes it; `auto` is the GPU if there is one, else the CPU.
            precision: Of matrix products; `auto` is fp32 on a CPU, on a GPU what it trains in (`resolve_precision`).
            weights: Of each model in an ensemble, in any unit; equal by default.
            max_seq_length: Tokens in a window, 16 to 8192; by default those the models were trained with
                (`training.json` in their directories), else 384.
            doc_stride: Tokens that two windows share, at most half a window; by default as in training, else 128.

        Raises:
            CheckpointError: If a model cannot be opened, or has no question-answering head yet, so that its answers
                would be random; or if a `training.json` does not say what it should.
            ConfigError: If no model is named, the device is not there, the precision unknown, or the windows are
                impossible; if the models have different tokenizers or, by default, windows; or as `join_members` does.
        """
        models = [model] if isinstance(model, str | Path) else [*model]
        if not models:
            raise ConfigError(["expected one model or more, found none"], "Predictor")
        members = open_members(models, device, precision, max_seq_length=max_seq_length, doc_stride=doc_stride)
        self.ensemble = join_members(members, weights, "Predictor")

    @property
    def max_seq_length(self) -> int:
        """Tokens in a window."""
        return self.ensemble.members[0].windows.max_seq_length

    @property
    def doc_stride(self) -> int:
        """Tokens that two windows share."""
        return self.ensemble.members[0].windows.doc_stride

    @property
    def weights(self) -> tuple[float, ...]:
        """Of each model; they sum to 1."""
        return self.ensemble.weights

    def fit_weights(self, dev: str | Path) -> tuple[float, ...]:
        """Weighs the models from now on so that the true answers of a dev set are most probable; see `fit_weights`.

        Returns:
            The weights.

        Raises:
            DataError: If the file cannot be used, or no question has an answer at its offset.
        """
        self.ensemble = fit_weights(self.ensemble, dev)
        return self.weights

    def __call__(
        self,
        question: str | Mapping[str, str] | Sequence[str] | Sequence[Pair] | Sequence[Mapping[str, str]],
        context: str | Sequence[str] | None = None,
        *,
        n_best: int | None = None,
        max_answer_length: int = MAX_ANSWER_LENGTH,
    ) -> Any:
        """Answers one question or many.

        Args:
            question: A question, or a list of them. Without `context`: a mapping with the keys `question` and
                `context`, or a list of such mappings or of (question, context) pairs.
            context: The context; one for all questions, or a list with one for each.
            n_best: How many answers to give to each question; None gives the best one, not in a list.
            max_answer_length: Tokens in an answer at most.

        Returns:
            A `Prediction` for a single question and a list of them for a list, in its order. With `n_best`, a list of
            predictions stands in the place of each, as `n_best_answers` returns it.

        Raises:
            DataError: If there are not as many contexts as questions, or as `n_best_answers` does.
            ConfigError: As `n_best_answers` does.
        """
        answers = self.n_best_answers(_pairs(question, context), 1 if n_best is None else n_best, max_answer_length)
        results: list[Any] = [found[0] for found in answers] if n_best is None else [*answers]
        is_single = isinstance(question, str | Mapping) and (context is None or isinstance(context, str))
        return results[0] if is_single else results

    def n_best_answers(
        self, pairs: Sequence[Pair], n_best: int = 1, max_answer_length: int = MAX_ANSWER_LENGTH
    ) -> list[list[Prediction]]:
        """Returns the best answers to each (question, context) pair, in the order of the pairs.

        Args:
            pairs: Questions with their contexts.
            n_best: Answers to each at most, 1 or more.
            max_answer_length: Tokens in an answer at most, 1 or more.

        Returns:
            For each pair 1 to `n_best` predictions, best first, of different characters; fewer than `n_best` only
            where the context has no more spans.

        Raises:
            DataError: If a question or context is blank or not text.
            ConfigError: If `n_best` or `max_answer_length` is no positive integer.
            CheckpointError: If the model's scores are not finite.
        """
        for name, value in (("n_best", n_best), ("max_answer_length", max_answer_length)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError([f"{name}: expected an integer of at least 1, found {value!r}"], "Predictor")
        for number, pair in enumerate(pairs, 1):
            _check_pair(pair, f"question {number} of {len(pairs)}")
        examples = [Example(str(index), "", context, question, ()) for index, (question, context) in enumerate(pairs)]
        return [*self.ensemble.answers(examples, n_best, max_answer_length)]


def _pairs(question: Any, context: Any) -> list[Pair]:
    """Returns (question, context) pairs out of any of the forms that `Predictor` takes."""
    if context is None:
        items = [question] if isinstance(question, str | Mapping) else _as_list(question, "questions")
        return [_as_pair(item, f"question {number} of {len(items)}") for number, item in enumerate(items, 1)]
    questions = question if isinstance(question, str) else _as_list(question, "questions")
    contexts = context if isinstance(context, str) else _as_list(context, "contexts")
    if isinstance(questions, str):
        questions = [questions] * (1 if isinstance(contexts, str) else len(contexts))
    if isinstance(contexts, str):
        contexts = [contexts] * len(questions)
    if len(questions) != len(contexts):
        raise DataError(
            f"expected a context for each question, or one for all; found {len(questions)} questions and "
            f"{len(contexts)} contexts"
        )
    return list(zip(questions, contexts, strict=True))


def _as_list(value: Any, what: str) -> list[Any]:
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise DataError(f"{what}: expected a string or a list, found {_describe(value)}")
    return list(value)


def _as_pair(item: Any, place: str) -> Pair:
    if isinstance(item, Mapping) and {"question", "context"} <= item.keys():
        return item["question"], item["context"]
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2:
        return item[0], item[1]
    found = f"only {', '.join(map(repr, item)) or 'no keys'}" if isinstance(item, Mapping) else _describe(item)
    raise DataError(
        f"{place}: expected a (question, context) pair or a mapping with 'question' and 'context', found {found}; "
        "pass context=… where there is one for all"
    )


def _check_pair(pair: Pair, place: str) -> None:
    for name, text in zip(("question", "context"), pair, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{place}: expected a {name} with words, found {_describe(text)}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{place}: expected the {name} as Unicode text, found half of a surrogate pair in it"
            ) from None


def _describe(value: object) -> str:
    return describe_value(value) if isinstance(value, str | int | float | list | dict | None) else type(value).__name__
