import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.compare import compare_files, compare_sweeps, compare_trials, find_model, format_comparison
from analysis.load import Sweeps, load_sweeps
from analysis.questions import read_questions
from qa_train.errors import DataError
from tests.analysis.fixtures import DEV, articles_of, model, row, scored_sweep, write_scores, write_sweep

ARTICLES = articles_of([4] * 9)
RNG = np.random.default_rng(0)
FIRST = RNG.choice([0.0, 50.0, 100.0], len(ARTICLES), p=[0.1, 0.2, 0.7]).tolist()
SECOND = RNG.choice([0.0, 50.0, 100.0], len(ARTICLES), p=[0.5, 0.2, 0.3]).tolist()


def sweep(directory: Path, **changes: object) -> Path:
    return scored_sweep(directory, {"a": (FIRST, 1.0), "b": (SECOND, 2.0)}, ARTICLES, **changes)


def test_two_trials_are_compared_question_by_question(tmp_path: Path) -> None:
    found = compare_trials(load_sweeps(sweep(tmp_path)), "a", "b")
    assert found.f1 == pytest.approx((np.mean(FIRST), np.mean(SECOND)))
    by_article = (np.array(FIRST) - SECOND).reshape(9, 4).mean(axis=1)
    interval = found.f1_difference.interval
    assert interval and found.mcnemar
    assert (interval.low, interval.high) == pytest.approx(
        stats.t.interval(0.95, 8, by_article.mean(), stats.sem(by_article))
    )
    only_first = sum(a == 100 != b for a, b in zip(FIRST, SECOND, strict=True))
    only_second = sum(b == 100 != a for a, b in zip(FIRST, SECOND, strict=True))
    assert (found.mcnemar.only_first, found.mcnemar.only_second) == (only_first, only_second)
    assert found.mcnemar.p_value == pytest.approx(stats.binomtest(only_first, only_first + only_second).pvalue)
    assert len(found.questions) == sum(a != b for a, b in zip(FIRST, SECOND, strict=True))
    ahead = found.questions["first_f1"] - found.questions["second_f1"]
    assert ahead.tolist() == sorted(ahead, reverse=True)
    assert "The first is better beyond chance" in format_comparison(found)


def test_configurations_are_compared_by_the_mean_over_their_seeds(tmp_path: Path) -> None:
    rates = {"a": 1e-4, "b": 2e-4, "a1": 1e-4, "b1": 2e-4}
    scores = {"a": FIRST, "b": SECOND, "a1": SECOND, "b1": SECOND}
    rows = [
        row(trial_id, seed=int(trial_id.endswith("1")), **{"config.optim.learning_rate": rate})
        for trial_id, rate in rates.items()
    ]
    write_sweep(tmp_path, rows)
    for trial_id, f1 in scores.items():
        write_scores(tmp_path, trial_id, f1, ARTICLES)
    sweeps = load_sweeps(tmp_path)
    found = compare_trials(sweeps, "a", "b", all_seeds=True)
    assert found.names == ("a, mean of seeds 0 1", "b, mean of seeds 0 1")
    assert found.f1 == pytest.approx((np.mean([FIRST, SECOND]), np.mean(SECOND)))
    assert found.f1_difference.mean == pytest.approx((np.mean(FIRST) - np.mean(SECOND)) / 2)
    assert found.mcnemar is None
    assert compare_trials(sweeps, "b", "b1").f1_difference.mean == 0
    with pytest.raises(DataError, match="a and a1: expected two configurations, found two seeds of one"):
        compare_trials(sweeps, "a", "a1", all_seeds=True)


