import random
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher as RaySearcher

from sweeps.config import SearchConfig
from sweeps.history import PastTrial
from sweeps.records import Row
from sweeps.samplers import distribution, sampler
from sweeps.search import IS_FINAL, SEED, TRIAL_ID, VALUES, StudySearcher, Suggestion
from sweeps.space import Choice, IntRange, LogUniformRange, Scalar, Space, UniformRange

SPACE = Space(
    {
        "num_epochs": IntRange(1, 10),
        "optim.batch_size": IntRange(4, 64, log=True),
        "optim.learning_rate": LogUniformRange(1e-6, 1e-4),
        "optim.warmup_ratio": UniformRange(0.0, 0.2),
        "optim.schedule": Choice(("linear", "constant")),
    }
)
SEARCHERS: tuple[Literal["tpe", "random"], ...] = ("tpe", "random")


def score_of(values: Mapping[str, Any]) -> float:
    """A dev F1 with its best at 7 epochs and a learning rate of 3e-5."""
    distance = abs(values["num_epochs"] - 7) + abs(np.log(values["optim.learning_rate"] / 3e-5))
    return float(60 - 3 * distance + 5 * (values["optim.schedule"] == "linear"))


def finished(values: Mapping[str, Any], metric: str = "dev.f1") -> dict[str, Any]:
    epochs = values["num_epochs"]
    return {metric: score_of(values), "epochs_trained": epochs, "budget_epochs": epochs, "status": "completed"}


def drive(search: SearchConfig, space: Space = SPACE, num_open: int = 1) -> list[dict[str, Any]]:
    """Runs a whole sweep of `num_open` trials at a time, which end in turn, and returns the values of each trial."""
    searcher, suggested = StudySearcher(space, search), []
    waiting: list[str] = []
    for number in range(search.num_trials or 0):
        suggestion = searcher.suggest(name := f"tune-{random.random()}")
        assert suggestion[TRIAL_ID] == f"{number:05d}"
        suggested.append(suggestion[VALUES])
        waiting.append(name)
        if len(waiting) == num_open:
            done = number - num_open + 1
            searcher.on_trial_complete(waiting.pop(0), finished(suggested[done], search.metric))
    return suggested


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("num_open", [1, 3])
def test_the_same_results_lead_to_the_same_suggestions(searcher: Literal["tpe", "random"], num_open: int) -> None:
    search = SearchConfig(searcher=searcher, num_trials=16, seed=3)
    random.seed(1)
    np.random.seed(1)
    first = drive(search, num_open=num_open)
    random.seed(2)
    np.random.seed(2)
    assert drive(search, num_open=num_open) == first
    assert drive(search.model_copy(update={"seed": 4}), num_open=num_open)[0] != first[0]
    assert len({str(values) for values in first}) == 16


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_every_suggestion_lies_in_the_space(searcher: Literal["tpe", "random"]) -> None:
    for values in drive(SearchConfig(searcher=searcher, num_trials=40)):
        assert SPACE.contains(values)
        assert list(values) == list(SPACE.dimensions)


