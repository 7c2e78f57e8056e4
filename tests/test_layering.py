"""The arrows of the design: which file may import which, and who alone may touch torch, Ray, Optuna and pandas."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [name for name in ("qa_train", "sweeps", "analysis", "cluster") if (ROOT / name / "__init__.py").exists()]

# From the ground up, one floor a line: a file imports only from floors below its own, so there is no cycle.
FLOORS = {
    "qa_train": """
        errors watchdog trunk openmp
        metrics cost storage intervals workers display score_table ray_session
        config_schema data sound_alikes sentences noise_level speech
        config_io alignment cloze attainable text_scores question_scores confusions speech_journal flite_sphinx
        config convert baseline augment scoring optim precision tokenization checkpoint offline_model spoken_form
        resources questions training_windows evaluation_job download noise_files feature_cache model model_card
        batching span_search recipe word_errors speech_pool
        postprocess
        evaluate inspection realignment
        passes spoken_squad
        loop
        training
        ray_trainer answering
        members ensemble spoken
        output predictor evaluation demo_data.build
        evaluation_run data_commands
        cli
        __main__
    """,
    "sweeps": """
        records pricing space identity live_terminal object_store preload hypervolume
        search_config trial_store curves
        config journal trial attempts lock tally samplers
        store_lock stopping
        sweep_store
        history extension answers
        configurations
        placement probe recorder search trial_workers ledger retention mirror tensorboard speed
        speed_probe finalists
        trainable tune_hooks plan status export simulate
        tuning
        status_text
        progress
        live_view
        runner searcher_comparison
        cli
        __main__
    """,
    "analysis": """
        rows cache statistics
        frontier load
        questions configurations importance
        tables summaries choice question_texts
        sentences chart_tables chart_style error_analysis
        sections plots charts panels
        pictures page
        report compare
        cli
        __main__
    """,
    "cluster": """
        token_file jobs entry unpack render
        bundle nodes job_server ray_up
        submit
        cli
        __main__
    """,
}

# Between packages; a package imports anything of its own that its floor allows.
ARROWS = {
    "qa_train": (),
    "sweeps": ("qa_train",),
    "analysis": (
        *(
            "sweeps.records",
            "sweeps.pricing",
            "sweeps.sweep_store",
            "qa_train.errors",
            "qa_train.metrics",
            "qa_train.storage",
        ),
        *("qa_train.data", "qa_train.intervals", "qa_train.question_scores"),
    ),
    "cluster": (
        *("sweeps.config", "qa_train.errors", "qa_train.config", "qa_train.storage"),
        "qa_train.ray_session",
    ),
}

# Libraries that only these files may import, wherever in the file.
ONLY_IN = {
    "ray": {
        "qa_train.ray_session",
        "qa_train.ray_trainer",
        "sweeps.search",
        "sweeps.trainable",
        "sweeps.tune_hooks",
        "sweeps.tuning",
        "sweeps.runner",
        "cluster.nodes",
        "cluster.job_server",
    },
    "optuna": {"sweeps.samplers", "sweeps.configurations", "sweeps.mirror", "analysis.importance"},
    "tensorboardX": {"sweeps.tensorboard"},
    "rich": {"sweeps.live_terminal"},
    "pocketsphinx": {"qa_train.flite_sphinx"},
    "inflect": {"qa_train.spoken_form"},
    "matplotlib": {"analysis.plots", "analysis.pictures"},
    "plotly": {"analysis.charts", "analysis.page"},
    "jinja2": {"analysis.page"},
}
ONLY_IN_ANALYSIS = {"pandas", "matplotlib", "seaborn", "plotly"}


def modules() -> Iterator[tuple[str, Path]]:
    """All files of the packages, by the name they are imported under."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def imports(source: str) -> Iterator[str]:
    """The modules that a file imports, those imported inside functions too; a name imported from one is joined to it.

    Relative imports start with their dots.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def floors_of(package: str) -> dict[str, int]:
    floors = enumerate(FLOORS[package].strip().splitlines())
    return {f"{package}.{name}": floor for floor, line in floors for name in line.split()}


def own_target(name: str, files: set[str]) -> str | None:
    """The file of ours that an imported name leads to; None if it leads out of our packages."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    while name not in files and f"{name}.__init__" not in files:
        name = name.rpartition(".")[0]
    return name


