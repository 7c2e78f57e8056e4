import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from qa_train.alignment import AlignmentCounts, align_answers
from qa_train.convert import ConversionCounts, convert_csv
from qa_train.data import Answer, read_squad, split_by_title
from qa_train.errors import DataError
from qa_train.storage import read_json

CURIE = "Marie Curie won the Nobel Prize, in 1903.\nShe shared it."
OXYGEN = "In 1774 Priestley found oxygen."
HEADER = ("context", "question", "answer")


def table(*rows: Sequence[object], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    return path


def refusal(tmp_path: Path, text: str) -> str:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        convert_csv(path, tmp_path / "out.json")
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
    return str(caught.value).removeprefix(str(path))


def test_a_table_is_written_in_squad_form_and_aligns_exactly(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        table(
            (*HEADER, "id", "title", "answer_start"),
            (CURIE, "who?", "Marie Curie", "q1", "Curie", 0),
            (OXYGEN, "who?", "Priestley", "q2", "Oxygen", 8),
            (CURIE, "when?", "1903", "q3", "Curie", 36),
        ),
    )
    out = tmp_path / "new" / "out.json"
    assert convert_csv(path, out) == ConversionCounts(2, 2, 3, 3, 0, 0, 0, ())
    assert read_json(out) == {
        "version": "1.1",
        "data": [
            {
                "title": "Curie",
                "paragraphs": [
                    {
                        "context": CURIE,
                        "qas": [
                            {
                                "id": "q1",
                                "question": "who?",
                                "answers": [{"text": "Marie Curie", "answer_start": 0}],
                            },
                            {"id": "q3", "question": "when?", "answers": [{"text": "1903", "answer_start": 36}]},
                        ],
                    }
                ],
            },
            {
                "title": "Oxygen",
                "paragraphs": [
                    {
                        "context": OXYGEN,
                        "qas": [
                            {"id": "q2", "question": "who?", "answers": [{"text": "Priestley", "answer_start": 8}]}
                        ],
                    }
                ],
            },
        ],
    }
    alignment = align_answers(read_squad(out).examples, str(out))
    assert alignment.counts == AlignmentCounts(exact=3, shifted=0, searched=0, unaligned=0)


def test_rows_of_one_question_become_its_reference_answers(tmp_path: Path) -> None:
    rows = [(CURIE, "what?", "Nobel Prize"), (CURIE, "who?", "Curie"), (CURIE, "what?", "the Nobel Prize")]
    out = tmp_path / "out.json"
    counts = convert_csv(write(tmp_path, table(HEADER, *rows)), out)
    assert (counts.num_paragraphs, counts.num_questions, counts.num_answers, counts.num_searched) == (1, 2, 3, 3)
    assert list(read_squad(out).references.values()) == [("Nobel Prize", "the Nobel Prize"), ("Curie",)]


def test_rows_of_one_question_with_different_ids_stay_apart(tmp_path: Path) -> None:
    header = (*HEADER, "id")
    rows = [(CURIE, "who?", "Curie", "q1"), (CURIE, "who?", "Marie Curie", "q2"), (CURIE, "who?", "Marie", "")]
    out = tmp_path / "out.json"
    convert_csv(write(tmp_path, table(header, *rows)), out)
    assert read_squad(out).references == {"q1": ("Curie", "Marie"), "q2": ("Marie Curie",)}


def test_made_ids_and_titles_depend_on_the_content_alone(tmp_path: Path) -> None:
    rows = [(CURIE, "who?", "Curie"), (CURIE, "when?", "1903"), (OXYGEN, "who?", "Priestley")]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    convert_csv(write(tmp_path, table(HEADER, *rows)), first)
    convert_csv(write(tmp_path, table(HEADER, *rows[::-1], ("other", "?", "other"))), second)
    before = {(example.context, example.question): example for example in read_squad(first).examples}
    after = {(example.context, example.question): example for example in read_squad(second).examples}
    assert len({example.id for example in before.values()}) == 3
    assert before.items() <= after.items()


def test_contexts_without_title_are_articles_of_their_own(tmp_path: Path) -> None:
    contexts = [f"Number {number} of many." for number in range(20)]
    rows = [(context, question, "Number") for context in contexts for question in ("a?", "b?")]
    out = tmp_path / "out.json"
    assert convert_csv(write(tmp_path, table(HEADER, *rows)), out).num_articles == 20
    train, dev = split_by_title(read_squad(out).examples, 0.1, seed=0)
    assert len(dev) == 4
    assert not {example.context for example in train} & {example.context for example in dev}


def test_one_title_names_all_rows_of_its_context(tmp_path: Path) -> None:
    rows = [("", CURIE, "who?", "Curie"), ("Curie", CURIE, "when?", "1903"), ("Curie", OXYGEN, "who?", "Priestley")]
    out = tmp_path / "out.json"
    counts = convert_csv(write(tmp_path, table(("title", *HEADER), *rows)), out)
    assert (counts.num_articles, counts.num_paragraphs) == (1, 2)
    assert {example.title for example in read_squad(out).examples} == {"Curie"}


@pytest.mark.parametrize(
    ("answer", "start", "found", "counted"),
    [
        ("Priestley", 8, Answer("Priestley", 8), (0, 0)),
        ("PRIESTLEY", 9, Answer("Priestley", 8), (1, 0)),
        (" oxygen ", "0.0", Answer("oxygen", 24), (1, 0)),
        ("OXYGEN", "", Answer("oxygen", 24), (0, 1)),
        ("n", "", Answer("n", 1), (0, 1)),
        ("in", "", Answer("In", 0), (0, 1)),
    ],
)
def test_an_answer_is_found_near_its_offset_and_spelled_as_there(
    tmp_path: Path, answer: str, start: object, found: Answer, counted: tuple[int, int]
) -> None:
    out = tmp_path / "out.json"
    counts = convert_csv(write(tmp_path, table((*HEADER, "answer_start"), (OXYGEN, "?", answer, start))), out)
    assert read_squad(out).examples[0].answers == (found,)
    assert (counts.num_moved, counts.num_searched) == counted


def test_without_offset_whole_words_win_over_earlier_parts_of_words(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    convert_csv(write(tmp_path, table(HEADER, ("the art of he", "?", "he"))), out)
    assert read_squad(out).examples[0].answers == (Answer("he", 11),)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_that_of_the_header(tmp_path: Path, delimiter: str) -> None:
    context = "one, two, three; four,\tfive;\tsix"
    out = tmp_path / "out.json"
    text = table(HEADER, (context, "one, two; or\tthree?", "four,"), delimiter=delimiter)
    convert_csv(write(tmp_path, text), out)
    assert read_squad(out).examples[0].answers == (Answer("four,", 17),)
    assert read_squad(out).examples[0].context == context


def test_another_delimiter_can_be_given(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    convert_csv(write(tmp_path, "context|question|answer\na b|?|b\n"), out, delimiter="|")
    assert read_squad(out).examples[0].context == "a b"


def test_byte_order_mark_line_ends_case_and_blank_rows_of_a_spreadsheet_do_not_matter(tmp_path: Path) -> None:
    text = '\ufeffID;Question; Context ;ANSWER;notes\r\nq1;"who\r\nwas it?";"été ""1903""";"ÉTÉ";x\r\n;;;;\r\n\r\n'
    out = tmp_path / "out.json"
    counts = convert_csv(write(tmp_path, text), out)
    assert counts.ignored_columns == ("notes",)
    [example] = read_squad(out).examples
    assert (example.question, example.context) == ("who\nwas it?", 'été "1903"')
    assert example.answers == (Answer("été", 0),)


def test_a_context_longer_than_the_limit_of_csv_is_read(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    out = tmp_path / "out.json"
    convert_csv(write(tmp_path, table(HEADER, ("word " * 40_000 + "end", "?", "end"))), out)
    assert read_squad(out).examples[0].answers == (Answer("end", 200_000),)
    assert csv.field_size_limit() == limit


def test_missing_columns_are_named_with_what_is_there_and_the_nearest(tmp_path: Path) -> None:
    message = refusal(tmp_path, table(("passage", "questions", "answer", "id"), ("a", "b", "a", "c")))
    assert message == (
        ": expected the columns 'context', 'question', 'answer'; no 'context', 'question' (the nearest is "
        "'questions'); found 'passage', 'questions', 'answer', 'id'"
    )
    assert refusal(tmp_path, "").endswith("found an empty file")
    assert refusal(tmp_path, table((*HEADER, "Answer"))).endswith("each column once, found 'answer' several times")


def test_all_rows_that_cannot_be_used_are_counted_and_the_first_ten_named(tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [
        (CURIE, "who?", "Curie", 6),
        (CURIE, "who?", "Einstein", 6),
        (" ", "", "Curie", 6),
        (CURIE, "who?", "Curie", "six"),
        (CURIE, "who?", "Curie", -1),
        (CURIE, "who?", " ", 6),
        (CURIE, "who?", "Curie", 6, "too", "long"),
    ]
    message = refusal(tmp_path, table((*HEADER, "answer_start"), *rows))
    assert message.splitlines() == [
        ": 6 problems; correct them, or pass --drop-unfound to leave out answers that are not there",
        # CURIE takes two lines.
        "  - line 4: the string 'Einstein' does not occur in its context",
        "  - line 6: context and question blank",
        "  - line 7: expected answer_start to be an integer, 0 or more, found the string 'six'",
        "  - line 9: expected answer_start to be an integer, 0 or more, found the string '-1'",
        "  - line 11: answer blank",
        "  - line 13: expected 4 cells as in the header, found 6",
    ]
    many = refusal(tmp_path, table(HEADER, *[("a b", f"{number}?", "c") for number in range(25)])).splitlines()
    assert many[0].startswith(": 25 problems")
    assert len(many) == 12
    assert many[-1] == "  - and 15 more"


def test_a_single_problem_is_told_in_one_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, table(HEADER, ("a b", "?", "c" * 100)))
    assert message.startswith(", line 2: the string 'ccccc")
    assert message.endswith(
        "does not occur in its context; correct it, or pass --drop-unfound to leave out answers that are not there"
    )
    assert len(message) < 250


def test_answers_that_do_not_occur_can_be_left_out_with_their_questions(tmp_path: Path) -> None:
    rows = [(CURIE, "who?", "Einstein"), (CURIE, "who?", "Curie"), (CURIE, "when?", "1904"), (CURIE, "when?", "")]
    path, out = write(tmp_path, table(HEADER, *rows)), tmp_path / "out.json"
    counts = convert_csv(path, out, drop_unfound=True)
    assert (counts.num_questions, counts.num_answers, counts.num_dropped) == (1, 1, 3)
    assert list(read_squad(out).references.values()) == [("Curie",)]
    with pytest.raises(DataError, match="expected at least one question, found none in 1 usable rows"):
        convert_csv(write(tmp_path, table(HEADER, rows[0])), tmp_path / "none.json", drop_unfound=True)


def test_a_table_of_its_header_alone_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, table(HEADER)) == ": expected at least one question, found none in 0 usable rows"


def test_ids_and_titles_that_contradict_each_other_are_named_with_both_lines(tmp_path: Path) -> None:
    rows = [
        ("q1", "A", OXYGEN, "who?", "Priestley"),
        ("q1", "A", OXYGEN, "when?", "1774"),
        ("q2", "B", OXYGEN, "what?", "oxygen"),
    ]
    message = refusal(tmp_path, table(("id", "title", *HEADER), *rows))
    assert message.splitlines()[1:] == [
        "  - line 3: id 'q1' belongs to another question in line 2",
        "  - line 4: title the string 'B', but the string 'A' in line 2 for the same context",
    ]


def test_a_quotation_mark_that_is_not_closed_is_named_with_its_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, 'context,question,answer\na b,?,b\n"a b,?,b\na c,?,c\n')
    assert message.startswith(", line 3: not valid CSV: unexpected end of data; look for a quotation mark")


def test_an_existing_file_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    path, out = write(tmp_path, table(HEADER, ("a b", "?", "b"))), tmp_path / "out.json"
    out.write_text("mine")
    with pytest.raises(DataError, match=r"out\.json: expected a new file, found one there; .* or pass --overwrite"):
        convert_csv(path, out)
    assert out.read_text() == "mine"
    convert_csv(path, out, overwrite=True)
    assert len(read_squad(out).examples) == 1
    with pytest.raises(DataError, match=r"table\.csv: expected a new file"):
        convert_csv(path, path, overwrite=True)


def test_a_file_that_is_missing_or_not_utf_8_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.csv: no such file"):
        convert_csv(tmp_path / "missing.csv", tmp_path / "out.json")
    (tmp_path / "latin.csv").write_bytes("context,question,answer\né,?,é".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv: expected text in UTF-8"):
        convert_csv(tmp_path / "latin.csv", tmp_path / "out.json")


def test_spoken_squad_survives_the_way_through_a_table(tmp_path: Path) -> None:
    directory = os.environ.get("SPOKEN_SQUAD_DIR")
    if not directory:
        pytest.skip("SPOKEN_SQUAD_DIR is not set")
    examples = read_squad(Path(directory) / "train_clean.json").examples
    rows = [
        (example.id, example.title, example.context, example.question, answer.text, answer.start)
        for example in examples
        for answer in example.answers
    ]
    out = tmp_path / "out.json"
    path = write(tmp_path, table(("id", "title", *HEADER, "answer_start"), *rows))
    counts = convert_csv(path, out, drop_unfound=True)
    assert (counts.num_questions, counts.num_moved) == (len(examples), 0)
    assert counts.num_answers + counts.num_dropped == len(rows)
    assert counts.num_dropped < 5
    converted = {example.id: example for example in read_squad(out).examples}
    aligned = align_answers(examples, "train_clean.json").examples
    again = align_answers([converted[example.id] for example in examples], str(out)).examples
    assert [example.answers for example in again] == [example.answers for example in aligned]
