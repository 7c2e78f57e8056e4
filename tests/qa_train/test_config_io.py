from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qa_train.config import (
    DATA_DIR_VARIABLE,
    DEFAULT_DATA_DIR,
    TrainConfig,
    build_config,
    describe_config,
    flatten,
    get_dotted,
    load_config,
    to_yaml,
    with_values,
)
from qa_train.config_schema import known_keys
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


def test_overrides_are_yaml_numbers_lists_and_nulls(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        GOOD,
        ["optim.learning_rate=2e-6", " num_epochs = 7 ", "scale.use_gpu=false", "data.dev=null"],
    )
    assert (config.optim.learning_rate, config.num_epochs) == (2e-6, 7)
    assert config.scale.use_gpu is False
    assert config.data.dev is None


def test_an_override_of_text_is_taken_as_it_stands(tmp_path: Path) -> None:
    odd = "a #1: {b}, it's = 50%.json"
    (tmp_path / "cwd" / odd).touch()
    config = load(tmp_path, GOOD, [f"data.train={odd}", f"data.test.odd={odd}", "model.name=123"])
    assert config.data.train == config.data.test["odd"] == str(tmp_path / "cwd" / odd)
    assert config.model.name == "123"
    assert load(tmp_path, GOOD, ['model.name="a b"']).model.name == "a b"


def test_an_override_of_a_section_changes_only_the_keys_it_names(tmp_path: Path) -> None:
    text = GOOD + "optim: {learning_rate: 1e-5, batch_size: 8}\n"
    config = load(tmp_path, text, ["optim={batch_size: 32}", "scale={num_workers: 2}"])
    assert (config.optim.learning_rate, config.optim.batch_size, config.scale.num_workers) == (1e-5, 32, 2)
    assert problems(tmp_path, text, ["optim={lr: 1}"])[0].startswith("optim.lr: unknown key")


def test_an_override_adds_a_test_set_and_a_mapping_replaces_them_all(tmp_path: Path) -> None:
    text = "data: {train: train.json, test: {clean: train.json}}"
    assert [*load(tmp_path, text, ["data.test.noisy=train.json"]).data.test] == ["clean", "noisy"]
    assert [*load(tmp_path, text, ["data.test={other: train.json}"]).data.test] == ["other"]


@pytest.mark.parametrize("name", ["a.b", "a b", "dev", "train", "é"])
def test_a_test_set_needs_a_name_that_can_be_part_of_a_column_and_a_file(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.test\.{name}: "):
        build_config(TrainConfig, {"data": {"train": "x", "test": {name: "y"}}}, "test")


def test_data_is_looked_up_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(shared))
    places = [DEFAULT_DATA_DIR.expanduser(), shared, tmp_path / "configs", tmp_path / "cwd"]
    for place in places:  # from the last looked in to the first
        place.mkdir(parents=True, exist_ok=True)
        (place / "data.json").touch()
        assert load(tmp_path, "data: {train: data.json}").data.train == str(place / "data.json")
        assert load(tmp_path, GOOD, ["data.dev=data.json"]).data.dev == str(place / "data.json")


def test_a_missing_data_file_names_every_place_looked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path / "shared"))
    text = "data: {train: train.json, dev: no.json, test: {clean: ~/no.json, bad: 3}}"
    dev, clean, bad = problems(tmp_path, text)
    places = ["cwd", "configs", "shared", "home/data/spoken-squad"]
    assert dev == "data.dev: no such file no.json; looked for " + ", ".join(
        str(tmp_path / place / "no.json") for place in places
    )
    assert clean == f"data.test.clean: no such file ~/no.json; looked for {tmp_path / 'home' / 'no.json'}"
    assert bad.startswith("data.test.bad: expected")


def test_a_directory_given_as_data_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "configs" / "folder").mkdir()
    assert problems(tmp_path, "data: {train: folder}") == (
        f"data.train: expected a file, found the directory {tmp_path / 'configs' / 'folder'}",
    )


