"""How the threads of PyTorch's matrix products wait for each other."""

import os
from collections.abc import Mapping

_SPINS = "GOMP_SPINCOUNT"


def sleeping_threads(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the environment variables that let waiting threads sleep instead of burning their core.

    By default a thread of GCC's OpenMP (libgomp) that waits takes its core from whatever else runs there: two trainings
    of two threads each on two cores took four times as long side by side; alone they are no slower without spinning.

    Args:
        environment: What the user has decided there stays.
    """
    if "OMP_WAIT_POLICY" in environment:
        return {}
    return {_SPINS: environment.get(_SPINS, "0")}


def let_threads_sleep() -> None:
    """Applies `sleeping_threads` to this process, if it has not imported PyTorch yet, and to those it starts."""
    os.environ.update(sleeping_threads())
