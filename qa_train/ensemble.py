"""Several models that answer together: the mean of their probabilities, with weights fitted to a dev set if asked."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from qa_train.answering import Member, Prediction, best_answers, chunks, mix_scores, own_chunks, score_windows
from qa_train.data import Example, read_squad
from qa_train.errors import ConfigError, DataError
from qa_train.postprocess import MAX_ANSWER_LENGTH
from qa_train.tokenization import Features, encode
from qa_train.workers import add_up

_MAX_STEPS, _TOLERANCE = 10_000, 1e-7


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Models whose start and end probabilities are averaged; a single one answers as it does alone.

    Attributes:
        members: One or more, of one tokenizer and the same windows.
        weights: Of each member, 0 or more; they sum to 1.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...]

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """What the windows are made with: one that marks the two texts, if a member's does; others ignore the marks."""
        return max((m.tokenizer for m in self.members), key=lambda t: "token_type_ids" in t.model_input_names)

    def encode(self, examples: Sequence[Example]) -> Features:
        """Cuts questions into windows.

        Raises:
            DataError: If a context has no token.
        """
        return encode(examples, self.tokenizer, **self.members[0].windows.window_arguments)

    def answers(
        self, examples: Sequence[Example], n_best: int = 1, max_answer_length: int = MAX_ANSWER_LENGTH
    ) -> Iterator[list[Prediction]]:
        """Yields the best answers to each question, as `best_answers` returns them, in the order of the questions.

        They are read in chunks, so that memory does not grow with their number.

        Raises:
            CheckpointError: If a model's scores are not finite.
            DataError: If a context has no token.
        """
        for chunk in chunks(examples):
            features = self.encode(examples[chunk])
            scores = [score_windows(member, features) for member in self.members]
            mixed = mix_scores(scores, self.weights, features)
            yield from best_answers(mixed, features, examples[chunk], n_best, max_answer_length)


def join_members(
    members: Sequence[Member], weights: Sequence[float] | None = None, source: str = "ensemble"
) -> Ensemble:
    """Returns the ensemble of some members.

    Args:
        members: One or more.
        weights: Of each member, in any unit: their sum is made 1; equal by default.
        source: Opens the message of an error.

    Raises:
        ConfigError: If the members have different tokenizers or windows, or the weights are not one number of 0 or
            more for each of them, with a positive sum.
    """
    first = members[0]
    for other in members[1:]:
        if _definition(other) != _definition(first):
            problem = f"expected models of one tokenizer, found another one in {other.name} than in {first.name}"
            remedy = "their tokens cannot be averaged; compare them with `evaluate` without --ensemble"
            raise ConfigError([f"{problem}; {remedy}"], source)
        if _windows(other) != _windows(first):
            problem = f"expected the same windows, found {_windows(first)} in {first.name}, {_windows(other)} in"
            raise ConfigError([f"{problem} {other.name}; give max_seq_length and doc_stride for all of them"], source)
    shares = [1.0] * len(members) if weights is None else [*weights]
    if len(shares) != len(members) or not all(0 <= w < math.inf for w in shares) or not 0 < sum(shares) < math.inf:
        raise ConfigError([f"weights: expected {len(members)} numbers >= 0, one above 0, found {shares}"], source)
    return Ensemble(tuple(members), tuple(weight / sum(shares) for weight in shares))


def group_members(members: Sequence[Member]) -> list[list[int]]:
    """Returns the indices of the members that can read the same windows, a list for each kind of windows."""
    groups: dict[str, list[int]] = {}
    for index, member in enumerate(members):
        groups.setdefault(f"{_windows(member)} {_definition(member)}", []).append(index)
    return [*groups.values()]


def _definition(member: Member) -> str:
    """Returns all that decides a tokenizer's tokens; models of different kinds may have the same."""
    definition: dict[str, Any] = json.loads(member.tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # those of the last call
        definition.pop(name, None)
    return json.dumps([definition, member.tokenizer.pad_token_id], sort_keys=True)


def _windows(member: Member) -> str:
    return ", ".join(f"{name} {value}" for name, value in member.windows.window_arguments.items())


def fit_weights(ensemble: Ensemble, dev: str | Path) -> Ensemble:
    """Returns the ensemble with those weights that make the true answers of a dev set most probable.

    What is maximised is the sum over questions of the logarithms of the probability of the answer's first token and
    of its last. Where a question has several reference answers, the first whose offset is true counts; a token that
    stands in several windows has the probability of them all. Several workers share the questions.

    Args:
        ensemble: Two or more members.
        dev: Data whose offsets are true, at least some: the others are left out. Never a test set: its scores would be
            better than on new data.

    Raises:
        DataError: If the file cannot be used, or no question has an answer at its offset.
        CheckpointError: If a model's scores are not finite.
    """
    log_probabilities = _true_log_probabilities(ensemble, read_squad(dev).examples)
    if not len(log_probabilities):
        raise DataError(
            f"{dev}: expected questions with an answer at its answer_start, to fit weights to; found none; give a file "
            "whose offsets are true"
        )
    return replace(ensemble, weights=tuple(mixture_weights(log_probabilities).tolist()))


def _true_log_probabilities(ensemble: Ensemble, examples: Sequence[Example]) -> npt.NDArray[np.float64]:
    """Returns [2 * num_labelled_questions, num_members] log probabilities of true first and last tokens."""
    found = np.zeros((len(examples), 2, len(ensemble.members)))
    for chunk in own_chunks(examples):
        features = ensemble.encode(examples[chunk])
        positions = np.stack([features.start_positions, features.end_positions])
        [windows] = np.nonzero(features.start_positions > 0)  # 0: the answer is elsewhere, below 0: it is not known
        tokens = features.splits[windows] + positions[:, windows]
        questions = features.example_index[windows]
        log_sums = np.full((chunk.stop - chunk.start, *found.shape[1:]), -np.inf)
        for index, member in enumerate(ensemble.members):
            scores = score_windows(member, features)
            for column, part in enumerate((scores.start, scores.end)):
                logs = part.cpu().numpy()[tokens[column]] - scores.log_denominators[questions, column]
                np.logaddexp.at(log_sums[:, column, index], questions, logs)
        found[chunk] = np.where(np.isfinite(log_sums), log_sums, 0.0)
    add_up([found], ensemble.members[0].device)
    # Rows of zeros have no label, or all members are certain of it, which says nothing about weights.
    is_labelled = (found != 0).any(axis=(1, 2))
    return np.reshape(found[is_labelled], (-1, len(ensemble.members)))


def mixture_weights(log_probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the weights of a mixture that make what was observed most probable, by expectation maximisation.

    The likelihood is concave in the weights, and its mean logarithm is at most `max(gains) - 1` below the largest one
    (Lindsay 1983), which ends the search.

    Args:
        log_probabilities: [num_observations, num_components] of each observation by each component; finite.

    Returns:
        [num_components] weights of 0 or more that sum to 1.
    """
    # A factor common to a row does not matter; without it all of a row could vanish.
    probabilities = np.exp(log_probabilities - log_probabilities.max(axis=1, keepdims=True))
    weights = np.full(probabilities.shape[1], 1 / probabilities.shape[1])
    for _ in range(_MAX_STEPS):
        gains = (probabilities / (probabilities @ weights)[:, None]).mean(axis=0)
        if gains.max() - 1 < _TOLERANCE:
            break
        weights = weights * gains
    return np.asarray(weights / weights.sum())
