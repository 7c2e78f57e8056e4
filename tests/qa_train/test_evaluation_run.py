import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyarrow import parquet
from transformers import AutoModel

from qa_train.cli import main
from qa_train.data import read_squad
from qa_train.predictor import Predictor
from tests.commands import running
from tests.tiny_models import tiny_model_dir, tiny_squad
from tests.trained_models import train_a_little

WINDOWS: dict[str, Any] = {"max_seq_length": 48, "doc_stride": 16}
RECORD = {"config": {"model": {"name": "x", "single_window": False, **WINDOWS}}}


class Result(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory, only to be read, with the models `good`, `random` and `roberta`, and data."""
    room = tmp_path_factory.mktemp("evaluate")
    (room / "home").mkdir()
    for seed, (name, num_articles) in enumerate({"train": 10, "dev": 4, "test": 6, "noisy": 2}.items()):
        tiny_squad(room / f"{name}.json", num_articles, seed)
    for seed, name in enumerate(["good", "random", "roberta"]):
        tiny_model_dir(room / name, "roberta" if name == "roberta" else "distilbert", seed)
        (room / name / "training.json").write_text(json.dumps(RECORD))
    train_a_little(room / "good", room / "train.json", 4, **WINDOWS)
    return room


@pytest.fixture
def run(room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs `evaluate` in the room; names of models and data stand without their options."""
    monkeypatch.chdir(room)

    def run(*words: str) -> Result:
        argv = ["evaluate", "--precision", "fp32"]
        for index, word in enumerate(words):
            is_value = index > 0 and words[index - 1].startswith("--") and words[index - 1] not in FLAGS
            option = [] if is_value or word.startswith("--") else ["--data" if word.endswith(".json") else "--model"]
            argv += [*option, word]
        capsys.readouterr()
        return Result(main(argv), *capsys.readouterr())

    return run


FLAGS = ("--json", "--ensemble")


def scores_of(result: Result) -> dict[str, Any]:
    assert (result.status, result.err) == (0, "")
    found: dict[str, Any] = json.loads(result.out)
    return found


def assert_refused(result: Result, *words: str) -> None:
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


# Results


def test_the_json_of_one_model_has_its_scores_by_the_name_of_the_file(run: Callable[..., Result]) -> None:
    found = scores_of(run("good", "test.json", "noisy.json", "--json"))
    assert [*found] == ["test.json", "noisy.json"]
    scores = found["test.json"]
    assert scores["num_questions"] == 36
    assert scores["num_missing"] == scores["num_empty"] == 0
    assert scores["f1"] > 30
    assert scores["f1_interval"][0] < scores["f1"] < scores["f1_interval"][1]
    assert found["noisy.json"]["f1_interval"] is None
    assert 0 <= scores["span_accuracy"] <= min(scores["start_accuracy"], scores["end_accuracy"]) <= 100
    assert scores["study_f1"] is not None
    assert scores["precision"] == "fp32"
    assert scores["seconds"] > 0
    assert scores["tokens"] > 36 * 30
    assert not {"models", "ensemble", "weights"} & scores.keys()


def test_several_models_have_their_scores_beside_those_of_the_first(run: Callable[..., Result]) -> None:
    scores = scores_of(run("random", "good", "roberta", "test.json", "--json"))["test.json"]
    assert [*scores["models"]] == ["random", "good", "roberta"]
    assert "ensemble" not in scores
    assert scores["f1"] == scores["models"]["random"]["f1"] < scores["models"]["good"]["f1"]
    assert scores["models"]["good"]["f1"] == scores_of(run("good", "test.json", "--json"))["test.json"]["f1"]
    assert scores["models"]["roberta"]["study_f1"] is None
    assert scores["models"]["roberta"]["tokens"] != scores["models"]["good"]["tokens"]


def test_an_ensemble_stands_for_all_and_beside_its_members(run: Callable[..., Result]) -> None:
    scores = scores_of(run("good", "random", "test.json", "--ensemble", "--json"))["test.json"]
    assert [*scores["models"]] == ["good", "random"]
    assert scores["ensemble"]["weights"] == {"good": 0.5, "random": 0.5}
    assert {name: value for name, value in scores.items() if name not in ("models", "ensemble")} == scores["ensemble"]
    assert scores["tokens"] == 2 * scores["models"]["good"]["tokens"]


def test_fitted_weights_prefer_the_trained_model(run: Callable[..., Result]) -> None:
    scores = scores_of(run("random", "good", "test.json", "--fit-weights", "dev.json", "--json"))["test.json"]
    weights = scores["ensemble"]["weights"]
    assert weights["good"] > 0.9
    assert sum(weights.values()) == pytest.approx(1)
    result = run("random", "good", "dev.json", "--fit-weights", "dev.json")
    assert result.status == 0
    assert result.err.startswith("warning: the weights are fitted to a file that is scored")
    assert "Weights of the ensemble (fitted to dev.json): random 0.0" in result.out


def test_the_table_has_a_row_for_each_model_and_file(run: Callable[..., Result]) -> None:
    result = run("good", "random", "test.json", "noisy.json", "--ensemble")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines[2:8]] == [
        [name, file] for file in ("test.json", "noisy.json") for name in ("good", "random", "ensemble")
    ]
    assert all(label in lines[0] for label in ("F1", "exact match", "empty", "missing", "answerable", "best possible"))
    assert "[" in lines[2]
    assert "[" not in lines[5]
    assert lines[-1] == "Weights of the ensemble (equal): good 0.500, random 0.500"


