"""The live view and its lines, on a paper terminal and on pseudo-terminals, also such as go away."""

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qa_train.config import build_config
from sweeps import live_terminal
from sweeps.config import SweepConfig
from sweeps.live_terminal import lines_below
from sweeps.live_view import LiveView, can_show, live_view
from sweeps.placement import Placement
from sweeps.progress import Progress
from sweeps.records import Row, read_records
from tests.commands import TIMEOUT_S, environment
from tests.sweeps.screens import Screen

ROOT = Path(__file__).parents[2]
LONG = "a line that is longer than the terminal is wide " * 4


def progress(num_trials: int = 3) -> Progress:
    plain = {"train": {"data": {"train": "x"}, "num_epochs": 2}, "search": {"num_trials": num_trials}}
    return Progress(build_config(SweepConfig, plain, "test"), Placement(1, 1, 0, 1), "cpu-core", 0.0)


def row(trial_id: str, epochs: int, **changes: Any) -> Row:
    own: Row = {"trial_id": trial_id, "status": "completed" if epochs == 2 else "running", "config.num_epochs": 2}
    own |= {"epochs_trained": epochs, "budget_epochs": 2 if epochs == 2 else None, "dev.f1": 10.0 * epochs}
    return own | {"cost.device_s": 36.0 * epochs} | changes


class Paper(io.StringIO):
    """A terminal that keeps all that is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def on_paper(view: LiveView, paper: Paper, width: int = 100, environ: dict[str, str] | None = None) -> Iterator[None]:
    with lines_below(view.lines, paper, width=width, height=20, _environ={"TERM": "xterm"} | (environ or {})):
        yield


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a view be drawn so often that a test need not wait."""
    monkeypatch.setattr(live_terminal, "REFRESH_PER_S", 200.0)


def wait_for(paper: Paper, text: str, times: int = 1) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while paper.getvalue().count(text) < times:
        assert time.monotonic() < deadline, paper.getvalue()
        time.sleep(0.002)


def test_lines_of_events_stand_above_the_view_and_the_view_is_gone_at_the_end(often: None) -> None:
    paper, now = Paper(), [0.0]
    view = LiveView(progress(), clock=lambda: now[0])
    with on_paper(view, paper):
        view.started("00000", {})
        print("trial 00000: began", file=sys.stderr)
        wait_for(paper, "started 0 s ago")
        now[0] = 36.0
        view.record(row("00000", 1))
        print("trial 00000: epoch 1/2")
        wait_for(paper, "epoch 1/2, dev.f1 10.00")
        during = Screen(paper.getvalue(), 100)
        now[0] = 72.0
        view.record(row("00000", 2))
        wait_for(paper, "2 min left")
        print("trial 00000: epoch 2/2, finished", file=sys.stderr)
    assert during.lines == [
        "trial 00000: began",
        "trial 00000: epoch 1/2",
        "runs: trial 00000, epoch 1/2, dev.f1 10.00",
        "trials: 1 of 3: 1 running",
        "cost so far: 0.01 device-hours of cpu-core (no price is known), 36 s elapsed",
    ]
    after = Screen(paper.getvalue(), 100)
    assert after.lines == ["trial 00000: began", "trial 00000: epoch 1/2", "trial 00000: epoch 2/2, finished"]


def test_in_a_narrow_window_a_line_of_the_view_is_cut_and_one_of_an_event_is_not(often: None) -> None:
    paper = Paper()
    view = LiveView(progress(), clock=lambda: 5.0)
    with on_paper(view, paper, width=30):
        print(LONG, file=sys.stderr)
        wait_for(paper, "cost so far", times=3)
        during = Screen(paper.getvalue(), 30)
    assert LONG.strip() in paper.getvalue()  # the terminal breaks it, so that it can be copied
    assert "".join(line.ljust(30) for line in during.lines[:-2]).strip() == LONG.strip()
    assert during.lines[-2:] == ["trials: 0 of 3, none was star…", "cost so far: 0.00 device-hour…"]


