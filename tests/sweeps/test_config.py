from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from qa_train.config import TrainConfig, build_config, describe_config, load_config, to_yaml
from qa_train.config_schema import known_keys
from qa_train.errors import ConfigError
from sweeps.config import SweepConfig
from sweeps.space import IntRange, LogUniformRange, UniformRange

GOOD = "train: {data: {train: train.json}}\n"


def load(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> SweepConfig:
    (tmp_path / "train.json").touch()
    (tmp_path / "c.yaml").write_text(text)
    return load_config(SweepConfig, tmp_path / "c.yaml", overrides)


def problems(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, overrides)
    return caught.value.problems


def test_the_defaults_are_the_documented_ones() -> None:
    config = build_config(SweepConfig, {"train": {"data": {"train": "x"}}}, "test")
    documented = """
        note: ""
        space:
          num_epochs:          {int: [1, 10]}
          optim.learning_rate: {loguniform: [1.0e-6, 1.0e-4]}
          optim.warmup_ratio:  {uniform: [0.0, 0.2]}
        search: {searcher: tpe, num_trials: null, max_concurrent_trials: auto, metric: dev.f1, mode: max,
                 cost_metric: null, curve: best, seed: 0, enqueue: [], seeds: [0], reuse_from: []}
        stop:   {trial_scheduler: none, rungs: [0.25, 0.5], reduction_factor: 3, min_trials: 3,
                 max_failures: 2, max_usd: null, max_device_hours: null, max_wall_s: null}
        finalists: {top: 0, seeds: [0, 1, 2]}
        evaluate_tests: finalists
        keep: {models: 3}
        prices: {}
    """
    assert config.model_dump(mode="json", exclude={"name", "train"}) == yaml.safe_load(documented)
    assert config.train == build_config(TrainConfig, {"data": {"train": "x"}}, "test")
    assert config.space.dimensions == {
        "num_epochs": IntRange(1, 10),
        "optim.learning_rate": LogUniformRange(1e-6, 1e-4),
        "optim.warmup_ratio": UniformRange(0.0, 0.2),
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("search.searcher=asha", "search.searcher: expected tpe | random | grid | list, found the text 'asha'"),
        ("search.num_trials=0", "search.num_trials: expected an integer from 1 to 100000 | null, found 0"),
        ("search.max_concurrent_trials=0", "search.max_concurrent_trials: expected auto | an integer from 1"),
        (
            "search.metric=f1",
            "search.metric: expected dev.f1 | dev.exact_match | eval_loss, found the text 'f1'",
        ),
        ("search.metric=test.clean.f1", "search.metric: expected dev.f1 | dev.exact_match | eval_loss"),
        ("search.metric=eval_loss", "search.mode: expected min for metric eval_loss, found max"),
        ("search.mode=min", "search.mode: expected max for metric dev.f1, found min"),
        (
            "search.seeds=[0, 1, 0]",
            "search.seeds: expected different seeds, for equal ones train the same model twice; ",
        ),
        ("search.seeds=[]", "search.seeds: expected a list of different integers"),
        ("search.seeds=[true]", "search.seeds: expected a list of different integers"),
        ("search.seeds=0", "search.seeds: expected a list of different integers from 0 to 4294967295, found 0"),
        ("finalists.seeds=[3, 3]", "finalists.seeds: expected different seeds"),
        ("finalists.top=-1", "finalists.top: expected an integer from 0 to 1000, found -1"),
        ("search.searcher=list", "search.enqueue: expected at least one point with searcher list, found none"),
        ("search.cost_metric=cost.usd", "search.cost_metric: expected cost.device_s | cost.tflop | null, found"),
        ("stop.trial_scheduler=pbt", "stop.trial_scheduler: expected none | asha | median, found the text 'pbt'"),
        ("stop.max_usd=5", "stop.max_usd: expected null without prices; add prices.<kind of device>, or use"),
        ("stop.max_usd=0", "stop.max_usd: expected a number > 0 | null, found 0"),
        ("prices.cpu-core=3", "prices.cpu-core: expected {usd_per_hour: dollars, date: YYYY-MM-DD, source: text}, f"),
        ("prices=3", "prices: expected a mapping from kinds of device to {usd_per_hour: dollars, date: "),
        ("stop.max_wall_s=0", "stop.max_wall_s: expected a number > 0 | null, found 0"),
        ("stop.max_device_hours=-1", "stop.max_device_hours: expected a number > 0 | null, found -1"),
        ("keep.models=0", "keep.models: expected an integer from 1 to 100000 | null, found 0"),
        ("stop.max_hours=1", "stop.max_hours: unknown key, the nearest known one is stop.max_device_hours"),
        ("name=a/b", "name: expected letters, digits and . _ - (not first), found the text 'a/b'"),
        ("name=..", "name: expected letters, digits"),
        (
            "optim.learning_rate=1",
            "optim.learning_rate: unknown key, the nearest known one is train.optim.learn",
        ),
        ("train.num_epochs=0", "train.num_epochs: expected an integer from 1 to 1000, found 0"),
        ("train.data.dev=no.json", "train.data.dev: no such file no.json; looked for"),
        ("space=3", "space: expected a mapping from fields of train to {int: [lo, hi]}"),
        ("space.num_epochs=[1, 3]", "space.num_epochs: expected {int: [lo, hi]}, "),
        (
            "space.optim.lr={int: [1, 3]}",
            "space.optim.lr: unknown key, the nearest known one is optim.learning_r",
        ),
        (
            "space.optim.warmup_ratio={uniform: [0, 1.5]}",
            "space.optim.warmup_ratio: expected a number >= 0 and",
        ),
        ("train.seed=5", "train.seed: expected one of search.seeds, 0, found 5; set both alike"),
    ],
)
def test_only_what_will_be_honoured_is_accepted(tmp_path: Path, override: str, expected: str) -> None:
    [problem] = problems(tmp_path, GOOD, [override])
    assert problem.startswith(expected)


