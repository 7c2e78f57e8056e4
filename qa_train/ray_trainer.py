"""Ray Train: runs a function in the workers of one run and passes on what the first of them tells."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from textwrap import shorten
from typing import Any

from qa_train.ray_session import ray_session, resources

# isort: split
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from qa_train.errors import DataError, QAError
from qa_train.openmp import sleeping_threads

__all__ = ["NUM_RESTARTS", "RayTrainRun", "WorkerError", "ray_session", "resources", "tell"]

NUM_RESTARTS = "num_restarts"
"""Among the arguments of the function: how often the workers of this run were started again."""
_EVENTS, _STORAGE = "events.jsonl", ".ray_train"
_POLL_S = 0.1

Event = dict[str, Any]


class WorkerError(QAError):
    """A run whose workers kept dying."""


def tell(directory: Path, event: Mapping[str, Any]) -> None:
    """Adds an event to those of the run in this directory; called by its first worker alone.

    Raises:
        DataError: If it cannot be written, such as on a full disk.
    """
    path = directory / _EVENTS
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


class RayTrainRun:
    """Workers under Ray Train, seen from the process that started them.

    Ray Train's own reports are not used: they reach Tune only while its loop listens, and each waits for the
    controller's next look. Events go through a file in the run's directory, which all nodes must see anyway, for its
    checkpoints.
    """

    def __init__(
        self,
        function: Callable[[dict[str, Any]], None],
        arguments: dict[str, Any],
        directory: Path,
        *,
        num_workers: int,
        cpus_per_worker: int,
        use_gpu: bool,
        max_failures: int = 3,
    ) -> None:
        """Starts the workers.

        Args:
            function: A function of a module, called in each worker with `arguments`; goes on from its own checkpoint
                when it is called again.
            arguments: Plain values; `NUM_RESTARTS` is added.
            directory: The run's own, on storage that all nodes see.
            num_workers: Processes.
            cpus_per_worker: CPU cores that each of them is given.
            use_gpu: Whether each of them is given a GPU.
            max_failures: How often the workers are started again after one of them died, or raised what is no
                `QAError`.
        """
        self._directory, self._max_failures = directory, max_failures
        self._warnings: SimpleQueue[str] = SimpleQueue()
        self._error: BaseException | None = None
        self.num_restarts = 0
        storage = directory.absolute() / _STORAGE  # a relative path would be taken for a URI
        (directory / _EVENTS).unlink(missing_ok=True)

        def trainer() -> TorchTrainer:
            return TorchTrainer(
                function,
                train_loop_config={**arguments, NUM_RESTARTS: self.num_restarts},
                scaling_config=scaling(num_workers, cpus_per_worker, use_gpu),
                torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
                run_config=RunConfig(  # type: ignore[call-arg]  # its stub is that of Train V1
                    name=f"workers-{self.num_restarts}",
                    storage_path=str(storage),
                    # Failures are counted here: a user's mistake is not tried again. The controller's are workers
                    # that do not come up; it would try for ever.
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=max_failures),  # type: ignore[call-arg]
                    logging_config=LoggingConfig(log_level="ERROR"),
                    worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": str(cpus_per_worker), **sleeping_threads()}},
                ),
            )

        # Not in the main thread: there Ray Train would replace the handler of Ctrl-C.
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

    def events(self) -> Iterator[Event]:
        """Yields events as they come, until the workers have ended.

        Besides what workers told there is `{"warning": …}` when they are started again; what they told before that,
        since their last checkpoint, they tell again.

        Raises:
            QAError: As a worker raised it.
            WorkerError: If workers died, or raised something else, more often than allowed.
        """
        offset = 0
        while True:
            running = self._thread.is_alive()
            lines, offset = _new_lines(self._directory / _EVENTS, offset)
            yield from map(json.loads, lines)
            while not self._warnings.empty():
                yield {"warning": self._warnings.get()}
            if not running:
                break
            self._thread.join(_POLL_S)
        shutil.rmtree(self._directory / _STORAGE, ignore_errors=True)
        (self._directory / _EVENTS).unlink(missing_ok=True)
        if self._error:
            raise self._error

    def _fit(self, trainer: Callable[[], TorchTrainer]) -> None:
        while True:
            try:
                trainer().fit()
            except WorkerGroupError as error:
                mistake = next(filter(None, map(_mistake_in, error.worker_failures.values())), None)
                if mistake is None and self.num_restarts < self._max_failures:
                    self.num_restarts += 1
                    again = f"started again, {self.num_restarts} of at most {self._max_failures} times"
                    self._warnings.put(f"{_describe(error)}; {again}")
                    continue
                again = f" (started again {self.num_restarts} times)" if self.num_restarts else ""
                self._error = mistake or _caused(WorkerError(f"{_describe(error)}{again}"), error)
            except (TrainingFailedError, RayError) as error:
                self._error = _caused(WorkerError(f"Ray Train failed: {_last_line(error)}"), error)
            return


def scaling(num_workers: int, cpus_per_worker: int, use_gpu: bool) -> ScalingConfig:
    """Returns what Ray Train is asked for."""
    each = {"CPU": cpus_per_worker} | ({"GPU": 1} if use_gpu else {})
    return ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=each)


def _new_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """Returns the whole lines after an offset in bytes, and the offset after them."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return [], offset
    whole = content.rfind(b"\n") + 1
    return content[:whole].decode().splitlines(), offset + whole


def _mistake_in(error: BaseException | None) -> QAError | None:
    """Finds the `QAError` that a worker raised among the wrappers around it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if type(error).__module__ == QAError.__module__ and isinstance(error, QAError):
            return error
        error = getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error.__cause__
    return None


def _describe(error: WorkerGroupError) -> str:
    """Says in one line which worker failed, and how."""
    failures = error.worker_failures
    for rank, failure in failures.items():  # of the others, some may have raised just because this one has gone
        if isinstance(failure, WorkerHealthCheckFailedError):
            return f"worker {rank} died: killed, as the system does when memory runs out, or crashed"
    rank, failure = next(iter(failures.items()))
    first_line = str(failure).strip().partition("\n")[0]
    return f"worker {rank} failed: {type(failure).__name__}: {first_line or 'no message'}"


def _caused(error: WorkerError, cause: Exception) -> WorkerError:
    error.__cause__ = cause
    return error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shorten(lines[-1], 200, placeholder=" …") if lines else type(error).__name__
