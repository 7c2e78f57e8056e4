import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis import cli
from tests.analysis.fixtures import DEMO_DEV, articles_of, full_sweep, model, row, scored_sweep, write_sweep
from tests.analysis.pages import check_page

KINDS = ["models", "configurations", "hyperparameters", "tests", "best-so-far", "trials", "reports"]
FORMS = ["text", "markdown", "latex", "csv"]

TWO = [model("a", 70.0, 0.5), model("b", 70.5, 1.0)]


def test_the_report_goes_to_stdout_and_into_the_sweep_and_what_was_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, TWO)
    assert cli.main(["report", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert (tmp_path / "report" / "table.md").read_text() in out
    last = out.splitlines()[-1]
    assert last.startswith("Wrote table.csv, table.md, recommended.yaml, pareto_front.png, ")
    assert last.endswith(f", report.html in {tmp_path / 'report'}")
    assert err == ""


def test_out_and_margin_and_json_are_heeded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "sweep", TWO)
    args = [
        "report",
        str(tmp_path / "sweep"),
        "--out",
        str(tmp_path / "out"),
        "--within-f1",
        "0.2",
        "--json",
        "--no-plots",
    ]
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
        (["--within-f1", "inf", "--json"], "finite"),
        (["--out", "s3://bucket/report"], "expected a local directory"),
        (["--cost", "cost.usd"], "cost.tflop"),
        (["--out", "{file}"], "cannot be written"),
        (["{missing}"], "nothing there"),
        (["{here}"], "given twice"),
        (["--unknown"], "--help"),
        (["--wer", "clean"], "SET=PERCENT"),
        (["--wer", "clean=-1"], "0 or more percent"),
        (["--wer", "clean=inf"], "0 or more percent"),
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


def test_the_report_of_a_sweep_in_a_store_needs_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "s3://bucket/prefix"]) == 2
    assert "expected a local directory for the report, found s3://bucket/prefix" in capsys.readouterr().err


FAILED = {
    "status": "failed",
    "budget_epochs": None,
    "dev__f1": None,
    "error__type": "E",
    "error__message": "no\nmemory",
}
STATES: dict[str, list[dict[str, Any]]] = {
    "nothing yet": [],
    "running": [row("a", status="running", budget_epochs=None), row("b")],
    "died": [*TWO, row("c", status="running", budget_epochs=None)],
    "interrupted": [row("a", status="interrupted", budget_epochs=None)],
    "failures": [row("a", **FAILED), row("b", cost__device_s=None, **FAILED)],
    "one trial": TWO[:1],
    "NaN": [model("a", float("nan"), float("nan")), model("b", None, None)],
    "some NaN": [*TWO, model("c", float("nan"), 1.0)],
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "command",
    [
        ["report"],
        ["report", "--json", "--no-plots"],
        ["report", "--cost", "cost.usd"],
        ["errors"],
        ["compare", "--trials", "a", "b"],
        *(["table", "--of", kind, "--format", form] for kind, form in zip(KINDS, FORMS * 2, strict=False)),
    ],
    ids=" ".join,
)
def test_every_state_of_a_sweep_gives_an_answer_or_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str, command: list[str]
) -> None:
    write_sweep(tmp_path, STATES[state], torn='{"trial_id": ' if state == "died" else "")
    status = cli.main([command[0], str(tmp_path), *command[1:]])
    err = capsys.readouterr().err
    assert (
        (status, err) == (0, "")
        if status == 0
        else (status == 2 and err.startswith("error: ") and err.count("\n") == 1)
    )
    assert status == 0 or command[0] in {"compare", "errors"} or "cost.usd" in command
    if command == ["report"]:
        check_page((tmp_path / "report" / "report.html").read_text())


def test_a_table_can_be_written_with_all_its_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, [model("a", 70.123456789, 1.0)])
    out = tmp_path / "out.csv"
    assert cli.main(["table", str(tmp_path), "--of", "models", "--format", "csv", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Wrote {out}\n"
    assert "70.123456789" in out.read_text()


def test_two_models_are_compared_by_trial_or_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    articles = articles_of([5] * 8)
    sweep = scored_sweep(tmp_path / "s", {"a": ([60.0] * 40, 1.0), "b": ([70.0] * 39 + [100.0], 1.0)}, articles)
    csv = tmp_path / "questions.csv"
    assert cli.main(["compare", str(sweep), "--trials", "a", "b", "--questions", str(csv)]) == 0
    out = capsys.readouterr().out
    assert "40 questions of 8 articles, paired" in out and out.endswith(f"Wrote {csv}\n")
    assert csv.read_text().count("\n") == 41
    files = [str(sweep / "trials" / name / "scores_dev_2.parquet") for name in "ab"]
    assert cli.main(["compare", "--scores", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mcnemar"]["only_second"] == 1
    assert cli.main(["compare", str(sweep), "--scores", *files]) == 2
    assert cli.main(["compare"]) == 2
    assert capsys.readouterr().err.count("give either sweep directories or --scores") == 2


def test_the_errors_of_the_best_or_a_named_model_are_told_as_text_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = full_sweep(tmp_path, 2)
    assert cli.main(["errors", str(sweep), "--worst", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# Where 0000") and "| question type " in out
    assert out.partition("## Questions answered worst")[2].count("\n| ") == 3 + 1
    assert cli.main(["errors", str(sweep), "--trial", "00001@2", "--data", str(DEMO_DEV), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["num_questions"], len(found["worst"])) == ("00001", 135, 20)
    assert {each["group"] for each in found["groups"]} >= {"question type", "answer words lost"}
    assert cli.main(["errors", str(sweep), "--set", "test.clean"]) == 2
    assert "finalists alone are scored on it" in capsys.readouterr().err


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
