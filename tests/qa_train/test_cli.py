import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from qa_train.cli import commands, main
from qa_train.config import TrainConfig, load_config
from qa_train.output import RUN_CONFIG
from qa_train.question_scores import read_question_scores
from tests.tiny_models import tiny_model_dir, tiny_squad


class Result(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*argv: object) -> Result:
        capsys.readouterr()
        status = main([str(argument) for argument in argv])
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture
def train(run: Callable[..., Result], tiny_run: Path, tmp_path: Path) -> Callable[..., Result]:
    """Runs `train` with the tiny configuration, into `tmp_path / "model"` unless it is told otherwise."""
    return lambda *argv: run("train", "--config", tiny_run / "run.yaml", "--to", tmp_path / "model", *argv)


def assert_refused(result: Result, *words: str) -> None:
    """Checks that a command ended as it must after a user's mistake, and said what is wrong."""
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("error: ") == 1
    assert result.err.endswith("\n")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


def assert_refused_in_one_line(result: Result, *words: str) -> None:
    assert_refused(result, *words)
    assert result.err.count("\n") == 1


# Help and configuration


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_the_help_of_each_command_shows_an_example(name: str, run: Callable[..., Result]) -> None:
    result = run(name, "--help")
    assert (result.status, result.err) == (0, "")
    assert "Example" in result.out
    assert f"  python -m qa_train {name} " in result.out


def test_the_help_lists_the_commands(run: Callable[..., Result]) -> None:
    result = run("--help")
    assert result.status == 0
    assert all(name in result.out for name in ("train", "score", "inspect"))


def test_every_option_is_explained() -> None:
    for command in commands.commands.values():
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


def test_the_printed_configuration_is_read_back_the_same(
    train: Callable[..., Result], tiny_run: Path, tmp_path: Path
) -> None:
    result = train("--print-config", "optim.learning_rate=2e-6", "data.test={}")
    assert (result.status, result.err) == (0, "")
    assert not (tmp_path / "model").exists()
    (tmp_path / "printed.yaml").write_text(result.out)
    printed = load_config(TrainConfig, tmp_path / "printed.yaml")
    assert printed == load_config(TrainConfig, tiny_run / "run.yaml", ["optim.learning_rate=2e-6", "data.test={}"])
    assert printed.optim.learning_rate == 2e-6


@pytest.mark.parametrize("first", [True, False])
def test_overrides_stand_before_or_after_options(first: bool, run: Callable[..., Result], tiny_run: Path) -> None:
    overrides = ["num_epochs=7", "optim.schedule=constant"]
    options = ["--config", tiny_run / "run.yaml", "--print-config"]
    result = run("train", *(overrides + options if first else options + overrides))
    values = yaml.safe_load(result.out)
    assert (values["num_epochs"], values["optim"]["schedule"]) == (7, "constant")


# Training


def test_train_saves_a_model_and_prints_its_scores(train: Callable[..., Result], tmp_path: Path) -> None:
    result = train("num_epochs=1")
    assert result.status == 0
    assert [line.split(":")[0] for line in result.out.splitlines()[:2]] == ["dev", "test.other"]
    assert result.out.splitlines()[-1].startswith("Wrote the model")
    assert str(tmp_path / "model") in result.out
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_the_result_as_json_stands_alone_on_stdout(train: Callable[..., Result]) -> None:
    result = train("num_epochs=1", "--json")
    summary = json.loads(result.out)
    assert summary["scores"].keys() == {"dev", "test.other"}
    assert summary["cost"]["cost.training_s"] > 0
    assert result.err.startswith("epoch 1/1")


