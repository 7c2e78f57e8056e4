from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from qa_train.config import DATA_DIR_VARIABLE, TrainConfig, build_config, load_config
from qa_train.errors import ConfigError

MINIMAL = {"data": {"train": "train.json"}}


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each test see its own working directory, home directory and no shared data directory."""
    for name in ("cwd", "home", "configs"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    (tmp_path / "configs" / "train.json").touch()


@pytest.fixture
def config() -> TrainConfig:
    return build_config(TrainConfig, MINIMAL, "test")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "configs" / "c.yaml"
    path.write_text(text)
    return path


def load(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> TrainConfig:
    return load_config(TrainConfig, write(tmp_path, text), overrides)


def problems(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, overrides)
    assert caught.value.source.endswith("c.yaml")
    return caught.value.problems


GOOD = "data: {train: train.json}\n"


def test_the_defaults_are_the_documented_ones(config: TrainConfig) -> None:
    documented = """
        data: {train: train.json, dev: null, dev_fraction: 0.1, test: {}, extra_train: {}, extra_weights: {}}
        model: {name: distilbert-base-uncased, max_seq_length: 384, doc_stride: 128, single_window: false}
        optim: {learning_rate: 3.0e-5, schedule: linear, warmup_ratio: 0.06, weight_decay: 0.01,
                batch_size: 16, max_grad_norm: 1.0}
        augment: {recognition_noise: 0.0, confusions: null}
        num_epochs: 3
        precision: auto
        scale: {num_workers: 1, use_gpu: auto, launcher: auto, cpus_per_worker: auto,
                gradient_accumulation_steps: 1, compile: false}
        seed: 0
    """
    assert config.model_dump() == yaml.safe_load(documented)


def test_a_weight_of_no_extra_set_is_named(tmp_path: Path) -> None:
    text = "data: {train: train.json, extra_train: {a: train.json}, extra_weights: {b: 0.5}}\n"
    [problem] = problems(tmp_path, text)
    assert problem == "data.extra_weights.b: expected one of the sets of extra_train (a)"


def test_a_config_cannot_be_changed(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            'optim: {learning_rate: "3e-5"}',
            "optim.learning_rate: expected a number > 0 and <= 1, found the text '3e-5'; write it without quotes",
        ),
        (
            "optim: {learning_rate: abc}",
            "optim.learning_rate: expected a number > 0 and <= 1, found the text 'abc'",
        ),
        ("optim: {learning_rate: .nan}", "optim.learning_rate: expected a number > 0 and <= 1, found .nan"),
        ("optim: {learning_rate: null}", "optim.learning_rate: expected a number > 0 and <= 1, found null"),
        ("optim: {warmup_ratio: 1}", "optim.warmup_ratio: expected a number >= 0 and < 1, found 1"),
        ("optim: {batch_size: true}", "optim.batch_size: expected an integer from 1 to 65536, found true"),
        ("optim: {schedule: trunk}", "optim.schedule: expected linear | constant, found the text 'trunk'"),
        ("optim: 3", "optim: expected a mapping of keys, found 3"),
        ("num_epochs: 0", "num_epochs: expected an integer from 1 to 1000, found 0"),
        ("num_epochs: 2.5", "num_epochs: expected an integer from 1 to 1000, found 2.5"),
        ("num_epochs: [1, 2]", "num_epochs: expected an integer from 1 to 1000, found the list [1, 2]"),
        ("scale: {use_gpu: 1}", "scale.use_gpu: expected auto | true | false, found 1"),
        (
            "scale: {cpus_per_worker: 0}",
            "scale.cpus_per_worker: expected auto | an integer from 1 to 1024, found 0",
        ),
        (
            "model: {name: 7}",
            "model.name: expected a name on the Hugging Face Hub | a local directory, found 7",
        ),
        (
            "model: {max_seq_length: 100}",
            "model.doc_stride: expected at most half of max_seq_length 100, found 128",
        ),
        (
            "scale: {num_workers: 4, gradient_accumulation_steps: 8}",
            "optim.batch_size: expected at least num_workers x gradient_accumulation_steps = 32, found 16",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected_and_found(tmp_path: Path, line: str, expected: str) -> None:
    assert problems(tmp_path, GOOD + line) == (expected,)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optim.lr", "optim.learning_rate"),
        ("optim.learnign_rate", "optim.learning_rate"),
        ("learning_rate", "optim.learning_rate"),
        ("train.optim.learning_rate", "optim.learning_rate"),
        ("epochs", "num_epochs"),
        ("optimizer.batch_size", "optim.batch_size"),
        ("model.max_length", "model.max_seq_length"),
        ("scale.gpu", "scale.use_gpu"),
        ("seed.x", None),
    ],
)
def test_an_unknown_override_is_named_with_the_nearest_key(tmp_path: Path, key: str, nearest: str | None) -> None:
    [problem] = problems(tmp_path, GOOD, [f"{key}=1"])
    end = f"the nearest known one is {nearest}" if nearest else "expected one of "
    assert problem.startswith(f"{key}: unknown key, {end}")


def test_an_unknown_key_of_the_file_is_named_in_its_section(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD + "optim: {lr: 1}\nxyz: 3\n") == (
        "optim.lr: unknown key, the nearest known one is optim.learning_rate",
        "xyz: unknown key, expected one of data, model, optim, augment, num_epochs, precision, scale, seed",
    )


def test_all_mistakes_of_file_and_overrides_come_at_once(tmp_path: Path) -> None:
    text = "data: {train: none.json}\nnum_epochs: 0\nseed: 1\nseed: 2\nfoo_bar: 1\nmodel: {doc_stride: 300}"
    overrides = ["optim.lr=1", "optim.batch_size=[1,", "nonsense", "precision=int8", "precision=fp32"]
    found = problems(tmp_path, text, overrides)
    starts = [
        "line 4: 'seed' is given twice, first in line 3",
        "optim.lr: unknown key",
        "override 'optim.batch_size=[1,': line 1, column 4: not valid YAML",
        "override 'nonsense': expected key=value",
        "precision: given twice among the overrides",
        "data.train: no such file none.json",
        "model.doc_stride: expected at most half",
        "num_epochs: expected an integer",
        "foo_bar: unknown key",
    ]
    assert len(found) == len(starts)
    assert all(problem.startswith(start) for problem, start in zip(found, starts, strict=True))


def test_the_required_key_is_missed_itself_however_much_around_it_is_absent(tmp_path: Path) -> None:
    missing = ("data.train: required and not given, expected the path of a file in SQuAD form",)
    assert problems(tmp_path, "seed: 1") == missing
    assert problems(tmp_path, "data:") == missing
    assert problems(tmp_path, "data: {dev_fraction: 0.2}") == missing
    assert load(tmp_path, "seed: 1", ["data.train=train.json"]).data.train.endswith("configs/train.json")


def test_a_section_with_nothing_in_it_keeps_its_defaults(tmp_path: Path, config: TrainConfig) -> None:
    assert load(tmp_path, GOOD + "optim:\n").optim == config.optim


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected lines of `key: value`, found an empty file"),
        ("# only a comment\n", "expected lines of `key: value`, found an empty file"),
        ("- a\n- b\n", "expected lines of `key: value`, found the list ['a', 'b']"),
        ("data", "expected lines of `key: value`, found the text 'data'"),
    ],
)
def test_a_file_without_keys_is_one_mistake(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text, ["optim.lr=1"]) == (expected,)


def test_broken_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, "data:\n\ttrain: x")
    assert problem.startswith("line 2, column 1: not valid YAML")
    [problem] = problems(tmp_path, GOOD + "optim: {a: [1\n")
    assert problem.startswith("line 3, column 1: not valid YAML")


def test_a_missing_file_and_a_directory_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file$"):
        load_config(TrainConfig, tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"expected a file, found a directory$"):
        load_config(TrainConfig, tmp_path)


def test_the_config_of_a_sweep_is_recognised_and_its_command_named(tmp_path: Path) -> None:
    for text in ("train: {data: {train: x}}\nspace: {}\n", "name: a\ntrain: {seed: 1}\n"):
        [problem] = problems(tmp_path, text)
        assert "configuration of a sweep" in problem
        assert "python -m sweeps run" in problem
