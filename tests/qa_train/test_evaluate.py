import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics.functional.text import squad

from qa_train.data import Answer, read_squad
from qa_train.evaluate import BATCH_SIZE, EvalSet, Evaluation, evaluate_model
from qa_train.model import load_model
from qa_train.tokenization import UNKNOWN, encode
from tests.tiny_models import Kind, tiny_model_dir, tiny_squad, tiny_tokenizer

CPU = torch.device("cpu")
KINDS: list[Kind] = ["distilbert", "bert", "roberta"]


def eval_set(path: Path, kind: Kind = "distilbert", **changes: Any) -> EvalSet:
    """Questions whose contexts take one or two windows each."""
    examples = [replace(example, **changes) for example in read_squad(path).examples]
    return EvalSet("dev", examples, encode(examples, tiny_tokenizer(kind), 48, 16))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_squad(tmp_path_factory.mktemp("data") / "dev.json", 7)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Any]:
    directory = tmp_path_factory.mktemp("models")
    return lambda kind: load_model(str(tiny_model_dir(directory / kind, kind)))


def pad_token_id(kind: Kind) -> int:
    return int(tiny_tokenizer(kind).pad_token_id)


@torch.no_grad()
def plain_loop(model: Any, questions: EvalSet, max_answer_length: int = 30) -> dict[str, Any]:
    """The same without batches, padding, tensors of spans or our scoring rule: one window after the other."""
    features = questions.features
    knows_types = getattr(model.config, "type_vocab_size", 0) > 1
    best: dict[str, tuple[float, str]] = {}
    losses, right = [], []
    for index, example_index in enumerate(features.example_index.tolist()):
        example = questions.examples[example_index]
        own = slice(int(features.splits[index]), int(features.splits[index + 1]))
        types = torch.tensor(features.token_type_ids[own][None].astype("int64"))
        output = model(
            torch.tensor(features.input_ids[own][None].astype("int64")),
            **({"token_type_ids": types} if knows_types else {}),
        )
        start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
        for first in range(features.context_begin[index], features.context_end[index]):
            for last in range(first, min(first + max_answer_length, int(features.context_end[index]))):
                score = start[first] + end[last]
                if example.id not in best or score > best[example.id][0]:
                    offsets = features.offsets[own]
                    best[example.id] = score, example.context[offsets[first, 0] : offsets[last, 1]].strip()
        labels = int(features.start_positions[index]), int(features.end_positions[index])
        if labels[0] != UNKNOWN:
            pairs = zip((start, end), labels, strict=True)
            losses.append(sum(math.log(sum(map(math.exp, row))) - row[label] for row, label in pairs) / 2)
        if labels[0] > 0:
            right.append([row.index(max(row)) == label for row, label in zip((start, end), labels, strict=True)])
    scores = squad(
        [{"prediction_text": text, "id": key} for key, (_, text) in best.items()],
        [
            {
                "answers": {
                    "text": [answer.text for answer in example.answers],
                    "answer_start": [answer.start for answer in example.answers],
                },
                "id": example.id,
            }
            for example in questions.examples
        ],
    )
    return {
        "predictions": {key: text for key, (_, text) in best.items()},
        "f1": float(scores["f1"]),
        "exact_match": float(scores["exact_match"]),
        "loss": sum(losses) / len(losses),
        "start_accuracy": 100 * sum(start for start, _ in right) / len(right),
        "end_accuracy": 100 * sum(end for _, end in right) / len(right),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_a_plain_loop_over_unpadded_windows(
    kind: Kind, data: Path, model_of: Callable[[Kind], Any]
) -> None:
    model, questions = model_of(kind), eval_set(data, kind)
    assert len(questions.features) > len(questions.examples) > BATCH_SIZE
    expected = plain_loop(model, questions)
    found = evaluate_model(model, questions, pad_token_id(kind), CPU)
    assert found.predictions == expected["predictions"]
    assert found.loss == pytest.approx(expected["loss"], rel=1e-5)
    assert found.scores.f1 == pytest.approx(expected["f1"], abs=1e-4)
    assert found.scores.exact_match == pytest.approx(expected["exact_match"], abs=1e-4)
    assert found.start_accuracy == pytest.approx(expected["start_accuracy"])
    assert found.end_accuracy == pytest.approx(expected["end_accuracy"])


def evaluated(data: Path, model_of: Callable[[Kind], Any], **changes: Any) -> Evaluation:
    return evaluate_model(model_of("distilbert"), eval_set(data, **changes), pad_token_id("distilbert"), CPU)


def test_without_a_known_label_there_is_no_loss_but_a_score(data: Path, model_of: Callable[[Kind], Any]) -> None:
    # As in the noisy test sets: answers by text alone.
    found = evaluated(data, model_of, answers=(Answer("in the city of", 100_000),))
    assert (found.loss, found.start_accuracy, found.end_accuracy) == (None, None, None)
    assert found.scores.f1 > 0


def test_questions_without_an_answer_are_scored_and_give_no_loss(data: Path, model_of: Callable[[Kind], Any]) -> None:
    found = evaluated(data, model_of, answers=())
    assert found.loss is None
    assert found.scores.f1 < 10  # of the predictions, only "the" or "." counts as no answer


def test_every_question_gets_an_answer_out_of_its_context(data: Path, model_of: Callable[[Kind], Any]) -> None:
    predictions = evaluated(data, model_of).predictions
    examples = read_squad(data).examples
    assert predictions.keys() == {example.id for example in examples}
    assert all(predictions[example.id] and predictions[example.id] in example.context for example in examples)


def test_each_batch_is_told_with_its_padded_length(data: Path, model_of: Callable[[Kind], Any]) -> None:
    questions, told = eval_set(data), []
    evaluate_model(
        model_of("distilbert"), questions, pad_token_id("distilbert"), CPU, on_batch=lambda *batch: told.append(batch)
    )
    assert sum(size for size, _ in told) == len(questions.features)
    assert told[0] == (BATCH_SIZE, questions.features.lengths.max())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back_and_dropout_has_no_effect(
    training: bool, data: Path, model_of: Callable[[Kind], Any]
) -> None:
    model = model_of("distilbert").train(training)
    one, other = (evaluate_model(model, eval_set(data), pad_token_id("distilbert"), CPU) for _ in range(2))
    assert model.training is training
    assert one.predictions == other.predictions
    assert one.loss == other.loss


def test_the_mode_is_put_back_after_a_failure(data: Path, model_of: Callable[[Kind], Any]) -> None:
    model = model_of("distilbert").train()

    def fail(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_model(model, eval_set(data), pad_token_id("distilbert"), CPU, on_batch=fail)
    assert model.training
