"""Ray's token stays this user's own."""

import stat
from pathlib import Path

import pytest

from cluster.token_file import make_token, require_token, token_path
from qa_train.errors import QAError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_for_this_user_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    make_token(path)
    token = path.read_text()
    assert len(token) == 64
    assert mode(path) == 0o600
    path.chmod(0o644)
    make_token(path)
    assert path.read_text() == token
    assert mode(path) == 0o600


def test_a_token_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o644)
    require_token({"RAY_AUTH_TOKEN_PATH": str(path)})
    assert mode(path) == 0o600


def test_a_place_that_can_hold_no_token_is_named(tmp_path: Path) -> None:
    (tmp_path / ".ray").touch()
    with pytest.raises(QAError, match=r"auth_token: Ray's token cannot be used: Not a directory"):
        make_token(tmp_path / ".ray" / "auth_token")
    assert token_path({"RAY_AUTH_TOKEN_PATH": "~nobody-here/token"}) == Path("~nobody-here/token")


def test_a_missing_or_empty_token_is_refused_without_showing_anything(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(QAError, match="found no such file"):
        require_token({"RAY_AUTH_TOKEN_PATH": str(path)})
    path.write_text("\n")
    with pytest.raises(QAError, match="found an empty file"):
        require_token({"RAY_AUTH_TOKEN_PATH": str(path)})


def test_no_file_is_wanted_where_the_environment_holds_the_token_or_there_is_none() -> None:
    assert token_path({"RAY_AUTH_TOKEN": "secret"}) is None
    assert token_path({"RAY_AUTH_MODE": "disabled"}) is None
    assert token_path({}) == Path("~/.ray/auth_token").expanduser()
