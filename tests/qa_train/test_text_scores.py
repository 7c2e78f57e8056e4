import sys

import pytest

from qa_train.data import Answer, Example
from qa_train.errors import QAError
from qa_train.text_scores import overlap_scores, row_scores, study_f1
from tests.tiny_models import tiny_tokenizer


def asked(question_id: str, *references: str) -> Example:
    return Example(question_id, "A", "york", "what?", tuple(Answer(text, 0) for text in references))


UNANSWERABLE = asked("none")


def test_rows_are_averaged_each_for_itself() -> None:
    examples = [asked("q1", "york", "new york", "paris"), asked("q2", "rome")]
    scores = row_scores({"q1": "York", "q2": "rome"}, examples)
    assert scores["per_answer_f1"] == pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4)
    assert scores["per_answer_exact_match"] == 50.0


def test_a_missing_prediction_is_wrong_in_every_row() -> None:
    examples = [asked("q1", "york", "the"), asked("q2", "rome")]  # An empty text would match 'the'.
    assert row_scores({"q2": "rome"}, examples) == {
        "per_answer_f1": pytest.approx(100 / 3),
        "per_answer_exact_match": pytest.approx(100 / 3),
    }
    assert study_f1({"q2": "rome"}, examples, tiny_tokenizer()) == pytest.approx(100 / 3)


def test_in_the_study_a_word_that_the_vocabulary_cuts_does_not_match_itself() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.tokenize("xq") == ["x", "##q"]
    assert study_f1({"q": "berlin"}, [asked("q", "Berlin")], tokenizer) == 100.0
    assert study_f1({"q": "xq"}, [asked("q", "xq")], tokenizer) == 0.0  # 'xq' against 'x ##q'
    assert study_f1({"q": "berlin xq"}, [asked("q", "berlin xq")], tokenizer) == pytest.approx(100 * 2 / (2 + 3))
    assert study_f1({"q": "x q"}, [asked("q", "xq")], tokenizer) == 100.0


def test_the_study_averages_over_rows() -> None:
    examples = [asked("q1", "berlin", "paris"), asked("q2", "rome"), UNANSWERABLE]
    assert study_f1({"q1": "berlin", "q2": "rome", "none": ""}, examples, tiny_tokenizer()) == pytest.approx(200 / 3)


def test_the_study_has_no_score_without_word_pieces() -> None:
    assert study_f1({"q": "york"}, [asked("q", "york")], None) is None
    assert study_f1({"q": "york"}, [asked("q", "york")], tiny_tokenizer("roberta")) is None


def test_questions_without_references_do_not_count() -> None:
    predictions = {"q": "york", "none": "york"}
    examples = [asked("q", "york"), UNANSWERABLE]
    assert row_scores(predictions, examples) == {"per_answer_f1": 100.0, "per_answer_exact_match": 100.0}
    assert overlap_scores(predictions, examples) == pytest.approx({"bleu": 100.0, "rouge_l": 100.0})
    assert set(row_scores({}, [UNANSWERABLE]).values()) == {None}
    assert study_f1({}, [UNANSWERABLE], tiny_tokenizer()) is None
    assert set(overlap_scores({}, [UNANSWERABLE]).values()) == {None}


def test_bleu_of_short_answers_is_not_zero_and_takes_any_reference() -> None:
    examples = [asked("q1", "rome", "New York"), asked("q2", "the tower")]
    assert overlap_scores({"q1": "new york", "q2": "The Tower"}, examples)["bleu"] == pytest.approx(100)
    # Unigrams 3 of 4, bigrams 1 of 2; as long as the references.
    half = overlap_scores({"q1": "new york", "q2": "the mill"}, examples)["bleu"]
    assert half == pytest.approx(100 * (3 / 4 * 1 / 2) ** 0.5)


def test_bleu_is_that_of_the_whole_with_its_brevity_penalty() -> None:
    examples = [asked("q1", "one two three four five"), asked("q2", "six seven eight nine ten")]
    bleu = overlap_scores({"q1": "one two three four five"}, examples)["bleu"]
    assert bleu == pytest.approx(100 * 2.718281828 ** (1 - 10 / 5))


def test_rouge_l_is_the_mean_of_the_best_over_references() -> None:
    examples = [asked("q1", "york", "a new york city", "paris"), asked("q2", "rome")]
    rouge_l = overlap_scores({"q1": "new city", "q2": "milan"}, examples)["rouge_l"]
    assert rouge_l == pytest.approx(100 * (2 * 2 / (2 + 4)) / 2)
    assert overlap_scores({}, examples) == {"bleu": 0.0, "rouge_l": 0.0}


@pytest.mark.parametrize("library", ["sacrebleu", "torchmetrics"])
def test_a_missing_library_is_named_with_its_remedy(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(QAError, match=rf'{library}.*; pip install -c constraints.txt -e "\.\[overlap\]"'):
        overlap_scores({"q": "york"}, [asked("q", "york")])