def test_texts_are_there_if_the_data_file_is_and_is_the_same(tmp_path: Path) -> None:
    questions = [
        {"id": f"q{n}", "question": f"What is {n}?", "answers": [{"text": "one", "answer_start": 0}]} for n in range(36)
    ]
    data = {"data": [{"title": "t", "paragraphs": [{"context": "one two", "qas": questions}]}]}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(data))
    entry = DEV | {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    directory = sweep(tmp_path / "sweep", data={"dev": entry})
    for trial_id in "ab":
        predictions = {f"q{n}": f"{trial_id}{n}" for n in range(36)}
        (directory / "trials" / trial_id / "predictions_dev_2.json").write_text(json.dumps(predictions))
    first = compare_trials(load_sweeps(directory), "a", "b").questions.iloc[0]
    number = first["question_id"][1:]
    assert first["question"] == f"What is {number}?" and first["answers"] == "one"
    assert (first["first_answer"], first["second_answer"]) == (f"a{number}", f"b{number}")
    path.write_text(json.dumps(data) + " ")
    assert "question" not in compare_trials(load_sweeps(directory), "a", "b").questions


def test_the_best_of_two_sweeps_are_compared_and_their_luck_is_subtracted(tmp_path: Path) -> None:
    sweep(tmp_path / "1", sweep_id="one")
    scored_sweep(tmp_path / "2", {"c": (SECOND, 1.0)}, ARTICLES, sweep_id="two")
    found = compare_sweeps(load_sweeps([tmp_path / "1", tmp_path / "2"]))
    assert found.names == ("one/a", "two/c")
    assert list(found.optimism) == ["one/a"]
    plain = json.loads(json.dumps(found.to_plain(), allow_nan=False))
    assert plain["optimism"]["one/a"]["num_models"] == 2
    assert plain["f1_difference"]["num_articles"] == 9
    assert "one/a: The best of 2 models" in format_comparison(found)


def test_files_are_compared_whatever_the_order_of_their_questions(tmp_path: Path) -> None:
    first = write_scores(tmp_path, "a", FIRST, ARTICLES)
    found = compare_files(first, write_scores(tmp_path, "b", FIRST, ARTICLES))
    assert found.f1_difference.mean == 0 and len(found.questions) == 0
    assert "cannot be told apart" in format_comparison(found)
    with pytest.raises(DataError, match="not the 36 of the first"):
        compare_files(first, write_scores(tmp_path, "c", FIRST[:-1], ARTICLES[:-1]))
    with pytest.raises(DataError, match="found none"):
        compare_files(write_scores(tmp_path, "d", [], []), write_scores(tmp_path, "e", [], []))


def test_few_articles_give_no_verdict(tmp_path: Path) -> None:
    one, other = (write_scores(tmp_path, name, FIRST[:8], ARTICLES[:8]) for name in "ab")
    assert "Whether that is chance cannot be said; 2 articles are too few" in format_comparison(
        compare_files(one, other)
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("z", "a trial with a finished model .a, b, c., found none"),
        ("c", "expected one model, found 2; say which: demo-1/c@1, demo-1/c@2"),
        ("c@x", "found none of this name"),
        ("other/a", "found none of this name"),
        ("b", "expected the scores of single questions, found no file"),
    ],
)
def test_a_model_that_cannot_be_compared_is_named(tmp_path: Path, name: str, problem: str) -> None:
    rows = [row("a"), row("b"), row("c", budget_epochs=1), row("c", report=1, budget_epochs=2)]
    write_sweep(tmp_path, rows)
    write_scores(tmp_path, "a", FIRST, ARTICLES)
    with pytest.raises(DataError, match=problem):
        compare_trials(load_sweeps(tmp_path), "a", name)


def test_names_may_tell_sweep_and_epochs(tmp_path: Path) -> None:
    rows = [row("c", budget_epochs=1), row("c", report=1, budget_epochs=2)]
    write_sweep(tmp_path, rows)
    write_scores(tmp_path, "c", FIRST, ARTICLES, epochs=1, data_set="test.clean")
    write_scores(tmp_path, "c", SECOND, ARTICLES, epochs=2, data_set="test.clean")
    found = compare_trials(load_sweeps(tmp_path), "demo-1/c@1", "c@2", "test.clean")
    assert found.f1 == pytest.approx((np.mean(FIRST), np.mean(SECOND)))


def test_one_sweep_alone_or_one_without_scores_is_refused(tmp_path: Path) -> None:
    sweep(tmp_path / "1", sweep_id="one")
    with pytest.raises(DataError, match="expected two sweeps"):
        compare_sweeps(load_sweeps(tmp_path / "1"))
    write_sweep(tmp_path / "2", [model("a", None, 1.0)], "two")
    with pytest.raises(DataError, match="no finished model has a score"):
        compare_sweeps(load_sweeps([tmp_path / "1", tmp_path / "2"]))


