"""Ends what a dead process left running: started by it, as `python -m qa_train.watchdog`.

Ray's own processes end with the one that started them, but for its agents, which take up to a minute to notice.
"""

import contextlib
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil

_LOOK_EVERY_S = 2.0
_GRACE_S = 1.5
"""What the dead process's children have to end by themselves."""


@contextlib.contextmanager
def watchdog_over(start: Callable[[], object]) -> Iterator[None]:
    """Starts processes, and ends them and theirs within seconds of this process's death, should it die in the block.

    Args:
        start: What starts them; processes of this one that were there before are none of the watchdog's business.
    """
    before = {*psutil.Process().children()}
    start()
    roots = [str(child.pid) for child in psutil.Process().children() if child not in before]
    # In a session of its own, so that Ctrl-C does not reach it.
    command = [sys.executable, "-m", __name__, *roots]
    watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        watchdog.communicate()


def _watch(roots: list[psutil.Process]) -> None:
    descendants = {*roots}
    # The other end of the pipe is closed by the watched process, or by that one's death.
    while not select.select([sys.stdin], [], [], _LOOK_EVERY_S)[0]:
        for root in roots:
            with contextlib.suppress(psutil.Error):
                descendants.update(root.children(recursive=True))
    time.sleep(_GRACE_S)
    for process in descendants:
        with contextlib.suppress(psutil.Error):
            process.kill()  # refuses to if another process has got the number


if __name__ == "__main__":
    _watch([psutil.Process(int(pid)) for pid in sys.argv[1:] if psutil.pid_exists(int(pid))])
