import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load_sweeps
from analysis.report import Report, make_report, write_report
from analysis.tables import readable_table
from qa_train.config import TrainConfig, load_config
from qa_train.errors import DataError
from tests.analysis.fixtures import manifest, model, row, write_sweep

THREE = [
    model("a", 70.0, 0.5, config__num_epochs=1, budget_epochs=1),
    model("b", 75.5, 1.0, config__num_epochs=2, config__optim__learning_rate=2e-05),
    model("c", 76.0, 3.0, config__num_epochs=6, budget_epochs=6),
]


def report_on(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> Report:
    return make_report(load_sweeps(write_sweep(tmp_path / "sweep", rows, **changes)))


def test_the_table_has_every_column_of_the_records_and_says_what_was_chosen(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", [*THREE, model("d", 60.0, 4.0, test__clean__f1=55.0)])
    write_report(load_sweeps(sweep), tmp_path / "out", with_plots=False)
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {*THREE[0], "sweep", "test.clean.f1", "pareto", "best", "recommended", "cost.device_h"} <= {*rows[0]}
    assert [item["trial_id"] for item in rows] == ["c", "b", "a", "d"]
    assert [item["pareto"] for item in rows] == ["True", "True", "True", "False"]
    assert [item["best"] for item in rows] == ["True", "False", "False", "False"]
    assert [item["recommended"] for item in rows] == ["False", "True", "False", "False"]
    assert [float(item["cost.device_h"]) for item in rows] == [3.0, 1.0, 0.5, 4.0]
    assert float(rows[1]["config.optim.learning_rate"]) == 2e-05
    assert rows[1]["config.num_epochs"] == "2"


def test_two_sentences_say_what_is_best_what_is_recommended_and_what_more_would_buy(tmp_path: Path) -> None:
    assert report_on(tmp_path, THREE).sentences == (
        "The best model is c: dev F1 76.00 and exact match 60.00 for 3 device-hours (cpu-core).",
        "Recommended is b, the cheapest within 1 F1 of the best: dev F1 75.50 and exact match 60.00 for 1 device-hours "
        "(cpu-core); the best one costs 2 device-hours more and buys 0.50 F1, 0.25 F1 per device-hour.",
    )


def test_a_best_model_that_nothing_replaces_is_recommended_itself(tmp_path: Path) -> None:
    report = report_on(tmp_path, [model("a", 70.0, 2.0), model("b", 60.0, 1.0)])
    assert report.sentences[1] == "It is also the recommended one: no cheaper model is within 1 F1 of it."


def test_one_trial_makes_a_report(tmp_path: Path) -> None:
    report = report_on(tmp_path, [model("a", 70.0, 2.0)])
    assert report.sentences[1] == "It is also the recommended one, since no other model has a score."
    assert report.recommended and not report.steps


def test_models_without_a_cost_are_ranked_without_one(tmp_path: Path) -> None:
    report = report_on(tmp_path, [model("a", 70.0, None), model("b", 69.9, None)])
    assert report.sentences == (
        "The best model is a: dev F1 70.00 and exact match 60.00 for an unknown number of device-hours (cpu-core).",
        "It is also the recommended one, since no cost (cost.device_s) is known to save on.",
    )
    assert not report.table["pareto"].any()


def test_a_best_model_without_a_cost_is_compared_as_far_as_it_can_be(tmp_path: Path) -> None:
    report = report_on(tmp_path, [model("a", 70.0, None), model("b", 69.9, 1.0)])
    assert report.sentences[1].endswith("; what the best one costs is not known.")


def test_scores_that_are_missing_come_last_and_are_never_chosen(tmp_path: Path) -> None:
    report = report_on(tmp_path, [model("a", float("nan"), 0.1), model("b", None, 0.1), *THREE[2:]])
    assert report.table["trial_id"].tolist() == ["c", "a", "b"]
    assert report.choice and report.table.loc[report.choice.recommended, "trial_id"] == "c"


def test_without_any_score_nothing_is_recommended(tmp_path: Path) -> None:
    report = report_on(tmp_path, [model("a", None, 1.0), model("b", float("nan"), 1.0)])
    assert report.sentences == ("Nothing to recommend: no finished model has a score (dev.f1).",)
    assert "| a " in report.text and report.recommended is None


def test_failures_alone_are_told_with_the_last_reason(tmp_path: Path) -> None:
    failed = {"status": "failed", "budget_epochs": None, "dev__f1": None}
    reason = {"error__type": "RuntimeError", "error__message": "out of\nmemory"}
    report = report_on(tmp_path, [row("a", **failed), row("b", **failed, **reason)])
    assert report.sentences == (
        "Nothing to recommend: no model has been finished; the last failure: RuntimeError: out of memory.",
    )
    assert "Sweep demo-1: 2 trials, 2 failed." in report.text


def test_a_sweep_that_has_not_reported_yet_is_told_as_such(tmp_path: Path) -> None:
    text = report_on(tmp_path, []).text
    assert "Nothing to recommend: no model has been finished." in text
    assert "no trial has reported yet" in text


def test_a_running_sweep_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    rows = [*THREE, row("d", status="running", budget_epochs=None, dev__f1=99.0)]
    report = report_on(tmp_path, rows, torn='{"trial_id": ')
    assert "4 trials, 3 completed, 1 still running (or cut off)." in report.text
    assert report.choice and report.table.loc[report.choice.best, "trial_id"] == "c"


def test_baselines_stand_below_the_table(tmp_path: Path) -> None:
    baselines = {"untrained.f1": 4.2, "untrained.exact_match": 0.1, "question_word_overlap.f1": 12.3}
    text = report_on(tmp_path, THREE, baselines=baselines).text
    line = "Baselines on dev: untrained F1 4.20, exact match 0.10; question word overlap F1 12.30."
    assert text.index("| c ") < text.index(line)


def test_another_cost_is_weighed_and_told_in_its_own_unit(tmp_path: Path) -> None:
    rows = [model("a", 76.0, 1.0, cost__tflop=300.0), model("b", 75.5, 2.0, cost__tflop=100.0)]
    report = make_report(load_sweeps(write_sweep(tmp_path, rows)), cost="cost.tflop")
    assert "costs 200 TFLOP more and buys 0.50 F1, 0.0025 F1 per TFLOP" in report.sentences[1]
    assert report.table["pareto"].all()


def test_a_cost_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cost.gpu: no such cost column.*cost\.device_s, .*cost\.tflop"):
        make_report(load_sweeps(write_sweep(tmp_path, THREE)), cost="cost.gpu")


def test_a_sweep_ranked_by_loss_says_so_even_if_the_best_loss_has_a_lower_f1(tmp_path: Path) -> None:
    rows = [model("a", 70.0, 2.0, eval_loss=1.0), model("b", 72.0, 1.0, eval_loss=1.5)]
    first, second = report_on(tmp_path, rows, metric="eval_loss", mode="min").sentences
    assert first.startswith("The best model by dev loss (1) is a: ")
    assert second.endswith("the best one costs 1 device-hours more, at 2.00 F1 less.")


def test_a_configuration_with_a_seed_that_diverged_is_not_the_best_by_its_other_seeds(tmp_path: Path) -> None:
    good = [model(f"g{seed}", 72.0, 1.0, seed=seed, eval_loss=2.1) for seed in (0, 1)]
    rate = {"config__optim__learning_rate": 1e-2}
    diverged = [model("d0", 70.0, 1.0, eval_loss=2.0, **rate), model("d1", 10.0, 1.0, seed=1, eval_loss=None, **rate)]
    report = report_on(tmp_path, [*diverged, *good], metric="eval_loss", mode="min")
    assert report.choice and report.table.loc[report.choice.best, "trial_id"] == "g0"
    assert report.choice.recommended == report.choice.best


def test_a_person_sees_what_was_searched_or_varied_and_nothing_empty(tmp_path: Path) -> None:
    rows = [model(name, 70.0, 1.0, config__precision="fp32", cost__tflop=None) for name in "ab"]
    rows[1]["config.optim.schedule"] = "constant"
    sweeps = load_sweeps(write_sweep(tmp_path, rows))
    shown = readable_table(make_report(sweeps).table, ["optim.learning_rate"], metric="dev.f1")
    assert {"optim.learning_rate", "optim.schedule", "dev F1", "device-hours", "million tokens"} <= {*shown}
    assert not {"precision", "TFLOP", "sweep", "seed", "num_epochs"} & {*shown}
    assert shown["optim.schedule"].tolist() == ["-", "constant"]


def test_models_of_one_trial_and_of_several_sweeps_are_told_apart(tmp_path: Path) -> None:
    write_sweep(tmp_path / "1", [model("a", 70.0, 1.0, budget_epochs=1), model("a", 76.0, 2.0, report=1)], "one")
    write_sweep(tmp_path / "2", [model("a", 75.5, 1.5)], "two", device="H100")
    report = make_report(load_sweeps([tmp_path / "1", tmp_path / "2"]))
    assert "is a (sweep one, epochs 2): " in report.sentences[0]
    assert "is a (sweep two), " in report.sentences[1] and "1.5 device-hours (H100)" in report.sentences[1]
    assert "different kinds of device (cpu-core, H100)" in report.text


def test_text_from_the_records_cannot_break_the_table(tmp_path: Path) -> None:
    text = report_on(tmp_path, [model("a|b\n\nc", 70.0, 1.0), model("d", 60.0, 1.0)]).text
    assert "| a\\|b c " in text


def train_config(tmp_path: Path) -> dict[str, Any]:
    for name in ("train.json", "test.json"):
        (tmp_path / name).touch()
    data = {"train": str(tmp_path / "train.json"), "test": {"clean": str(tmp_path / "test.json")}}
    return TrainConfig.model_validate({"data": data}).model_dump()


def test_the_recommended_configuration_is_one_that_train_accepts(tmp_path: Path) -> None:
    rows = [
        *THREE[::2],
        model("b", 75.5, 1.0, config__num_epochs=2, config__optim__learning_rate=2e-6, config__optim__warmup_ratio=0,
              config__data__dev=None, seed=7),
    ]  # fmt: skip
    train = train_config(tmp_path)
    write_sweep(tmp_path / "sweep", rows, config=manifest().config | {"train": train})
    report = write_report(load_sweeps(tmp_path / "sweep"), tmp_path / "out", with_plots=False)
    config = load_config(TrainConfig, tmp_path / "out" / "recommended.yaml")
    expected = TrainConfig.model_validate(train).model_dump() | {"num_epochs": 2, "seed": 7}
    expected["optim"] |= {"learning_rate": 2e-6, "warmup_ratio": 0.0}
    assert config.model_dump() == expected
    header = [line for line in (report.recommended or "").splitlines() if line.startswith("# ")]
    assert "Sweep demo-1, trial b: dev F1 75.50, exact match 60.00" in header[1]
    assert "Cost: 1 device-hours (cpu-core)" in header[2]


@pytest.mark.parametrize("budgets", [[1, 2, 3], None])
def test_of_a_trunk_s_models_the_recommended_configuration_trains_that_one_alone(
    tmp_path: Path, budgets: list[int] | None
) -> None:
    scored = {1: 60.0, 2: 75.5, 3: 76.0}
    rows = [
        model("a", f1, epochs, report=epochs, budget_epochs=epochs, config__optim__schedule="trunk")
        for epochs, f1 in scored.items()
    ]
    train = train_config(tmp_path) | {"num_epochs": 3, "budgets": budgets}
    train["optim"] |= {"schedule": "trunk"}
    write_sweep(tmp_path / "sweep", rows, config=manifest().config | {"train": train})
    write_report(load_sweeps(tmp_path / "sweep"), tmp_path / "out", with_plots=False)
    config = load_config(TrainConfig, tmp_path / "out" / "recommended.yaml")
    assert (config.num_epochs, config.finished_epochs) == (2, (2,))


def test_a_report_replaces_an_earlier_one_and_leaves_no_recommendation_it_does_not_make(tmp_path: Path) -> None:
    sweep, out = tmp_path / "sweep", tmp_path / "out"
    first = write_report(load_sweeps(write_sweep(sweep, THREE)), out)
    assert {path.name for path in first.files} >= {"recommended.yaml", "pareto_front.png", "report.html"}
    (out / "notes.png").touch()
    assert len(write_report(load_sweeps(write_sweep(sweep, THREE[:1])), out).table) == 1
    assert "76.00" not in (out / "table.md").read_text() + (out / "report.html").read_text()[-20_000:]
    report = write_report(load_sweeps(write_sweep(sweep, [model("a", None, 1.0)])), out, with_plots=False)
    assert [path.name for path in report.files] == ["table.csv", "table.md"]
    assert sorted(path.name for path in out.iterdir()) == ["notes.png", "table.csv", "table.md"]


def test_without_the_libraries_that_draw_the_rest_is_written_and_one_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("matplotlib", "plotly"):
        monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    for name in ("page", "pictures", "plots", "charts"):
        monkeypatch.delitem(sys.modules, f"analysis.{name}", raising=False)
        monkeypatch.delattr(f"analysis.{name}", raising=False)
    report = write_report(load_sweeps(write_sweep(tmp_path / "sweep", THREE)), tmp_path / "out")
    assert [path.name for path in report.files] == ["table.csv", "table.md", "recommended.yaml"]
    assert report.omitted.count("\n") == 0
    assert 'not found; pip install -c constraints.txt -e ".[plots]"' in report.omitted


def test_the_result_is_valid_json_with_null_for_what_is_missing(tmp_path: Path) -> None:
    report = report_on(tmp_path, [*THREE, model("d", None, None)])
    plain = json.loads(json.dumps(report.to_plain(), allow_nan=False))
    assert [item["trial_id"] for item in plain["models"]] == ["c", "b", "a", "d"]
    assert plain["models"][3]["dev.f1"] is None and plain["models"][0]["seed"] == 0
    assert (plain["best"], plain["recommended"]) == (0, 1)
    assert [(step["start"], step["end"]) for step in plain["steps"]] == [(2, 1), (1, 0)]
