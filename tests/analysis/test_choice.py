from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from analysis.choice import recommend_paired, weigh
from analysis.configurations import configuration_table, members_of
from analysis.frontier import front_shares, pareto_mask
from analysis.load import Sweeps, load_sweeps
from analysis.report import make_report, write_report
from qa_train.errors import DataError
from tests.analysis.fixtures import articles_of, model, scored_sweep, write_scores, write_sweep

ARTICLES = articles_of([6] * 9)


def scores(mean: float, spread: float, seed: int) -> npt.NDArray[np.float64]:
    """F1 of 54 questions around a mean; articles of equal size, so that the mean of articles is that of questions."""
    return np.clip(mean + spread * np.random.default_rng(seed).normal(size=len(ARTICLES)), 0, 100)


BEST = scores(70, 10, 0)
NEAR = BEST - 0.3 + scores(0, 0, 0) + np.random.default_rng(1).normal(0, 3, len(BEST))
FAR = BEST - 8 + np.random.default_rng(2).normal(0, 3, len(BEST))


def sweep(tmp_path: Path, **models: tuple[npt.NDArray[np.float64], float]) -> Sweeps:
    return load_sweeps(
        scored_sweep(tmp_path / "sweep", {k: (f1.tolist(), h) for k, (f1, h) in models.items()}, ARTICLES)
    )


def test_the_cheapest_that_cannot_be_told_from_the_best_is_recommended(tmp_path: Path) -> None:
    report = make_report(sweep(tmp_path, best=(BEST, 4.0), near=(NEAR, 2.0), far=(FAR, 1.0)))
    assert report.choice
    assert report.table.loc[report.choice.best, "trial_id"] == "best"
    assert report.table.loc[report.choice.recommended, "trial_id"] == "near"
    by_article = (NEAR - BEST).reshape(9, 6).mean(axis=1)
    expected = stats.t.interval(0.95, 8, by_article.mean(), stats.sem(by_article))
    difference = report.choice.difference
    assert difference and difference.interval
    assert (difference.interval.low, difference.interval.high) == pytest.approx(expected)
    assert difference.mean == pytest.approx((NEAR - BEST).mean())
    told = f"{expected[0]:.2f} to {expected[1]:.2f} over 9 articles"
    assert "cannot be told from the best on the same questions (" in report.sentences[1] and told in report.sentences[1]
    assert told in (report.recommended or "") and len(report.sentences) == 2


def test_a_best_model_that_is_better_than_all_cheaper_ones_beyond_chance_is_recommended_itself(tmp_path: Path) -> None:
    report = make_report(sweep(tmp_path, best=(BEST, 4.0), far=(FAR, 1.0)))
    assert report.sentences[1].endswith("each cheaper model is worse on the same questions, beyond chance.")


def test_a_best_model_that_costs_least_is_recommended_as_such(tmp_path: Path) -> None:
    report = make_report(sweep(tmp_path, best=(BEST, 1.0), far=(FAR, 2.0)))
    assert report.sentences[1] == ("It is also the recommended one: no other model with a score is known to cost less.")


def test_a_model_of_unknown_cost_is_not_called_a_cheaper_one_that_is_worse(tmp_path: Path) -> None:
    rows = [model("best", 70.0, 4.0), model("near", 69.9, None, config__optim__learning_rate=1e-5)]
    directory = write_sweep(tmp_path, rows)
    for name, f1 in (("best", BEST), ("near", NEAR)):
        write_scores(directory, name, f1.tolist(), ARTICLES)
    assert (
        make_report(load_sweeps(directory)).sentences[1].endswith("no other model with a score is known to cost less.")
    )


def test_a_cheaper_model_that_could_not_be_compared_is_not_called_worse(tmp_path: Path) -> None:
    sweeps = sweep(tmp_path, best=(BEST, 4.0), lost=(BEST - 0.01, 1.0))
    (tmp_path / "sweep" / "trials" / "lost" / "scores_dev_2.parquet").unlink()
    assert make_report(sweeps).sentences[1] == (
        "It is also the recommended one: 1 cheaper model could not be compared on the same questions."
    )


def test_cheaper_models_that_were_compared_are_told_apart_from_those_that_could_not_be(tmp_path: Path) -> None:
    sweeps = sweep(tmp_path, best=(BEST, 4.0), far=(FAR, 2.0), lost=(BEST - 0.1, 1.0), gone=(BEST - 0.2, 1.0))
    for name in ("lost", "gone"):
        (tmp_path / "sweep" / "trials" / name / "scores_dev_2.parquet").unlink()
    assert make_report(sweeps).sentences[1] == (
        "It is also the recommended one: 2 cheaper models could not be compared on the same questions, each other one "
        "is worse, beyond chance."
    )


def test_a_margin_that_is_asked_for_is_heeded(tmp_path: Path) -> None:
    sweeps = sweep(tmp_path, best=(BEST, 4.0), near=(NEAR, 2.0), far=(FAR, 1.0))
    report = make_report(sweeps, within_f1=20.0)
    assert report.choice and report.table.loc[report.choice.recommended, "trial_id"] == "far"
    assert "within 20 F1 of the best" in report.sentences[1]


