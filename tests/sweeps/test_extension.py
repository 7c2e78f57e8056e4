import pytest

from qa_train.config import build_config, with_overrides
from qa_train.errors import ConfigError, DataError
from sweeps.config import SweepConfig
from sweeps.extension import refuse_changes, refuse_other_data, refuse_other_device, refuse_other_models
from sweeps.records import Manifest

BEFORE = build_config(
    SweepConfig,
    {"train": {"data": {"train": "a.json"}, "optim": {"weight_decay": 0.0}}, "search": {"num_trials": 4}},
    "x",
)


def after(*overrides: str) -> SweepConfig:
    return with_overrides(BEFORE, overrides, "x")


@pytest.mark.parametrize(
    "change",
    [
        "search.num_trials=8",
        "search.metric=dev.exact_match",
        "search.searcher=random",
        "space={num_epochs: {int: [1, 3]}, optim.learning_rate: {loguniform: [1e-6, 1e-3]}}",
        "stop.max_wall_s=60",
        "train.scale.num_workers=2",
        "train.data.train=moved/a.json",  # what is in it is compared later
    ],
)
def test_how_a_sweep_searches_and_when_it_stops_may_change(change: str) -> None:
    refuse_changes(BEFORE, after(change))


def test_what_all_trials_train_may_not_change_and_each_difference_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_changes(BEFORE, after("train.data.dev=b.json", "train.optim.weight_decay=0.1", "search.num_trials=3"))
    assert caught.value.problems == (
        "train.data.dev: expected None, as the sweep has had it so far, found 'b.json'; start another sweep for that",
        "train.optim.weight_decay: expected 0.0, as the sweep has had it so far, found 0.1; start another sweep for "
        "that",
        "search.num_trials: expected at least the 4 of the sweep so far, found 3",
    )


def test_other_data_under_the_same_name_are_refused() -> None:
    data = {"train": {"path": "a.json", "sha256": "a" * 64}}
    manifest = Manifest("s", "s", "", "", {}, "dev.f1", "max", "fp32", "cpu-core", 1, data)
    refuse_other_data(manifest, data)
    with pytest.raises(DataError, match=r"a.json: expected the train data of the sweep so far .*aaaa…\), found others"):
        refuse_other_data(manifest, {"train": {"path": "a.json", "sha256": "b" * 64}})


def test_another_kind_of_device_is_refused_and_both_are_named() -> None:
    manifest = Manifest("s", "s", "", "", {}, "dev.f1", "max", "fp32", "NVIDIA A100", 1, {})
    refuse_other_device(manifest, "NVIDIA A100")
    with pytest.raises(
        ConfigError, match=r"device: expected 'NVIDIA A100', as the sweep .* found 'NVIDIA H100'; go on"
    ):
        refuse_other_device(manifest, "NVIDIA H100")


def test_a_model_that_was_overwritten_in_place_is_refused_and_one_that_is_new_is_not() -> None:
    manifest = Manifest("s", "s", "", "", {}, "dev.f1", "max", "fp32", "cpu-core", 1, {}, models={"/m": "a" * 64})
    refuse_other_models(manifest, {"/m": "a" * 64, "/new": "b" * 64})
    with pytest.raises(DataError, match=r"/m: expected the model of the sweep so far .*aaaa…\), found another"):
        refuse_other_models(manifest, {"/m": "b" * 64})


def test_a_sweep_of_an_older_version_that_knows_no_models_is_gone_on_with() -> None:
    manifest = Manifest("s", "s", "", "", {}, "dev.f1", "max", "fp32", "cpu-core", 1, {})
    refuse_other_models(manifest, {"/m": "a" * 64})
