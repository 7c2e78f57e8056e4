import os
import socket
import stat
from pathlib import Path

import pytest

from qa_train import ray_session
from qa_train.errors import QAError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_created_that_only_the_user_can_read(home: Path) -> None:
    ray_session._ensure_token()
    token = home / ".ray" / "auth_token"
    assert mode(token) == 0o600
    assert len(bytes.fromhex(token.read_text())) == 32


def test_a_token_that_is_there_stays_but_is_no_longer_readable_for_others(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("mine")
    token.chmod(0o644)
    for _ in range(2):
        ray_session._ensure_token()
        assert token.read_text() == "mine"
        assert mode(token) == 0o600


def test_two_homes_have_different_tokens(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = set()
    for name in ("a", "b"):
        monkeypatch.setenv("HOME", str(home / name))
        ray_session._ensure_token()
        tokens.add((home / name / ".ray" / "auth_token").read_text())
    assert len(tokens) == 2


def test_the_token_goes_where_the_user_wants_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "deep" / "er" / "token"))
    ray_session._ensure_token()
    assert mode(home / "deep" / "er" / "token") == 0o600
    assert not (home / ".ray").exists()


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_TOKEN", "abc"), ("RAY_AUTH_MODE", "disabled")])
def test_no_token_is_written_where_the_user_has_decided(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    ray_session._ensure_token()
    assert list(home.iterdir()) == []


def test_a_token_that_another_sweep_creates_meanwhile_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("theirs")
    monkeypatch.setattr(Path, "exists", lambda path: False)
    ray_session._ensure_token()
    assert token.read_text() == "theirs"


@pytest.mark.parametrize("address", ["", None])
def test_an_own_ray_is_told_to_stay_on_this_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    calls: list[dict[str, object]] = []
    monkeypatch.setattr("ray.init", lambda **options: calls.append(options))
    monkeypatch.setattr("ray.shutdown", lambda: calls.append({}))
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(KeyboardInterrupt), ray_session.ray_session():
        raise KeyboardInterrupt
    assert calls[0]["address"] == "local"
    assert calls[0]["_node_ip_address"] == "127.0.0.1"
    assert not calls[0]["include_dashboard"]
    assert calls[1:] == [{}]


def test_the_cluster_of_the_environment_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []
    monkeypatch.setattr("ray.init", lambda **options: calls.append(options))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with ray_session.ray_session():
            pass
    assert calls[0]["address"] == address
    assert not home.joinpath(".ray").exists()


def test_a_cluster_that_does_not_answer_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray would try for minutes"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(QAError, match=f"RAY_ADDRESS: expected a running Ray at {address}"), ray_session.ray_session():
        pass


def test_resources_are_whole_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 3.0, "memory": 1e9})
    assert ray_session.resources() == (3, 0)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    assert ray_session.resources() == (8, 2)


@pytest.mark.parametrize(
    ("executable", "expected"),
    [("/env/bin/python", {}), ("/a path/bin/python", {"py_executable": "'/a path/bin/python'"})],
)
def test_a_path_with_a_space_is_quoted_for_the_shell_that_starts_workers(
    monkeypatch: pytest.MonkeyPatch, executable: str, expected: dict[str, str]
) -> None:
    monkeypatch.setattr("sys.executable", executable)
    assert ray_session._runtime_env(None) == expected
    assert ray_session._runtime_env(7)["env_vars"] == {"RAY_ADDRESS": "127.0.0.1:7"}


def test_an_own_ray_leaves_it_to_the_kernel_which_process_ends_for_want_of_memory() -> None:
    assert os.environ.get("RAY_memory_monitor_refresh_ms") == "0"  # noqa: SIM112
