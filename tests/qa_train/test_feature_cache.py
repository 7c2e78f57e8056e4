import errno
import inspect
import io
import logging
import multiprocessing
import os
import pickle
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from filelock import FileLock
from safetensors.numpy import load_file

from qa_train import feature_cache
from qa_train.batching import collate
from qa_train.data import Answer, Example, read_squad
from qa_train.errors import DataError
from qa_train.feature_cache import cached_encode, entry_key, prune
from qa_train.storage import cache_directory
from qa_train.tokenization import Features, encode
from tests.tiny_models import Kind, tiny_squad, tiny_tokenizer

WINDOW = (48, 16)
KINDS: tuple[Kind, ...] = ("distilbert", "bert", "roberta")

forked = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, ...]:
    return read_squad(tiny_squad(tmp_path_factory.mktemp("data") / "train.json", 3)).examples


@pytest.fixture(autouse=True)
def python_warnings_are_errors() -> Iterator[None]:
    feature_cache._warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def cached(examples: tuple[Example, ...], cache_dir: Path, kind: Kind = "distilbert") -> Features:
    return cached_encode(examples, tiny_tokenizer(kind), *WINDOW, cache_dir=cache_dir)


def key(examples: Sequence[Example], tokenizer: Any = None, **window: int) -> str:
    defaults = {"max_seq_length": WINDOW[0], "doc_stride": WINDOW[1], "single_window": False}
    return entry_key(examples, tokenizer or tiny_tokenizer(), defaults | window)