def test_markup_and_escape_codes_in_what_is_told_are_text(often: None) -> None:
    paper = Paper()
    view = LiveView(progress(), clock=lambda: 5.0)
    with on_paper(view, paper):
        view.record(row("00000", 2, **{"config.model.name": "[red]/models/a[/]"}))
        print("error: [bold]data[0][/bold] :smile:", file=sys.stderr)
        wait_for(paper, "best so far")
        during = Screen(paper.getvalue(), 100)
    assert during.lines[0] == "error: [bold]data[0][/bold] :smile:"
    assert "model.name=[red]/models/a[/]" in during.lines[1]


@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}])
def test_the_view_has_no_colours(often: None, environ: dict[str, str]) -> None:
    paper = Paper()
    with on_paper(LiveView(progress()), paper, environ=environ):
        wait_for(paper, "cost so far")
    assert Screen(paper.getvalue(), 100).styles == {"1", "0"}


def test_the_cursor_is_never_lost_however_the_process_ends(often: None) -> None:
    paper = Paper()
    with on_paper(LiveView(progress()), paper):
        wait_for(paper, "cost so far")
        assert Screen(paper.getvalue(), 100).cursor_shown


def test_an_exception_takes_the_view_away_and_gives_the_streams_back(often: None) -> None:
    paper, before = Paper(), (sys.stdout, sys.stderr)
    with pytest.raises(KeyboardInterrupt), on_paper(LiveView(progress()), paper):
        wait_for(paper, "cost so far")
        raise KeyboardInterrupt
    assert (sys.stdout, sys.stderr) == before
    assert Screen(paper.getvalue(), 100).lines == []


def test_a_terminal_that_goes_away_does_not_disturb(often: None) -> None:
    class Gone(Paper):
        is_gone = False

        def write(self, text: str) -> int:
            if self.is_gone:
                raise BrokenPipeError
            return super().write(text)

        def flush(self) -> None:
            if self.is_gone:
                raise OSError(5, "Input/output error")

    paper, view = Gone(), LiveView(progress())
    with on_paper(view, paper):
        wait_for(paper, "cost so far")
        paper.is_gone = True
        for number in range(20):
            print(f"line {number}", file=sys.stderr)
            view.record(row(f"{number:05d}", 2))
            time.sleep(0.005)  # in which it is drawn in vain
    paper = Gone()
    with on_paper(view, paper):
        paper.close()
        print("to a closed stream", file=sys.stderr)


def test_a_view_that_fails_says_so_and_the_sweep_goes_on() -> None:
    view = LiveView(progress())
    view.record({"status": "running"})
    assert view.lines() == ["the live view ended: KeyError: 'trial_id'"]
    view.record(row("00000", 1))
    assert view.lines() == ["the live view ended: KeyError: 'trial_id'"]


def test_it_is_drawn_twice_a_second_at_most() -> None:
    asked: list[float] = []

    class Counted(LiveView):
        def lines(self) -> list[str]:
            asked.append(time.monotonic())
            return super().lines()

    paper, began = Paper(), time.monotonic()
    with on_paper(Counted(progress()), paper):
        wait_for(paper, "cost so far", times=2)
        took_s = time.monotonic() - began
    assert len(asked) <= 2 * took_s + 3  # at its making and at its end, too


@pytest.mark.parametrize("term", ["dumb", "unknown", "", None])
def test_on_a_dumb_terminal_or_none_nothing_is_shown(term: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert can_show(Paper())
    assert not can_show(io.StringIO())
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)
    assert not can_show(Paper())


@pytest.mark.parametrize(("stream", "wanted"), [(io.StringIO(), True), (Paper(), False)])
def test_where_nothing_is_shown_nothing_is_done_or_loaded(stream: io.StringIO, wanted: bool) -> None:
    before = sys.stderr
    with live_view(progress(), stream, wanted=wanted) as view:
        view.started("00000", {})
        view.record({})
        assert sys.stderr is before
        assert view.lines() == []
    assert stream.getvalue() == ""
    code = "import sys, sweeps.live_view; assert not {'rich', 'torch', 'ray'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# In a terminal.

PROGRAM = """
import sys, time
from sweeps.live_view import live_view
from tests.sweeps.test_live_view import progress, row

try:
    with live_view(progress(), sys.stderr) as view:
        for number in range(1000):
            print(f"event {number}", file=sys.stderr)
            view.record(row(f"{number:05d}", 2))
            time.sleep(0.1)
            open(sys.argv[1], "w").write(str(number))
            if sys.argv[2:] and number == int(sys.argv[2]):
                break
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)
print("ended well", file=sys.stderr)
"""


