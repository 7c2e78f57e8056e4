"""Loads and saves question-answering models and their tokenizers."""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from qa_train.errors import CheckpointError
from qa_train.offline_model import OFFLINE_MINILM, offline_tokenizer, offline_weights
from qa_train.storage import read_json

HUB_TIMEOUT_S = 10.0

_CONFIG = ("config.json",)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "spm.model", "sentencepiece.bpe.model")
_DOWNLOADED = [
    *_CONFIG,
    *_WEIGHTS,
    *_TOKENIZER,
    "model-?????-of-?????.safetensors",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
]
_ATTENTION_DROPOUT = ("attention_dropout", "attention_probs_dropout_prob")
"""What DistilBERT, and what BERT and its relatives call it."""
_OTHER_CHOICES = f"set model.name: {OFFLINE_MINILM}, which needs no network, or the path of a local directory"


def load_model(
    name: str, seed: int = 0, *, require_head: bool = False, attention_dropout: float | None = None
) -> PreTrainedModel:
    """Opens a model for question answering, on the CPU, in float32 and in evaluation mode.

    Args:
        name: A Hub name, which the local cache answers if it can, so that all trials of a sweep start from the same
            weights; or a local directory; or `offline-minilm` (see `offline_model.offline_weights`).
        seed: Decides alone, with the model's width, the weights of a head that the model does not have yet. PyTorch's
            random state stays as it is.
        require_head: Whether to refuse a model that has no question-answering head yet.
        attention_dropout: Share [0, 1) of the attention weights dropped in training; None: as the model's config.json
            says. At 0 PyTorch computes attention in one fused operation on a CPU too.

    Returns:
        What `AutoModelForQuestionAnswering` gives. Every weight that was saved is kept, a head's included.

    Raises:
        CheckpointError: If there is no such directory or model; no hub answers within `HUB_TIMEOUT_S`; config.json or
            model.safetensors is missing (pickled weights are never opened) or unusable; the model has no
            question-answering form, or needs code of its own; weights of the
            encoder are missing, or any are of another size; the head is missing and required; or its kind has no
            attention dropout to set.
    """
    if name == OFFLINE_MINILM:
        config, weights = offline_weights()
        _set_attention_dropout(name, config, attention_dropout)
        return _open(name, config, seed, require_head, state_dict=weights)
    directory = _directory(name)
    _require(directory, _CONFIG)
    _require(directory, _WEIGHTS)
    with _explained(directory, "config.json"):
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    _set_attention_dropout(name, config, attention_dropout)
    return _open(str(directory), config, seed, require_head, pretrained_model_name_or_path=directory)


def _set_attention_dropout(name: str, config: PreTrainedConfig, share: float | None) -> None:
    if share is None:
        return
    known = [key for key in _ATTENTION_DROPOUT if hasattr(config, key)]
    if not known:
        raise CheckpointError(
            f"{name}: a model of type {config.model_type!r} has no attention dropout that could be set to {share:g}; "
            "leave out model.attention_dropout"
        )
    setattr(config, known[0], share)


def _open(place: str, config: PreTrainedConfig, seed: int, require_head: bool, **source: Any) -> PreTrainedModel:
    if type(config) not in MODEL_FOR_QUESTION_ANSWERING_MAPPING:
        raise CheckpointError(f"{place}: a model of type {config.model_type!r} has no question-answering form")
    model_class: Any = MODEL_FOR_QUESTION_ANSWERING_MAPPING[type(config)]
    model: PreTrainedModel
    config.num_labels = 2  # start and end, whatever the model was trained for before
    attention = "sdpa" if model_class._supports_sdpa else "eager"
    with _explained(place, "the model"), torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reach the GPUs' generators, which fork_rng does not put back here.
        torch.default_generator.manual_seed(seed)
        model, info = model_class.from_pretrained(
            **{"pretrained_model_name_or_path": None, **source},
            config=config,
            attn_implementation=attention,
            dtype=torch.float32,
            use_safetensors=True,
            # Else the weights are views into the file, and a run that writes over it kills this one.
            disable_mmap=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, with a better message
            output_loading_info=True,
        )
    # Nothing but the head may be new.
    missing = {key for key in info["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")}
    if unfit := sorted(missing | {key for key, *_ in info["mismatched_keys"]}):
        raise CheckpointError(
            f"{place}: the weights do not fit config.json: {len(unfit)} are missing or of another size, such as "
            f"{unfit[0]!r}; give a directory that save_pretrained wrote"
        )
    if require_head and info["missing_keys"]:
        raise CheckpointError(
            f"{place}: expected a model trained for question answering, found one without its head "
            f"({min(info['missing_keys'])!r}); train it first: python -m qa_train train … model.name={place}"
        )
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Opens a model's fast tokenizer; it neither cuts nor pads unless a call asks for it.

    Args:
        name: As for `load_model`.

    Raises:
        CheckpointError: If there is no such directory or model; no hub answers within `HUB_TIMEOUT_S`; the tokenizer
            is missing, unusable, without a fast form or without a padding token; or it has more tokens than
            config.json, if there is one, gives the model.
    """
    if name == OFFLINE_MINILM:
        return offline_tokenizer()
    directory = _directory(name)
    _require(directory, _TOKENIZER)
    with _explained(directory, "the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(f"{directory}: expected a fast tokenizer, found {type(tokenizer).__name__}, a slow one")
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"{directory}: the tokenizer has no padding token, which batches need")
    _check_vocabulary(directory, tokenizer)
    _forget_lengths(tokenizer)
    return tokenizer


def _check_vocabulary(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with _explained(directory, "config.json"):
        size = read_json(directory / "config.json").get("vocab_size") if _has_one(directory, _CONFIG) else None
    largest = max(tokenizer.get_vocab().values(), default=0)
    if isinstance(size, int) and largest >= size:
        raise CheckpointError(
            f"{directory}: the tokenizer does not belong to the model: its largest token id is {largest}, but "
            f"config.json gives the model only {size} tokens"
        )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: str | Path) -> None:
    """Writes what `AutoModelForQuestionAnswering.from_pretrained` and `AutoTokenizer.from_pretrained` open.

    Raises:
        CheckpointError: If the directory cannot be created or written.
    """
    with _explained(directory, "the model", "cannot be written"):
        Path(directory).mkdir(parents=True, exist_ok=True)
        model.save_pretrained(directory)
        _forget_lengths(tokenizer)
        tokenizer.save_pretrained(directory)


def _forget_lengths(tokenizer: PreTrainedTokenizerFast) -> None:
    # tokenizer.json keeps the cutting and padding of the last call, or of whoever saved it.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


@contextmanager
def _explained(place: str | Path, what: str, problem: str = "is not usable") -> Iterator[None]:
    """Silences the libraries' remarks and progress bars; turns what they raise into one line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    # disable_progress_bar would also silence the hub's downloads, and warns if the environment forbids that.
    hook = transformers_logging.set_tqdm_hook(_hidden_bar)
    try:
        yield
    # Broken files make transformers and tokenizers raise nearly anything, plain Exception included.
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")
        raise CheckpointError(f"{place}: {what} {problem} ({reason})") from error
    finally:
        transformers_logging.set_tqdm_hook(hook)
        transformers_logging.set_verbosity(verbosity)


