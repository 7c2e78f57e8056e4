import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from qa_train.alignment import AlignmentCounts
from qa_train.errors import DataError
from qa_train.inspection import FileReport, Lengths, Tokenizer, format_reports, inspect_file, reports_as_dict

Questions = list[tuple[str, list[tuple[str, int]]]]


def write(tmp_path: Path, articles: dict[str, dict[str, Questions]], name: str = "squad.json") -> Path:
    """Writes {title: {context: [(question, [(answer, start)])]}}."""
    data = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": context,
                    "qas": [
                        {
                            "id": f"{title}-{place}-{number}",
                            "question": question,
                            "answers": [{"text": text, "answer_start": start} for text, start in answers],
                        }
                        for number, (question, answers) in enumerate(questions)
                    ],
                }
                for place, (context, questions) in enumerate(paragraphs.items())
            ],
        }
        for title, paragraphs in articles.items()
    ]
    path = tmp_path / name
    path.write_text(json.dumps({"data": data}))
    return path


@pytest.fixture
def report(tmp_path: Path) -> FileReport:
    return inspect_file(
        write(
            tmp_path,
            {
                "1973": {
                    "the cat sat on the mat": [
                        ("who sat?", [("the cat", 0), ("A CAT!", 4)]),
                        ("where did it sit?", [("mat", 0)]),
                        ("why?", []),
                    ],
                    "one two three": [("which number is in the middle?", [("tw", 4)])],
                },
                "Birds": {"the hen": [("who?", [("an owl", 999)])]},
            },
        )
    )


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A real tokenizer whose tokens are words and punctuation, with BERT's three special tokens around a pair."""
    fast = FastTokenizer(WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    fast.pre_tokenizer = Whitespace()
    special = [("[CLS]", 1), ("[SEP]", 2)]
    fast.post_processor = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", special)
    wrap: Callable[..., Tokenizer] = PreTrainedTokenizerFast
    return wrap(tokenizer_object=fast, model_max_length=16)


def test_articles_paragraphs_questions_and_answers_are_counted(report: FileReport) -> None:
    assert (report.num_articles, report.num_paragraphs, report.num_questions) == (2, 3, 5)
    assert (report.num_answers, report.num_without_answer) == (5, 1)
    assert report.questions_by_article == {"1973": 4, "Birds": 1}


def test_wrong_offsets_are_reported_not_refused(report: FileReport) -> None:
    assert report.alignment == AlignmentCounts(exact=2, shifted=0, searched=1, unaligned=2)


def test_a_question_is_answerable_if_an_answer_stands_in_the_context_in_whole_normalised_words(
    report: FileReport, tmp_path: Path
) -> None:
    assert report.num_answerable == 2  # Not 'tw' of 'two', nor 'owl'.
    assert report.answerable == pytest.approx(40)
    articles: dict[str, dict[str, Questions]] = {
        "A": {
            "it cost five dollars; in the u.s. that is a lot": [
                ("1", [("Five Dollars in U.S.", 0)]),
                ("2", [("the", 0)]),
                ("3", [("nowhere", 0), ("lot!", 0)]),
                ("4", [("dollars in", 0)]),
                ("5", [("five in", 0)]),
            ]
        }
    }
    assert inspect_file(write(tmp_path, articles)).num_answerable == 3


def test_lengths_are_those_of_texts_that_are_there(report: FileReport, tmp_path: Path) -> None:
    assert report.context_words == Lengths(minimum=2, median=3, p95=6, maximum=6)
    assert report.question_words == Lengths(minimum=1, median=2, p95=6, maximum=6)
    one_to_hundred: Questions = [("word " * number, [("x", 0)]) for number in range(1, 101)]
    lengths = inspect_file(write(tmp_path, {"A": {"x": one_to_hundred}})).question_words
    assert lengths == Lengths(minimum=1, median=50, p95=95, maximum=100)


def test_without_a_tokenizer_tokens_are_left_out(report: FileReport) -> None:
    assert (report.context_tokens, report.question_tokens, report.num_long) == (None, None, None)
    assert "tokens" not in format_reports([report])


def test_with_a_tokenizer_tokens_and_long_questions_are_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    context = "word " * 376  # With 3 special tokens there is room for 5 more in 384.
    path = write(
        tmp_path,
        {"A": {context: [("a b c d?", [("word", 0)]), ("a b c d e?", [("word", 0)])], "x": [("y?", [("x", 0)])]}},
    )
    report = inspect_file(path, tokenizer)
    assert report.context_tokens == Lengths(minimum=1, median=1, p95=376, maximum=376)
    assert report.question_tokens == Lengths(minimum=2, median=5, p95=6, maximum=6)
    assert report.num_long == 1
    assert "more than one window of 384 tokens" in format_reports([report])


def test_counting_long_texts_warns_of_nothing(
    tmp_path: Path, tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    inspect_file(write(tmp_path, {"A": {"word " * 400: [("a?", [("word", 0)])]}}), tokenizer)
    assert capfd.readouterr() == ("", "")


def test_reports_stand_side_by_side(report: FileReport, tmp_path: Path) -> None:
    articles: dict[str, dict[str, Questions]] = {"Birds": {"a hen": [("who?", [("hen", 2)])]}}
    other = inspect_file(write(tmp_path, articles, "other.json"))
    lines = format_reports([report, other], articles=True).splitlines()
    assert lines[0].split() == ["squad.json", "other.json"]
    rows = {line[:46].strip(): line[46:].split() for line in lines}
    assert rows["questions"] == ["5", "1"]
    assert rows["answerable"] == ["2", "(40.0", "%)", "1", "(100.0", "%)"]
    assert [line.split() for line in lines[-2:]] == [["1973", "4", "0"], ["Birds", "1", "1"]]
    assert "Birds" not in format_reports([report, other])


def test_reports_as_a_dict_survive_json(report: FileReport) -> None:
    [(path, fields)] = json.loads(json.dumps(reports_as_dict([report]))).items()
    assert path == report.path
    assert fields["alignment"] == {"exact": 2, "shifted": 0, "searched": 1, "unaligned": 2}
    assert fields["context_words"] == {"minimum": 2, "median": 3, "p95": 6, "maximum": 6}
    assert fields["answerable"] == pytest.approx(40)
    assert fields["num_long"] is None
    assert "questions_by_article" not in fields
    assert reports_as_dict([report], articles=True)[path]["questions_by_article"] == {"1973": 4, "Birds": 1}


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.json: no such file"):
        inspect_file(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("name", "exact", "answerable"),
    [("dev_clean.json", 1277, 98.2), ("dev_noise_v1.json", 93, 72.0), ("dev_noise_v2.json", 50, 56.4)],
)
def test_spoken_squad_loses_answers_with_noise(name: str, exact: int, answerable: float) -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    report = inspect_file(Path(directory) / name)
    assert (report.num_articles, report.num_paragraphs, report.num_questions) == (9, 390, 1277)
    assert report.alignment.exact == exact
    assert report.answerable == pytest.approx(answerable, abs=0.05)
