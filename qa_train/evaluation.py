"""Answers whole data files with one or more models at a time and scores the answers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qa_train.answering import Prediction, best_answers, mix_scores, own_chunks, score_windows
from qa_train.data import Example
from qa_train.ensemble import Ensemble
from qa_train.scoring import score_examples
from qa_train.tokenization import Ints
from qa_train.workers import add_up, num_workers, rank


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model, or an ensemble, answered to the questions of a file.

    Attributes:
        probabilities: [num_questions, n_best] float64; see `Prediction`.
        places: [num_questions, n_best, 3] int64 first and past-the-last character, and window; all 0 where the context
            has no more spans.
        costs: [num_workers, 3] float64 seconds, seconds x devices held, and tokens without padding.
    """

    probabilities: npt.NDArray[np.float64]
    places: Ints
    costs: npt.NDArray[np.float64]

    @classmethod
    def none_yet(cls, num_questions: int, n_best: int) -> "Answers":
        """Returns room for the answers."""
        shape = (num_questions, n_best)
        return cls(np.zeros(shape), np.zeros((*shape, 3), dtype=np.int64), np.zeros((num_workers(), 3)))

    def add(self, first: int, found: Sequence[Sequence[Prediction]], seconds: float, num_tokens: int) -> None:
        """Fills in the answers of a chunk, from question `first` on, and adds what they cost this worker."""
        for index, predictions in enumerate(found, first):
            for number, prediction in enumerate(predictions):
                self.probabilities[index, number] = prediction["score"]
                self.places[index, number] = prediction["start"], prediction["end"], prediction["window"]
        self.costs[rank()] += seconds, seconds, num_tokens

    def texts(self, examples: Sequence[Example]) -> dict[str, str]:
        """Returns the best answer to each question by its id."""
        best = zip(examples, self.places[:, 0].tolist(), strict=True)
        return {example.id: example.context[start:end] for example, (start, end, _) in best}

    def predictions(self, examples: Sequence[Example]) -> dict[str, list[Prediction]]:
        """Returns all answers to each question by its id, best first."""
        rows = zip(examples, self.probabilities.tolist(), self.places.tolist(), strict=True)
        return {
            example.id: [
                Prediction(score=score, start=start, end=end, answer=example.context[start:end], window=window)
                for score, (start, end, window) in zip(scores, places, strict=True)
                if end
            ]
            for example, scores, places in rows
        }

    def cost(self) -> dict[str, float | int]:
        """Returns `seconds`, those of the slowest worker, `device_s` and `tokens` of all."""
        seconds, device_s, tokens = self.costs.T
        return {"seconds": float(seconds.max()), "device_s": float(device_s.sum()), "tokens": int(tokens.sum())}


def answer_questions(
    ensemble: Ensemble,
    examples: Sequence[Example],
    n_best: int = 1,
    *,
    with_mean: bool = False,
    on_chunk: Callable[[int], None] = lambda _num_questions: None,
) -> list[Answers]:
    """Answers questions with each member of an ensemble by itself, in one pass.

    Several workers share the chunks of the questions; each returns the answers of all, which are those of one worker:
    to the last bit, where each has as many threads.

    Args:
        ensemble: One or more models.
        examples: The questions; their memory and that of their answers apart, none grows with their number.
        n_best: Answers to each at most, 1 or more.
        with_mean: Whether the ensemble as a whole answers too.
        on_chunk: Called with the number of questions so far, those of other workers estimated.

    Returns:
        The answers of each member, then those of the ensemble if asked. The cost of each is what it would have been
        alone: tokenising counts for each, and scoring by all members for the ensemble.

    Raises:
        CheckpointError: If a model's scores are not finite.
        DataError: If a context has no token.
    """
    device = ensemble.members[0].device
    results = [Answers.none_yet(len(examples), n_best) for _ in range(len(ensemble.members) + with_mean)]
    clock = time.perf_counter
    for chunk in own_chunks(examples):
        asked, begun = examples[chunk], clock()
        features = ensemble.encode(asked)
        encoding_s, scoring_s, num_tokens = clock() - begun, 0.0, len(features.input_ids)
        all_scores = []
        for member, answers in zip(ensemble.members, results, strict=False):
            begun = clock()
            all_scores.append(score_windows(member, features))
            scoring_s += clock() - begun
            found = best_answers(all_scores[-1], features, asked, n_best)
            answers.add(chunk.start, found, encoding_s + clock() - begun, num_tokens)
        if with_mean:
            begun = clock()
            found = best_answers(mix_scores(all_scores, ensemble.weights, features), features, asked, n_best)
            seconds = encoding_s + scoring_s + clock() - begun
            results[-1].add(chunk.start, found, seconds, num_tokens * len(ensemble.members))
        on_chunk(chunk.stop)
    for answers in results:
        answers.costs[:, 1] *= 1 if device.type == "cuda" else torch.get_num_threads()
        add_up([answers.probabilities, answers.places, answers.costs], device)
    return results


def score_answers(answers: Answers, examples: Sequence[Example], tokenizer: Any) -> dict[str, Any]:
    """Returns the scores of a file's answers and what they cost, as JSON knows them.

    Args:
        answers: To all of the questions.
        examples: The questions.
        tokenizer: For `study_f1`.

    Returns:
        What `score_examples` and `span_accuracies` return, and `seconds`, `device_s` and `tokens`.
    """
    scores = score_examples(answers.texts(examples), examples, tokenizer=tokenizer)
    return {**scores, **span_accuracies(answers.places[:, 0], examples), **answers.cost()}


def span_accuracies(places: Ints, examples: Sequence[Example]) -> Mapping[str, float | None]:
    """Returns how often an answer begins, ends, and does both, at the characters of a reference answer.

    Questions without a reference answer that stands at its offset are left out: on the noisy sets of Spoken-SQuAD that
    is nearly all of them.

    Args:
        places: [num_questions, 2 or more] first and past-the-last character of each answer.
        examples: The questions.

    Returns:
        `start_accuracy`, `end_accuracy` and `span_accuracy`, 0 to 100, and `num_with_offsets`, the questions that
        count; None where there are none.
    """
    hits = []
    for (start, end), example in zip(places[:, :2].tolist(), examples, strict=True):
        if spans := _true_spans(example):
            starts, ends = zip(*spans, strict=True)
            hits.append((start in starts, end in ends, (start, end) in spans))
    names = ("start_accuracy", "end_accuracy", "span_accuracy")
    shares = (100 * np.mean(hits, axis=0)).tolist() if hits else [None] * len(names)
    return {**dict(zip(names, shares, strict=True)), "num_with_offsets": len(hits)}


def _true_spans(example: Example) -> set[tuple[int, int]]:
    """Returns first and past-the-last character of the answers that stand at their offset, without blanks around."""
    spans = set()
    for answer in example.answers:
        text, begin = answer.text.strip(), answer.start + len(answer.text) - len(answer.text.lstrip())
        if text and begin >= 0 and example.context[begin : begin + len(text)] == text:
            spans.add((begin, begin + len(text)))
    return spans
