import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import cli
from tests.analysis.fixtures import model, row, write_sweep

TWO = [model("a", 70.0, 0.5), model("b", 70.5, 1.0)]


def test_the_report_goes_to_stdout_and_into_the_sweep_and_what_was_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, TWO)
    assert cli.main(["report", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert (tmp_path / "report" / "table.md").read_text() in out
    assert out.endswith(f"Wrote table.csv, table.md, recommended.yaml in {tmp_path / 'report'}\n")
    assert err == ""


def test_out_and_margin_and_json_are_heeded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "sweep", TWO)
    args = ["report", str(tmp_path / "sweep"), "--out", str(tmp_path / "out"), "--within-f1", "0.2", "--json"]
    assert cli.main(args) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["recommended"] == result["best"] == 0
    assert str(tmp_path / "out" / "recommended.yaml") in result["files"]


def test_a_sweep_without_models_is_no_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, [row("a", status="running", budget_epochs=None)])
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "Nothing to recommend" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        (["--within-f1", "-1"], "0 or more"),
        (["--within-f1", "some"], "--within-f1"),
        (["--cost", "cost.usd"], "cost.tflop"),
        (["--out", "{file}"], "cannot be written"),
        (["{missing}"], "nothing there"),
        (["{here}"], "given twice"),
        (["--unknown"], "--help"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], problem: str
) -> None:
    write_sweep(tmp_path / "sweep", TWO)
    (tmp_path / "file").touch()
    places = {"file": tmp_path / "file", "missing": tmp_path / "missing", "here": tmp_path / "sweep"}
    assert cli.main(["report", str(tmp_path / "sweep"), *(item.format(**places) for item in extra)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and problem in err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--help"]) == 0
    assert "python -m analysis report runs/" in capsys.readouterr().out


def test_ctrl_c_ends_with_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_sweeps", interrupt)
    assert cli.main(["report", "anywhere"]) == 130


def test_importing_the_analysis_loads_neither_torch_nor_ray() -> None:
    code = "import sys, analysis.cli; sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