def broken_arrows(module: str, source: str, files: set[str]) -> Iterator[str]:
    """Yields each import of ours that does not point down, or to a package that is none of this one's business."""
    package = module.partition(".")[0]
    floors = floors_of(package)
    for target in filter(None, (own_target(name, files) for name in imports(source))):
        if is_in(target, package):
            if floors.get(target, -1) >= floors.get(module, -1):
                yield f"{module} imports {target}, which is on no lower floor"
        elif not any(is_in(target, allowed) for allowed in ARROWS[package]):
            yield f"{module} imports {target}, which {package} may not"


def lone_imports(module: str, source: str) -> Iterator[str]:
    """Yields each import of a library that is kept to other files."""
    for library in {name.partition(".")[0] for name in imports(source)}:
        if module not in ONLY_IN.get(library, {module}):
            yield f"{module} imports {library}, which only {', '.join(sorted(ONLY_IN[library]))} may"
        if library in ONLY_IN_ANALYSIS and not module.startswith("analysis."):
            yield f"{module} imports {library}, which only analysis may"


def loaded_after_importing(*names: str) -> set[str]:
    """What a fresh Python has loaded once it has imported these modules."""
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_every_file_has_a_floor() -> None:
    placed = {module for package in PACKAGES for module in floors_of(package)}
    homeless = [module for module, path in modules() if path.name != "__init__.py" and module not in placed]
    assert not homeless, f"give these files a floor in {Path(__file__).name}: {homeless}"


def test_every_arrow_points_down() -> None:
    files = {module for module, _ in modules()}
    broken = [text for module, path in modules() for text in broken_arrows(module, path.read_text(), files)]
    assert broken == []


def test_a_library_is_imported_only_where_it_may_be() -> None:
    assert [text for module, path in modules() for text in lone_imports(module, path.read_text())] == []


def test_an_import_is_written_from_the_package_down() -> None:
    relative = [
        f"{module}: {name}" for module, path in modules() for name in imports(path.read_text()) if name.startswith(".")
    ]
    assert relative == []


def test_an_init_file_holds_a_docstring_and_nothing_else() -> None:
    for module, path in modules():
        if path.name == "__init__.py":
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), f"{module} has no docstring"
            assert len(tree.body) == 1, f"{module} holds more than a docstring"


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("qa_train.data", "from qa_train.loop import Report", "qa_train.loop, which is on no lower floor"),
        ("qa_train.data", "from qa_train import alignment", "qa_train.alignment, which is on no lower floor"),
        ("qa_train.config", "def later():\n    import qa_train.config", "qa_train.config, which is on no lower floor"),
        ("qa_train.loop", "from sweeps.records import Row", "sweeps.records, which qa_train may not"),
        ("analysis.load", "import qa_train.config", "qa_train.config, which analysis may not"),
        ("analysis.load", "from sweeps import runner", "sweeps.runner, which analysis may not"),
    ],
)
def test_an_arrow_that_points_up_or_aside_is_found(module: str, source: str, expected: str) -> None:
    files = {name for name, _ in modules()}
    assert list(broken_arrows(module, source, files)) == [f"{module} imports {expected}"]


def test_a_library_in_the_wrong_file_is_found() -> None:
    source = "def later():\n    from ray import tune\n    import optuna.trial\n    import pandas as pd\n"
    assert sorted(text.partition(", which")[0] for text in lone_imports("sweeps.space", source)) == [
        "sweeps.space imports optuna",
        "sweeps.space imports pandas",
        "sweeps.space imports ray",
    ]


def test_analysis_reaches_neither_torch_nor_ray() -> None:
    names = [module for module, path in modules() if is_in(module, "analysis") and not path.name.startswith("__")]
    assert not loaded_after_importing(*names) & {"torch", "ray", "transformers", "optuna"}


def test_reading_a_command_line_or_a_configuration_loads_neither_torch_nor_ray() -> None:
    assert not loaded_after_importing("qa_train.cli", "sweeps.cli", "cluster.cli") & {
        "torch",
        "ray",
        "transformers",
        "optuna",
    }


def test_storage_and_errors_load_neither_torch_nor_numpy() -> None:
    assert not loaded_after_importing("qa_train.storage") & {"torch", "numpy", "ray"}
