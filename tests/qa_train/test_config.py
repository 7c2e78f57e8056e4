import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from qa_train.config import (
    DATA_DIR_VARIABLE,
    USED_BY_SCHEDULES,
    OptimConfig,
    TrainConfig,
    build_config,
    describe_config,
    get_dotted,
    load_config,
    to_yaml,
    with_values,
)
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
        model: {name: distilbert-base-uncased, max_seq_length: 384, doc_stride: 128, single_window: false,
                attention_dropout: null}
        optim: {learning_rate: 3.0e-5, schedule: linear, warmup_ratio: 0.06, warmup_epochs: 0.1, cooldown: 0.2,
                cooldown_shape: 1-sqrt, weight_decay: 0.01, batch_size: 16, max_grad_norm: 1.0}
        augment: {recognition_noise: 0.0, confusions: null}
        num_epochs: 3
        budgets: null
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
        ("optim: {schedule: cosine}", "optim.schedule: expected linear | constant | trunk, found the text 'cosine'"),
        ("optim: {schedule: trunk, cooldown: 0}", "optim.cooldown: expected a number > 0 and <= 1, found 0"),
        (
            "optim: {schedule: trunk, warmup_ratio: 0.1}",
            "optim.warmup_ratio: expected 0.06, the default, with schedule trunk, which does not use it; found 0.1",
        ),
        (
            "optim: {warmup_epochs: 0.5}",
            "optim.warmup_epochs: expected 0.1, the default, with schedule linear, which does not use it; found 0.5",
        ),
        (
            "optim: {schedule: constant, cooldown_shape: linear}",
            "optim.cooldown_shape: expected 1-sqrt, the default, with schedule constant, which does not use it; "
            "found linear",
        ),
        (
            "budgets: [1, 2]",
            "budgets: expected null with optim.schedule linear, which trains for num_epochs alone; "
            "found the list [1, 2]",
        ),
        (
            "optim: {schedule: trunk, warmup_epochs: 0.81}",
            "optim.warmup_epochs: expected at most 0.8, where the trunk is left for the budget of 1: "
            "1 x (1 - cooldown 0.2); found 0.81",
        ),
        (
            "optim: {schedule: trunk, cooldown: 0.3, warmup_epochs: 2}\nbudgets: [2, 4]",
            "optim.warmup_epochs: expected at most 1.4, where the trunk is left for the budget of 2: "
            "2 x (1 - cooldown 0.3); found 2",
        ),
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
        "xyz: unknown key, expected one of data, model, optim, augment, num_epochs, budgets, precision, scale, seed",
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


TRUNK = GOOD + "optim: {schedule: trunk}\n"
A_LIST = "budgets: expected a list of different integers from 1 to 1000, ascending | null, found"


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("", [], (1, 2, 3)),
        ("num_epochs: 2", [], (1, 2)),
        ("budgets: [1, 2, 5]", [], (1, 2, 5)),
        ("budgets: [1, 2, 5]\nnum_epochs: 5", [], (1, 2, 5)),
        ("budgets: [1, 2, 5]", ["budgets=[4]"], (4,)),
        ("", ["budgets=[2, 3]", "optim.cooldown=0.5", "optim.warmup_epochs=1", "optim.cooldown_shape=linear"], (2, 3)),
    ],
)
def test_the_budgets_of_a_trunk_are_those_given_or_each_epoch(
    tmp_path: Path, text: str, overrides: list[str], expected: tuple[int, ...]
) -> None:
    config = load(tmp_path, TRUNK + text, overrides)
    assert config.finished_epochs == expected
    assert config.num_epochs == expected[-1]
    assert load(tmp_path, describe_config(config)) == load(tmp_path, to_yaml(config)) == config
    assert build_config(TrainConfig, json.loads(json.dumps(config.model_dump())), "test") == config


def test_another_schedule_finishes_one_model(config: TrainConfig) -> None:
    assert config.finished_epochs == (3,)


@pytest.mark.parametrize(
    ("budgets", "problem"),
    [
        (
            "[1, 2]\nnum_epochs: 3",
            "budgets: expected num_epochs 3 as the last one, found the list [1, 2]; set both alike",
        ),
        ("[2, 1]", "budgets: expected each budget above the one before, found the list [2, 1]"),
        ("[1, 1]", "budgets: expected each budget above the one before, found the list [1, 1]"),
        ("[0, 1]", f"{A_LIST} 0"),
        ("[1, 1001]", f"{A_LIST} 1001"),
        ("[1, 2.5]", f"{A_LIST} 2.5"),
        ("[1, true]", f"{A_LIST} true"),
        ("[]", f"{A_LIST} the list []"),
        ("5", f"{A_LIST} 5"),
    ],
)
def test_budgets_that_cannot_be_are_one_mistake(tmp_path: Path, budgets: str, problem: str) -> None:
    assert problems(tmp_path, f"{TRUNK}budgets: {budgets}") == (problem,)


def test_all_that_does_not_go_together_comes_at_once(tmp_path: Path) -> None:
    text = (
        TRUNK.replace("trunk", "trunk, warmup_epochs: 1") + "budgets: [1, 2]\nnum_epochs: 1\nscale: {num_workers: 32}"
    )
    keys = ["optim.batch_size", "budgets", "optim.warmup_epochs"]
    assert [problem.partition(":")[0] for problem in problems(tmp_path, text)] == keys


def test_a_warm_up_may_end_where_the_trunk_is_left(tmp_path: Path) -> None:
    # 3 x (1 - 0.9) is 0.2999999999999998 in floating point.
    text = GOOD + "optim: {schedule: trunk, warmup_epochs: 0.3, cooldown: 0.9}\nbudgets: [3]"
    assert load(tmp_path, text).optim.warmup_epochs == 0.3


def test_the_keys_of_a_trunk_can_be_searched(tmp_path: Path) -> None:
    values = {"optim.cooldown": 0.25, "optim.warmup_epochs": 0.5, "optim.cooldown_shape": "linear"}
    found = with_values(load(tmp_path, TRUNK + "budgets: [1, 3]"), values)
    assert {key: get_dotted(found, key) for key in values} == values
    assert found.finished_epochs == (1, 3)


def test_each_schedule_uses_the_keys_that_are_said_to_be_its_own() -> None:
    assert USED_BY_SCHEDULES.keys() <= OptimConfig.model_fields.keys()
