import json
import math
from pathlib import Path

import pytest

from analysis.error_analysis import GROUPS, ErrorAnalysis, analyze_errors, describe_question, lost_share, question_type
from analysis.load import load_sweeps
from analysis.question_texts import find_examples
from analysis.sections import error_sections
from qa_train.data import Answer, Example
from qa_train.errors import DataError
from qa_train.storage import sha256_file, write_json
from tests.analysis.fixtures import DEMO_DEV, articles_of, full_sweep, model, scored_sweep, write_scores, write_sweep


def example(question: str = "Who?", context: str = "it was him", *answers: str) -> Example:
    return Example("q", "title", context, question, tuple(Answer(text, 0) for text in answers))


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who built it?", "who"),
        ("To whom did Whitman write?", "who"),
        ("In what year did it end?", "what"),
        ("how MANY ships sank", "how many"),
        ("How much does it weigh?", "how many"),
        ("How did it end?", "how"),
        ("Name the somewhat odd island.", "other"),
        ("The bridge that fell was built when?", "when"),
        ("WH\u0130CH one?", "other"),
        ("who\u017fe?", "other"),
    ],
)
def test_the_first_word_that_asks_is_a_questions_type(question: str, expected: str) -> None:
    assert question_type(question) == expected


def test_the_best_preserved_reference_says_what_was_lost() -> None:
    assert lost_share(example("", "the cat sat on a mat", "The dog", "a black cat")) == 0.5
    assert lost_share(example("", "the cat sat", "The Cat!")) == 0.0
    assert lost_share(example("", "the cat sat", "dog")) == 1.0
    assert math.isnan(lost_share(example("", "the cat sat")))
    assert math.isnan(lost_share(example("", "the cat sat", "The")))


@pytest.mark.parametrize(
    ("answers", "num_words", "length", "context", "lost"),
    [
        (("w0",), 100, "1 word", "up to 100 words", "none"),
        (("w0 w1 w2 w3 x", "w0 w1 w2 x"), 101, "4 to 5 words", "101 to 150 words", "up to half"),
        (("w0 w1 x y z u",), 251, "over 5 words", "over 250 words", "over half"),
        (("x y",), 250, "2 words", "151 to 250 words", "all"),
        ((), 1, "no answer", "up to 100 words", "no answer"),
    ],
)
def test_questions_are_grouped_by_lengths_in_words_and_by_what_was_lost(
    answers: tuple[str, ...], num_words: int, length: str, context: str, lost: str
) -> None:
    found = describe_question(example("Why?", " ".join(f"w{n}" for n in range(num_words)), *answers))
    assert list(found) == list(GROUPS)
    assert list(found.values()) == ["why", length, context, lost]


def errors_of(directory: Path, data: Path | None = None) -> ErrorAnalysis:
    sweeps = load_sweeps(directory)
    return analyze_errors(sweeps, sweeps.models.iloc[0], data=data)


def test_each_group_is_the_mean_over_its_questions_and_every_question_is_in_one_of_each(tmp_path: Path) -> None:
    found = errors_of(full_sweep(tmp_path, 1))
    assert found.note == ""
    for group in GROUPS:
        rows = found.groups[found.groups["group"] == group]
        assert rows["num_questions"].sum() == found.num_questions == 135
        assert (rows["f1"] * rows["num_questions"]).sum() / 135 == pytest.approx(found.f1)
    types = found.groups[found.groups["group"] == "question type"].set_index("value")
    content = json.loads(DEMO_DEV.read_text())
    questions = [qa["question"] for each in content["data"] for par in each["paragraphs"] for qa in par["qas"]]
    asking = {"who", "whom", "whose", "when", "where", "why", "which", "what", "how"}
    first = [next((word for word in text.lower().split() if word in asking), "") for text in questions]
    assert types.loc["who", "num_questions"] == sum(word.startswith("who") for word in first)
    assert types.loc["which", "num_questions"] == first.count("which")
    assert (types["low"].dropna() >= 0).all()


def test_the_worst_come_first_each_article_in_turn_with_both_answers(tmp_path: Path) -> None:
    found = errors_of(full_sweep(tmp_path, 1))
    predictions = json.loads((tmp_path / "trials" / "00000" / "predictions_dev_1.json").read_text())
    assert (found.worst["f1"].iloc[0], found.worst["f1"].is_monotonic_increasing) == (0.0, True)
    assert found.num_zero >= 20
    assert found.worst["article"].nunique() == 9
    assert found.worst["prediction"].tolist() == [predictions[key] for key in found.worst["question_id"]]
    assert found.worst["answers"].str.len().min() > 0
    assert json.dumps(found.to_plain(), allow_nan=False)


def test_of_equal_questions_those_first_whose_answer_was_heard(tmp_path: Path) -> None:
    squad = {"title": "t", "paragraphs": [{"context": "the cat sat", "qas": []}]}
    for number, answer in enumerate(("dog", "cat", "a mat")):
        qa = {"id": f"q{number}", "question": "What?", "answers": [{"text": answer, "answer_start": 0}]}
        squad["paragraphs"][0]["qas"].append(qa)  # type: ignore[index]
    write_json(tmp_path / "data.json", {"data": [squad]})
    sweep = write_sweep(tmp_path / "sweep", [model("a", 0.0, 1.0)])
    write_scores(sweep, "a", [0.0, 0.0, 50.0], ["t"] * 3)
    found = errors_of(sweep, tmp_path / "data.json")
    assert found.worst["question_id"].tolist() == ["q1", "q0", "q2"]
    assert "prediction" not in found.worst


def test_without_the_texts_a_line_says_so_and_the_worst_are_named(tmp_path: Path) -> None:
    sweep = scored_sweep(tmp_path, {"a": ([60.0, 0.0], 1.0)}, articles_of([1, 1]))
    found = errors_of(sweep)
    assert found.groups.empty
    assert found.worst["question_id"].tolist() == ["q1", "q0"]
    (section,) = error_sections(found, "a")
    assert "The questions' texts are not known (/data/dev.json is not there); name their file" in section.lead[0]


def test_a_file_that_changed_since_is_not_taken_for_the_sweeps(tmp_path: Path) -> None:
    entry = {"path": str(DEMO_DEV), "sha256": sha256_file(DEMO_DEV)}
    assert len(find_examples(entry)[0]) == 135
    assert find_examples(entry | {"sha256": "0" * 64}) == ({}, f"{DEMO_DEV} has changed since the sweep")
    assert find_examples({}) == ({}, "the manifest names no file")


def test_data_of_other_questions_are_refused(tmp_path: Path) -> None:
    sweep = scored_sweep(tmp_path, {"a": ([60.0, 0.0], 1.0)}, articles_of([1, 1]))
    with pytest.raises(DataError, match=r"expected the 2 questions .* found 2 of them missing, such as 'q0'"):
        errors_of(sweep, DEMO_DEV)


def test_a_model_without_scores_of_questions_has_no_errors_to_show(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the scores of single questions, found no file"):
        errors_of(write_sweep(tmp_path, [model("a", 1.0, 1.0)]))


@pytest.mark.parametrize("f1", [[], [float("nan")]])
def test_scores_that_are_none_are_refused(tmp_path: Path, f1: list[float]) -> None:
    sweep = write_sweep(tmp_path, [model("a", 1.0, 1.0)])
    write_scores(sweep, "a", f1, ["x"] * len(f1))
    with pytest.raises(DataError, match=r"scores_dev_2\.parquet: expected"):
        errors_of(sweep)