def test_mistakes_of_train_space_and_search_come_at_once(tmp_path: Path) -> None:
    text = (
        "train: {data: {train: no.json}, optim: {learning_rate: 2}}\n"
        "space:\n  num_epochs: {int: [0, 3]}\n  foo: {int: [1, 2]}\n  num_epochs: {int: [0, 4]}\n"
        "search: {searcher: asha}\n"
    )
    found = problems(tmp_path, text, ["stop.max_usd=-1", "train.optim.lr=1"])
    assert [problem.partition(":")[0] for problem in found] == [
        "line 5",
        "train.optim.lr",
        "train.data.train",
        "train.optim.learning_rate",
        "space.num_epochs",
        "space.foo",
        "search.searcher",
        "stop.max_usd",
    ]


def test_an_override_of_a_dimension_changes_the_space_of_the_file_or_the_default_one(tmp_path: Path) -> None:
    text = GOOD + "space: {num_epochs: {int: [1, 3]}}\n"
    override = ["space.optim.weight_decay={loguniform: [1e-4, 1e-1]}", "space.num_epochs={int: [2, 4]}"]
    space = load(tmp_path, text, override).space
    assert space.dimensions == {
        "num_epochs": IntRange(2, 4),
        "optim.weight_decay": LogUniformRange(1e-4, 1e-1),
    }
    assert len(load(tmp_path, GOOD, override).space.dimensions) == 4


def test_the_default_space_is_not_changed_by_an_override(tmp_path: Path) -> None:
    load(tmp_path, GOOD, ["space.num_epochs={int: [2, 4]}"])
    assert load(tmp_path, GOOD).space.dimensions["num_epochs"] == IntRange(1, 10)


def test_an_empty_space_allows_one_trial(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD + "space: {}\n")
    assert config.space.contains({})
    assert config.num_trials == 1
    [problem] = problems(tmp_path, GOOD + "space: {}\nsearch: {num_trials: 2}\n")
    assert problem == "search.num_trials: expected 1 with an empty space (all trials would be alike), found 2"


GRID = "space: {num_epochs: {int: [2, 4]}, optim.batch_size: {choice: [8, 16]}}\n"


def test_a_grid_or_list_has_as_many_trials_as_points_and_may_be_cut_short(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD + GRID, ["search.searcher=grid"]).num_trials == 6
    assert load(tmp_path, GOOD + GRID, ["search.searcher=grid", "search.num_trials=4"]).num_trials == 4
    point = "{num_epochs: 2, optim.batch_size: 8}"
    points = ["search.searcher=list", f"search.enqueue=[{point}, {point}]"]
    assert load(tmp_path, GOOD + GRID, points).num_trials == 2
    [problem] = problems(tmp_path, GOOD + GRID, ["search.searcher=grid", "search.num_trials=7"])
    assert problem == "search.num_trials: expected at most the 6 points of the grid, found 7"


def test_a_grid_needs_a_finite_number_of_values(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD, ["search.searcher=grid"])
    assert [problem.partition(":")[0] for problem in found] == ["space.optim.learning_rate", "space.optim.warmup_ratio"]
    assert found[0].endswith("expected {choice: [a, b]} or {int: [lo, hi]} in a grid")


def test_with_two_objectives_no_trial_is_stopped(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, GOOD, ["search.cost_metric=cost.tflop", "stop.trial_scheduler=asha"])
    assert problem.startswith("stop.trial_scheduler: expected none with search.cost_metric")


