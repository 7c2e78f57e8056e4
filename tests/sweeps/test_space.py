import pytest

from qa_train.config_schema import CrossCheckError
from sweeps.space import Choice, Dimension, IntRange, LogUniformRange, Space, UniformRange, parse_space


def problem(key: str, form: object) -> str:
    with pytest.raises(CrossCheckError) as caught:
        parse_space({key: form})
    assert [*caught.value.problems] == [key]
    return caught.value.problems[key]


@pytest.mark.parametrize(
    ("key", "form", "dimension"),
    [
        ("num_epochs", {"int": [1, 10]}, IntRange(1, 10)),
        ("optim.batch_size", {"int": [8, 64], "log": True}, IntRange(8, 64, log=True)),
        ("optim.learning_rate", {"loguniform": [1e-6, 1e-4]}, LogUniformRange(1e-6, 1e-4)),
        ("optim.warmup_ratio", {"uniform": [0.0, 0.2]}, UniformRange(0.0, 0.2)),
        ("optim.warmup_ratio", {"uniform": [0, 0]}, UniformRange(0, 0)),
        ("optim.schedule", {"choice": ["linear", "constant"]}, Choice(("linear", "constant"))),
        ("optim.batch_size", {"choice": [16]}, Choice((16,))),
    ],
)
def test_each_form_is_read_and_written_back(key: str, form: object, dimension: Dimension) -> None:
    space = parse_space({key: form})
    assert space.dimensions == {key: dimension}
    assert parse_space(space.to_plain()) == space
    assert space.to_plain() == {key: form}
    assert parse_space(space) is space


@pytest.mark.parametrize(
    ("key", "form", "expected"),
    [
        ("optim.lr", {"int": [1, 2]}, "unknown key, the nearest known one is optim.learning_rate"),
        ("train.num_epochs", {"int": [1, 2]}, "unknown key, the nearest known one is num_epochs"),
        ("optim", {"int": [1, 2]}, "this is a section; name a field of it, such as optim.learning_rate"),
        ("data.train", {"choice": ["a"]}, "cannot be searched: all trials use the same questions"),
        ("data.test.clean", {"choice": ["a"]}, "cannot be searched: all trials use the same questions"),
        ("scale.num_workers", {"int": [1, 2]}, "cannot be searched: how the work is spread"),
        ("precision", {"choice": ["bf16"]}, "cannot be searched: it is resolved once"),
        ("seed", {"int": [0, 9]}, "cannot be searched: the best of several seeds"),
        (
            "num_epochs",
            {"int": [3, 1]},
            "expected finite numbers [lo, hi] with lo <= hi, found the list [3, 1]",
        ),
        ("num_epochs", {"int": [1.0, 3]}, "expected integers [lo, hi], found the list [1.0, 3]"),
        ("num_epochs", {"int": [True, 3]}, "expected finite numbers [lo, hi]"),
        ("num_epochs", {"int": ["1", 3]}, "expected finite numbers [lo, hi]"),
        ("num_epochs", {"int": [0, 3]}, "expected an integer from 1 to 1000, found 0"),
        ("num_epochs", {"int": [1, 1001]}, "expected an integer from 1 to 1000, found 1001"),
        ("num_epochs", {"uniform": [1.0, 3.0]}, "expected an integer from 1 to 1000, found 1.0"),
        ("num_epochs", {"uniform": [1, 3]}, "expected {int: [1, 3]}, for this field holds integers, found uniform"),
        ("model.doc_stride", {"int": [0, 64], "log": True}, "expected lo > 0 for a log scale"),
        ("optim.learning_rate", {"loguniform": [0, 1e-4]}, "expected lo > 0 for a log scale"),
        ("optim.learning_rate", {"loguniform": [1e-4, float("inf")]}, "expected finite numbers"),
        ("optim.warmup_ratio", {"uniform": [0, 1.5]}, "expected a number >= 0 and < 1, found 1.5"),
        (
            "optim.schedule",
            {"choice": ["linear", "cosine"]},
            "expected linear | constant | trunk, found the text 'cosine'",
        ),
        ("optim.batch_size", {"choice": []}, "expected at least one value in choice"),
        ("optim.batch_size", {"choice": [8, 16, 8]}, "expected different values in choice"),
        ("optim.batch_size", {"choice": [[8], 16]}, "expected single values in choice"),
        ("optim.batch_size", {"choice": 8}, "expected {int: [lo, hi]}, "),
        ("num_epochs", {"int": [1, 2, 3]}, "expected {int: [lo, hi]}, "),
        ("num_epochs", {"int": [1, 2], "log": 1}, "expected {int: [lo, hi]}, "),
        ("num_epochs", {"int": [1, 2], "choice": [1]}, "expected {int: [lo, hi]}, "),
        ("num_epochs", {"lognormal": [1, 2]}, "expected {int: [lo, hi]}, "),
        ("num_epochs", [1, 2], "expected {int: [lo, hi]}, "),
        ("num_epochs", 3, "expected {int: [lo, hi]}, "),
        ("num_epochs", None, "expected {int: [lo, hi]}, "),
    ],
)
def test_a_dimension_that_cannot_be_searched_says_why(key: str, form: object, expected: str) -> None:
    assert problem(key, form).startswith(expected)


def test_both_bad_ends_and_all_bad_keys_are_named_at_once() -> None:
    with pytest.raises(CrossCheckError) as caught:
        parse_space({"num_epochs": {"int": [0, 2000]}, "foo": 1, "optim.batch_size": {"int": [1, 2]}})
    assert [*caught.value.problems] == ["num_epochs", "foo"]
    assert caught.value.problems["num_epochs"].count("expected an integer") == 2


def test_a_space_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a mapping .* found the list"):
        parse_space(["num_epochs"])


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        (IntRange(1, 3), [1, 2, 3], [0, 4, 2.0, True, "2", None]),
        (UniformRange(0.0, 0.2), [0, 0.0, 0.1, 0.2], [-1e-9, 0.21, False, "0.1", float("nan")]),
        (LogUniformRange(1e-6, 1e-4), [1e-6, 2e-5, 1e-4], [0, 9e-7, 1.1e-4]),
        (Choice((1, "a", None)), [1, "a", None], [1.0, True, "b", [1]]),
    ],
)
def test_a_dimension_contains_what_can_be_sampled(
    dimension: Dimension, inside: list[object], outside: list[object]
) -> None:
    assert all(dimension.contains(value) for value in inside)
    assert not any(dimension.contains(value) for value in outside)


def test_a_space_contains_values_for_exactly_its_dimensions() -> None:
    space = Space({"num_epochs": IntRange(1, 3), "optim.warmup_ratio": UniformRange(0.0, 0.2)})
    assert space.contains({"num_epochs": 2, "optim.warmup_ratio": 0.1})
    assert not space.contains({"num_epochs": 2})
    assert not space.contains({"num_epochs": 2, "optim.warmup_ratio": 0.1, "seed": 1})
    assert not space.contains({"num_epochs": 4, "optim.warmup_ratio": 0.1})
    assert Space().contains({})