def test_files_need_not_exist_for_a_config_that_is_used_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {train: elsewhere.json}")
    assert load_config(TrainConfig, path, find_files=False).data.train == "elsewhere.json"


def test_a_local_model_becomes_absolute_and_a_hub_name_stays(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, ["model.name=org/model"]).model.name == "org/model"
    (tmp_path / "configs" / "org" / "model").mkdir(parents=True)
    assert load(tmp_path, GOOD, ["model.name=org/model"]).model.name == str(tmp_path / "configs/org/model")
    [problem] = problems(tmp_path, GOOD, ["model.name=./mdoel"])
    assert problem.startswith("model.name: no such directory ./mdoel; looked for")


def full_config(tmp_path: Path) -> TrainConfig:
    for name in ("2e-6", "on", "it's #1: x.json"):
        (tmp_path / "cwd" / name).touch()
    overrides = [
        "data.dev=on",
        "data.test.a=2e-6",
        "data.test.on=it's #1: x.json",
        "optim.learning_rate=2e-6",
    ]
    return load(tmp_path, GOOD + "scale: {use_gpu: false, cpus_per_worker: 3}\n", overrides)


@pytest.mark.parametrize("render", [describe_config, to_yaml])
def test_a_printed_config_loads_back_unchanged(tmp_path: Path, render: Callable[[TrainConfig], str]) -> None:
    config = full_config(tmp_path)
    assert load(tmp_path, render(config)) == config


def test_the_description_names_every_key_with_its_range(tmp_path: Path) -> None:
    text = describe_config(full_config(tmp_path))
    for key, _ in known_keys(TrainConfig):
        assert f"{key.rpartition('.')[2]}:" in text
    assert "  learning_rate: 2.0e-06  # a number > 0 and <= 1: " in text
    assert "  schedule: linear  # linear | constant | trunk: " in text
    assert all("  # " in line for line in text.splitlines() if ".json" not in line and "2e-6" not in line)


def test_every_key_is_described() -> None:
    assert all(field.description for _, field in known_keys(TrainConfig))


def test_values_are_read_by_dotted_name(config: TrainConfig) -> None:
    assert get_dotted(config, "optim.learning_rate") == 3e-5
    assert get_dotted(config, "num_epochs") == 3
    with pytest.raises(ConfigError, match=r"optim\.lr: unknown key"):
        get_dotted(config, "optim.lr")
    with pytest.raises(ConfigError, match=r"data\.test\.clean: unknown key"):
        get_dotted(config, "data.test.clean")


def test_changed_values_make_a_validated_copy(config: TrainConfig) -> None:
    changed = with_values(config, {"optim.learning_rate": 1e-4, "num_epochs": 5, "data.test.x": "y"})
    assert (changed.optim.learning_rate, changed.num_epochs, changed.data.test) == (1e-4, 5, {"x": "y"})
    assert config.num_epochs == 3
    assert config.data.test == {}
    with pytest.raises(ConfigError) as caught:
        with_values(config, {"optim.lr": 1, "num_epochs": 0, "optim.warmup_ratio": 1.5}, source="trial 3")
    assert len(caught.value.problems) == 3
    assert str(caught.value).startswith("trial 3: 3 problems")


def test_flat_values_have_dotted_names_and_make_the_config_again(tmp_path: Path) -> None:
    config = full_config(tmp_path)
    flat = flatten(config)
    assert flat["optim.learning_rate"] == 2e-6
    assert flat["data.test.a"] == str(tmp_path / "cwd" / "2e-6")
    base = build_config(TrainConfig, MINIMAL, "test")
    assert with_values(base, flat) == config


def test_building_from_values_leaves_them_unchanged() -> None:
    values = {"data": {"train": "x"}}
    build_config(TrainConfig, values, "manifest.json")
    assert values == {"data": {"train": "x"}}
    with pytest.raises(ConfigError, match=r"^manifest\.json: data\.train: expected"):
        build_config(TrainConfig, {"data": {"train": 3}}, "manifest.json")
