"""Ray's token on this machine: where it is, and that no other user of the machine can read it."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from qa_train.errors import QAError

DEFAULT = Path("~/.ray/auth_token")
"""Where Ray looks for the token; expand the `~` before use."""


def token_path(environment: Mapping[str, str]) -> Path | None:
    """Returns the file that holds the token; None if the environment holds it, or authentication is off."""
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_MODE", "token") != "token":
        return None
    return Path(os.path.expanduser(environment.get("RAY_AUTH_TOKEN_PATH") or DEFAULT))


def require_token(environment: Mapping[str, str]) -> None:
    """Makes sure, before Ray is asked, that there is a token, and that its file is for this user alone.

    Raises:
        QAError: If there is none, or its file cannot be used.
    """
    path = token_path(environment)
    if path is None:
        return
    try:
        if not path.read_text(encoding="utf-8").strip():
            raise QAError(f"{path}: expected Ray's token, found an empty file; copy the cluster's there")
        path.chmod(0o600)
    except FileNotFoundError:
        remedy = "copy the cluster's there, for this user alone (chmod 600), or name its place in RAY_AUTH_TOKEN_PATH"
        raise QAError(f"{path}: expected Ray's token, found no such file; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise QAError(f"{path}: Ray's token cannot be used: {error}") from error


def make_token(path: Path) -> None:
    """Writes a new token that only this user can read, unless there is one; Ray's own would be readable for all.

    Raises:
        QAError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        protect_token(path)
    except OSError as error:
        raise QAError(f"{path}: Ray's token cannot be written: {error.strerror}") from error


def protect_token(path: Path) -> None:
    """Makes a token's file, if there is one, readable for this user alone.

    Raises:
        QAError: If it cannot be made so.
    """
    try:
        path.chmod(0o600)
    except FileNotFoundError:
        pass  # the environment of the nodes may hold the token
    except OSError as error:
        raise QAError(f"{path}: Ray's token cannot be used: {error.strerror}") from error
