import hashlib
import json
from pathlib import Path

import pytest

from qa_train.config import TrainConfig, load_config, with_values
from qa_train.errors import DataError
from qa_train.questions import read_questions
from tests.tiny_models import tiny_squad


@pytest.fixture
def config(tiny_run: Path) -> TrainConfig:
    return load_config(TrainConfig, tiny_run / "run.yaml")


def test_each_set_is_read_and_described(config: TrainConfig, tiny_run: Path) -> None:
    questions = read_questions(config)
    assert (len(questions.train), len(questions.dev), len(questions.tests["other"])) == (24, 12, 12)
    assert questions.description.keys() == {"train", "dev", "test.other"}
    for name, file in {"train": "train.json", "dev": "dev.json", "test.other": "test.json"}.items():
        described = questions.description[name]
        assert described["path"] == str(tiny_run / file)
        assert described["sha256"] == hashlib.sha256((tiny_run / file).read_bytes()).hexdigest()
    assert questions.description["train"]["exact"] == questions.alignment.exact == 24


def test_without_a_dev_file_whole_articles_are_split_off(config: TrainConfig) -> None:
    split = with_values(config, {"data.dev": None, "data.dev_fraction": 0.5})
    questions = read_questions(split)
    assert len(questions.train) + len(questions.dev) == 24
    titles = [{example.title for example in part} for part in (questions.train, questions.dev)]
    assert not titles[0] & titles[1]
    assert questions.description["dev"]["split"] is True
    assert questions.description["dev"]["sha256"] == questions.description["train"]["sha256"]


def test_training_questions_whose_answer_is_not_found_are_left_out_and_counted(
    config: TrainConfig, tmp_path: Path
) -> None:
    path = tiny_squad(tmp_path / "train.json", 2)
    content = json.loads(path.read_text())
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["text"] = "nowhere at all"
    path.write_text(json.dumps(content))
    questions = read_questions(with_values(config, {"data.train": str(path)}))
    assert len(questions.train) == 11
    assert questions.description["train"] | {"exact": 11, "unaligned": 1} == questions.description["train"]


def renamed(path: Path, title: str) -> Path:
    """Gives the first article of a data file another title."""
    content = json.loads(path.read_text())
    content["data"][0]["title"] = title
    path.write_text(json.dumps(content))
    return path


def test_extra_questions_are_read_aligned_and_described(config: TrainConfig, tmp_path: Path) -> None:
    path = renamed(tiny_squad(tmp_path / "extra.json", 1, seed=9), "Elsewhere")
    questions = read_questions(with_values(config, {"data.extra_train": {"more": str(path)}}))
    assert len(questions.extra["more"]) == 6
    assert {example.title for example in questions.extra["more"]} == {"Elsewhere"}
    described = questions.description["extra_train.more"]
    assert (described["questions"], described["exact"], described["held_out"]) == (6, 6, 0)
    assert len(questions.train) == 24


@pytest.mark.parametrize("held_out", ["dev", "other"])
def test_extra_questions_about_articles_of_dev_or_test_are_left_out(
    config: TrainConfig, tmp_path: Path, held_out: str
) -> None:
    questions = read_questions(config)
    title = (questions.dev if held_out == "dev" else questions.tests["other"])[0].title
    path = renamed(tiny_squad(tmp_path / "extra.json", 2, seed=9), title)
    content = json.loads(path.read_text())
    content["data"][1]["title"] = "Elsewhere"
    path.write_text(json.dumps(content))
    extra = read_questions(with_values(config, {"data.extra_train": {"more": str(path)}}))
    assert {example.title for example in extra.extra["more"]} == {"Elsewhere"}
    assert extra.description["extra_train.more"]["held_out"] == 6


def test_extra_questions_about_held_out_articles_alone_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    path = renamed(tiny_squad(tmp_path / "extra.json", 1, seed=9), read_questions(config).dev[0].title)
    with pytest.raises(DataError, match=r"extra.json: expected questions about articles that neither dev nor a test"):
        read_questions(with_values(config, {"data.extra_train": {"more": str(path)}}))
