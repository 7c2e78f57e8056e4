import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train import demo_data
from qa_train.alignment import AlignmentCounts, align_answers
from qa_train.cli import main
from qa_train.cloze import KINDS, WINDOW_WORDS, ask, cloze_questions, find_spans, synthesize
from qa_train.data import Example, SquadData, read_squad, split_by_title
from qa_train.errors import DataError

DEMO = Path(demo_data.__file__).with_name("train.json")
WRITTEN = (
    "The school was closed in the spring. In 1903 Marie Curie shared the Nobel Prize with two others. "
    "She had married Pierre in Sceaux on 26 July 1895. Later she directed 20 mobile X-ray units."
)
SPOKEN = (
    "the ferry sank on the ninth of october seventeen eighty four and forty two people drowned before a shepherd "
    "named elias cobb came with his boat from the chapel where the bell had rung for three hours"
)


def common(context: str, *names: str) -> Counter[str]:
    """Counts in which all words of a context are frequent but `names`."""
    return Counter({word: 100 for word in context.split() if word not in names})


def found(context: str, counts: Counter[str] | None = None) -> list[tuple[str, str]]:
    spans = sorted(find_spans(context, common(context) if counts is None else counts), key=lambda span: span.start)
    return [(span.kind, context[span.start : span.end]) for span in spans]


def questions_about(context: str, *names: str) -> dict[str, str | None]:
    """Questions by their answer."""
    spans = find_spans(context, common(context, *names))
    return {context[span.start : span.end]: ask(context, span) for span in spans}


def as_squad(*contexts: str, title: str = "A") -> dict[str, object]:
    qas = [[{"id": f"q{index}", "question": "?", "answers": []}] for index in range(len(contexts))]
    pairs = zip(contexts, qas, strict=True)
    return {"data": [{"title": title, "paragraphs": [{"context": context, "qas": asked} for context, asked in pairs]}]}


@pytest.fixture
def synthesized(tmp_path: Path) -> Callable[..., SquadData]:
    def synthesized(*contexts: str, **options: int) -> SquadData:
        (tmp_path / "in.json").write_text(json.dumps(as_squad(*contexts)))
        synthesize(tmp_path / "in.json", tmp_path / "out.json", overwrite=True, **options)
        return read_squad(tmp_path / "out.json")

    return synthesized


# Written text


def test_a_written_sentence_asks_for_its_names_numbers_and_dates() -> None:
    asked = questions_about(WRITTEN)
    assert asked == {
        "1903": "when Marie Curie shared the Nobel Prize with two others?",
        "two": "In 1903 Marie Curie shared the Nobel Prize with how many others?",
        "Marie Curie": "In 1903 who shared the Nobel Prize with two others?",
        "Nobel Prize": "In 1903 Marie Curie shared the what with two others?",
        "26 July 1895": "She had married Pierre in Sceaux when?",
        "Pierre": "She had married who in Sceaux on 26 July 1895?",
        "Sceaux": "She had married Pierre in what on 26 July 1895?",
        "20": "Later she directed how many mobile X-ray units?",
        "X-ray": "Later she directed 20 mobile who units?",
    }


def test_the_first_word_of_a_sentence_is_no_name_but_can_spoil_one() -> None:
    context = "Ada Lovelace wrote it. In London nobody knew. Rain fell there. Smith and I lived in Bath."
    assert found(context, Counter(["in", "ada", "in"])) == [
        ("name", "Lovelace"),  # "ada" is seen as a word of its own elsewhere
        ("name", "London"),
        ("name", "Bath"),
    ]
    assert found("Ada Lovelace wrote it.") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("he was born on March 3, 1903 in Bonn", ["March 3, 1903"]),
        ("he came in May and left on 1st June", ["May", "1st June"]),
        ("they may march on monday", ["monday"]),
        ("on the third of may nineteen oh four", ["third of may nineteen oh four"]),
        ("since august eighteen seventy", ["august eighteen seventy"]),
        ("in ten sixty six and in twenty twenty one", ["ten sixty six", "twenty twenty one"]),
        ("in two thousand and five it", ["two thousand and five"]),
        ("in the 1990s room 21450 and 1,903 men", []),
    ],
)
def test_dates_are_found_in_digits_and_in_words(text: str, expected: list[str]) -> None:
    assert [answer for kind, answer in found(text) if kind == "date"] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("with 1,903 men and 3.5 tons", ["1,903", "3.5"]),
        ("two hundred and five of sixty-one", ["two hundred and five", "sixty-one"]),
        ("three hundred sixty five thousand years", ["three hundred sixty five thousand"]),
        ("for 5 million or two thousand", ["5 million", "two thousand"]),
        ("no one saw that one", []),
        ("a two-year plan of 50% for $5 at the 19th or 3-4 of them", []),
        ("seven and eight", ["seven", "eight"]),
    ],
)
def test_numbers_are_found_in_digits_and_in_words(text: str, expected: list[str]) -> None:
    assert [answer for kind, answer in found(text) if kind == "number"] == expected


