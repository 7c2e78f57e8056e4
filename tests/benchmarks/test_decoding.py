import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import decoding
from benchmarks.decoding import (
    BEST,
    LOOP,
    OURS,
    SEQ_LEN,
    TEXTS,
    Result,
    decode_by_double_loop,
    decode_texts,
    format_results,
    main,
    make_windows,
    measure,
)
from qa_train.errors import QAError
from qa_train.postprocess import MAX_ANSWER_LENGTH


@pytest.mark.parametrize("peaked", [False, True])
def test_ours_are_the_best_spans_of_all_and_the_loop_finds_no_better_one(peaked: bool) -> None:
    windows = make_windows(40, peaked)
    for index, answers in enumerate(decode_texts(windows, n_best=20)[:8]):
        start, end = windows.start_logits[index].numpy(), windows.end_logits[index].numpy()
        inside = range(windows.context_begin, windows.context_end)
        scores = [
            float(start[first] + end[last])
            for first in inside
            for last in range(first, min(first + MAX_ANSWER_LENGTH, inside.stop))
        ]
        assert [span.logit for span, _ in answers] == sorted(scores, reverse=True)[:20]
        context, words = windows.contexts[index], windows.contexts[index].split()
        assert all(text == context[span.start : span.end] for span, text in answers)
        assert all(f" {text} " in f" {' '.join(words)} " for _, text in answers)
    result = measure(windows, n_best=20, num_repeats=2)
    assert [len(seconds) for seconds in result.seconds.values()] == [2, 2, 2, 2]


def test_peaked_logits_are_those_of_an_answer() -> None:
    random, peaked = (make_windows(200, peaked) for peaked in (False, True))
    for windows, lowest, highest in ((random, 0.0, 0.3), (peaked, 0.9, 1.0)):
        probability = windows.start_logits.softmax(dim=1).max(dim=1).values.mean()
        assert lowest <= probability <= highest
    assert measure(peaked, 20, 1).num_better < measure(random, 20, 1).num_better


def test_the_double_loop_pairs_the_best_positions_and_drops_what_is_no_span() -> None:
    start, end = np.array([9.0, 1, 5, 4, 0]), np.array([9.0, 6, 0, 3, 1])
    mapping = [None, (0, 1), (2, 3), (4, 5), (6, 7)]
    found = decode_by_double_loop(start, end, mapping, "a b c d", n_best=3)
    assert found == [
        {"score": 8.0, "start_logit": 5.0, "end_logit": 3.0, "offsets": (2, 5), "text": "b c"},
        {"score": 7.0, "start_logit": 4.0, "end_logit": 3.0, "offsets": (4, 5), "text": "c"},
    ]
    assert decode_by_double_loop(start, end, mapping, "a b c d", n_best=1) == []


def test_a_worse_span_than_that_of_the_loop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = make_windows(5, peaked=True)
    second_best = [answers[1:] for answers in decode_texts(windows, 20)]
    monkeypatch.setattr(decoding, "decode_texts", lambda *_: second_best)
    with pytest.raises(QAError, match="the best span alone to be the first of several"):
        measure(windows, n_best=20, num_repeats=1)
    table = SimpleNamespace(as_lists=lambda: [[span for span, _ in answers] for answers in second_best])
    monkeypatch.setattr(decoding, "decode_ours", lambda *_: table)
    monkeypatch.setattr(decoding, "decode_best", lambda *_: [answers[0] for answers in second_best])
    with pytest.raises(QAError, match="found a better one in 5 windows"):
        measure(windows, n_best=20, num_repeats=1)


def test_ratios_are_taken_within_each_repeat() -> None:
    seconds = {OURS: [1.0, 2.0, 1.0], TEXTS: [2.0, 2.0, 2.0], BEST: [0.5, 1.0, 1.0], LOOP: [10.0, 24.0, 13.0]}
    result = Result(seconds, num_better=7)
    assert result.ratios(OURS) == [10.0, 12.0, 13.0]
    lines = format_results({"random": result}).splitlines()
    assert lines[-3].split() == ["random,", "ours", "12.0", "10.0", "13.0", "10.0", "7"]
    assert lines[-1].split() == ["random,", "ours,", "best", "20.0", "13.0", "24.0", "10.0", "7"]


def test_the_command_prints_tables_or_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(decoding, "limit_threads", lambda _count: None)
    assert main(["--features", "33", "--repeats", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"] == {"features": 33, "seq_len": SEQ_LEN, "n_best": 20, "repeats": 1, "batch": 256}
    assert [len(seconds) for seconds in printed["peaked"]["seconds"].values()] == [1, 1, 1, 1]
    assert printed["random"]["ratios"].keys() == {OURS, TEXTS, BEST}
    assert printed["machine"]["cpu"]
    assert main(["--features", "33", "--repeats", "1"]) == 0
    assert "peaked, double loop" in capsys.readouterr().out
