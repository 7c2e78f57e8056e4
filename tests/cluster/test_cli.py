"""The command line: what it refuses, and what it would do."""

import json
from pathlib import Path

import pytest

from cluster import cli, jobs
from cluster.cli import main
from cluster.job_server import job_server_address, shows_token
from cluster.jobs import Job, new_id, recall, remember
from cluster.ray_up import fetch_command, head_command, submit_command
from qa_train.errors import QAError

DEMO = str(Path(__file__).parents[2] / "sweeps" / "configs" / "demo.yaml")


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["jobs", DEMO], "RAY_ADDRESS: expected a job server"),
        (["jobs", "none.yaml"], "none.yaml: no such file"),
        (["local", DEMO, "search.num_trails=3"], "search.num_trails: unknown key"),
        (["local", DEMO, "--out", "runs/first"], "--out: expected an absolute path"),
        (["local", DEMO, "--config", "mine.yaml"], "--config: expected a file"),
        (["kuberay", DEMO], "--image: expected the image"),
        (["kuberay", DEMO, "--image", "i"], "--out: expected s3://"),
        (["local", DEMO, "--resume"], "--resume: expected --out"),
        (["moon", DEMO], "'moon' is not one of"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert expected in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(("target", "num_nodes"), [("local", 3), ("aws", 5), ("gcp", 5)])
def test_a_dry_run_says_what_would_be_sent_and_run(
    target: str, num_nodes: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["submit", target, DEMO, "--out", "~/of mine", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert f"python cluster/entry.py run sweep.yaml --out '~/of mine' --nodes {num_nodes}\n" in said
    assert f"cluster/{target}.yaml" in said
    assert not (tmp_path / "state").exists()


def test_a_file_that_describes_no_cluster_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("name: demo\n")
    assert main(["submit", "local", DEMO, "--config", "mine.yaml", "--dry-run"]) == 2
    assert "expected the YAML of a cluster of `ray up`" in capsys.readouterr().err


def test_a_slurm_job_is_written_with_all_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "slurm", DEMO, "--nodes", "2"]) == 0
    said = capsys.readouterr()
    script = Path(said.out.removeprefix("Wrote ").strip())
    assert script.parent.parent == tmp_path / "runs"
    assert "#SBATCH --nodes=2\n" in script.read_text()
    assert (script.parent / "cluster" / "entry.py").is_file()
    assert (script.parent / "sweep.yaml").is_file()
    job_id = script.parent.name.removesuffix(".job")
    assert main(["attach", job_id]) == 2
    assert "squeue" in capsys.readouterr().err


def test_a_rayjob_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "kuberay", DEMO, "--image", "r/s:1", "--out", "s3://b/first"]) == 0
    path = tmp_path / capsys.readouterr().out.removeprefix("Wrote ").strip()
    assert path.is_file()
    job_id = path.name.removesuffix(".rayjob.yaml")
    assert main(["fetch", job_id]) == 0
    assert "s3://b/first" in capsys.readouterr().out


def test_a_cluster_of_ray_up_gets_one_file_and_is_asked_on_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run_ray(arguments: list[str]) -> int:
        ran.append(arguments)
        return 0

    monkeypatch.setattr("cluster.submit.run_ray", run_ray)
    monkeypatch.setattr(cli, "run_ray", run_ray)
    assert main(["submit", "local", DEMO]) == 0
    (job_file,) = (jobs._directory()).glob("*.json")
    job_id = job_file.stem
    assert ran[0][0] == "submit"
    assert ran[0][-1].endswith(f"/{job_id}.pyz")
    for verb in ("attach", "status", "stop"):
        assert main([verb, job_id]) == 0
        assert ran[-1][0] == "exec"
        assert ran[-1][-1] == f"cd spansweep-jobs/{job_id} && python -m cluster {verb} {job_id}"
    assert main(["fetch", job_id]) == 0
    assert ran[-1][2:] == [f"~/spansweep-runs/{job_id}/", f"{Path.cwd()}/runs/{job_id}/"]
    assert "token" not in json.dumps(ran)


def test_commands_of_ray_are_what_a_user_would_type(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    assert submit_command(config, Path("/tmp/a.pyz"), start=True) == ["submit", "--start", str(config), "/tmp/a.pyz"]
    assert head_command(config, "a-1", "stop")[:2] == ["exec", str(config)]
    assert fetch_command(config, "~/x/", tmp_path) == ["rsync-down", str(config), "~/x/", f"{tmp_path}/"]


def test_an_id_is_one_that_kubernetes_takes() -> None:
    assert new_id("My_Sweep.2", "20261127-031500") == "my-sweep-2-20261127-031500"
    assert len(new_id("x" * 100, "20261127-031500")) == 46


def test_a_job_is_found_again_and_another_is_named() -> None:
    with pytest.raises(QAError, match="none was submitted from here"):
        recall("a-1")
    job = Job("a-20261127-031500", "jobs", "http://127.0.0.1:8265", "~/x")
    remember(job)
    assert recall(job.id) == job
    with pytest.raises(QAError, match="the last ones are a-20261127-031500"):
        recall("b-1")


def test_a_job_server_is_told_from_the_address_of_a_ray() -> None:
    with pytest.raises(QAError, match=r"found 10\.0\.0\.5:6379"):
        job_server_address({"RAY_ADDRESS": "10.0.0.5:6379"})
    assert job_server_address({"RAY_ADDRESS": "https://ray.example.org/"}) == "https://ray.example.org"
    assert shows_token("http://10.0.0.5:8265")
    assert not shows_token("http://127.0.0.1:8265")
    assert not shows_token("https://10.0.0.5:8265")


@pytest.mark.parametrize("verb", ["submit", "attach", "status", "stop", "fetch"])
def test_each_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"python -m cluster {verb}" in capsys.readouterr().out.partition("Example")[2]
