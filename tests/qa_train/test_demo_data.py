import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from qa_train.alignment import align_answers
from qa_train.data import read_squad
from qa_train.demo_data import build
from qa_train.errors import DataError
from qa_train.storage import read_json

SETS = ("train", "dev", "test")
PASSAGES = build.written_passages()
QUESTIONS = [question for passage in PASSAGES for question, _ in passage.questions]


def sentences_of(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])[\"\u201d\u2019]?\s+", text)


SENTENCES = [sentence for passage in PASSAGES for sentence in sentences_of(passage.text)]


def repeated(items: Iterable[str], at_most: int) -> dict[str, int]:
    return {item: count for item, count in Counter(items).items() if count > at_most}


def opening(sentence: str, num_words: int) -> str:
    return " ".join(build.spoken(sentence).split()[:num_words])


def frequent_words(texts: Iterable[str], in_at_least: int) -> set[str]:
    """Words that stand in so many of the texts: articles, prepositions, verbs of all work, hardly ever a name."""
    counts = Counter(word for text in texts for word in set(build.spoken(text).split()))
    return {word for word, count in counts.items() if count >= in_at_least}


def frame(sentence: str, frequent: set[str]) -> str:
    """A sentence with every run of words that are not frequent replaced by a blank, as a template would have it.

    Empty if fewer than four words remain: "the _ of the _" is grammar, not a template.
    """
    words = [word if word in frequent else "_" for word in build.spoken(sentence).split()]
    kept = [word for place, word in enumerate(words) if word != "_" or words[place - 1 : place] != ["_"]]
    return " ".join(kept) if len(kept) - kept.count("_") >= 4 else ""


def shared_runs(texts: Iterable[str], num_words: int) -> set[str]:
    """Runs of so many words that stand in more than one of the texts."""
    places = defaultdict(set)
    for number, text in enumerate(texts):
        words = build.spoken(text).split()
        for start in range(len(words) - num_words + 1):
            places[" ".join(words[start : start + num_words])].add(number)
    return {run for run, where in places.items() if len(where) > 1}


def test_there_are_many_passages_with_five_questions_each() -> None:
    assert len(PASSAGES) >= 120
    assert {len(passage.questions) for passage in PASSAGES} == {5}


def test_every_passage_keeps_the_rules() -> None:
    assert {passage.text: found for passage in PASSAGES if (found := list(build.problems(passage)))} == {}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"title": ""}, "Title"),
        ({"text": "Two short words."}, "40 to 60 words, found 3"),
        ({"text": PASSAGES[0].text + " 7"}, "found digits"),
        ({"questions": PASSAGES[0].questions[1:]}, "5 questions, found 4"),
        ({"questions": (("Who?", "nobody at all"), *PASSAGES[0].questions[1:])}, "does not stand in the passage"),
        ({"questions": (PASSAGES[0].questions[1], *PASSAGES[0].questions[1:])}, "a different answer to each question"),
        ({"questions": ((f"{opening(PASSAGES[0].text, 4)}?", "dawn"), *PASSAGES[0].questions[1:])}, "in other words"),
    ],
)
def test_a_passage_that_breaks_a_rule_is_found(change: dict[str, object], complaint: str) -> None:
    values = {name: getattr(PASSAGES[0], name) for name in ("title", "text", "questions")} | change
    assert complaint in "; ".join(build.problems(build.Passage(**values)))


def test_a_written_file_that_breaks_a_rule_is_refused_with_its_passage(tmp_path: Path) -> None:
    path = tmp_path / "written.txt"
    path.write_text("# Short\nToo short a passage.\n? What is it? | a passage\n")
    with pytest.raises(DataError, match=r"written\.txt: article 'Short', passage 'Too short a passage\.': expected 40"):
        list(build.read_written(path))


def test_the_json_files_are_what_build_writes() -> None:
    titles = build.split_titles(list(dict.fromkeys(passage.title for passage in PASSAGES)))
    for name in SETS:
        chosen = [passage for passage in PASSAGES if passage.title in titles[name]]
        written = read_json(build.FOLDER / f"{name}.json")
        assert written == build.to_squad(chosen), f"{name}.json: run `python -m qa_train.demo_data.build`"


def test_no_article_stands_in_two_sets() -> None:
    titles = {name: {example.title for example in read_squad(build.FOLDER / f"{name}.json").examples} for name in SETS}
    assert all(titles.values())
    assert sum(map(len, titles.values())) == len(set().union(*titles.values()))


@pytest.mark.parametrize("name", SETS)
def test_every_answer_stands_exactly_where_it_is_said_to(name: str) -> None:
    data = read_squad(build.FOLDER / f"{name}.json")
    counts = align_answers(data.examples, data.path).counts
    assert counts.exact == len(data.examples) == len(data.references)
    for example in data.examples:
        for answer in example.answers:
            assert example.context[answer.start : answer.start + len(answer.text)] == answer.text
            assert f" {answer.text} " in f" {example.context} "


@pytest.mark.parametrize("name", SETS)
def test_contexts_look_like_a_transcript(name: str) -> None:
    contexts = {example.context for example in read_squad(build.FOLDER / f"{name}.json").examples}
    for context in contexts:
        assert not re.search(r"[^\w' ]|[A-Z0-9_]|  ", context)


def test_no_sentence_and_no_question_is_used_twice() -> None:
    assert repeated(map(build.spoken, SENTENCES), at_most=1) == {}
    assert repeated(map(build.spoken, QUESTIONS), at_most=1) == {}


def test_sentences_open_in_their_own_ways() -> None:
    assert repeated((opening(sentence, 4) for sentence in SENTENCES), at_most=3) == {}
    assert repeated((opening(question, 5) for question in QUESTIONS), at_most=3) == {}


def test_no_template_was_filled_in() -> None:
    for texts in (SENTENCES, QUESTIONS):
        frequent = frequent_words(texts, in_at_least=8)
        assert repeated(filter(None, (frame(text, frequent) for text in texts)), at_most=3) == {}


def test_passages_share_no_run_of_words() -> None:
    assert shared_runs((passage.text for passage in PASSAGES), num_words=6) == set()


def test_the_checks_for_templates_find_one() -> None:
    names, towns = ["Ann Lee", "Bo", "Cy van Dam", "Di", "Ed"], ["Rome", "New York", "Ulm", "Bath", "Oslo"]
    filled = [f"In the old town of {town} there was {name}." for name, town in zip(names, towns, strict=True)]
    frequent = frequent_words(SENTENCES, in_at_least=8)
    assert repeated((frame(sentence, frequent) for sentence in filled), at_most=3)
    assert repeated((opening(sentence, 4) for sentence in filled), at_most=3)
    assert shared_runs([f"{town}, in the long winter that followed, froze" for town in towns], num_words=6)


def test_dev_and_test_ask_for_different_answers() -> None:
    for name in ("dev", "test"):
        answers = [
            answer.text for example in read_squad(build.FOLDER / f"{name}.json").examples for answer in example.answers
        ]
        assert len(set(answers)) > 0.95 * len(answers)