def test_an_initial_a_title_and_a_decimal_point_end_no_sentence() -> None:
    context = "It was led by Dr. J. Smith, who had 3.5 tons of radium. He left in 5."
    assert ("name", "Smith") in found(context)
    smith = next(span for span in find_spans(context, Counter()) if context[span.start :].startswith("Smith"))
    assert ask(context, smith) == "It was led by Dr. J. who, who had 3.5 tons of radium?"


# Spoken text


def test_spoken_text_asks_for_number_words_dates_and_rare_words_in_a_window_of_words() -> None:
    assert questions_about(SPOKEN, "elias", "cobb", "boat") == {
        "ninth of october seventeen eighty four": "the ferry sank on the when and forty two people drowned before a "
        "shepherd named elias cobb came?",
        "forty two": "the ferry sank on the ninth of october seventeen eighty four and how many people drowned before "
        "a shepherd named elias cobb came with his boat?",
        "three": "with his boat from the chapel where the bell had rung for how many hours?",
        "elias cobb": "seventeen eighty four and forty two people drowned before a shepherd named what came with his "
        "boat from the chapel where the bell had rung?",
        "boat": "two people drowned before a shepherd named elias cobb came with his what from the chapel where the "
        "bell had rung for three hours?",
    }


def test_a_window_has_as_many_words_to_each_side() -> None:
    words = [f"w{'x' * index}" for index in range(50)]
    context = " ".join([*words[:25], "seven", *words[25:]])
    assert questions_about(context)["seven"] == (
        f"{' '.join(words[25 - WINDOW_WORDS : 25])} how many {' '.join(words[25 : 25 + WINDOW_WORDS])}?"
    )


def test_lower_case_text_with_full_stops_is_asked_in_sentences() -> None:
    context = "they had met before the war . it opened for all in seventeen ten . nobody came ."
    assert questions_about(context) == {"seventeen ten": "it opened for all when?"}


def test_a_rare_word_is_rare_in_the_file_not_in_its_context(synthesized: Callable[..., SquadData]) -> None:
    contexts = [
        f"nobody who came {where} ever {did} anything like that before"
        for where, did in (("here", "believed"), ("home", "painted"), ("late", "sold"), ("back", "saw"))
    ]
    answers = [example.answers[0].text for example in synthesized(*contexts, per_context=9).examples]
    # "saw" is too short, the frame too frequent.
    assert sorted(answers) == ["back", "believed", "here", "home", "late", "painted", "sold"]


# Questions


@pytest.mark.parametrize("context", [WRITTEN, SPOKEN, f"{SPOKEN}. {WRITTEN}"])
def test_answers_stand_at_their_offsets_and_not_in_their_questions(
    context: str, synthesized: Callable[..., SquadData]
) -> None:
    for example in synthesized(context, per_context=100).examples:
        (answer,) = example.answers
        assert example.context == context
        assert context[answer.start : answer.start + len(answer.text)] == answer.text
        assert f" {answer.text} " not in f" {example.question} "


@given(
    st.lists(st.text("aB éÉ1.,'\u2019-\n?ß", max_size=6) | st.sampled_from(["May ", "two ", " Marie "]), max_size=20)
)
def test_any_text_can_be_asked_about(parts: list[str]) -> None:
    context = "".join(parts)
    for example, _ in cloze_questions([Example("q", "A", context, "?", ())], per_context=100, seed=0):
        (answer,) = example.answers
        assert context[answer.start : answer.start + len(answer.text)] == answer.text == answer.text.strip() != ""
        assert example.question.endswith("?")


def test_a_question_that_holds_its_answer_or_hardly_a_word_is_not_asked() -> None:
    assert questions_about("there were two boats and then two more boats") == {"two": None}
    assert questions_about("about seven came") == {"seven": None}


def test_no_question_is_asked_twice_and_a_context_only_once(synthesized: Callable[..., SquadData]) -> None:
    one = "she found seven old coins in the garden."
    questions = [example.question for example in synthesized(one, one, f"{one} nothing else is known.").examples]
    assert questions.count("she found how many old coins in the garden?") == 1
    assert len({*questions}) == len(questions)


def test_kinds_take_turns_up_to_the_limit(synthesized: Callable[..., SquadData]) -> None:
    for limit in (1, 2, 3, 4):
        examples = synthesized(SPOKEN, per_context=limit).examples
        assert len(examples) == limit
    kinds = [kind for _, kind in cloze_questions(examples[:1], per_context=4, seed=0)]
    assert kinds[:3] == ["date", "number", "rare word"]


