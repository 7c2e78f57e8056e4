"""What an extractive model could reach at best: it can only answer with words of the context."""

from collections import Counter
from collections.abc import Iterable, Sequence

from qa_train.data import Example
from qa_train.metrics import normalize_answer


def are_answerable(examples: Sequence[Example]) -> list[bool]:
    """Returns for each question whether one of its reference answers stands in its context.

    It must stand there word for word after `metrics.normalize_answer`; a reference of no words never does. On the
    other questions no extractive model has a higher exact match than 0, those without references (SQuAD 2.0) aside.
    """
    contexts = _normalized_contexts(examples)
    # Spaces around both make it a search for whole words.
    return [
        any(f" {answer} " in f" {contexts[example.context]} " for answer in _normalized_answers(example))
        for example in examples
    ]


def best_possible_f1s(examples: Sequence[Example]) -> list[float]:
    """Returns for each question the best official F1, 0 to 100, of all spans of its context.

    A span goes from any word of the normalised context to any later one. A model that may answer with part of a word
    (`mile` of `five-mile`, which is one word by the official rule) can score more. A question without references
    (SQuAD 2.0) has 100, which an empty answer scores; one whose references have no words has 0, as for any prediction.
    """
    contexts = {context: text.split() for context, text in _normalized_contexts(examples).items()}
    return [_best_f1(contexts[example.context], example) for example in examples]


def _normalized_contexts(examples: Iterable[Example]) -> dict[str, str]:
    return {context: normalize_answer(context) for context in {example.context for example in examples}}


def _normalized_answers(example: Example) -> set[str]:
    return {normalize_answer(answer.text) for answer in example.answers} - {""}


def _best_f1(context: Sequence[str], example: Example) -> float:
    if not example.answers:
        return 100.0
    return 100.0 * max((_best_run(context, text.split()) for text in _normalized_answers(example)), default=0.0)


def _best_run(context: Sequence[str], reference: Sequence[str]) -> float:
    """Returns the best F1, 0 to 1, of a run of the context's words with the reference's."""
    counts = Counter(reference)
    # A run is better without a word at its end that the reference lacks.
    places = [place for place, word in enumerate(context) if word in counts]
    best = 0.0
    for index, first in enumerate(places):
        missing, num_common = counts.copy(), 0
        for last in places[index:]:
            num_words = last - first + 1 + len(reference)
            if 2 * len(reference) <= best * num_words:
                break  # Even with all words of the reference this run, and every longer one, is no better.
            if missing[context[last]] > 0:
                missing[context[last]] -= 1
                num_common += 1
                best = max(best, 2 * num_common / num_words)
    return best
