import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from qa_train.alignment import align_answers
from qa_train.data import read_squad
from qa_train.demo_data import build
from qa_train.errors import DataError
from qa_train.speech_pool import SpeechPool, Task
from qa_train.storage import read_json
from qa_train.word_errors import compare_transcript

SETS = ("train", "dev", "test")
WRITTEN = build.FOLDER / "written"
TARGETS = {"test_wer23": 22.7, "test_wer44": 44.2, "test_wer55": 54.8}
"""Word error rates of Spoken-SQuAD's test sets, in percent (Lee, Wu, Liu, Lee, Interspeech 2018)."""
PASSAGES = build.written_passages()
QUESTIONS = [question for passage in PASSAGES for question, _ in passage.questions]


def sentences_of(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])[\"\u201d\u2019]?\s+", text)


SENTENCES = [sentence for passage in PASSAGES for sentence in sentences_of(passage.text)]


def repeated(items: Iterable[str], at_most: int) -> dict[str, int]:
    return {item: count for item, count in Counter(items).items() if count > at_most}


def opening(sentence: str, num_words: int) -> str:
    return " ".join(build.plain(sentence).split()[:num_words])


def frequent_words(texts: Iterable[str], in_at_least: int) -> set[str]:
    """Words that stand in so many of the texts: articles, prepositions, verbs of all work, hardly ever a name."""
    counts = Counter(word for text in texts for word in set(build.plain(text).split()))
    return {word for word, count in counts.items() if count >= in_at_least}


def frame(sentence: str, frequent: set[str]) -> str:
    """A sentence with every run of words that are not frequent replaced by a blank, as a template would have it.

    Empty if fewer than four words remain: "the _ of the _" is grammar, not a template.
    """
    words = [word if word in frequent else "_" for word in build.plain(sentence).split()]
    kept = [word for place, word in enumerate(words) if word != "_" or words[place - 1 : place] != ["_"]]
    return " ".join(kept) if len(kept) - kept.count("_") >= 4 else ""


def shared_runs(texts: Iterable[str], num_words: int) -> set[str]:
    """Runs of so many words that stand in more than one of the texts."""
    places = defaultdict(set)
    for number, text in enumerate(texts):
        words = build.plain(text).split()
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


def test_the_written_files_are_what_build_writes() -> None:
    titles = build.split_titles(list(dict.fromkeys(passage.title for passage in PASSAGES)))
    for name in SETS:
        chosen = [passage for passage in PASSAGES if passage.title in titles[name]]
        written = read_json(WRITTEN / f"{name}.json")
        assert written == build.to_squad(chosen), f"{name}.json: run `python -m qa_train.demo_data.build`"


def test_no_article_stands_in_two_sets() -> None:
    titles = {name: {example.title for example in read_squad(WRITTEN / f"{name}.json").examples} for name in SETS}
    assert all(titles.values())
    assert sum(map(len, titles.values())) == len(set().union(*titles.values()))


@pytest.mark.parametrize("name", SETS)
def test_every_written_answer_stands_exactly_where_it_is_said_to(name: str) -> None:
    data = read_squad(WRITTEN / f"{name}.json")
    counts = align_answers(data.examples, data.path).counts
    assert counts.exact == len(data.examples) == len(data.references)
    for example in data.examples:
        for answer in example.answers:
            assert example.context[answer.start : answer.start + len(answer.text)] == answer.text
            assert f" {build.plain(answer.text)} " in f" {build.plain(example.context)} "


@pytest.mark.parametrize(("name", "recording"), build.RECORDINGS.items())
def test_a_spoken_file_was_made_of_the_written_one_as_build_makes_it(name: str, recording: build.Recording) -> None:
    manifest = read_json(build.FOLDER / f"{name}.manifest.json")
    assert manifest["input_sha256"] == read_squad(WRITTEN / f"{recording.source}.json").sha256, (
        "the text has changed: run `python -m qa_train.demo_data.build`"
    )
    assert (manifest["target_wer"], manifest["form"]) == (recording.target_wer, recording.form)
    assert manifest["engines"]["voice"] == f"flite {build.ENGINES.voice}"


@pytest.mark.parametrize(("name", "recording"), build.RECORDINGS.items())
def test_a_spoken_file_errs_as_it_should(name: str, recording: build.Recording) -> None:
    pytest.importorskip("jiwer")
    data = read_squad(build.FOLDER / f"{name}.json")
    report = compare_transcript(data, read_squad(WRITTEN / f"{recording.source}.json"))
    assert report
    assert report.overall.rate is not None
    assert read_json(build.FOLDER / f"{name}.manifest.json")["word_error_rate"] == pytest.approx(
        report.overall.rate, abs=0.0 if recording.form == "test" else 0.01
    )
    if name in TARGETS:
        assert 100 * report.overall.rate == pytest.approx(TARGETS[name], abs=2)


@pytest.mark.parametrize(("name", "recording"), build.RECORDINGS.items())
def test_a_test_keeps_all_questions_and_training_has_true_offsets(name: str, recording: build.Recording) -> None:
    data = read_squad(build.FOLDER / f"{name}.json")
    written = read_squad(WRITTEN / f"{recording.source}.json")
    if recording.form == "test":
        assert [example.id for example in data.examples] == [example.id for example in written.examples]
        assert data.references == written.references
    else:
        assert {example.id for example in data.examples} < {example.id for example in written.examples}
        assert align_answers(data.examples, data.path).counts.exact == len(data.examples)


@pytest.mark.parametrize("name", build.RECORDINGS)
def test_contexts_look_like_a_transcript(name: str) -> None:
    contexts = {example.context for example in read_squad(build.FOLDER / f"{name}.json").examples}
    for context in contexts:
        assert not re.search(r"[^\w' ]|[A-Z0-9_]|  ", context)


@pytest.mark.skipif(not shutil.which("flite"), reason="needs flite")
@pytest.mark.parametrize("name", ["dev", "test_wer44"])
def test_a_passage_is_heard_again_as_it_was(name: str) -> None:
    pytest.importorskip("pocketsphinx")
    manifest = read_json(build.FOLDER / f"{name}.manifest.json")
    if dict(build.ENGINES.describe()) != manifest["engines"]:
        pytest.skip("needs the versions of the engines that the demo's data were made with")
    source = read_json(WRITTEN / f"{build.RECORDINGS[name].source}.json")
    paragraph = source["data"][0]["paragraphs"][0]
    task = Task(0, paragraph["context"], manifest["noise"]["snr_db"], manifest["seed"])
    with SpeechPool(build.ENGINES, 1) as pool:
        (heard,) = pool.hear([task])
    transcript = read_json(build.FOLDER / f"{name}.json")["data"][0]["paragraphs"][0]["context"]
    assert " ".join(filter(None, heard.sentences)) == transcript


def test_no_sentence_and_no_question_is_used_twice() -> None:
    assert repeated(map(build.plain, SENTENCES), at_most=1) == {}
    assert repeated(map(build.plain, QUESTIONS), at_most=1) == {}


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
            answer.text for example in read_squad(WRITTEN / f"{name}.json").examples for answer in example.answers
        ]
        assert len(set(answers)) > 0.95 * len(answers)