TRUNK = [
    "train.optim.schedule=trunk",
    "train.budgets=[1, 2, 5]",
    "space={optim.learning_rate: {loguniform: [1e-5, 1e-3]}}",
]


def test_trials_of_several_budgets_have_their_epochs_from_them(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, TRUNK)
    assert (config.budgets, config.train.num_epochs) == ((1, 2, 5), 5)
    assert load(tmp_path, GOOD).budgets == ()
    found = problems(tmp_path, GOOD, [*TRUNK[:2], "stop.trial_scheduler=asha", "stop.rungs=[0.3]"])
    assert [problem.partition(":")[0] for problem in found] == [
        "space.num_epochs",
        "space.optim.warmup_ratio",
        "stop.rungs",
    ]


def test_a_curve_counts_by_its_hypervolume_where_there_is_one(tmp_path: Path) -> None:
    asked = "search.curve=hypervolume"
    assert load(tmp_path, GOOD, [*TRUNK, asked]).search.curve == "hypervolume"
    [problem] = problems(tmp_path, GOOD, [asked])
    assert problem.startswith("search.curve: expected best without train.optim.schedule trunk")
    for other in (["search.metric=eval_loss", "search.mode=min"], ["search.cost_metric=cost.tflop"]):
        [problem] = problems(tmp_path, GOOD, [*TRUNK, asked, *other])
        assert problem.startswith("search.curve: expected best with metric eval_loss or a cost_metric")


def test_trainings_are_counted_with_their_seeds_and_the_finalists(tmp_path: Path) -> None:
    asked = ["search.num_trials=4", "search.seeds=[0, 1]", "finalists.top=5", "finalists.seeds=[7, 8, 9]"]
    config = load(tmp_path, GOOD, asked)
    assert (config.num_trials, config.num_trainings) == (4, 4 * 2 + 4 * 3)


def test_values_that_do_not_go_together_are_found_at_the_corners_of_the_space(tmp_path: Path) -> None:
    stride = "space.model.doc_stride={int: [1, 65]}"
    lengths = "space.model.max_seq_length={choice: [384, 128]}"
    [problem] = problems(tmp_path, GOOD, [stride, lengths])
    assert problem.startswith("space.model.doc_stride: with model.doc_stride = 65, model.max_seq_length = 128: ")
    assert load(tmp_path, GOOD, ["space.model.doc_stride={int: [1, 64]}", lengths])
    [problem] = problems(tmp_path, GOOD, ["train.scale.num_workers=9", "space.optim.batch_size={int: [8, 16]}"])
    assert "expected at least num_workers x gradient_accumulation_steps = 9, found 8" in problem


def test_values_of_train_that_the_space_replaces_need_not_go_together_with_it(tmp_path: Path) -> None:
    replaced = ["space.model.doc_stride={int: [8, 16]}", "space.model.max_seq_length={int: [32, 64]}"]
    assert load(tmp_path, GOOD, replaced).train.model.doc_stride == 128


def test_the_seed_of_train_and_of_the_trials_can_be_set_alike(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, ["train.seed=5", "search.seeds=[5]"]).search.seeds == (5,)


def test_the_config_of_one_run_is_recognised_and_its_command_named(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, "data: {train: train.json}\nnum_epochs: 3\n")
    assert "configuration of one training run" in problem
    assert "python -m qa_train train" in problem


def test_the_required_key_is_missed_itself(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, "name: a\n")
    assert problem.startswith("train.data.train: required and not given")


@pytest.mark.parametrize("render", [describe_config, to_yaml])
def test_a_printed_config_loads_back_unchanged(tmp_path: Path, render: Callable[[SweepConfig], str]) -> None:
    overrides = [
        'note=a: b # c, it\'s "quoted"',
        "name=2e-6",
        "space.optim.batch_size={int: [8, 64], log: true}",
        "space.optim.schedule={choice: [linear, constant]}",
        "stop.max_wall_s=1e3",
        "train.data.test.clean=train.json",
        "prices.GPU: X={usd_per_hour: 2e-1, date: 2026-11-01, source: a}",
        "stop.max_usd=5",
    ]
    config = load(tmp_path, GOOD, overrides)
    assert config.name == "2e-6"
    assert load(tmp_path, render(config)) == config


def test_a_note_may_have_several_lines(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD + "note: |\n  first\n  second: #\n")
    assert config.note == "first\nsecond: #\n"
    assert load(tmp_path, describe_config(config)) == config


def test_a_dumped_config_is_built_again_from_json(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert build_config(SweepConfig, config.model_dump(mode="json"), "manifest.json") == config


def test_every_key_is_described() -> None:
    assert all(field.description for _, field in known_keys(SweepConfig))
