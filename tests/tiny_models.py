"""Builders for tests: question-answering models of two small layers, and SQuAD-form data that they can learn."""

import json
import random
import string
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForQuestionAnswering, PreTrainedTokenizerFast

Kind: TypeAlias = Literal["distilbert", "bert", "roberta"]

MAX_LENGTH = 512

_NAMES = "ada ben clara david emma frank grace henry irene jack karen leo maria nora oscar paula quinn ruth simon tina"
_PLACES = (
    "arlon berlin cairo delhi essen florence geneva hamburg izmir jena kyoto london madrid naples oslo paris quito "
    "rome sofia tunis"
)
_WORKS = "bridge castle church garden harbour hospital library market mill museum palace school station theatre tower"
_YEARS = " ".join(str(year) for year in range(1705, 1805, 5))
_FILLERS = (
    "many people still come to see it every summer",
    "the work was hard and took more than three long years",
    "nobody in the town had ever seen anything like this before",
    "old maps show a small river and two roads near the place",
    "after the war most of it was repaired with stone and wood",
    "children like to play there when the weather is good",
)
_COMMON = (
    "a about again all also an and are as at be because been before being between both but by can could did do does "
    "during each few first for from had has have he her his how i if in into is its last made make most no not now "
    "of off on one only or other our out over own said same she so some such than that their them then there these "
    "they this those through time to two under until up use very was we were what when where which who why will with "
    "would year years you your builder built designed opened place city country world name number day man woman king "
    "queen house water ##s ##ed ##ing ##er ##ly ##es ##tion ##al ##th"
)


def tiny_model_dir(path: str | Path, kind: Kind = "distilbert", seed: int = 0) -> Path:
    """Saves a randomly initialised QA model of `kind` with its tokenizer and returns the directory.

    Two layers, two heads, width 32, sequences of up to 512 tokens, default dropouts; `seed` alone decides the weights.
    The tokenizer is WordPiece, or byte-level BPE for RoBERTa, and needs no unknown token for printable ASCII.
    """
    tokenizer = tiny_tokenizer(kind)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **_SIZES[kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForQuestionAnswering.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)


_BERT_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_SIZES: dict[Kind, dict[str, Any]] = {
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": MAX_LENGTH},
    "bert": {**_BERT_SIZES, "max_position_embeddings": MAX_LENGTH},
    # RoBERTa's first position is pad_token_id + 1.
    "roberta": {**_BERT_SIZES, "max_position_embeddings": MAX_LENGTH + 2, "type_vocab_size": 1},
}


def tiny_tokenizer(kind: Kind = "distilbert") -> PreTrainedTokenizerFast:
    """Builds the fast tokenizer of `tiny_model_dir`; only BERT's gives `token_type_ids`."""
    if kind == "roberta":
        special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
        special |= {"cls": "<s>", "sep": "</s>"}
        backend = _byte_level_bpe(list(dict.fromkeys(special.values())))
    else:
        special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        backend = _word_piece(list(special.values()))
    inputs = ["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"]
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=MAX_LENGTH,
        model_input_names=inputs,
        **{f"{role}_token": token for role, token in special.items()},
    )


def _words() -> list[str]:
    texts = (_COMMON, _NAMES, _PLACES, _WORKS, _YEARS, *_FILLERS)
    return list(dict.fromkeys(word for text in texts for word in text.split()))


def _word_piece(special: list[str]) -> Tokenizer:
    visible = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = [*special, *visible, *(f"##{character}" for character in visible), *_words()]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return tokenizer


def _byte_level_bpe(special: list[str]) -> Tokenizer:
    # Each word grows from the left, so that words with a common beginning share merges.
    spaced = [f"Ġ{word}" for word in _words() if word.isalnum()]
    merges = dict.fromkeys((word[:end], word[end]) for word in spaced for end in range(1, len(word)))
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), trim_offsets=True, add_prefix_space=True
    )
    return tokenizer


def tiny_squad(path: str | Path, num_articles: int, seed: int = 0) -> Path:
    """Writes `num_articles` articles of 2 paragraphs of 3 questions in SQuAD form and returns the file.

    A context of 30 to 60 words holds one person, one place and one year, and its questions ask who, where and when, so
    that even `tiny_model_dir`'s models learn in seconds to answer half of the new ones, from the kind of word alone.
    """
    rng = random.Random(seed)
    articles = [
        {"title": f"article {number}", "paragraphs": [_paragraph(rng, f"{seed}-{number}-{part}") for part in range(2)]}
        for number in range(num_articles)
    ]
    path = Path(path)
    path.write_text(json.dumps({"version": "tiny", "data": articles}), encoding="utf-8")
    return path


def _paragraph(rng: random.Random, name: str) -> dict[str, Any]:
    person, place, work, year = (rng.choice(words.split()) for words in (_NAMES, _PLACES, _WORKS, _YEARS))
    facts = [
        f"the {work} was designed by {person}",
        f"it was built in the city of {place}",
        f"it opened for all in {year}",
    ]
    sentences = [*facts, *rng.sample(_FILLERS, rng.randint(1, 3))]
    rng.shuffle(sentences)
    context = " . ".join(sentences) + " ."
    asked = [
        (f"who designed the {work} ?", person),
        (f"where was the {work} built ?", place),
        (f"when did the {work} open ?", year),
    ]
    return {
        "context": context,
        "qas": [
            {
                "id": f"{name}-{index}",
                "question": question,
                "answers": [{"text": answer, "answer_start": f" {context} ".index(f" {answer} ")}],
            }
            for index, (question, answer) in enumerate(asked)
        ],
    }
