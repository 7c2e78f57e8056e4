import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.load import load_sweeps
from benchmarks import analysis_load
from benchmarks.analysis_load import (
    AGAIN,
    FIRST,
    PANDAS,
    RAY,
    TABULATED,
    Result,
    format_result,
    main,
    measure,
    write_sweep,
)
from qa_train.errors import QAError

SECONDS = {
    FIRST: [4.0],
    AGAIN: [0.5, 0.4, 0.6],
    TABULATED: [0.5, 0.8, 0.6],
    PANDAS: [0.3, 0.2, 0.4],
    RAY: [0.1, 0.2, 0.3],
}


def test_the_made_up_records_are_those_of_a_sweep(tmp_path: Path) -> None:
    write_sweep(tmp_path, 3, 4)
    sweeps = load_sweeps(tmp_path)
    assert (len(sweeps.reports), len(sweeps.models), len(sweeps.trials)) == (12, 3, 3)
    assert sweeps.trials["status"].tolist() == ["completed"] * 3


def test_ratios_are_of_medians_and_ray_s_is_per_trial() -> None:
    result = Result(1000, 100, 30, SECONDS, peak_bytes=700_000_000, records_bytes=1_000_000)
    assert result.to_pandas == pytest.approx(2.0)
    assert result.to_ray(AGAIN) == pytest.approx(4.0)
    lines = format_result(result).splitlines()
    assert any(line.split() == [*RAY.split(), "100", "0.200", "0.100", "0.300", "2000"] for line in lines)
    assert lines[-1].split()[-3:] == ["700", "under", "1000"]


def test_other_rows_than_ours_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_load, "_in_new_process", lambda sweep: 1)
    monkeypatch.setattr(analysis_load, "_load_by_ray", lambda directory, trials: {"a": pd.DataFrame(index=range(3))})
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", "")  # which measure changes
    with pytest.raises(QAError, match="expected 4 rows from Ray, found 3"):
        measure(tmp_path, 3, 2, 2, 1)


def by_pandas(directory: Path, trials: list[Any]) -> dict[str, pd.DataFrame]:
    return {trial.trial_id: pd.read_json(directory / trial.trial_id / "result.json", lines=True) for trial in trials}


@pytest.mark.ray
def test_ray_loads_the_rows(tmp_path: Path) -> None:
    trials = analysis_load._write_for_ray(tmp_path, 2, 3)
    found, expected = analysis_load._load_by_ray(tmp_path, trials), by_pandas(tmp_path, trials)
    assert found.keys() == expected.keys() == {"00000", "00001"}
    for key, frame in found.items():
        assert frame["dev.f1"].tolist() == pytest.approx(expected[key]["dev.f1"].tolist())


def test_the_command_prints_tables_or_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(analysis_load, "_in_new_process", lambda sweep: 123_000_000)
    monkeypatch.setattr(analysis_load, "_load_by_ray", by_pandas)
    monkeypatch.setenv("SPANSWEEP_CACHE_DIR", "")
    arguments = ["--trials", "4", "--reports", "3", "--ray-trials", "2", "--repeats", "1"]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["num_trials"] == 4 and len(printed["seconds"][RAY]) == 1 and printed["to_ray"] > 0
    assert main(arguments) == 0
    assert "at most 3" in capsys.readouterr().out