def assert_same(features: Features, expected: Features) -> None:
    for field in fields(Features):
        one, other = getattr(features, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(one, other, field.name, strict=isinstance(other, np.ndarray))


def files(directory: Path, suffix: str = ".safetensors") -> list[Path]:
    return [path for path in sorted(directory.iterdir()) if path.suffix == suffix]


def fail_to_encode(*_: Any, **__: Any) -> Features:
    raise AssertionError("tokenised again")


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_returns_what_the_tokenizer_does(
    examples: tuple[Example, ...],
    tmp_path: Path,
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = encode(examples, tiny_tokenizer(kind), *WINDOW)
    assert len(expected) > len(examples)
    assert_same(cached(examples, tmp_path, kind), expected)
    monkeypatch.setattr(feature_cache, "encode", fail_to_encode)
    assert_same(cached(examples, tmp_path, kind), expected)
    assert warnings_in(caplog) == []


def test_cut_questions_and_unknown_answers_come_back(examples: tuple[Example, ...], tmp_path: Path) -> None:
    odd = (replace(examples[0], question="who ? " * 99), replace(examples[1], answers=()), *examples[2:4])
    expected = encode(odd, tiny_tokenizer(), *WINDOW)
    assert expected.num_questions_cut == 1
    for _ in range(2):
        features = cached(odd, tmp_path)
        assert type(features.num_questions_cut) is int
        assert_same(features, expected)


def test_single_windows_are_cached_apart(examples: tuple[Example, ...], tmp_path: Path) -> None:
    for single in (True, False, True):
        features = cached_encode(examples, tiny_tokenizer(), *WINDOW, tmp_path, single_window=single)
        assert_same(features, encode(examples, tiny_tokenizer(), *WINDOW, single_window=single))
    assert len(files(tmp_path)) == 2


def test_the_cache_takes_what_the_tokenisation_takes() -> None:
    taken = dict(inspect.signature(cached_encode).parameters)
    del taken["cache_dir"]
    assert taken == dict(inspect.signature(encode).parameters)


def test_arrays_are_mapped_and_read_only(examples: tuple[Example, ...], tmp_path: Path) -> None:
    for features in (cached(examples, tmp_path), cached(examples, tmp_path)):
        for field in fields(Features):
            array = getattr(features, field.name)
            if field.name != "num_questions_cut":
                assert isinstance(array, np.memmap)
                assert array.flags.aligned
                with pytest.raises(ValueError, match="read-only"):
                    array[0] = 0


def test_torch_takes_batches_of_mapped_features_without_a_warning(
    examples: tuple[Example, ...], tmp_path: Path
) -> None:
    batch = collate(cached(examples, tmp_path), [0, 3, 5], 0, torch.device("cpu"))
    expected = collate(encode(examples, tiny_tokenizer(), *WINDOW), [0, 3, 5], 0, torch.device("cpu"))
    assert batch.input_ids.equal(expected.input_ids)
    assert batch.start_positions.equal(expected.start_positions)


def test_mapped_features_survive_pickling(examples: tuple[Example, ...], tmp_path: Path) -> None:
    features = cached(examples, tmp_path)
    assert_same(pickle.loads(pickle.dumps(features)), features)


def test_an_entry_is_a_safetensors_file(examples: tuple[Example, ...], tmp_path: Path) -> None:
    features = cached(examples, tmp_path)
    (path,) = files(tmp_path)
    tensors = load_file(path)
    assert set(tensors) == {field.name for field in fields(Features)} | {"crc32"}
    np.testing.assert_array_equal(tensors["offsets"], features.offsets, strict=False)


def test_whatever_changes_the_features_makes_another_entry(examples: tuple[Example, ...], tmp_path: Path) -> None:
    first = examples[0]
    answer = first.answers[0]
    changed = [
        replace(first, question=first.question + "!"),
        replace(first, context=first.context + "!"),
        replace(first, answers=()),
        replace(first, answers=(replace(answer, start=answer.start + 1),)),
        replace(first, answers=(replace(answer, text=answer.text[1:]),)),
        replace(first, answers=(answer, answer)),
    ]
    uneven = tiny_tokenizer()
    uneven.add_tokens(["zzz"])
    from_the_left = tiny_tokenizer()
    from_the_left.truncation_side = "left"
    typed = tiny_tokenizer()
    typed.model_input_names = ["input_ids", "token_type_ids"]
    keys = [
        key(examples),
        key(examples, max_seq_length=WINDOW[0] + 1),
        key(examples, doc_stride=WINDOW[1] + 1),
        key(examples, single_window=True),
        key(examples[1:]),
        key(examples[::-1]),
        *(key(examples, tiny_tokenizer(kind)) for kind in ("bert", "roberta")),
        *(key(examples, tokenizer) for tokenizer in (uneven, from_the_left, typed)),
        *(key((example, *examples[1:])) for example in changed),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)
    cached(examples, tmp_path)
    cached(examples[1:], tmp_path)
    assert len(files(tmp_path)) == 2


def test_texts_that_only_join_to_the_same_are_told_apart() -> None:
    def joined(question: str, context: str, answer: str) -> str:
        return key([Example("id", "title", context, question, (Answer(answer, 0),))])

    assert len({joined("ab", "c", "d"), joined("a", "bc", "d"), joined("abc", "", "d"), joined("a", "b", "cd")}) == 4


def test_another_version_makes_another_entry(examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {key(examples)}
    for module, name in ((tokenizers, "__version__"), (transformers, "__version__")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, "0")
            keys.add(key(examples))
    for name, value in (("FORMAT_VERSION", 0), ("_SOURCE", b"edited")):
        with monkeypatch.context() as patch:
            patch.setattr(feature_cache, name, value)
            keys.add(key(examples))
    assert len(keys) == 5


def test_neither_ids_titles_nor_earlier_use_of_the_tokenizer_make_another_entry(examples: tuple[Example, ...]) -> None:
    renamed = [replace(example, id=f"new {example.id}", title="another") for example in examples]
    used = tiny_tokenizer()
    used(["who ?"], truncation=True, max_length=7, padding="max_length")
    assert used.backend_tokenizer.truncation and used.backend_tokenizer.padding
    assert key(renamed, used) == key(examples)


def test_four_processes_at_once_tokenise_once(
    examples: tuple[Example, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encode(examples, tiny_tokenizer(), *WINDOW)
    barrier, tokenisations = forked.Barrier(4), forked.Value("i", 0)

    def count(*args: Any, **window: Any) -> Features:
        with tokenisations.get_lock():
            tokenisations.value += 1
        time.sleep(0.3)  # so that the others come meanwhile
        return encode(*args, **window)

    def work() -> None:
        barrier.wait()
        assert_same(cached(examples, tmp_path), expected)

    monkeypatch.setattr(feature_cache, "encode", count)
    processes = [start(work) for _ in range(4)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert tokenisations.value == 1


def start(work: Callable[[], None]) -> Any:
    process = forked.Process(target=work, daemon=True)
    process.start()
    return process


class _DeadlyFile(io.FileIO):
    """A file whose writer is killed when it is half written."""

    def __init__(self, path: Path, _mode: str) -> None:
        super().__init__(path, "xb")

    def write(self, part: Any) -> int:
        written = super().write(part)
        if self.tell() > 1500:
            os.kill(os.getpid(), signal.SIGKILL)
        return written


def test_a_process_killed_while_writing_leaves_nothing_that_hurts(
    examples: tuple[Example, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        monkeypatch.setattr(feature_cache, "open", _DeadlyFile, raising=False)
        cached(examples, tmp_path)

    process = start(work)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (rest,) = files(tmp_path, ".tmp")
    assert rest.stat().st_size > 1500
    assert files(tmp_path) == []

    assert_same(cached(examples, tmp_path), encode(examples, tiny_tokenizer(), *WINDOW))
    assert rest.exists()  # its writer might be alive
    os.utime(rest, (0, 0))
    prune(tmp_path)
    assert not rest.exists()
    assert len(files(tmp_path)) == 1


def test_a_process_killed_while_others_wait_for_it_does_not_block_them(
    examples: tuple[Example, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenising = forked.Event()

    def sleep(*_: Any, **__: Any) -> Features:
        tokenising.set()
        time.sleep(60)
        raise AssertionError("slept to the end")

    def hold() -> None:
        monkeypatch.setattr(feature_cache, "encode", sleep)
        cached(examples, tmp_path)

    def wait() -> None:
        cached(examples, tmp_path)

    holder = start(hold)
    assert tokenising.wait(60)
    waiter = start(wait)
    waiter.join(0.5)
    assert waiter.is_alive()
    holder.kill()
    waiter.join(60)
    assert waiter.exitcode == 0
    assert len(files(tmp_path)) == 1


def test_who_waits_in_vain_tokenises_without_the_cache(
    examples: tuple[Example, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feature_cache, "LOCK_TIMEOUT_S", 0.1)
    with FileLock(tmp_path / f"features-{key(examples)}.lock"):
        assert_same(cached(examples, tmp_path), encode(examples, tiny_tokenizer(), *WINDOW))
    assert len(warnings_in(caplog)) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:3],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: bytes(len(content)),
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b'"I32"', b'"U32"', 1),
        lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    ],
    ids=["empty", "tiny", "short", "half", "long", "zeros", "length", "header", "bit"],
)
def test_a_damaged_entry_is_made_anew(
    examples: tuple[Example, ...], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    cached(examples, tmp_path)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    assert_same(cached(examples, tmp_path), encode(examples, tiny_tokenizer(), *WINDOW))
    assert path.read_bytes() == content


def test_a_directory_that_cannot_be_used_is_said_once(
    examples: tuple[Example, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    for some in (examples, examples[1:], examples):
        assert_same(cached(some, occupied / "cache"), encode(some, tiny_tokenizer(), *WINDOW))
    (message,) = warnings_in(caplog)
    assert str(occupied) in message
    assert "SPANSWEEP_CACHE_DIR" in message


def test_a_read_only_directory_still_gives_what_it_has(
    examples: tuple[Example, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    cached(examples, tmp_path)
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(feature_cache, "FileLock", refuse)
    assert isinstance(cached(examples, tmp_path).input_ids, np.memmap)
    assert warnings_in(caplog) == []
    assert_same(cached(examples[1:], tmp_path), encode(examples[1:], tiny_tokenizer(), *WINDOW))
    assert "Read-only file system" in warnings_in(caplog)[0]


class _FullDisk(io.BytesIO):
    def __init__(self, path: Path, _mode: str) -> None:
        super().__init__()
        path.touch()

    def write(self, part: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_the_cache_not_the_run(
    examples: tuple[Example, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = encode(examples, tiny_tokenizer(), *WINDOW)
    calls = 0

    def count(*args: Any, **window: Any) -> Features:
        nonlocal calls
        calls += 1
        return encode(*args, **window)

    monkeypatch.setattr(feature_cache, "open", _FullDisk, raising=False)
    monkeypatch.setattr(feature_cache, "encode", count)
    assert_same(cached(examples, tmp_path), expected)
    assert calls == 1
    assert "No space left on device" in warnings_in(caplog)[0]
    assert files(tmp_path) == files(tmp_path, ".tmp") == []


def test_errors_of_the_tokenisation_come_through(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no questions to tokenise"):
        cached((), tmp_path)
    assert files(tmp_path) == []


def test_the_least_recently_used_entries_go_first_and_what_is_mapped_stays(
    examples: tuple[Example, ...], tmp_path: Path
) -> None:
    own = tmp_path / "features-mine.safetensors"
    own.touch()
    sets = [examples[:6], examples[6:12], examples[12:]]
    mapped = [cached(some, tmp_path) for some in sets]
    paths = [tmp_path / f"features-{key(some)}.safetensors" for some in sets]
    for age, path in enumerate(reversed(paths)):
        os.utime(path, ns=(0, (100 - age) * 10**9))
    cached(sets[0], tmp_path)  # the oldest becomes the last used
    prune(tmp_path, max_bytes=paths[0].stat().st_size + paths[2].stat().st_size)
    assert [path.exists() for path in paths] == [True, False, True]
    assert_same(mapped[1], encode(sets[1], tiny_tokenizer(), *WINDOW))

    prune(tmp_path, max_bytes=1)
    assert [path.exists() for path in paths] == [True, False, False]
    assert own.exists()


def test_a_new_entry_drives_out_old_ones(
    examples: tuple[Example, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for some in (examples[:6], examples[6:]):
        with monkeypatch.context() as patch:
            patch.setattr(feature_cache.prune, "__defaults__", (1,))
            cached(some, tmp_path)
    assert [path.stem for path in files(tmp_path)] == [f"features-{key(examples[6:])}"]


def test_the_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", str(tmp_path / "chosen"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "chosen"
    monkeypatch.delenv("SPANSWEEP_CACHE_DIR")
    assert cache_directory() == tmp_path / "xdg" / "spansweep"
    for empty in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", empty)
        assert cache_directory() == Path("~/.cache/spansweep")


def test_the_home_directory_is_used_and_created(
    examples: tuple[Example, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SPANSWEEP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    cached_encode(examples, tiny_tokenizer(), *WINDOW)
    directory = tmp_path / ".cache" / "spansweep"
    assert len(files(directory)) == 1
    assert directory.stat().st_mode & 0o777 == 0o700
