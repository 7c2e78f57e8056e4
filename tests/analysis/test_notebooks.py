from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import analysis
from tests.analysis.fixtures import full_sweep

NOTEBOOKS = sorted((Path(analysis.__file__).parent / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("notebooks")
    full_sweep(room / "first")
    full_sweep(room / "second", 3, sweep_id="demo-2")
    return room


def test_the_notebooks_are_these() -> None:
    assert [path.name for path in NOTEBOOKS] == ["compare_sweeps.ipynb", "sweep_report.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_keeps_no_outputs_and_is_thin(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert all(len(cell.source.splitlines()) <= 15 for cell in cells)
    assert not any("def " in cell.source for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_on_recorded_sweeps(path: Path, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(room / "jupyter"))
    notebook = read(path)
    place = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    given = 'directory, directories = Path("first"), [Path("first"), Path("second")]'
    cell = nbformat.v4.new_code_cell(given)  # type: ignore[no-untyped-call]
    notebook.cells.insert(place + 1, cell)
    resources = {"metadata": {"path": str(room)}}
    client = NotebookClient(notebook, timeout=240, startup_timeout=240, kernel_name="python3", resources=resources)
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert "image/png" in {kind for output in outputs for kind in output.get("data", {})}
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