def test_an_interrupted_training_ends_with_130_and_is_resumed(
    train: Callable[..., Result], run: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("qa_train.training.Training.evaluate_tests", interrupt)
        interrupted = train("num_epochs=1")
    assert (interrupted.status, interrupted.out) == (130, "")
    assert interrupted.err.splitlines()[-1] == "interrupted"
    assert_refused_in_one_line(train("num_epochs=1"), "is not empty")
    resumed = run("train", "--resume", tmp_path / "model", "--json")
    assert resumed.status == 0
    assert json.loads(resumed.out)["scores"].keys() == {"dev", "test.other"}
    assert_refused_in_one_line(
        run("train", "--resume", tmp_path / "model"),
        "expected an interrupted training, found a training that has ended",
    )


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_resume_takes_no_configuration(run: Callable[..., Result], tmp_path: Path) -> None:
    assert_refused_in_one_line(run("train", "--resume", tmp_path, "num_epochs=3"), "--resume", "as it was configured")


def test_resume_needs_an_interrupted_training(run: Callable[..., Result], tmp_path: Path) -> None:
    assert_refused_in_one_line(run("train", "--resume", tmp_path / "absent"), "expected an interrupted training")


def test_overwrite_replaces_an_earlier_training(train: Callable[..., Result], tmp_path: Path) -> None:
    assert train("num_epochs=1").status == 0
    assert_refused_in_one_line(train("num_epochs=1"), "is not empty", "--overwrite")
    assert train("num_epochs=1", "seed=5", "--overwrite").status == 0
    assert json.loads((tmp_path / "model" / "training.json").read_text())["config"]["seed"] == 5


# Mistakes


def squad(*questions: dict[str, Any]) -> dict[str, Any]:
    paragraph = {"context": "it was built in the city of rome .", "qas": list(questions)}
    return {"data": [{"title": "article", "paragraphs": [paragraph]}]}


def question(**changes: Any) -> dict[str, Any]:
    asked = {"id": "q1", "question": "where ?", "answers": [{"text": "rome", "answer_start": 28}]}
    return {key: value for key, value in {**asked, **changes}.items() if value is not None}


BROKEN_DATA = {
    "not JSON": ("{'data': []}", "not valid JSON"),
    "empty file": ("", "not valid JSON"),
    "no data": ("{}", "no 'data'"),
    "question without id": (squad(question(id=None)), "'id'"),
    "duplicate ids": (squad(question(), question(question="who ?")), "'q1'"),
    "answer outside": (squad(question(answers=[{"text": "paris", "answer_start": 500}])), "outside the context"),
    "empty data set": ({"data": []}, "at least one question"),
    "no questions": (squad(), "at least one question"),
}


@pytest.mark.parametrize("name", BROKEN_DATA)
def test_broken_data_are_explained_in_one_line(name: str, train: Callable[..., Result], tmp_path: Path) -> None:
    content, problem = BROKEN_DATA[name]
    path = tmp_path / "broken.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert_refused_in_one_line(train(f"data.train={path}"), str(path), problem)
    assert not (tmp_path / "model").exists()


def test_data_that_are_not_there_are_explained_in_one_line(train: Callable[..., Result], tmp_path: Path) -> None:
    assert_refused_in_one_line(train("data.train=absent.json"), "data.train", "no such file absent.json")
    assert_refused_in_one_line(train(f"data.dev={tmp_path}"), "data.dev", "expected a file, found the directory")
    assert_refused_in_one_line(train("--config", tmp_path / "absent.yaml"), "absent.yaml", "no such file")
    assert_refused_in_one_line(train("--config", tmp_path), "expected a file, found a directory")
    assert_refused_in_one_line(train("--config", "~no.such.user/a.yaml"), "~no.such.user/a.yaml: no such file")


def test_all_mistakes_of_a_configuration_are_named_in_one_error(
    run: Callable[..., Result], tiny_run: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load((tiny_run / "run.yaml").read_text())
    values["optim"] |= {"learning_rat": 1e-5, "batch_size": "many"}
    values["num_epochs"] = 0
    values |= {"data": {"train": str(tiny_run / "train.json")}, "model": {"name": str(tiny_run / "model")}}
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(values))
    result = run("train", "--config", path, "--to", tmp_path / "model")
    assert_refused(result, "wrong.yaml: 3 problems", "optim.batch_size: expected an integer", "num_epochs: expected")
    assert "optim.learning_rat: unknown key, the nearest known one is optim.learning_rate" in result.err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["num_epochs=0"], ["num_epochs: expected an integer", "found 0"]),
        (["optim.learning_rate=fast"], ["optim.learning_rate: expected a number"]),
        (["optim.lr=1"], ["optim.lr: unknown key", "optim.learning_rate"]),
        (["num_epochs"], ["'num_epochs': expected key=value"]),
        (["model.max_seq_length=600"], ["model.max_seq_length: expected at most 512", "found 600"]),
        (["model.name=./absent"], ["model.name: no such directory ./absent"]),
        (["scale.num_workers=64", "optim.batch_size=64", "scale.launcher=ray_train"], ["scale.num_workers", "64"]),
        (["scale.num_workers=2"], ["scale.num_workers: expected 1 with launcher local, found 2"]),
        (["data.dev=null", "data.dev_fraction=1"], ["data.dev_fraction: expected a number > 0 and < 1, found 1"]),
    ],
    ids=lambda value: value[0] if value and isinstance(value, list) else None,
)
def test_a_mistake_in_the_configuration_is_explained_in_one_line(
    overrides: list[str], words: list[str], train: Callable[..., Result], tmp_path: Path
) -> None:
    assert_refused_in_one_line(train(*overrides), *words)
    assert not (tmp_path / "model").exists()