class Terminal:
    """A pseudo-terminal in which a program runs."""

    def __init__(self, code: str, home: Path, *arguments: str) -> None:
        self._controller, terminal = pty.openpty()
        self.written = b""
        own = {"TERM": "xterm", "PYTHONPATH": str(ROOT), "COLUMNS": "100", "LINES": "30"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environment(home) | own,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # as under nohup
        )
        os.close(terminal)
        os.set_blocking(self._controller, False)

    def read(self) -> str:
        """Returns all that was written so far."""
        with contextlib.suppress(BlockingIOError, OSError):
            while more := os.read(self._controller, 65536):
                self.written += more
        return self.written.decode(errors="ignore")

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.read():
            assert time.monotonic() < deadline, self.written
            time.sleep(0.02)

    def hang_up(self) -> None:
        os.close(self._controller)

    def end(self) -> int:
        """Waits for the program's end; what it writes meanwhile must be read, or it would wait."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.written
            self.read()
            time.sleep(0.02)
        self.read()
        return self.process.returncode


@contextlib.contextmanager
def in_a_terminal(code: str, home: Path, *arguments: str) -> Iterator[Terminal]:
    terminal = Terminal(code, home, *arguments)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        with contextlib.suppress(OSError):
            terminal.hang_up()


def test_in_a_terminal_the_lines_of_events_stay_and_the_view_goes(tmp_path: Path) -> None:
    with in_a_terminal(PROGRAM, tmp_path, str(tmp_path / "reached"), "8") as terminal:
        assert terminal.end() == 0
    text = terminal.read()
    assert "best so far: trial 00000" in text
    screen = Screen(text, 100)
    assert screen.lines == [*(f"event {number}" for number in range(9)), "ended well"]
    assert screen.cursor_shown


def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    with in_a_terminal(PROGRAM, tmp_path, str(tmp_path / "reached")) as terminal:
        terminal.wait_for("best so far")
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.end() == 130
    screen = Screen(terminal.read(), 100)
    assert screen.lines[-1] == "interrupted"
    assert all(re.fullmatch(r"event \d+", line) for line in screen.lines[:-1])
    assert screen.cursor_shown


def test_a_program_whose_terminal_is_closed_runs_on(tmp_path: Path) -> None:
    with in_a_terminal(PROGRAM, tmp_path, str(tmp_path / "reached"), "30") as terminal:
        terminal.wait_for("best so far")
        terminal.hang_up()
        terminal.process.wait(TIMEOUT_S)
    assert (tmp_path / "reached").read_text() == "30"


# A sweep of Ray.

SWEEP = """
import json, sys
from pathlib import Path
from sweeps import runner
from sweeps.probe import Probe
from tests.sweeps import fake_trials

data = {"train": {"path": "none.json", "sha256": "0", "questions": 1}}
runner._probe = lambda config, placement: Probe("fp32", "cpu-core", data, {}, {})
config = fake_trials.config(search={"searcher": "random", "num_trials": 4, "max_concurrent_trials": 1})
try:
    result = runner.run_sweep(config, Path(sys.argv[1]), body=fake_trials.train_nothing, live=True)
except KeyboardInterrupt:
    sys.exit(130)
print(result.num_completed, "trials completed")
"""


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_in_a_terminal_leaves_a_line_for_each_event(tmp_path: Path) -> None:
    with in_a_terminal(SWEEP, tmp_path, str(tmp_path / "sweep")) as terminal:
        assert terminal.end() == 0, terminal.read()
    text = terminal.read()
    for shown in ("runs: trial 00000, started ", "epoch 1/", "trials: 4 of 4", "best so far: trial 0", " left"):
        assert shown in text
    rows = read_records(tmp_path / "sweep")
    first, *events, last = Screen(text, 100).lines
    assert first.startswith("sweep sweep: 4 trials")
    assert last == "4 trials completed"
    assert [line[:12] for line in events if line.startswith("trial ")] == [
        f"trial {row['trial_id']}:"[:12] for row in rows
    ]
