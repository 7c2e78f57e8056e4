"""Where DistilBERT, BERT and RoBERTa differ: token types, the form of a pair, byte-level offsets."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from qa_train.batching import Batch, collate
from qa_train.data import Answer, Example, read_squad
from qa_train.evaluate import EvalSet, evaluate_model, qa_logits
from qa_train.loop import Recipe, TrainingLoop
from qa_train.model import load_model, load_tokenizer, save_model
from qa_train.postprocess import answer_texts, best_spans, distinct_spans
from qa_train.tokenization import Features, encode
from qa_train.training import build_accelerator
from tests.tiny_models import Kind, tiny_model_dir, tiny_squad, tiny_tokenizer

CPU = torch.device("cpu")
KINDS: list[Kind] = ["distilbert", "bert", "roberta"]
every_kind = pytest.mark.parametrize("kind", KINDS)
CONTEXT = "  In 1,774 Zoë's  mill ( U.S. )\n was sold for $5 to Ñandú & Søn ; nobody 日本 asked 😀 why . " * 3


@cache
def tokenizer_of(kind: Kind) -> Any:
    return tiny_tokenizer(kind)


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    root = tmp_path_factory.mktemp("models")
    return cache(lambda kind: tiny_model_dir(root / kind, kind, seed=3))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, ...]:
    return read_squad(tiny_squad(tmp_path_factory.mktemp("data") / "data.json", 2)).examples


def collated(kind: Kind, features: Features, indices: list[int]) -> Batch:
    return collate(features, indices, tokenizer_of(kind).pad_token_id, CPU)


# Pairs


@torch.inference_mode()
@every_kind
def test_token_types_go_to_bert_alone_and_change_its_scores(
    kind: Kind, directory_of: Callable[[Kind], Path], examples: tuple[Example, ...]
) -> None:
    given: list[set[str]] = []
    model = load_model(str(directory_of(kind)))
    model.register_forward_pre_hook(lambda _module, _args, inputs: given.append({*inputs}), with_kwargs=True)
    batch = collated(kind, encode(examples, tokenizer_of(kind)), [0, 1, 2])
    one, other = (
        torch.stack(qa_logits(model, replace(batch, token_type_ids=types)))
        for types in (batch.token_type_ids, 1 - batch.token_type_ids)
    )
    expected = {"input_ids", "attention_mask", *(["token_type_ids"] if kind == "bert" else [])}
    assert given == [expected, expected]
    assert batch.token_type_ids.any() == (kind == "bert")
    assert torch.equal(one, other) == (kind != "bert")


@every_kind
def test_every_window_has_the_pair_form_of_its_kind(kind: Kind) -> None:
    tokenizer = tokenizer_of(kind)
    features = encode([Example("q", "", CONTEXT, "who was it ?", ())], tokenizer, 40, 12)
    first, between, last = {
        "distilbert": (["[CLS]"], ["[SEP]"], ["[SEP]"]),
        "bert": (["[CLS]"], ["[SEP]"], ["[SEP]"]),
        "roberta": (["<s>"], ["</s>", "</s>"], ["</s>"]),
    }[kind]
    question = tokenizer.tokenize("who was it ?")
    assert len(features) > 3
    for index in range(len(features)):
        own = slice(features.splits[index], features.splits[index + 1])
        tokens = tokenizer.convert_ids_to_tokens(features.input_ids[own].tolist())
        begin, past = features.context_begin[index], features.context_end[index]
        assert tokens[:begin] == [*first, *question, *between]
        assert tokens[past:] == last
        assert not {*tokens[begin:past]} & {*first, *between, tokenizer.pad_token}


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_no_answer_of_one_byte_level_token_has_a_blank_at_its_edges(trim_offsets: bool) -> None:
    tokenizer = tiny_tokenizer("roberta")
    vocab = tokenizer.get_vocab()
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), trim_offsets=trim_offsets, add_prefix_space=True
    )
    examples = [Example("q", "", CONTEXT, "who was it ?", ())]
    features = encode(examples, tokenizer, 40, 12)
    as_tokenized, answers = set(), set()
    for index in range(len(features)):
        one = only_window(features, index)
        for position in range(one.context_begin[0], one.context_end[0]):
            begin, past = one.offsets[position]
            as_tokenized.add(CONTEXT[begin:past])
            at = np.array([position])
            answers.add(answer_texts(one, examples, np.zeros(1), at, at)["q"])
    assert answers == {answer.strip() for answer in answers} - {""}
    # RoBERTa trims the blank before a word, other byte-level tokenizers do not; blanks alone are tokens to all.
    assert (" mill" in as_tokenized) is not trim_offsets
    assert any(not text.strip() for text in as_tokenized)


def only_window(features: Features, index: int) -> Features:
    """Returns the features with one window alone."""
    own = slice(int(features.splits[index]), int(features.splits[index + 1]))
    per_token = {name: getattr(features, name)[own] for name in ("input_ids", "token_type_ids", "offsets")}
    names = ("example_index", "context_begin", "context_end", "start_positions", "end_positions")
    per_window = {name: getattr(features, name)[index : index + 1] for name in names}
    splits = np.array([0, own.stop - own.start])
    return Features(**per_token, **per_window, splits=splits, num_questions_cut=0)


def words_of(context: str) -> Iterator[tuple[int, int]]:
    """All spans of up to three words, and of parts of words between punctuation."""
    words = [match.span() for match in re.finditer(r"\w+|[^\w\s]", context)]
    for index, (begin, _) in enumerate(words):
        for _, past in words[index : index + 3]:
            yield begin, past


@every_kind
def test_labels_decode_to_their_answers_exactly(kind: Kind) -> None:
    examples = [
        Example(str(number), "", CONTEXT, "who was it ?", (Answer(CONTEXT[begin:past], begin),))
        for number, (begin, past) in enumerate(words_of(CONTEXT))
    ]
    features = encode(examples, tokenizer_of(kind), 48, 24)
    is_labelled = features.start_positions > 0
    assert {*features.example_index[is_labelled].tolist()} == {*range(len(examples))}
    for index in np.flatnonzero(is_labelled).tolist():
        one = only_window(features, index)
        decoded = answer_texts(one, examples, np.zeros(1), one.start_positions, one.end_positions)
        example = examples[features.example_index[index]]
        assert decoded == {example.id: example.answers[0].text}


# Models


@every_kind
def test_two_steps_train_every_weight_and_the_model_answers_after_them(
    kind: Kind, directory_of: Callable[[Kind], Path], examples: tuple[Example, ...]
) -> None:
    model, tokenizer = load_model(str(directory_of(kind))), tokenizer_of(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    features = encode(examples[:8], tokenizer, 256)
    dev = EvalSet("dev", examples[8:], encode(examples[8:], tokenizer, 256))
    recipe = Recipe(num_epochs=1, batch_size=4, learning_rate=1e-3, schedule="constant", warmup_ratio=0)
    accelerator = build_accelerator("fp32", use_gpu=False)
    loop = TrainingLoop(model, features, dev, recipe, accelerator, tokenizer.pad_token_id)
    (report,) = loop.reports()
    assert report.step == 2
    assert report.eval_loss is not None
    assert np.isfinite([report.train_loss, report.eval_loss]).all()
    # A pooler has no part in the answer, and position ids are no weights.
    unchanged = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert unchanged <= {name for name in before if "pooler" in name or "position_ids" in name or "token_type" in name}
    assert loop.evaluation is not None
    for example in dev.examples:
        answer = loop.evaluation.predictions[example.id]
        assert answer == answer.strip() != ""
        assert answer in example.context


@torch.inference_mode()
@every_kind
def test_padding_does_not_change_the_scores(kind: Kind, directory_of: Callable[[Kind], Path]) -> None:
    model = load_model(str(directory_of(kind)))
    contexts = ["ada built the mill .", CONTEXT * 3]
    features = encode([Example(str(len(text)), "", text, "who ?", ()) for text in contexts], tokenizer_of(kind), 400)
    alone, padded = (collated(kind, features, indices) for indices in ([0], [0, 1]))
    length = alone.input_ids.shape[1]
    assert padded.input_ids.shape[1] > 10 * length
    for one, other in zip(qa_logits(model, alone), qa_logits(model, padded), strict=True):
        assert torch.allclose(one[0], other[0, :length], atol=1e-5)
        assert (other[0, length:] == torch.finfo(torch.float32).min).all()
        assert other[0, :length].std() > 0.01  # else equal scores would show nothing


@every_kind
def test_a_model_that_is_saved_and_opened_again_answers_alike(
    kind: Kind, directory_of: Callable[[Kind], Path], examples: tuple[Example, ...], tmp_path: Path
) -> None:
    model, tokenizer = load_model(str(directory_of(kind))), load_tokenizer(str(directory_of(kind)))
    save_model(model, tokenizer, tmp_path)
    evaluations = []
    for source in (directory_of(kind), tmp_path):
        opened, own_tokenizer = load_model(str(source)), load_tokenizer(str(source))
        questions = EvalSet("dev", examples, encode(examples, own_tokenizer, 48, 16))
        evaluations.append(evaluate_model(opened, questions, own_tokenizer.pad_token_id, CPU))
    assert evaluations[0] == evaluations[1]


# Any text, any scores


TRACES = ("##", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "<s>", "</s>", "<pad>", "<unk>", "Ġ", "Ċ")
texts = st.lists(
    st.text(max_size=8) | st.text(" \t\n\u3000\u00a0", max_size=6) | st.text(".,;-'\"#[]<>/()…«»", max_size=4),
    max_size=12,
)


@settings(deadline=None, max_examples=80)
@every_kind
@given(before=texts, after=texts, seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.0, 1.0, 50.0]))
def test_every_answer_is_a_piece_of_its_context_without_traces_of_the_tokenizer(
    kind: Kind, before: list[str], after: list[str], seed: int, spread: float
) -> None:
    context = "".join([*before, "a", *after])  # a context needs a token
    examples = [Example("q", "", context, "who # ?", ())]
    features = encode(examples, tokenizer_of(kind), 24, 6)
    batch = collated(kind, features, list(range(len(features))))
    # Padding and the other special tokens may well have the highest scores.
    start, end = spread * torch.randn((2, *batch.input_ids.shape), generator=torch.Generator().manual_seed(seed))
    scores = start, end, batch.context_begin, batch.context_end
    answer = answer_texts(features, examples, *(tensor.numpy() for tensor in best_spans(*scores)))["q"]
    assert answer == answer.strip() != ""
    assert answer in context
    assert not any(trace in answer and trace not in context for trace in TRACES)
    offsets = [features.offsets[begin:past] for begin, past in zip(features.splits, features.splits[1:], strict=False)]
    spans = distinct_spans(*scores, offsets, [context] * len(offsets), n_best=5).as_lists()
    for window in spans:
        pieces = [context[span.start : span.end] for span in window]
        assert all(piece == piece.strip() != "" for piece in pieces)
        assert len({span[1:] for span in window}) == len(window) > 0
    best = max((window[0] for window in spans), key=lambda span: span.logit)
    assert context[best.start : best.end] == answer