def test_a_model_without_weights_is_explained_in_one_line(train: Callable[..., Result], tmp_path: Path) -> None:
    (tiny_model_dir(tmp_path / "broken") / "model.safetensors").unlink()
    result = train(f"model.name={tmp_path / 'broken'}")
    assert_refused_in_one_line(result, str(tmp_path / "broken"), "expected model.safetensors")
    assert not (tmp_path / "model").exists()


def test_a_loss_that_is_no_number_is_explained_and_the_directory_given_back(
    train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qa_train.passes.span_loss", lambda start, end, batch: start.sum() * float("nan"))
    assert_refused_in_one_line(train(), "the training loss is nan")
    assert not (tmp_path / "model").exists()


def test_a_place_where_the_model_cannot_go_is_explained_in_one_line(
    train: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert_refused_in_one_line(train("--to", tmp_path / "file"), "expected a directory, found a file")
    assert_refused_in_one_line(train("--to", tmp_path / "file" / "model"), str(tmp_path / "file"))


def test_train_needs_a_configuration(run: Callable[..., Result]) -> None:
    assert_refused_in_one_line(run("train"), "--config")


@pytest.mark.parametrize("argv", [["absent"], ["train", "--cofnig", "x"], ["score"], ["inspect"]], ids=" ".join)
def test_a_mistake_on_the_command_line_points_to_the_help(argv: list[str], run: Callable[..., Result]) -> None:
    assert_refused_in_one_line(run(*argv), "--help")


def test_ctrl_c_ends_with_130(train: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_train.output.train_into", interrupt)
    result = train()
    assert (result.status, result.out, result.err.strip()) == (130, "", "interrupted")


# Scores and descriptions


def test_score_prints_the_official_scores_by_the_name_of_the_file(run: Callable[..., Result], tmp_path: Path) -> None:
    data = tiny_squad(tmp_path / "dev.json", 1)
    asked = [qa for part in json.loads(data.read_text())["data"][0]["paragraphs"] for qa in part["qas"]]
    predictions = {qa["id"]: qa["answers"][0]["text"] for qa in asked[:3]}
    (tmp_path / "predictions.json").write_text(json.dumps(predictions | {"unknown": "x"}))
    result = run("score", "--data", data, "--predictions", tmp_path / "predictions.json", "--json")
    scores = json.loads(result.out)["dev.json"]
    assert (scores["f1"], scores["exact_match"]) == (50.0, 50.0)
    assert (scores["num_questions"], scores["num_missing"]) == (6, 3)
    assert result.err == "warning: 1 predictions belong to no question of dev.json\n"
    assert "F1 50.00" in run("score", "--data", data, "--predictions", tmp_path / "predictions.json").out


@pytest.fixture
def score(run: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    """Scores the first reference answers of seven articles, the first question's missing."""
    data = tiny_squad(tmp_path / "dev.json", 7)
    parts = [part for article in json.loads(data.read_text())["data"] for part in article["paragraphs"]]
    answers = {qa["id"]: qa["answers"][0]["text"] for part in parts for qa in part["qas"]}
    answers.pop(next(iter(answers)))
    (tmp_path / "predictions.json").write_text(json.dumps(answers))
    return lambda *argv: run("score", "--data", data, "--predictions", tmp_path / "predictions.json", *argv)


def test_score_adds_intervals_and_further_scores(score: Callable[..., Result], tiny_run: Path) -> None:
    result = score("--tokenizer", tiny_run / "model", "--overlap", "--json")
    assert (result.status, result.err) == (0, "")
    scores = json.loads(result.out)["dev.json"]
    assert scores["f1"] == scores["exact_match"] == scores["per_answer_f1"] == pytest.approx(100 * 41 / 42)
    assert scores["f1_interval"][0] < scores["f1"] < scores["f1_interval"][1]
    assert (scores["num_articles"], scores["num_missing"], scores["num_unknown"], scores["num_empty"]) == (7, 1, 0, 0)
    assert scores["answerable_share"] == scores["best_possible_f1"] == 100
    assert min(scores["study_f1"], scores["bleu"], scores["rouge_l"]) > 90
    assert "articles" not in scores


def test_score_prints_a_table_of_scores_and_one_of_articles(score: Callable[..., Result]) -> None:
    text = score().out
    assert text.startswith("dev.json: F1 97.62, exact match 97.62 on 42 questions, 1 of them without a prediction")
    assert "95 % interval over 7 articles" in text
    assert "article 3" not in text
    assert "article 3" in score("--articles").out
    articles = json.loads(score("--articles", "--json").out)["dev.json"]["articles"]
    assert (len(articles), articles["article 0"]["num_missing"], articles["article 1"]["f1"]) == (7, 1, 100.0)


def test_score_writes_the_scores_of_the_questions(score: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    assert score("--question-scores", path).out.endswith(f"\nWrote {path}\n")
    assert sum(read_question_scores(path).f1) == 4100
    assert_refused_in_one_line(score("--question-scores", tmp_path / "dev.json"), "ends with .parquet", "dev.json")
    (tmp_path / "in the way.parquet").mkdir()
    assert_refused_in_one_line(score("--question-scores", tmp_path / "in the way.parquet"), "cannot be written")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"id": "q", "prediction_text": "york"}], ["expected an object {question id: answer text}", "found a list"]),
        ({"0-0-0-0": [{"text": "york", "probability": 0.5}]}, ["'0-0-0-0'", "expected the answer as a string"]),
        ({"elsewhere": "york"}, ["expected ids of questions", "'elsewhere'"]),
        ({"0-0-0-0": "york\ud800"}, ["surrogate"]),
    ],
    ids=["list", "n-best", "other data", "no text"],
)
def test_predictions_that_are_none_are_explained_in_one_line(
    content: object, words: list[str], score: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    assert_refused_in_one_line(score(), *words)


def test_inspect_describes_files(run: Callable[..., Result], tiny_run: Path) -> None:
    result = run("inspect", tiny_run / "train.json", "--tokenizer", tiny_run / "model", "--json")
    assert (result.status, result.err) == (0, "")
    assert json.loads(result.out)
    assert "train.json" in run("inspect", tiny_run / "train.json").out


@pytest.mark.parametrize(
    "command", [["score", "--predictions", "p.json", "--data"], ["inspect"]], ids=["score", "inspect"]
)
def test_other_commands_explain_missing_files_in_one_line(command: list[str], run: Callable[..., Result]) -> None:
    assert_refused_in_one_line(run(*command, "absent.json"), "no such file absent.json")


# A real process


def process(*argv: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qa_train", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_a_real_process_ends_with_the_status_and_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = process("train", "--config", tmp_path / "absent.yaml", cwd=tmp_path, env=environment)
    assert_refused_in_one_line(Result(result.returncode, result.stdout, result.stderr), "no such file")


def test_the_configuration_of_an_interrupted_training_is_checked_when_it_is_resumed(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / RUN_CONFIG).write_text("num_epochs: 0\ndata: {train: x.json}\n")
    assert_refused_in_one_line(run("train", "--resume", tmp_path), RUN_CONFIG, "num_epochs: expected")
    (tmp_path / RUN_CONFIG).write_text("- 1\n")
    assert_refused_in_one_line(run("train", "--resume", tmp_path), RUN_CONFIG, "expected a mapping")