# Files


def test_predictions_of_one_model_and_file_are_one_file_that_score_reads(
    run: Callable[..., Result], room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "predictions.json"
    result = run("good", "test.json", "--predictions", str(out))
    assert result.out.splitlines()[-1] == f"Wrote {out}"
    examples = read_squad(room / "test.json").examples
    answers = Predictor(room / "good")([(example.question, example.context) for example in examples])
    predictions = json.loads(out.read_text())
    assert predictions == {example.id: answer["answer"] for example, answer in zip(examples, answers, strict=True)}
    assert all(text.strip() for text in predictions.values())
    expected = scores_of(run("good", "test.json", "--json"))["test.json"]["f1"]
    assert main(["score", "--data", str(room / "test.json"), "--predictions", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test.json"]["f1"] == expected


def test_predictions_of_several_are_files_of_a_directory(run: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("good", "random", "test.json", "noisy.json", "--ensemble", "--predictions", str(out))
    assert {path.name for path in out.iterdir()} == {
        f"{name}__{file}" for name in ("good", "random", "ensemble") for file in ("test.json", "noisy.json")
    }
    assert all(str(path) in result.out.splitlines()[-1] for path in out.iterdir())
    one = tmp_path / "one.json"
    assert run("good", "random", "test.json", "--ensemble", "--predictions", str(one)).status == 0
    assert one.read_text() == (out / "ensemble__test.json").read_text()


def test_with_n_best_each_question_has_a_list_of_answers(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("good", "noisy.json", "--predictions", str(tmp_path / "p.json"), "--n-best", "3").status == 0
    for answers in json.loads((tmp_path / "p.json").read_text()).values():
        assert len(answers) == 3
        assert {*answers[0]} == {"score", "start", "end", "answer", "window"}
        assert answers[0]["score"] >= answers[1]["score"] >= answers[2]["score"] > 0


def test_question_scores_are_files_in_a_directory(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("good", "test.json", "noisy.json", "--question-scores", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"scores_test.parquet", "scores_noisy.parquet"}
    assert str(tmp_path / "scores_test.parquet") in result.out.splitlines()[-1]
    table = parquet.read_table(tmp_path / "scores_test.parquet").to_pydict()
    assert [*table] == ["question_id", "article", "f1", "exact_match"]
    mean = scores_of(run("good", "test.json", "--json"))["test.json"]["f1"]
    assert sum(table["f1"]) / len(table["f1"]) == pytest.approx(mean)
    assert run("good", "random", "test.json", "--ensemble", "--question-scores", str(tmp_path / "all")).status == 0
    assert {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*.parquet")} == {
        "scores_test.parquet",
        "good/scores_test.parquet",
        "random/scores_test.parquet",
    }


def test_models_of_one_name_are_told_apart_by_their_paths(
    run: Callable[..., Result], room: Path, tmp_path: Path
) -> None:
    shutil.copytree(room / "random", tmp_path / "good")
    out = tmp_path / "out"
    found = scores_of(run("good", str(tmp_path / "good"), "noisy.json", "--json", "--predictions", str(out)))
    models = found["noisy.json"]["models"]
    assert {name: scores["model"] for name, scores in models.items()} == {
        f"{directory.name}/good": str(directory / "good") for directory in (room, tmp_path)
    }
    assert len([*out.iterdir()]) == 2


def test_a_model_is_scored_on_the_windows_it_was_trained_on(
    run: Callable[..., Result], room: Path, tmp_path: Path
) -> None:
    shutil.copytree(room / "good", tmp_path / "study")
    record = {"config": {"model": {**RECORD["config"]["model"], "single_window": True}}}
    (tmp_path / "study" / "training.json").write_text(json.dumps(record))
    models = scores_of(run("good", str(tmp_path / "study"), "test.json", "--json"))["test.json"]["models"]
    assert models["study"]["tokens"] < models["good"]["tokens"]
    models = scores_of(run("good", "test.json", "--json", "--max-seq-length", "128", "--doc-stride", "0"))
    assert models["test.json"]["tokens"] < 36 * 128


def test_predict_takes_several_models_as_an_ensemble(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(room / name) for name in ("good", "random")]
    options = ["--question", "who ?", "--context", "ada built the mill in rome", "--n-best", "2", "--json"]
    assert main(["predict", "--model", models[0], "--model", models[1], *options]) == 0
    expected = Predictor(models)("who ?", "ada built the mill in rome", n_best=2)
    assert json.loads(capsys.readouterr().out) == expected


# Mistakes


def test_models_that_do_not_fit_together_are_refused(run: Callable[..., Result]) -> None:
    assert_refused(run("good", "roberta", "test.json", "--ensemble"), "one tokenizer", "roberta")
    assert_refused(run("good", "test.json", "--ensemble"), "expected two models or more")


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (["good", "absent.json"], ["no such file absent.json"]),
        (["./absent", "test.json"], ["no such directory ./absent"]),
        (["good", "good", "test.json"], ["different models", "2 times"]),
        (["good", "test.json", "--n-best", "0", "--predictions", "x"], ["--n-best", "--help"]),
        (["good", "test.json", "--n-best", "2"], ["--predictions"]),
        (["good", "test.json", "--predictions", "test.json"], ["test.json is an input"]),
        (["good", "test.json", "--predictions", "home"], ["expected a file to write, found a directory"]),
        (["good", "test.json", "--question-scores", "test.json"], ["expected a directory to write into, found a file"]),
        (["good", "test.json", "--max-seq-length", "600"], ["expected at most 512"]),
        (["good", "test.json", "--num-workers", "10000"], ["--num-workers: 10000 workers need 10000 CPU"]),
        (["good"], ["--data"]),
        (["test.json"], ["--model"]),
        (["good", "random", "test.json", "--fit-weights", "absent.json"], ["no such file absent.json"]),
    ],
    ids=" ".join,
)
def test_mistakes_are_explained_in_one_line(words: list[str], problems: list[str], run: Callable[..., Result]) -> None:
    assert_refused(run(*words), *problems)


def test_data_files_of_one_name_are_refused(run: Callable[..., Result], room: Path, tmp_path: Path) -> None:
    shutil.copy(room / "test.json", tmp_path)
    assert_refused(run("good", "test.json", str(tmp_path / "test.json")), "different names", "test.json twice")


def test_a_model_that_cannot_answer_is_refused(run: Callable[..., Result], room: Path, tmp_path: Path) -> None:
    shutil.copytree(room / "good", tmp_path / "no weights")
    (tmp_path / "no weights" / "model.safetensors").unlink()
    assert_refused(run(str(tmp_path / "no weights"), "test.json"), "expected model.safetensors")
    shutil.copytree(room / "good", tmp_path / "no head")
    AutoModel.from_pretrained(room / "good").save_pretrained(tmp_path / "no head")
    assert_refused(run(str(tmp_path / "no head"), "test.json"), "without its head")


def squad(context: str, question: str) -> str:
    qa = {"id": "q", "question": question, "answers": [{"text": "ada", "answer_start": 0}]}
    return json.dumps({"data": [{"title": "a", "paragraphs": [{"context": context, "qas": [qa]}]}]})


def test_contexts_may_be_long_and_questions_blank_but_contexts_not(run: Callable[..., Result], tmp_path: Path) -> None:
    for name, context, question in (
        ("long", "ada built it . " + "children like to play there . " * 17_000, "who ?"),
        ("blank", "ada built it .", " "),
        ("empty", " ", "who ?"),
    ):
        (tmp_path / f"{name}.json").write_text(squad(context, question))
    windows = ["--max-seq-length", "384", "--doc-stride", "0"]
    assert scores_of(run("good", str(tmp_path / "long.json"), "--json", *windows))["long.json"]["tokens"] > 100_000
    assert scores_of(run("good", str(tmp_path / "blank.json"), "--json"))["blank.json"]["num_empty"] == 0
    assert_refused(run("good", str(tmp_path / "empty.json")), "expected a context with words")


# Several workers


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_give_the_scores_and_answers_of_one(room: Path, tmp_path: Path) -> None:
    models = ["--model", "good", "--model", "random"]
    options = ["--precision", "fp32", "--fit-weights", "dev.json", "--n-best", "2", "--json", "--data", "big.json"]
    tiny_squad(room / "big.json", 400, 7)
    found = {}
    for number in ("1", "2"):
        out = tmp_path / number
        written = ["--predictions", str(out / "p.json"), "--question-scores", str(out)]
        arguments = ["-m", "qa_train", "evaluate", *models, *options, *written, "--num-workers", number]
        with running(room, f"{number} workers", *arguments, OMP_NUM_THREADS="1") as command:
            command.finish()
        assert (command.status, command.err) == (0, "")
        scores = json.loads(command.out)["big.json"]
        for part in (scores, scores["ensemble"], *scores["models"].values()):
            for name in ("seconds", "device_s"):
                assert part.pop(name) > 0
        found[number] = scores, *((out / name).read_bytes() for name in ("p.json", "scores_big.parquet"))
    assert found["1"] == found["2"]