def test_what_the_next_step_would_buy_is_told_with_its_price(tmp_path: Path) -> None:
    prices = {"cpu-core": {"usd_per_hour": 2.0, "date": "2025-01-01", "source": "a bill"}}
    models = {"best": (BEST + 0.4, 4.0), "middle": (BEST + 0.2, 3.0), "near": (BEST, 2.0)}
    directory = scored_sweep(tmp_path, {k: (f1.tolist(), h) for k, (f1, h) in models.items()}, ARTICLES, prices=prices)
    write_scores(directory, "near", NEAR.tolist(), ARTICLES)
    text = make_report(load_sweeps(directory)).sentences[1]
    step = (
        "the next dearer model of the front, middle of 2 epochs instead of 2, costs 1 device-hours ($2) more and buys"
    )
    assert step in text
    assert "the best one costs 2 device-hours ($4) more and buys 0.40 F1" in text


def test_intervals_and_front_shares_stand_in_the_table(tmp_path: Path) -> None:
    report = make_report(sweep(tmp_path, best=(BEST, 4.0), near=(NEAR, 2.0), dominated=(FAR, 9.0)))
    table = report.table.set_index("trial_id")
    by_article = BEST.reshape(9, 6).mean(axis=1)
    expected = stats.t.interval(0.95, 8, by_article.mean(), stats.sem(by_article))
    assert (table["dev.f1.low"]["best"], table["dev.f1.high"]["best"]) == pytest.approx(expected)
    assert table["front_share"]["near"] == 1.0 and table["front_share"]["dominated"] == 0.0
    assert 0.0 < table["front_share"]["best"] <= 1.0
    assert "| front share |" in report.text.replace("  ", " ") or "front share" in report.text
    assert "The best of 3 models was chosen on the questions that it is scored on." in report.text


def test_a_share_is_that_of_the_draws_in_which_brute_force_finds_the_model_on_the_front() -> None:
    rng = np.random.default_rng(0)
    articles = articles_of([3, 5, 2, 7, 4, 6])
    f1, costs = rng.uniform(0, 100, (6, len(articles))), np.array([1.0, 2.0, 2.0, 3.0, np.nan, 4.0])
    names = np.array(articles)
    expected = np.zeros(6)
    for draw in np.random.default_rng(7).multinomial(6, np.full(6, 1 / 6), 200):
        picked = np.concatenate(
            [np.tile(np.flatnonzero(names == f"article {n}"), times) for n, times in enumerate(draw)]
        )
        means = f1[:, picked].mean(axis=1)
        expected += pareto_mask(costs, means)
    assert front_shares(costs, f1, articles, 200, seed=7) == pytest.approx(expected / 200)


def test_older_sweeps_without_scores_fall_back_to_the_margin_and_say_so(tmp_path: Path) -> None:
    report = make_report(load_sweeps(write_sweep(tmp_path, [model("a", 70.0, 0.5), model("b", 70.5, 1.0)])))
    assert "within 1 F1 of the best" in report.sentences[1]
    assert "is not known: no model has a file scores_dev_<epochs>.parquet" in report.text
    assert "front_share" not in report.table


def test_under_six_articles_the_margin_decides(tmp_path: Path) -> None:
    articles = articles_of([10, 11, 12, 13, 8])
    models = {"a": ([70.0] * 54, 0.5), "b": ([70.5] * 54, 1.0)}
    report = make_report(load_sweeps(scored_sweep(tmp_path, models, articles)))
    assert "dev holds 5 articles, and less than 6" in report.text and report.choice and report.choice.within_f1 == 1.0


def test_a_cheaper_model_without_scores_is_passed_over_and_counted(tmp_path: Path) -> None:
    sweeps = sweep(tmp_path, best=(BEST, 4.0), near=(NEAR, 2.0), lost=(BEST - 0.1, 1.0))
    (tmp_path / "sweep" / "trials" / "lost" / "scores_dev_2.parquet").unlink()
    report = make_report(sweeps)
    assert report.choice and report.table.loc[report.choice.recommended, "trial_id"] == "near"
    assert report.choice.num_unscored == 1
    assert report.sentences[1].endswith("; 1 cheaper model could not be compared on the same questions.")
    assert "1 of 3 models have no file" in report.text


def test_a_best_model_without_scores_leaves_the_margin_to_decide(tmp_path: Path) -> None:
    sweeps = sweep(tmp_path, best=(BEST, 4.0), near=(NEAR, 2.0), far=(FAR, 1.0))
    (tmp_path / "sweep" / "trials" / "best" / "scores_dev_2.parquet").unlink()
    report = make_report(sweeps)
    assert report.choice and report.choice.within_f1 == 1.0
    assert "so that a margin in F1 decides" in report.text