def test_ids_are_new_even_where_the_file_has_some_of_their_form() -> None:
    examples = [
        Example("A-cloze-1", "A", "she found seven old coins in the garden.", "?", ()),
        Example("q2", "B", "she found eight old coins in the garden.", "?", ()),
        Example("q3", "A", "she found nine old coins in the garden.", "?", ()),
    ]
    made = [example for example, _ in cloze_questions(examples, per_context=1, seed=0)]
    assert [example.id for example in made] == ["A-cloze-2", "B-cloze-1", "A-cloze-3"]


def test_the_seed_alone_decides_the_choice() -> None:
    examples = read_squad(DEMO).examples[:50]
    first, again, other = (
        [example for example, _ in cloze_questions(examples, per_context=2, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


# Files


def test_the_demo_gives_questions_of_every_kind_that_spoken_text_shows(tmp_path: Path) -> None:
    counts = synthesize(DEMO, tmp_path / "out.json", per_context=5)
    before, after = read_squad(DEMO), read_squad(tmp_path / "out.json")
    assert counts.num_contexts == len({example.context for example in before.examples}) == 171
    assert counts.num_questions == len(after.examples) == sum(counts.num_by_kind.values())
    assert counts.num_questions > 4 * counts.num_contexts
    assert counts.num_without == 0
    assert [kind for kind in KINDS if counts.num_by_kind[kind]] == ["date", "number", "rare word"]
    alignment = align_answers(after.examples, "out.json").counts
    assert alignment == AlignmentCounts(exact=len(after.examples), shifted=0, searched=0, unaligned=0)
    titles = {example.context: example.title for example in before.examples}
    assert all(titles[example.context] == example.title for example in after.examples)
    assert not {example.id for example in after.examples} & {example.id for example in before.examples}
    train, dev = split_by_title((*before.examples, *after.examples), 0.1, seed=0)
    assert not {example.context for example in train} & {example.context for example in dev}


def test_contexts_that_give_nothing_are_counted_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(as_squad("she found seven old coins there.", "so it is.", "Yes!")))
    counts = synthesize(tmp_path / "in.json", tmp_path / "out.json", per_context=1)
    assert (counts.num_articles, counts.num_contexts, counts.num_questions, counts.num_without) == (1, 3, 1, 2)
    assert counts.num_by_kind == {"date": 0, "number": 1, "name": 0, "rare word": 0}
    assert len(read_squad(tmp_path / "out.json").examples) == 1


def test_a_file_that_gives_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(as_squad("so it is.", "Yes!")))
    with pytest.raises(DataError, match=r"in\.json: expected a date, number, name or rare word .* in 2 contexts"):
        synthesize(tmp_path / "in.json", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_an_existing_file_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(as_squad(WRITTEN)))
    out = tmp_path / "out.json"
    out.write_text("mine")
    with pytest.raises(DataError, match=r"out\.json: expected a new file, found one there; .* or pass --overwrite"):
        synthesize(tmp_path / "in.json", out)
    assert out.read_text() == "mine"
    synthesize(tmp_path / "in.json", out, overwrite=True)
    assert read_squad(out).examples
    with pytest.raises(DataError, match=r"in\.json: expected a new file"):
        synthesize(tmp_path / "in.json", tmp_path / "in.json", overwrite=True)


# The command


def test_the_command_prints_its_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.json", tmp_path / "new" / "out.json"
    source.write_text(json.dumps(as_squad(WRITTEN, "so it is.")))
    assert main(["synthesize", str(source), str(out), "--per-context", "3"]) == 0
    assert capsys.readouterr().out == (
        "3 questions (1 date, 1 number, 1 name, 0 rare words) about 1 contexts of 1 articles; 1 contexts gave none\n"
        f"Wrote {out}\n"
    )
    assert main(["synthesize", str(source), str(out), "--overwrite", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["num_questions"] == len(read_squad(out).examples) == 5
    assert printed["num_without"] == 1


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "no such file"),
        ("{", [], "not valid JSON"),
        ('{"data": []}', [], "expected at least one question"),
        (json.dumps(as_squad(WRITTEN)), ["--per-context", "0"], "--per-context"),
        (json.dumps(as_squad(WRITTEN)), ["--seed", "x"], "--seed"),
    ],
    ids=["missing", "broken", "empty", "no questions asked for", "seed"],
)
def test_a_mistake_is_explained_in_one_line(
    content: str | None, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "in.json").write_text(content)
    assert main(["synthesize", str(tmp_path / "in.json"), str(tmp_path / "out.json"), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not (tmp_path / "out.json").exists()


def test_the_help_says_that_it_is_for_training_data_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "--help"]) == 0
    assert "of training data only" in " ".join(capsys.readouterr().out.split())