def _hidden_bar(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return factory(*args, **{**kwargs, "disable": True})


def _directory(name: str) -> Path:
    """Returns the local directory of a model: itself, or the hub cache's, filled by a download if need be."""
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return Path(path)
    if os.path.exists(path):
        raise CheckpointError(f"{path}: expected a model directory, found a file")
    try:
        return _cached(name) or _downloaded(name)
    except HFValidationError:
        raise CheckpointError(f"{path}: no such directory; {_OTHER_CHOICES}") from None


def _require(directory: Path, alternatives: tuple[str, ...]) -> None:
    if _has_one(directory, alternatives):
        return
    try:
        found = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {error.strerror}") from error
    pickled = "; pickled weights are not opened" if alternatives is _WEIGHTS and "pytorch_model" in found else ""
    raise CheckpointError(f"{directory}: expected {' or '.join(alternatives)}, found {found}{pickled}")


def _has_one(directory: Path, alternatives: tuple[str, ...]) -> bool:
    return any(os.path.isfile(directory / file) for file in alternatives)


def _cached(name: str) -> Path | None:
    try:
        directory = Path(snapshot_download(name, allow_patterns=_DOWNLOADED, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    complete = all(_has_one(directory, alternatives) for alternatives in (_CONFIG, _WEIGHTS, _TOKENIZER))
    return directory if complete else None


def _downloaded(name: str) -> Path:
    """Downloads a model that a hub knows, after asking whether one answers at all.

    Left alone, the hub's client retries each request five times, for minutes in all.
    """
    hub = urlsplit(constants.ENDPOINT).hostname
    absent = f"no such model at {hub}, nor a directory of that name (a private model needs `hf auth login`)"
    try:
        _ask_hub(name)
        return Path(snapshot_download(name, allow_patterns=_DOWNLOADED))
    except GatedRepoError:
        problem = f"{hub} gives it only to users it knows; ask for access there and run `hf auth login`"
    except RepositoryNotFoundError:
        problem = absent
    except OfflineModeIsEnabled:
        problem = "not in the local cache, and HF_HUB_OFFLINE forbids a download"
    except HfHubHTTPError as error:
        status = error.response.status_code
        problem = absent if status == 404 else f"not in the local cache, and {hub} answered with status {status}"
    except TimeoutError:
        problem = f"not in the local cache, and no answer from {hub} within {HUB_TIMEOUT_S:g} s"
    # What else the client raises depends on the HTTP library of its version.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        problem = f"not in the local cache, and fetching it from {hub} failed ({reason})"
    # Without the cause: its text can hold an endpoint's password.
    raise CheckpointError(f"model {name!r}: {problem}; {_OTHER_CHOICES}") from None


def _ask_hub(name: str) -> None:
    answer: Future[object] = Future()

    def ask() -> None:
        try:
            answer.set_result(HfApi().model_info(name, timeout=HUB_TIMEOUT_S))
        except Exception as error:
            answer.set_exception(error)

    # The client's time-outs bound each step of a request, and the look-up of the host not at all.
    Thread(target=ask, daemon=True).start()
    answer.result(HUB_TIMEOUT_S)