def test_of_a_best_model_without_scores_no_luck_is_told(tmp_path: Path) -> None:
    sweeps = sweep(tmp_path, best=(BEST, 4.0), near=(NEAR, 2.0), far=(FAR, 1.0))
    (tmp_path / "sweep" / "trials" / "best" / "scores_dev_2.parquet").unlink()
    report = make_report(sweeps)
    assert report.evidence.optimism is None and "was chosen on the questions" not in report.text


def test_a_front_by_loss_has_no_shares_and_its_best_no_luck_in_f1(tmp_path: Path) -> None:
    rows = [model("a", 70.0, 2.0, eval_loss=3.0), model("b", 62.0, 1.0, eval_loss=2.0, config__optim__learning_rate=1)]
    directory = write_sweep(tmp_path, rows, metric="eval_loss", mode="min")
    for name, f1 in (("a", BEST), ("b", FAR)):
        write_scores(directory, name, f1.tolist(), ARTICLES)
    report = make_report(load_sweeps(directory))
    assert report.evidence.optimism is None and report.table["front_share"].isna().all()
    assert report.table["dev.f1.low"].notna().all()


def test_a_front_by_exact_match_has_the_shares_of_exact_match(tmp_path: Path) -> None:
    exact = {"a": np.where(np.arange(54) % 2, 100.0, 0.0), "b": np.where(np.arange(54) % 3, 99.0, 100.0)}
    rows = [
        model(name, f1.mean(), hours, dev__exact_match=(f1 == 100).mean() * 100, config__x=hours)
        for (name, f1), hours in zip(exact.items(), (2.0, 1.0), strict=True)
    ]
    directory = write_sweep(tmp_path, rows, metric="dev.exact_match")
    for name, f1 in exact.items():
        write_scores(directory, name, f1.tolist(), ARTICLES)
    report = make_report(load_sweeps(directory))
    assert report.table.set_index("trial_id")["front_share"].to_dict() == {"a": 1.0, "b": 1.0}
    assert report.evidence.optimism is None


def test_of_very_many_models_those_nearest_to_the_front_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.choice.MAX_SCORED", 3)
    models = {
        "far": (FAR, 3.0),
        "best": (BEST, 4.0),
        "near": (NEAR, 2.0),
        "poor": (FAR - 9, 9.0),
        "cheap": (FAR - 2, 1.0),
    }
    report = make_report(sweep(tmp_path, **models))
    table = report.table.set_index("trial_id")
    assert table["front_share"].notna().to_dict() == {name: name in ("best", "near", "cheap") for name in table.index}
    assert "Intervals are given for the 3 models nearest to the front, of 5." in report.text


def test_scores_of_other_questions_are_not_compared(tmp_path: Path) -> None:
    sweeps = sweep(tmp_path, best=(BEST, 4.0), near=(NEAR, 2.0))
    write_scores(tmp_path / "sweep", "near", NEAR.tolist()[:-1], ARTICLES[:-1])
    report = make_report(sweeps)
    assert report.choice and report.choice.recommended == report.choice.best
    assert "1 of 2 models" in report.text


def test_a_broken_file_of_scores_is_one_line(tmp_path: Path) -> None:
    sweeps = sweep(tmp_path, best=(BEST, 4.0), near=(NEAR, 2.0))
    path = tmp_path / "sweep" / "trials" / "near" / "scores_dev_2.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"near/scores_dev_2\.parquet"):
        make_report(sweeps)


def test_the_scores_of_a_configuration_are_means_over_its_seeds(tmp_path: Path) -> None:
    rows = [model("a", 70.0, 1.0), model("b", 72.0, 1.0, seed=1)]
    directory = write_sweep(tmp_path, rows)
    write_scores(directory, "a", BEST.tolist(), ARTICLES)
    write_scores(directory, "b", (BEST[::-1]).tolist(), ARTICLES)
    sweeps = load_sweeps(directory)
    members = members_of(sweeps.models, sweeps.manifests)
    table = configuration_table(sweeps.models, sweeps.manifests)
    evidence = weigh(sweeps, table, members)
    assert evidence.questions and evidence.questions.f1[0] == pytest.approx((BEST + BEST[::-1]) / 2)
    assert recommend_paired(table, evidence.questions, "dev.f1", "max")
    assert "is a (mean of seeds 0 1): dev F1 71.00" in make_report(sweeps).sentences[0]


def test_of_several_models_of_a_trial_the_recommended_one_is_what_its_configuration_trains(tmp_path: Path) -> None:
    rows = [model("a", 70.0 + n, 1.0 + n, report=n, budget_epochs=n + 1, config__num_epochs=9) for n in range(3)]
    directory = write_sweep(tmp_path / "sweep", rows)
    report = write_report(load_sweeps(directory), tmp_path / "out", within_f1=1.0)
    assert "num_epochs: 2" in (report.recommended or "")


def test_a_trial_id_cannot_lead_out_of_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without slashes"):
        make_report(load_sweeps(write_sweep(tmp_path, [model("../x", 70.0, 1.0)])))
