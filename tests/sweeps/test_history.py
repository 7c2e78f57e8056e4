import json
from pathlib import Path
from typing import Any

import pytest

from qa_train.errors import DataError
from sweeps.config import StopConfig
from sweeps.history import PastTrial, end_stopped, read_history
from sweeps.records import Row
from sweeps.stopping import Stopping


def row(trial_id: str, epochs: int | None, status: str = "running", **more: Any) -> dict[str, Any]:
    return {"trial_id": trial_id, "status": status, "epochs_trained": epochs, "config.a": 1} | more


def write(directory: Path, rows: list[dict[str, Any]], reports: dict[str, list[dict[str, Any]]]) -> None:
    """Writes the records, and for some trials a directory with their own reports."""
    (directory / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for trial_id, messages in reports.items():
        place = directory / "trials" / trial_id
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps({"trial_id": trial_id, "values": {"a": int(trial_id)}}))
        (place / "reports.jsonl").write_text("".join(json.dumps(message) + "\n" for message in messages))


def told(epochs: int, status: str = "running") -> dict[str, Any]:
    return {"status": status, "epochs_trained": epochs}


def test_a_sweep_without_trials_has_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []


def test_a_trial_has_ended_where_its_last_row_says_so(tmp_path: Path) -> None:
    rows = [row("00000", 1), row("00001", 1), row("00000", 2, "completed"), row("00002", None, "failed")]
    write(tmp_path, [*rows, row("00003", None, "interrupted")], {})
    assert [trial.has_ended for trial in read_history(tmp_path)] == [True, False, True, False]


def test_what_a_trial_wrote_and_no_driver_recorded_is_taken_over(tmp_path: Path) -> None:
    write(tmp_path, [row("00000", 1)], {"00000": [told(1), told(2), told(3, "completed")]})
    [trial] = read_history(tmp_path)
    assert [found["epochs_trained"] for found in trial.rows] == [1, 2, 3]
    assert trial.unrecorded == (told(2), told(3, "completed"))
    assert trial.has_ended


def test_a_trial_that_never_reported_is_known_by_its_directory(tmp_path: Path) -> None:
    write(tmp_path, [], {"00004": []})
    assert read_history(tmp_path) == [PastTrial("00004", {"a": 4})]


def test_an_ended_trial_is_as_its_records_say(tmp_path: Path) -> None:
    write(tmp_path, [row("00000", 1), row("00000", None, "failed")], {"00000": [told(1), told(2)]})
    [trial] = read_history(tmp_path)
    assert trial.unrecorded == ()


def test_torn_last_lines_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, [row("00000", 1)], {"00000": [told(1)]})
    for path in (tmp_path / "records.jsonl", tmp_path / "trials" / "00000" / "reports.jsonl"):
        with open(path, "a") as file:
            file.write('{"status": "comp')
    [trial] = read_history(tmp_path)
    assert [found["epochs_trained"] for found in trial.rows] == [1]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, [], {"00000": [told(1)]})
    (tmp_path / "trials" / "00000" / "reports.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"00000/reports.jsonl, line 1: not valid JSON"):
        read_history(tmp_path)


def stopping_after(*scores: float) -> Stopping:
    """An ASHA that has seen trials of two epochs with these scores after the first."""
    stopping = Stopping(StopConfig(trial_scheduler="asha", rungs=(0.5,), reduction_factor=2), "max")
    for number, score in enumerate(scores):
        stopping.decide(f"other-{number}", 2, 1, score)
    return stopping


def scored(epochs: int, f1: float) -> Row:
    return {"status": "running", "epochs_trained": epochs, "dev.f1": f1}


def test_a_trial_that_was_stopped_before_its_driver_could_record_it_ends_there() -> None:
    poor = PastTrial("00000", {}, unrecorded=(scored(1, 1.0),))
    good = PastTrial("00001", {"num_epochs": 2}, unrecorded=(scored(1, 60.0),))
    found = end_stopped([poor, good], stopping_after(50.0, 51.0), "dev.f1", num_epochs=2)
    assert [trial.has_ended for trial in found] == [True, False]
    assert found[0].rows == ({**scored(1, 1.0), "status": "stopped_early"},)
    assert found[1] == good


def test_a_trial_that_these_rules_would_have_stopped_ends_without_a_report_twice() -> None:
    stopping = stopping_after(50.0, 51.0)
    stopping.decide("00000", 2, 1, 1.0)
    trial = PastTrial("00000", {}, recorded=({**scored(1, 1.0), "trial_id": "00000"},))
    [found] = end_stopped([trial], stopping, "dev.f1", num_epochs=2)
    assert found.has_ended
    assert found.unrecorded == ({"status": "stopped_early"},)


def test_a_trial_that_has_ended_stays_as_it_is() -> None:
    trial = PastTrial("00000", {}, recorded=({**scored(2, 1.0), "status": "completed"},))
    assert end_stopped([trial], stopping_after(50.0, 51.0), "dev.f1", num_epochs=2) == [trial]


def test_a_finalist_is_compared_with_no_trial_and_goes_on_however_poor_it_is() -> None:
    finalist = PastTrial("final-00000-seed0", {}, unrecorded=(scored(1, 1.0),))
    assert end_stopped([finalist], stopping_after(50.0, 51.0), "dev.f1", num_epochs=2) == [finalist]


def test_the_seed_of_a_trial_is_that_of_its_own_file_or_of_its_rows(tmp_path: Path) -> None:
    write(tmp_path, [row("00000-seed7", 1, seed=7)], {})
    [trial] = read_history(tmp_path)
    assert (trial.seed, trial.name.number, trial.name.seed) == (7, 0, 7)
