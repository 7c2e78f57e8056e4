import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics.functional.text.squad import squad

from qa_train.baseline import overlap_baseline
from qa_train.data import Answer, Example, read_squad
from qa_train.errors import DataError
from qa_train.intervals import article_interval
from qa_train.metrics import normalize_answer, score_predictions
from qa_train.question_scores import read_question_scores
from qa_train.scoring import read_predictions, score_examples, score_files, summarize
from tests.tiny_models import tiny_tokenizer

ANSWERS = {"q1": ["york", "new york"], "q2": ["paris"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    qas = [
        {"id": key, "question": "where?", "answers": [{"text": text, "answer_start": 999} for text in texts]}
        for key, texts in ANSWERS.items()
    ]
    path = tmp_path / "data" / "dev.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"data": [{"title": "A", "paragraphs": [{"context": "york, paris", "qas": qas}]}]}))
    return path


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(content))
    return path


def asked(question_id: str, *references: str, title: str = "A", context: str = "york and paris") -> Example:
    return Example(question_id, title, context, "where?", tuple(Answer(text, 0) for text in references))


# All scores of a data set


def test_all_scores_are_there_and_survive_json() -> None:
    examples = [asked("q1", "york", "new york"), asked("q2", "paris"), asked("q3", "rome", title="B")]
    scores = score_examples({"q1": "New York.", "q2": "paris france"}, examples)
    assert scores == {
        "f1": pytest.approx((100 + 200 / 3) / 3),
        "exact_match": pytest.approx(100 / 3),
        "f1_interval": None,
        "exact_match_interval": None,
        "num_questions": 3,
        "num_articles": 2,
        "num_missing": 1,
        "num_empty": 0,
        "answerable_share": pytest.approx(200 / 3),
        "best_possible_f1": pytest.approx(200 / 3),
        "per_answer_f1": pytest.approx((200 / 3 + 100 + 200 / 3 + 0) / 4),
        "per_answer_exact_match": 25.0,
        "study_f1": None,
        "articles": {
            "A": {
                "f1": pytest.approx((100 + 200 / 3) / 2),
                "exact_match": 50.0,
                "num_questions": 2,
                "num_missing": 0,
                "num_empty": 0,
                "answerable_share": 100.0,
                "best_possible_f1": 100.0,
            },
            "B": {
                "f1": 0.0,
                "exact_match": 0.0,
                "num_questions": 1,
                "num_missing": 1,
                "num_empty": 0,
                "answerable_share": 0.0,
                "best_possible_f1": 0.0,
            },
        },
    }
    assert json.loads(json.dumps(scores)) == scores


def test_overlap_and_the_study_are_scored_on_demand() -> None:
    examples = [asked("q1", "york"), asked("q2", "paris")]
    scores = score_examples({"q1": "york", "q2": "paris"}, examples, tokenizer=tiny_tokenizer(), overlap=True)
    assert (scores["bleu"], scores["rouge_l"]) == pytest.approx((100, 100))
    assert scores["study_f1"] == 50.0  # The tiny vocabulary cuts 'york' into pieces.


def test_blank_predictions_are_counted_where_there_is_an_answer() -> None:
    examples = [asked("q1", "york"), asked("q2", "paris"), asked("q3", "rome"), asked("q4"), asked("q5")]
    scores = score_examples({"q1": " \n", "q2": "the", "q4": "", "q5": "york"}, examples)
    assert (scores["num_empty"], scores["num_missing"]) == (1, 1)
    assert scores["f1"] == scores["exact_match"] == 20.0  # q4, which has no answer.


def test_intervals_are_over_articles_from_six_on() -> None:
    examples = [asked(f"q{number}", "york", title=str(number // 2)) for number in range(12)]
    predictions = {f"q{number}": "york" if number % 3 else "paris" for number in range(12)}
    scores = score_examples(predictions, examples)
    interval = article_interval([100 * bool(n % 3) for n in range(12)], [n // 2 for n in range(12)])
    assert interval is not None
    assert scores["f1_interval"] == scores["exact_match_interval"] == pytest.approx([interval.low, interval.high])
    assert score_examples(predictions, examples[:10])["f1_interval"] is None
    official = score_predictions(predictions, {example.id: ("york",) for example in examples})
    assert {key: scores[key] for key in summarize(official, examples)} == summarize(official, examples)


def test_the_whole_is_the_mean_of_the_articles_by_their_questions() -> None:
    examples = [asked(f"q{n}", "york", title="A" if n else "B", context="york" if n % 2 else "rome") for n in range(7)]
    scores = score_examples({f"q{n}": "york" if n > 3 else "new york" for n in range(6)}, examples)
    parts = scores["articles"].values()
    for key in ("f1", "exact_match", "answerable_share", "best_possible_f1"):
        assert scores[key] == pytest.approx(sum(part[key] * part["num_questions"] for part in parts) / 7)
    for key in ("num_questions", "num_missing", "num_empty"):
        assert scores[key] == sum(part[key] for part in parts)


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(DataError, match="no questions to score"):
        score_examples({}, [])


# An independent scorer


@pytest.fixture
def _double_precision() -> Iterator[None]:
    """Torchmetrics sums in torch's default type; single precision would be 1e-5 off."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def torchmetrics_squad(pairs: Sequence[tuple[str, Sequence[str]]]) -> tuple[float, float]:
    """F1 and exact match of predictions with their references."""
    preds = [{"id": str(number), "prediction_text": text} for number, (text, _) in enumerate(pairs)]
    targets: list[Any] = [{"id": str(number), "answers": {"text": texts}} for number, (_, texts) in enumerate(pairs)]
    scores = squad(preds, targets)
    return scores["f1"].item(), scores["exact_match"].item()


def first_words(examples: Sequence[Example]) -> dict[str, str]:
    return {example.id: " ".join(example.context.split()[: number % 7]) for number, example in enumerate(examples)}


@pytest.mark.usefixtures("_double_precision")
@pytest.mark.parametrize("predict", [overlap_baseline, first_words])
@pytest.mark.parametrize("name", ["dev_clean.json", "dev_noise_v1.json", "dev_noise_v2.json"])
def test_on_spoken_squad_the_scores_agree_with_torchmetrics(name: str, predict: Any) -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    # Where both normalise to nothing the two differ; see below.
    examples = [
        example
        for example in read_squad(Path(directory) / name).examples
        if all(normalize_answer(answer.text) for answer in example.answers)
    ]
    assert len(examples) >= 1276
    predictions = predict(examples)
    scores = score_examples(predictions, examples)
    pairs = [(predictions[example.id], [answer.text for answer in example.answers]) for example in examples]
    assert (scores["f1"], scores["exact_match"]) == pytest.approx(torchmetrics_squad(pairs), abs=1e-6)
    rows = [(prediction, [text]) for prediction, texts in pairs for text in texts]
    by_row = (scores["per_answer_f1"], scores["per_answer_exact_match"])
    assert by_row == pytest.approx(torchmetrics_squad(rows), abs=1e-6)
    assert 0 < scores["exact_match"] < scores["f1"] < scores["best_possible_f1"] <= 100
    assert scores["f1_interval"][0] < scores["f1"] < scores["f1_interval"][1]


ADVERSARIAL = ["", " ", "the", "A an THE", "a.", "the-end", "“the”", "—", "…", "l'an", "1", "1,000", "1000"]
ADVERSARIAL += ["10 %", "$5", "٣", "½", "N.Y.", "ny", "New York", "new　york", "york\u200bnew", "ß", "SS", "İ"]
ADVERSARIAL += ["an_apple", "_the_", "a b a b", "the\x1cend", "日本 日本", "!?", "e\u0301"]


@pytest.mark.usefixtures("_double_precision")
def test_adversarial_texts_are_scored_as_torchmetrics_does() -> None:
    for prediction in ADVERSARIAL:
        references = [text for text in ADVERSARIAL if normalize_answer(text) or normalize_answer(prediction)]
        examples = [asked(str(number), text) for number, text in enumerate(references)]
        scores = score_examples(dict.fromkeys([example.id for example in examples], prediction), examples)
        expected = torchmetrics_squad([(prediction, (text,)) for text in references])
        assert (scores["f1"], scores["exact_match"]) == pytest.approx(expected, abs=1e-9), prediction
        assert (scores["per_answer_f1"], scores["per_answer_exact_match"]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.usefixtures("_double_precision")
@pytest.mark.parametrize(("prediction", "reference"), [("the", "a"), ("", "The"), ("!?", " "), ("", "")])
def test_where_both_normalise_to_nothing_f1_is_the_official_scripts_zero_and_not_torchmetrics_100(
    prediction: str, reference: str
) -> None:
    scores = score_examples({"q": prediction}, [asked("q", reference)])
    assert (scores["f1"], scores["exact_match"]) == (0.0, 100.0)
    assert torchmetrics_squad([(prediction, (reference,))]) == (100.0, 100.0)


# Files


def test_scores_are_keyed_by_the_name_of_the_data_file(data: Path, tmp_path: Path) -> None:
    predictions = {"q1": "New York.", "q2": "paris france"}
    scores = score_files(data, write(tmp_path, predictions))
    assert list(scores) == ["dev.json"]
    assert scores["dev.json"] == score_examples(predictions, read_squad(data).examples) | {"num_unknown": 0}


def test_the_score_of_each_question_is_written(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    score_files(data, write(tmp_path, {"q2": "paris france"}), question_scores=path)
    found = read_question_scores(path)
    assert (found.question_id, found.article) == (("q1", "q2"), ("A", "A"))
    assert found.f1 == pytest.approx((0, 200 / 3))


def test_missing_predictions_count_as_wrong_and_unknown_ones_are_counted(data: Path, tmp_path: Path) -> None:
    [scores] = score_files(data, write(tmp_path, {"q1": "york", "q8": "x", "q9": "y"})).values()
    assert (scores["exact_match"], scores["num_missing"], scores["num_unknown"]) == (50.0, 1, 2)
    [scores] = score_files(data, write(tmp_path, {})).values()
    assert (scores["exact_match"], scores["num_missing"], scores["num_unknown"]) == (0.0, 2, 0)


def test_predictions_for_other_data_are_refused(data: Path, tmp_path: Path) -> None:
    predictions = write(tmp_path, {"q8": "x", "q9": "y"})
    with pytest.raises(DataError, match=r"such as 'q1'; found 2 ids that are not there, such as 'q8'"):
        score_files(data, predictions)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (["york"], "expected an object {question id: answer text}, found a list; give one answer text by the id"),
        (None, "expected an object {question id: answer text}, found null"),
        ({"q1": None}, "question 'q1': expected the answer as a string, found null"),
        ({"q1": "york", "q2": 3.5}, "question 'q2': expected the answer as a string, found the number 3.5"),
        (
            {"q1": [{"text": "york", "probability": 0.5}]},
            "question 'q1': expected the answer as a string, found a list",
        ),
        ({"q1": "york\ud800"}, "question 'q1': expected the answer as Unicode text, found half of a surrogate pair"),
    ],
)
def test_predictions_that_are_no_object_of_strings_are_refused(tmp_path: Path, content: object, complaint: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}: {complaint}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.json: no such file"):
        score_files(data, tmp_path / "missing.json")
    with pytest.raises(DataError, match=r"missing\.json: no such file"):
        score_files(tmp_path / "missing.json", write(tmp_path, {}))
    (tmp_path / "broken.json").write_text("{'q1': 'york'}")
    with pytest.raises(DataError, match=r"broken\.json, line 1, column 2: not valid JSON"):
        score_files(data, tmp_path / "broken.json")


@pytest.mark.parametrize("name", ["dev_clean.json", "dev_noise_v2.json"])
def test_first_gold_answers_of_spoken_squad_score_100(tmp_path: Path, name: str) -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    path = Path(directory) / name
    gold = {key: texts[0] for key, texts in read_squad(path).references.items()}
    scores = score_files(path, write(tmp_path, gold))[name]
    assert (scores["exact_match"], scores["f1"], scores["num_questions"]) == (100.0, 100.0, 1277)
