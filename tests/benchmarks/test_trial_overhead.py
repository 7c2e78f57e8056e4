import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import trainings, trial_overhead
from benchmarks.trainings import Timing, bare
from benchmarks.trial_overhead import (
    as_dict,
    first_questions,
    format_result,
    main,
    mean_parts,
    measure,
    overheads,
    prepare,
)
from qa_train.config import TrainConfig, build_config
from qa_train.data import read_squad

FOUND = {
    "bare": [Timing(3.0, (1.0, 2.0), {"training": 1.2, "between": 0.3}), Timing(3.0, (1.0, 1.0), {"training": 1.0})],
    "sweep": [
        Timing(9.0, (2.0, 3.0), {"training": 1.3, "starting": 0.5, "Ray and Tune": 0.7}),
        Timing(8.0, (1.5, 2.5), {"training": 1.1, "starting": 0.4, "Ray and Tune": 0.5}),
    ],
}
FOUND["bare"][1].parts["between"] = 0.0


def test_a_trial_is_compared_with_the_bare_training_of_the_same_repeat() -> None:
    assert overheads(FOUND, "sweep") == [1.0, 1.0]
    assert overheads(FOUND, "bare") == [0.0, 0.0]


def test_parts_are_means_that_add_up_to_the_whole() -> None:
    parts = mean_parts(FOUND["sweep"])
    assert parts == pytest.approx({"training": 1.2, "starting": 0.45, "Ray and Tune": 0.6})
    assert sum(parts.values()) == pytest.approx(sum(timing.mean_s for timing in FOUND["sweep"]) / 2)


def test_the_result_is_shown_as_tables_and_as_json() -> None:
    text = format_result(FOUND)
    for expected in ("sweep", "1.00 - 1.00", "1.50", "Ray and Tune", "0.600"):
        assert expected in text
    found = json.loads(json.dumps(as_dict(FOUND)))
    assert found["sweep"]["overhead_s"] == [1.0, 1.0]
    assert found["goal_s"] == 1.5


def test_the_first_questions_keep_their_paragraphs() -> None:
    def paragraph(*questions: str) -> dict[str, Any]:
        return {"context": "c", "qas": [{"id": question} for question in questions]}

    content = {
        "version": "1",
        "data": [
            {"title": "a", "paragraphs": [paragraph("1", "2"), paragraph("3")]},
            {"title": "b", "paragraphs": [paragraph("4", "5")]},
        ],
    }
    assert first_questions(content, 4)["data"][1]["paragraphs"] == [paragraph("4")]
    assert first_questions(content, 2)["data"] == [{"title": "a", "paragraphs": [paragraph("1", "2")]}]
    assert first_questions(content, 9) == content


def test_what_is_trained_is_small_and_what_it_says(tmp_path: Path) -> None:
    config = build_config(TrainConfig, prepare(tmp_path), "test")
    assert len(read_squad(config.data.train).examples) == trial_overhead.NUM_QUESTIONS
    assert config.data.dev
    assert len(read_squad(config.data.dev).examples) == trial_overhead.NUM_QUESTIONS
    assert (config.num_epochs, config.scale.num_workers) == (1, 1)


def test_the_bare_trainings_are_timed_by_part(tmp_path: Path) -> None:
    began = time.perf_counter()
    timing = bare(prepare(tmp_path), [1e-4, 2e-4, 3e-4])
    took_s = time.perf_counter() - began
    assert len(timing.each_s) == 2
    assert timing.first_s + sum(timing.each_s) <= took_s
    assert sum(timing.parts.values()) == pytest.approx(timing.mean_s)
    for part in ("loading", "training", "evaluating", "checkpointing"):
        assert timing.parts[part] > 0


def test_a_watched_call_counts_for_the_trainings_after_the_first() -> None:
    class Recorder:
        def reported(self, trial_id: str, result: dict[str, Any]) -> str:
            time.sleep(0.01)
            return trial_id

    clock = trainings._Clock()
    clock.watch(Recorder, "reported", "recording")
    for status in ("running", "completed", "running", "completed"):
        assert Recorder().reported("00000", {"status": status}) == "00000"
    timing = clock.timing(clock.watched(), rest="rest")
    [each_s] = timing.each_s
    assert 0.02 <= timing.parts["recording"] <= each_s
    assert sum(timing.parts.values()) == pytest.approx(each_s)


def test_one_nested_training_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nested", "1"]) == 2
    assert "the first one is left out" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_ways_train_the_same_and_are_timed(tmp_path: Path) -> None:
    found = measure(prepare(tmp_path), {"bare": 2, "sweep": 3, "nested": 2}, 1)
    for name, count in (("bare", 1), ("sweep", 2), ("nested", 1)):
        [timing] = found[name]
        assert len(timing.each_s) == count
        assert sum(timing.parts.values()) == pytest.approx(timing.mean_s)
        assert timing.parts["training"] > 0
    [sweep] = found["sweep"]
    assert sweep.parts["recording"] > 0
    assert sweep.mean_s < found["nested"][0].mean_s