def test_a_search_equals_an_optuna_study_driven_by_hand() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    by_hand = []
    for number in range(20):
        seed = int(np.random.SeedSequence([7, number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = TPESampler(seed=seed, n_startup_trials=6, multivariate=True, constant_liar=True)
        trial = study.ask()
        values = {
            "num_epochs": trial.suggest_int("num_epochs", 1, 10),
            "optim.batch_size": trial.suggest_int("optim.batch_size", 4, 64, log=True),
            "optim.learning_rate": trial.suggest_float("optim.learning_rate", 1e-6, 1e-4, log=True),
            "optim.warmup_ratio": trial.suggest_float("optim.warmup_ratio", 0.0, 0.2),
            "optim.schedule": trial.suggest_categorical("optim.schedule", ["linear", "constant"]),
        }
        study.tell(trial, score_of(values))
        by_hand.append(values)
    assert drive(SearchConfig(num_trials=20, seed=7)) == by_hand


def test_a_random_search_asks_for_the_same_whatever_comes_of_it() -> None:
    search = SearchConfig(searcher="random", num_trials=8, seed=1)
    silent = StudySearcher(SPACE, search)
    assert [silent.suggest(f"{number}")[VALUES] for number in range(8)] == drive(search)


def test_tpe_learns_and_stays_reproducible_from_results_in_any_order() -> None:
    search = SearchConfig(num_trials=30)
    ordered, shuffled = StudySearcher(SPACE, search), StudySearcher(SPACE, search)
    for searcher, order in ((ordered, range(6)), (shuffled, (4, 2, 0, 5, 3, 1))):
        values = [searcher.suggest(str(number))[VALUES] for number in range(6)]
        for number in order:
            searcher.on_trial_complete(str(number), finished(values[number]))
    assert ordered.suggest("6") == shuffled.suggest("6")
    scores = [score_of(values) for values in drive(search)]
    assert np.mean(scores[20:]) > np.mean(scores[:10]) + 3


def test_what_tpe_asks_for_depends_on_the_results() -> None:
    search = SearchConfig(num_trials=9)
    suggestions = []
    for best in (0, 2):
        searcher = StudySearcher(SPACE, search)
        for number in range(3):
            searcher.suggest(str(number))
        for number in range(3):
            result = {"dev.f1": 50.0 if number == best else 10.0, "epochs_trained": 1, "budget_epochs": 1}
            searcher.on_trial_complete(str(number), result)
        suggestions.append(searcher.suggest("3")[VALUES])
    assert suggestions[0] != suggestions[1]


@pytest.mark.parametrize(("num_trials", "num_random"), [(1, 3), (6, 3), (12, 4), (20, 6), (30, 10), (1000, 10)])
def test_tpe_starts_with_a_third_of_the_trials_at_random(num_trials: int, num_random: int) -> None:
    found = sampler(SearchConfig(), num_trials, 0)
    assert isinstance(found, TPESampler)
    assert found._n_startup_trials == num_random
    assert isinstance(sampler(SearchConfig(searcher="random"), 20, 0), RandomSampler)


def test_after_the_last_trial_the_search_is_finished() -> None:
    searcher = StudySearcher(SPACE, SearchConfig(num_trials=2))
    assert [searcher.suggest(name)[TRIAL_ID] for name in "ab"] == ["00000", "00001"]
    assert searcher.suggest("c") == RaySearcher.FINISHED
    assert len(searcher.study.trials) == 2


def test_an_empty_space_suggests_nothing_but_a_trial() -> None:
    searcher = StudySearcher(Space(), SearchConfig(num_trials=1))
    assert searcher.suggest("a") == {TRIAL_ID: "00000", VALUES: {}, SEED: 0, IS_FINAL: False}
    searcher.on_trial_complete("a", {"dev.f1": 5.0, "epochs_trained": 3, "budget_epochs": 3})
    assert searcher.study.best_value == 5.0


def test_a_trials_results_reach_the_study_the_last_one_too(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    searcher = StudySearcher(SPACE, SearchConfig(num_trials=2))
    searcher.suggest("a")
    for epoch in (1, 2):  # as Tune does: the last result only comes with the end
        searcher.on_trial_result("a", {"dev.f1": 10.0 * epoch, "epochs_trained": epoch, "budget_epochs": None})
    searcher.on_trial_complete("a", {"dev.f1": 30.0, "epochs_trained": 3, "budget_epochs": 3, "done": True})
    [trial] = searcher.study.trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 30.0)
    assert trial.intermediate_values == {1: 10.0, 2: 20.0, 3: 30.0}
    assert trial.params == searcher.study.best_params
    searcher.on_trial_complete("a", {"dev.f1": 30.0, "epochs_trained": 3, "budget_epochs": 3})  # told once
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


FAILURES: list[tuple[dict[str, Any] | None, bool]] = [
    (None, True),
    (None, False),
    ({"status": "failed", "done": True}, False),
    ({"dev.f1": 20.0, "epochs_trained": 3, "budget_epochs": 3}, True),
    ({"dev.f1": float("nan"), "epochs_trained": 3, "budget_epochs": 3}, False),
    ({"dev.f1": None, "epochs_trained": 3, "budget_epochs": 3}, False),
]


@pytest.mark.parametrize(("result", "error"), FAILURES)
def test_without_a_finished_model_a_trial_is_told_as_failed(
    result: dict[str, Any] | None, error: bool, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    searcher = StudySearcher(SPACE, SearchConfig(num_trials=2))
    searcher.suggest("a")
    searcher.on_trial_result("a", {"dev.f1": float("nan"), "epochs_trained": 1, "budget_epochs": None})
    searcher.on_trial_complete("a", result, error=error)
    [trial] = searcher.study.trials
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.FAIL, None, {})
    assert searcher.suggest("b")[TRIAL_ID] == "00001"
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_trial_that_is_stopped_is_told_as_pruned_with_its_last_score() -> None:
    searcher = StudySearcher(SPACE, SearchConfig(num_trials=2))
    searcher.suggest("a")
    searcher.on_trial_result("a", {"dev.f1": 10.0, "epochs_trained": 1, "budget_epochs": None})
    searcher.on_trial_complete("a", {"dev.f1": 12.0, "epochs_trained": 2, "budget_epochs": None})
    [trial] = searcher.study.trials
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.PRUNED, 12.0, {1: 10.0, 2: 12.0})


def test_failed_trials_do_not_stop_a_search() -> None:
    searcher = StudySearcher(SPACE, SearchConfig(num_trials=12))
    for number in range(12):
        values = searcher.suggest(str(number))[VALUES]
        searcher.on_trial_complete(str(number), finished(values) if number % 3 == 2 else None, error=number % 3 != 2)
    states = [trial.state for trial in searcher.study.trials]
    assert states.count(TrialState.FAIL) == 8
    assert states.count(TrialState.COMPLETE) == 4


def test_a_loss_is_minimised() -> None:
    searcher = StudySearcher(SPACE, SearchConfig(num_trials=2, metric="eval_loss", mode="min"))
    for name, loss in (("a", 3.0), ("b", 2.0)):
        searcher.suggest(name)
        searcher.on_trial_complete(name, {"eval_loss": loss, "dev.f1": 9.0, "epochs_trained": 1, "budget_epochs": 1})
    assert searcher.study.best_trial.number == 1
    assert searcher.study.best_value == 2.0


def test_each_dimension_has_its_distribution() -> None:
    assert distribution(IntRange(1, 10)) == IntDistribution(1, 10)
    assert distribution(IntRange(2, 64, log=True)) == IntDistribution(2, 64, log=True)
    assert distribution(UniformRange(0.0, 0.2)) == FloatDistribution(0.0, 0.2)
    assert distribution(LogUniformRange(1e-6, 1e-4)) == FloatDistribution(1e-6, 1e-4, log=True)
    assert distribution(Choice(("a", 1, None, True))) == CategoricalDistribution(("a", 1, None, True))


def test_a_log_scale_samples_each_factor_of_ten_alike() -> None:
    space = Space(
        {"optim.learning_rate": LogUniformRange(1e-6, 1e-2), "optim.batch_size": IntRange(1, 10_000, log=True)}
    )
    found = _sampled(space)
    rates = np.log10([values["optim.learning_rate"] for values in found])
    sizes = np.log10([values["optim.batch_size"] for values in found])
    assert 0.4 < np.mean(rates < -4) < 0.6
    assert 0.4 < np.mean(sizes < 2) < 0.6


def _sampled(space: Space) -> list[dict[str, Any]]:
    searcher = StudySearcher(space, SearchConfig(searcher="random", num_trials=300, seed=5))
    return [searcher.suggest(str(number))[VALUES] for number in range(300)]


def test_each_value_of_a_choice_is_found_with_its_type() -> None:
    space = Space({"scale.x": Choice((1, "1", 2.0, True, None))})
    found = {(type(values["scale.x"]), values["scale.x"]) for values in _sampled(space)}
    assert found == {(int, 1), (str, "1"), (float, 2.0), (bool, True), (type(None), None)}


def test_tunes_state_is_neither_written_nor_read(tmp_path: Any) -> None:
    searcher = StudySearcher(SPACE, SearchConfig())
    searcher.save(str(tmp_path / "state.pkl"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotImplementedError):
        searcher.restore(str(tmp_path / "state.pkl"))


def past_trial(number: int, values: Mapping[str, Any], status: str = "completed") -> PastTrial:
    """A trial of an earlier run as its records tell it."""
    row: Row = {"trial_id": f"{number:05d}", **finished(values), "status": status}
    rows = (row,) if status == "completed" else ()
    return PastTrial(f"{number:05d}", dict(values), rows)


@pytest.mark.parametrize("kind", SEARCHERS)
def test_a_search_that_is_gone_on_with_asks_for_what_it_would_have_asked_for(kind: Literal["tpe", "random"]) -> None:
    search = SearchConfig(searcher=kind, num_trials=14, seed=5)
    expected = drive(search)
    for num_ended in (1, 6, 13):
        past = [past_trial(number, expected[number]) for number in range(num_ended)]
        past.append(past_trial(num_ended, expected[num_ended], "running"))
        searcher = StudySearcher(SPACE, search, past)
        assert searcher.num_left == 14 - num_ended
        for number in range(num_ended, 14):
            suggestion = searcher.suggest("x")
            assert (suggestion[TRIAL_ID], suggestion[VALUES]) == (f"{number:05d}", expected[number])
            searcher.on_trial_complete("x", finished(expected[number]))
        assert searcher.suggest("x") == RaySearcher.FINISHED
        assert [trial.value for trial in searcher.study.trials] == [score_of(values) for values in expected]


def test_numbers_that_no_trial_had_are_asked_for_again() -> None:
    search = SearchConfig(searcher="random", num_trials=5)
    expected = drive(search)
    searcher = StudySearcher(SPACE, search, [past_trial(number, expected[number]) for number in (0, 3)])
    found = [searcher.suggest(f"{number}") for number in range(3)]
    assert [(item[TRIAL_ID], item[VALUES]) for item in found] == [
        (f"{number:05d}", expected[number]) for number in (1, 2, 4)
    ]


def test_points_that_were_tried_are_not_tried_again() -> None:
    points: tuple[dict[str, Scalar], ...] = tuple({"num_epochs": number} for number in (5, 4, 3))
    search = SearchConfig(searcher="random", num_trials=3, enqueue=points)
    space = Space({"num_epochs": IntRange(1, 10)})
    past = PastTrial(
        "00000", {"num_epochs": 5}, ({"epochs_trained": 5, "budget_epochs": 5, "dev.f1": 1.0, "status": "completed"},)
    )
    searcher = StudySearcher(space, search, [past])
    assert [searcher.suggest(name)[VALUES]["num_epochs"] for name in "ab"] == [4, 3]


def test_trials_outside_of_another_space_do_not_inform_it_and_the_interrupted_are_gone_on_with_all_the_same() -> None:
    inside = {"num_epochs": 2}
    past = [past_trial_of_epochs(0, 2), past_trial_of_epochs(1, 9), PastTrial("00002", {"num_epochs": 8})]
    searcher = StudySearcher(Space({"num_epochs": IntRange(1, 5)}), SearchConfig(num_trials=4), past)
    assert [trial.params for trial in searcher.study.trials] == [inside]
    suggestion = searcher.suggest("x")
    assert (suggestion[TRIAL_ID], suggestion[VALUES]) == ("00002", {"num_epochs": 8})
    searcher.on_trial_result("x", {"epochs_trained": 1, "dev.f1": 3.0})
    searcher.on_trial_complete("x", {"epochs_trained": 8, "budget_epochs": 8, "dev.f1": 3.0})
    assert searcher.suggest("y")[TRIAL_ID] == "00003"


def past_trial_of_epochs(number: int, epochs: int) -> PastTrial:
    row: Row = {"status": "completed", "epochs_trained": epochs, "budget_epochs": epochs, "dev.f1": 10.0 * epochs}
    return PastTrial(f"{number:05d}", {"num_epochs": epochs}, (row,))


def test_an_epoch_that_a_trial_tells_again_is_told_once() -> None:
    past = PastTrial("00000", {"num_epochs": 3}, ({"status": "running", "epochs_trained": 1, "dev.f1": 4.0},))
    searcher = StudySearcher(Space({"num_epochs": IntRange(1, 5)}), SearchConfig(num_trials=1), [past])
    searcher.suggest("x")
    for epochs in (1, 2, 2):
        searcher.on_trial_result("x", {"epochs_trained": epochs, "dev.f1": 5.0})
    assert searcher.study.trials[0].intermediate_values == {1: 4.0, 2: 5.0}


GRID = Space({"num_epochs": IntRange(2, 4), "optim.schedule": Choice(("linear", "constant"))})
POINTS = [(epochs, schedule) for epochs in (2, 3, 4) for schedule in ("linear", "constant")]


def ask_all(searcher: StudySearcher) -> list[tuple[Any, ...]]:
    """Runs a search to its end, one trial at a time, and returns the values of each."""
    found = []
    while (suggestion := searcher.suggest("x")) != RaySearcher.FINISHED:
        values = suggestion[VALUES]
        found.append(tuple(values.values()))
        searcher.on_trial_complete("x", {"dev.f1": 1.0, "epochs_trained": 1, "budget_epochs": 1})
    return found


def test_a_grid_is_all_combinations_with_those_that_shall_come_first_before() -> None:
    assert ask_all(StudySearcher(GRID, SearchConfig(searcher="grid"))) == POINTS
    first: tuple[dict[str, Scalar], ...] = ({"num_epochs": 4, "optim.schedule": "linear"},)
    found = ask_all(StudySearcher(GRID, SearchConfig(searcher="grid", enqueue=first)))
    assert found[0] == (4, "linear")
    assert sorted(found) == sorted(POINTS)
    assert ask_all(StudySearcher(GRID, SearchConfig(searcher="grid", num_trials=2))) == POINTS[:2]


def test_a_wider_grid_has_the_points_that_were_not_tried_under_numbers_that_are_free() -> None:
    def tried(number: int) -> PastTrial:
        row: Row = {"status": "completed", "epochs_trained": 2, "budget_epochs": 2, "dev.f1": 10.0}
        return PastTrial(f"{number:05d}", dict(zip(GRID.dimensions, POINTS[number], strict=True)), (row,))

    past = [tried(number) for number in (0, 1, 3)]
    wider = Space({**GRID.dimensions, "num_epochs": IntRange(2, 5)})
    searcher = StudySearcher(wider, SearchConfig(searcher="grid"), past)
    suggestions = [searcher.suggest(str(number)) for number in range(searcher.num_left)]
    assert [int(suggestion[TRIAL_ID]) for suggestion in suggestions] == [2, 4, 5, 6, 7]
    untried = [
        point for point in [*POINTS, (5, "linear"), (5, "constant")] if point not in [POINTS[i] for i in (0, 1, 3)]
    ]
    assert [tuple(suggestion[VALUES].values()) for suggestion in suggestions] == untried


def test_a_list_is_tried_in_its_order() -> None:
    points: tuple[dict[str, Scalar], ...] = tuple({"num_epochs": number} for number in (5, 1, 3))
    search = SearchConfig(searcher="list", enqueue=points)
    assert ask_all(StudySearcher(Space({"num_epochs": IntRange(1, 10)}), search)) == [(5,), (1,), (3,)]


def end(searcher: StudySearcher, name: str, f1: float | None, **more: Any) -> None:
    searcher.on_trial_complete(name, {"dev.f1": f1, "epochs_trained": 2, "budget_epochs": 2, **more})


REPLICATED = SearchConfig(searcher="random", num_trials=2, seeds=(0, 1, 2))


def test_with_several_seeds_a_configuration_is_trained_with_each_and_the_study_hears_their_mean() -> None:
    searcher = StudySearcher(SPACE, REPLICATED)
    suggestions = [searcher.suggest(str(number)) for number in range(6)]
    assert searcher.suggest("6") == RaySearcher.FINISHED
    ids = ["00000", "00000-seed1", "00000-seed2", "00001", "00001-seed1", "00001-seed2"]
    assert [item[TRIAL_ID] for item in suggestions] == ids
    assert [item[SEED] for item in suggestions] == [0, 1, 2, 0, 1, 2]
    assert suggestions[0][VALUES] == suggestions[2][VALUES] != suggestions[3][VALUES]
    for name, f1 in (("2", 30.0), ("0", 10.0), ("4", 1.0), ("1", 11.0)):
        end(searcher, name, f1)
    assert [trial.value for trial in searcher.study.trials] == [17.0, None]


@pytest.mark.parametrize(
    ("result", "state"),
    [
        ({"budget_epochs": None, "dev.f1": 3.0}, TrialState.PRUNED),
        ({"dev.f1": None}, TrialState.FAIL),
        ({"dev.f1": float("nan")}, TrialState.FAIL),
    ],
)
def test_after_a_trial_that_does_not_finish_its_configuration_gets_no_further_ones(
    result: dict[str, Any], state: TrialState
) -> None:
    searcher = StudySearcher(SPACE, REPLICATED)
    assert [searcher.suggest(name)[TRIAL_ID] for name in "ab"] == ["00000", "00000-seed1"]
    end(searcher, "a", **({"f1": result.pop("dev.f1")} | result))
    assert searcher.suggest("c")[TRIAL_ID] == "00001"
    assert searcher.study.trials[0].state == TrialState.RUNNING  # its second trial still runs
    end(searcher, "b", 50.0)
    assert searcher.study.trials[0].state == state


def test_more_seeds_are_trained_of_what_is_there_and_an_interrupted_trial_keeps_its_own() -> None:
    values: dict[str, Scalar] = {"num_epochs": 2}
    interrupted = PastTrial("00001-seed1", values, seed=1)
    past = [past_trial_of_epochs(0, 2), past_trial_of_epochs(1, 2), interrupted]
    search = SearchConfig(searcher="random", num_trials=2, seeds=(0, 1))
    searcher = StudySearcher(Space({"num_epochs": IntRange(1, 5)}), search, past)
    assert [searcher.suggest(name)[TRIAL_ID] for name in "ab"] == ["00001-seed1", "00000-seed1"]
    end(searcher, "a", 30.0)
    end(searcher, "b", 40.0)
    assert [trial.value for trial in searcher.study.trials] == [30.0, 25.0]
    assert searcher.suggest("c") == RaySearcher.FINISHED


def test_two_objectives_are_told_both_without_scores_on_the_way() -> None:
    searcher = StudySearcher(SPACE, SearchConfig(num_trials=6, cost_metric="cost.tflop"))
    for number in range(6):
        assert SPACE.contains(searcher.suggest("x")[VALUES])
        searcher.on_trial_result("x", {"epochs_trained": 1, "dev.f1": 2.0, "cost.tflop": 1.0})
        end(searcher, "x", 50.0 - number, **{"cost.tflop": 9.0 - number})
    assert [trial.values for trial in searcher.study.trials] == [[50.0 - n, 9.0 - n] for n in range(6)]
    assert len(searcher.study.best_trials) == 6


class Twins:
    """Takes trials with the same number of epochs for the same."""

    def __init__(self, known: Mapping[int, float] | None = None) -> None:
        self.known = dict(known or {})

    def identify(self, suggestion: Suggestion) -> str:
        return str(suggestion.values["num_epochs"])

    def answer(self, suggestion: Suggestion) -> list[Row]:
        f1 = self.known.get(int(str(suggestion.values["num_epochs"])))
        return [] if f1 is None else [{"dev.f1": f1, "epochs_trained": 1, "budget_epochs": 1}]


LIST = SearchConfig(searcher="list", enqueue=tuple({"num_epochs": number} for number in (5, 1, 1, 3, 1)))
EPOCHS = Space({"num_epochs": IntRange(1, 5)})


def test_what_was_trained_before_is_answered_and_told_but_not_suggested() -> None:
    searcher = StudySearcher(EPOCHS, LIST, duplicates=Twins({1: 12.0, 3: 14.0}))
    assert searcher.suggest("a")[VALUES] == {"num_epochs": 5}
    assert searcher.suggest("b") == RaySearcher.FINISHED
    assert [trial.value for trial in searcher.study.trials] == [None, 12.0, 12.0, 14.0, 12.0]


def test_what_a_running_trial_trains_waits_for_it() -> None:
    twins = Twins()
    searcher = StudySearcher(EPOCHS, LIST, duplicates=twins)
    assert [searcher.suggest(name)[VALUES]["num_epochs"] for name in "abc"] == [5, 1, 3]
    assert searcher.suggest("d") is None
    end(searcher, "a", 20.0)
    assert searcher.suggest("d") is None
    twins.known[1] = 21.0
    end(searcher, "b", 21.0)
    assert searcher.suggest("d") == RaySearcher.FINISHED
    assert [trial.value for trial in searcher.study.trials] == [20.0, 21.0, 21.0, None, 21.0]


def test_what_waited_for_a_trial_that_failed_runs_itself() -> None:
    searcher = StudySearcher(EPOCHS, LIST, duplicates=Twins())
    names = [searcher.suggest(name)[TRIAL_ID] for name in "abc"]
    assert names == ["00000", "00001", "00003"]
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("d")[TRIAL_ID] == "00002"
    assert searcher.suggest("e") is None


def test_of_a_trial_with_several_budgets_the_best_is_told() -> None:
    searcher = StudySearcher(SPACE, SearchConfig(num_trials=2))
    searcher.suggest("x")
    for epochs, f1 in ((1, 30.0), (2, 44.0)):
        report = {"status": "running", "dev.f1": f1, "epochs_trained": epochs, "budget_epochs": epochs}
        searcher.on_trial_result("x", report)
    end(searcher, "x", 41.0, epochs_trained=3, budget_epochs=3, status="completed")
    assert (searcher.study.trials[0].value, searcher.study.trials[0].state) == (44.0, TrialState.COMPLETE)
    searcher.suggest("y")
    end(searcher, "y", 20.0, status="running")  # stopped at its first budget
    assert searcher.study.trials[1].state == TrialState.PRUNED


def test_the_best_budget_of_an_earlier_run_is_told() -> None:
    rows: list[Row] = [
        {"status": "running", "epochs_trained": 1, "budget_epochs": 1, "dev.f1": 33.0},
        {"status": "completed", "epochs_trained": 2, "budget_epochs": 2, "dev.f1": 31.0},
    ]
    past = PastTrial("00000", {"num_epochs": 2}, tuple(rows))
    searcher = StudySearcher(Space({"num_epochs": IntRange(1, 5)}), SearchConfig(num_trials=2), [past])
    assert searcher.study.trials[0].value == 33.0


def test_the_curve_of_a_trial_with_several_budgets_is_told_as_its_hypervolume() -> None:
    curve: list[Row] = [
        {"status": "running", "epochs_trained": 1, "budget_epochs": 1, "dev.f1": 30.0},
        {"status": "running", "epochs_trained": 2, "budget_epochs": 2, "dev.f1": 44.0},
        {"status": "completed", "epochs_trained": 4, "budget_epochs": 4, "dev.f1": 41.0},
    ]
    expected = (30 * 1 + 44 * 3) / 5  # 30 from 1 to 2 epochs, 44 from then on up to 4 + 1
    search, space = (
        SearchConfig(num_trials=2, curve="hypervolume"),
        Space({"optim.learning_rate": Choice((1e-4, 2e-4))}),
    )
    searcher = StudySearcher(space, search, budgets=(1, 2, 4))
    searcher.suggest("x")
    for report in curve[:2]:
        searcher.on_trial_result("x", report)
    searcher.on_trial_complete("x", curve[2])
    assert searcher.study.trials[0].value == pytest.approx(expected)
    past = PastTrial("00000", {"optim.learning_rate": 1e-4}, tuple(curve))
    resumed = StudySearcher(space, search, [past], budgets=(1, 2, 4))
    assert resumed.study.trials[0].value == pytest.approx(expected)


def test_of_an_answer_with_several_budgets_the_best_is_told() -> None:
    class Curves(Twins):
        def answer(self, suggestion: Suggestion) -> list[Row]:
            return [{"dev.f1": f1, "epochs_trained": n, "budget_epochs": n} for n, f1 in ((1, 70.0), (2, 60.0))]

    search = SearchConfig(searcher="list", enqueue=({"num_epochs": 5},))
    searcher = StudySearcher(EPOCHS, search, duplicates=Curves())
    assert searcher.suggest("a") == RaySearcher.FINISHED
    assert searcher.study.trials[0].value == 70.0


def test_a_trial_that_was_answered_in_part_is_answered_again_and_one_that_ran_is_not() -> None:
    answered: Row = {"status": "running", "epochs_trained": 1, "budget_epochs": 1, "dev.f1": 9.0, "reused_from": "x/0"}
    ran: Row = {"status": "running", "epochs_trained": 1, "dev.f1": 9.0}
    past = [PastTrial(f"0000{n}", {"num_epochs": 1}, (row,), seed=0) for n, row in enumerate((answered, ran))]
    searcher = StudySearcher(EPOCHS, SearchConfig(num_trials=2), past, duplicates=Twins({1: 12.0}))
    assert searcher.suggest("a")[TRIAL_ID] == "00001"
    end(searcher, "a", 13.0)
    assert searcher.suggest("b") == RaySearcher.FINISHED
    assert [trial.value for trial in searcher.study.trials] == [12.0, 13.0]