def reuse(tmp_path: Path, *others: dict[str, object]) -> Sweeps:
    """Sweep one with `a`; sweep two whose best, `best`, is a copy of it."""
    scored_sweep(tmp_path / "1", {"a": (FIRST, 1.0)}, ARTICLES, sweep_id="one")
    copy = model("best", float(np.mean(FIRST)), 1.0, reused_from="one/a", config__optim__learning_rate=1e-5)
    write_sweep(tmp_path / "2", [copy, *others], "two")
    write_scores(tmp_path / "2", "best", FIRST, ARTICLES)
    write_scores(tmp_path / "2", "z", SECOND, ARTICLES)
    return load_sweeps([tmp_path / "1", tmp_path / "2"])


def test_the_best_of_a_sweep_may_be_a_copy_from_the_other(tmp_path: Path) -> None:
    found = compare_sweeps(reuse(tmp_path, model("z", float(np.mean(SECOND)), 1.0)))
    assert found.names == ("one/a", "two/best")
    assert found.f1 == pytest.approx((np.mean(FIRST), np.mean(FIRST)))
    assert list(found.optimism) == ["two/best"]


def test_a_sweep_of_copies_alone_has_a_best_one(tmp_path: Path) -> None:
    assert compare_sweeps(reuse(tmp_path)).names == ("one/a", "two/best")


def test_a_copy_that_was_trained_with_other_seeds_too_is_their_mean(tmp_path: Path) -> None:
    other = model("z", float(np.mean(SECOND)), 1.0, seed=1, config__optim__learning_rate=1e-5)
    found = compare_sweeps(reuse(tmp_path, other))
    assert found.names == ("one/a", "two/best (mean of seeds 0 1)")
    assert found.f1 == pytest.approx((np.mean(FIRST), np.mean([FIRST, SECOND])))


def test_a_copy_is_found_by_its_own_name(tmp_path: Path) -> None:
    sweeps = reuse(tmp_path, model("z", float(np.mean(SECOND)), 1.0))
    found = compare_trials(sweeps, "two/best", "z")
    assert found.f1 == pytest.approx((np.mean(FIRST), np.mean(SECOND)))
    assert find_model(sweeps, "best") == find_model(sweeps, "one/a")


@pytest.mark.parametrize(("seeds", "name"), [([None, None], "a"), ([0, None], "a, mean of seeds 0")])
def test_models_without_a_seed_are_compared_too(tmp_path: Path, seeds: list[int | None], name: str) -> None:
    write_sweep(tmp_path, [row(trial, seed=seed, config__x=trial) for trial, seed in zip("ab", seeds, strict=True)])
    for trial_id in "ab":
        write_scores(tmp_path, trial_id, FIRST, ARTICLES)
    assert compare_trials(load_sweeps(tmp_path), "a", "b", all_seeds=True).names == (name, "b")


def test_seeds_scored_on_different_questions_are_told(tmp_path: Path) -> None:
    write_sweep(tmp_path, [row("a"), row("a1", seed=1), row("b", config__optim__learning_rate=1e-5)])
    for trial_id, count in (("a", 36), ("a1", 32), ("b", 32)):
        write_scores(tmp_path, trial_id, FIRST[:count], ARTICLES[:count])
    sweeps = load_sweeps(tmp_path)
    with pytest.raises(DataError, match="expected scores of the same dev questions, found others"):
        compare_trials(sweeps, "a", "b", all_seeds=True)
    assert read_questions(sweeps, {"a": [0, 1]}) == (None, ("a",))


@pytest.mark.parametrize(
    ("f1", "problem"), [([], "found none"), ([50.0, float("nan")], "found nan"), ([float("inf")], "found inf")]
)
def test_scores_that_are_none_are_refused(tmp_path: Path, f1: list[float], problem: str) -> None:
    write_sweep(tmp_path, [row("a"), row("b")])
    paths = [write_scores(tmp_path, trial_id, f1, ["x"] * len(f1)) for trial_id in "ab"]
    with pytest.raises(DataError, match=f"scores_dev_2.parquet: expected .*{problem}"):
        compare_trials(load_sweeps(tmp_path), "a", "b")
    with pytest.raises(DataError, match=f"scores_dev_2.parquet: expected .*{problem}"):
        compare_files(*paths)
