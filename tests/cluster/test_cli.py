"""The command line: what it refuses, and what it would do."""

import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cluster import cli, job_server, jobs
from cluster.cli import main
from cluster.job_server import JobServer, job_server_address, shows_token
from cluster.jobs import Job, new_id, recall, remember
from cluster.ray_up import fetch_command, head_command, submit_command
from qa_train.errors import QAError

DEMO = str(Path(__file__).parents[2] / "sweeps" / "configs" / "demo.yaml")


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
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
        (["kuberay", DEMO, "--image", "i", "--out", ""], "--out: expected s3://"),
        (
            ["kuberay", DEMO, "--image", "i", "--out", "s3://b/x", "--nodes", "1"],
            "--nodes: expected 2 or more, found 1",
        ),
        (["aws", DEMO, "--start", "--dry-run"], "--out: expected s3://…, gs://… or a path on storage that all 5 nodes"),
        (["local", DEMO, "--out", "htp://x"], "--out: expected s3://…, gs://… or a path, found htp://x"),
        (["slurm", DEMO, "--out", "~nobody-here/x"], "--out: expected a path, found ~nobody-here/x"),
        (["slurm", DEMO, "--out", "/tmp/\udcff"], r"--out: expected text, found '/tmp/\udcff'"),
        (["local", DEMO, "--config", "~nobody-here/mine.yaml"], "--config: expected a file"),
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


@pytest.mark.parametrize(
    "text",
    [
        "name: demo",
        "provider: {type: local, worker_ips: null}",
        "{provider: {type: local}, min_workers: null}",
        "{provider: {type: local}, min_workers: many}",
        "{provider: {type: aws}, available_node_types: null}",
        "{provider: {type: aws}, available_node_types: [a, b]}",
        "{provider: {type: aws}, available_node_types: {gpu: null}}",
        "{provider: {type: aws}, available_node_types: {gpu: {min_workers: four}}}",
    ],
)
def test_a_file_that_describes_no_cluster_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
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
    token = Path("token")
    token.write_text("secret")
    token.chmod(0o644)
    assert main(["submit", "local", DEMO, "--nodes", "1"]) == 0
    assert token.stat().st_mode & 0o077 == 0
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
    with pytest.raises(QAError, match=r"^RAY_API_SERVER_ADDRESS: .* found 10\.0\.0\.5:6379"):
        job_server_address({"RAY_API_SERVER_ADDRESS": "10.0.0.5:6379", "RAY_ADDRESS": "http://127.0.0.1:8265"})
    assert job_server_address({"RAY_ADDRESS": "https://ray.example.org/"}) == "https://ray.example.org"
    assert job_server_address({"RAY_ADDRESS": "http://[::1]:8265"}) == "http://[::1]:8265"


@pytest.mark.parametrize("address", ["http://", "http://[::1:8265", "http://127.0.0.1:eight", "https:///path"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(QAError, match="RAY_ADDRESS: expected a job server such as"):
        job_server_address({"RAY_ADDRESS": address})


@pytest.mark.parametrize("address", ["https://me:hunter2@10.0.0.5", "me:hunter2@10.0.0.5:6379"])
def test_a_password_in_an_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(QAError, match="expected a job server") as raised:
        job_server_address({"RAY_ADDRESS": address})
    assert "hunter2" not in str(raised.value)


def test_a_token_is_shown_where_it_goes_unencrypted_to_another_machine() -> None:
    assert shows_token("http://10.0.0.5:8265", {})
    assert not shows_token("http://127.0.0.1:8265", {})
    assert not shows_token("https://10.0.0.5:8265", {})
    assert not shows_token("http://10.0.0.5:8265", {"RAY_AUTH_MODE": "disabled"})


def test_a_server_that_says_nothing_is_told_from_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "_PATIENCE_S", 0.2)
    Path("token").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(QAError, match="expected a job server, found none that answers"):
            JobServer(address)


class PlayedServer:
    """A job server in whose place `submit` and the log do what a test says."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.submit_job = lambda **_: act()
        self.act = act

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        self.act()
        yield ""


def play_server(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    Path("token").write_text("secret")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setattr(job_server, "_must_answer", lambda _: None)
    monkeypatch.setattr(job_server, "JobSubmissionClient", lambda _: PlayedServer(act))


def test_no_job_is_submitted_that_could_not_be_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play_server(monkeypatch, lambda: pytest.fail("it was submitted"))
    (tmp_path / "state").touch()  # a file, where the directory of jobs would be
    assert main(["submit", "jobs", DEMO]) == 2
    assert "state" in capsys.readouterr().err


def test_a_reader_that_leaves_is_not_taken_for_a_lost_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave() -> None:
        raise BrokenPipeError

    play_server(monkeypatch, leave)
    with pytest.raises(BrokenPipeError):
        JobServer("http://127.0.0.1:9").follow("a-1", print)


@pytest.mark.parametrize("verb", ["submit", "attach", "status", "stop", "fetch"])
def test_each_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"python -m cluster {verb}" in capsys.readouterr().out.partition("Example")[2]
