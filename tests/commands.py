"""Commands that tests start as a user does, each in a process of its own, and the processes that belong to them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

TIMEOUT_S = 480.0
"""For what takes 20 seconds on an idle machine."""
GONE_S = 5.0
"""In which nothing of a command may be left after its end, however it ended."""
_LOOK_EVERY_S = 0.2


@dataclass
class Command:
    """A command, running or ended.

    Attributes:
        process: Its process.
        output: Where stdout and stderr go, as the files `out` and `err`.
        family: All processes that were seen to belong to it.
    """

    process: subprocess.Popen[bytes]
    output: Path
    family: set[psutil.Process] = field(default_factory=set)

    @property
    def out(self) -> str:
        """What it printed so far."""
        return (self.output / "out").read_text()

    @property
    def err(self) -> str:
        """What it said so far."""
        return (self.output / "err").read_text()

    @property
    def status(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.returncode

    def look(self) -> None:
        """Adds to the family what now descends from the command."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family |= {*psutil.Process(self.process.pid).children(recursive=True)}

    def living(self, name: str = "") -> list[psutil.Process]:
        """Returns those of the family that live and have this in their command line."""
        self.look()
        return [process for process in self.family if (line := _command_line(process)) and name in line]

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Waits for a condition to hold while the command runs."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, f"ended with {self.status}: {self.err}"
            assert time.monotonic() < deadline, f"waited in vain: {self.err}"
            self.look()
            time.sleep(_LOOK_EVERY_S)

    def finish(self) -> Self:
        """Waits for the end, after which nothing of the family may be left."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end: {self.err}"
            self.look()
            time.sleep(_LOOK_EVERY_S)
        self.must_be_gone()
        return self

    def must_be_gone(self) -> None:
        """Waits for the end of what is left of the family."""
        deadline = time.monotonic() + GONE_S
        while left := self.living():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def _command_line(process: psutil.Process) -> str:
    """Returns a living process's command line; a dead one's is empty, as is a zombie's."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        if process.is_running():
            return " ".join(process.cmdline())
    return ""


def environment(home: Path) -> dict[str, str]:
    """Returns the environment of a user who has set nothing for Ray; its workers do not give way to other tests."""
    unset = ("RAY_", "TUNE_", "OMP_", "TOKENIZERS_", "PYTHON", "COVERAGE_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    return kept | {"HOME": str(home), "RAY_worker_niceness": "0"}


@contextlib.contextmanager
def running(room: Path, name: str, *arguments: str, **more: str) -> Iterator[Command]:
    """Runs Python in a directory; whatever is left of it at the end is killed, by its pid.

    Args:
        room: Where it runs; `room / "home"` is its home, and its output goes to `room / "output of <name>"`.
        name: Of this run.
        arguments: Of Python, such as `-m`, `qa_train`.
        more: Added to its environment.
    """
    output = room / f"output of {name}"
    output.mkdir()
    with open(output / "out", "wb") as out, open(output / "err", "wb") as err:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=room,
            env=environment(room / "home") | more,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            # Tests that a script starts in the background ignore Ctrl-C, and so would all that they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    command = Command(process, output)
    try:
        yield command
    finally:
        for member in command.living():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        if process.poll() is None:
            process.kill()
        process.wait()
