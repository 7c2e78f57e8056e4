"""Lets Ray Tune run a sweep's trials: first those of the search, then the finalists."""

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune import TuneError

from qa_train.errors import SweepError
from sweeps.answers import Answers, Source, copy_scores
from sweeps.config import StopConfig, SweepConfig
from sweeps.finalists import finalists_left
from sweeps.history import PastTrial
from sweeps.mirror import StudyMirror
from sweeps.placement import Placement
from sweeps.recorder import Recorder
from sweeps.records import TRIALS, Row, read_records
from sweeps.search import ListSearcher, StudySearcher, Suggestion
from sweeps.stopping import Stopping
from sweeps.sweep_store import SweepStore
from sweeps.trainable import (
    BODY,
    DEVICE,
    DIRECTORY,
    EVALUATE_TESTS,
    LAUNCHER,
    MAX_FAILURES,
    NUM_DEVICES,
    NUM_THREADS,
    TRAIN,
    TrialTrainable,
)
from sweeps.trial import TrialBody
from sweeps.tune_hooks import Limits, Listener, TrialScheduler


@dataclass(frozen=True)
class Tuning:
    """What the search and the finalists have in common.

    Attributes:
        config: Of the sweep, resolved.
        placement: What each trial gets.
        device: Kind of device that trials hold.
        store: Of the sweep.
        recorder: Writes the records.
        mirror: Shows trials in Optuna's dashboard.
        answers: Knows what was trained before.
        limits: Of the whole sweep.
        body: What a trial's process does.
    """

    config: SweepConfig
    placement: Placement
    device: str
    store: SweepStore
    recorder: Recorder
    mirror: StudyMirror
    answers: Answers
    limits: Limits
    body: TrialBody

    def run_search(self, past: list[PastTrial], stopping: Stopping) -> None:
        """Runs the trials that the searcher asks for.

        Args:
            past: Trials of earlier runs.
            stopping: Knows their rows.

        Raises:
            SweepError: If the records cannot be written.
        """
        config = self.config
        self._run(StudySearcher(config.space, config.search, past, config.train.seed, self, config.budgets), stopping)

    def run_finalists(self) -> None:
        """Runs the finalists that are left, unless a limit has ended the sweep.

        Then records as interrupted what a killed driver left running and nothing has started again.

        Raises:
            SweepError: If the records cannot be written.
        """
        if self.config.finalists.top and not self.limits.is_reached:
            left = finalists_left(self.config, read_records(self.store.directory))
            self._run(ListSearcher(left), Stopping(StopConfig(), self.config.search.mode))
        self.recorder.close()

    def identify(self, suggestion: Suggestion) -> str:
        """Returns what two trials have in common if and only if they train the same."""
        return self.answers.identify(suggestion.values, suggestion.seed)

    def answer(self, suggestion: Suggestion) -> list[Row]:
        """Records the models of a trial that trained the same as this one's; returns their rows, empty without one."""
        found = self.answers.find(suggestion.values, suggestion.seed)
        return self._record(suggestion, found) if found else []

    def _record(self, suggestion: Suggestion, found: Source) -> list[Row]:
        trial_id, values = str(suggestion.name), suggestion.values
        copy_scores(found, self.store.directory / TRIALS / trial_id)
        self.store.push(f"{TRIALS}/{trial_id}")
        self.mirror.started(trial_id, values)
        return self.recorder.answered(trial_id, values, suggestion.seed, found.rows, found.name)

    def _run(self, searcher: StudySearcher | ListSearcher, stopping: Stopping) -> None:
        if not searcher.num_left:
            return
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are told by the recorder
        listener = Listener(self.recorder, stopping, self.mirror)
        scratch = Path(tempfile.mkdtemp(prefix="spansweep-"))  # Tune's own state, which nothing reads
        try:
            tune.Tuner(
                tune.with_resources(TrialTrainable, self.placement.trial_resources),
                param_space=self._param_space,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=TrialScheduler(self.config, stopping),
                    num_samples=searcher.num_left,
                    max_concurrent_trials=self.placement.max_concurrent_trials,
                    # Ray Train's workers end with the actor that asked for them.
                    reuse_actors=self.placement.launcher == "local",
                ),
                run_config=self._run_config(scratch, listener),
            ).fit()
        except TuneError:
            if listener.error:  # Tune replaces what a callback raises by its traceback
                raise listener.error from None
            raise
        except RuntimeError as error:
            # Tune knows what to do when an actor dies, but not when a cluster's memory monitor kills one.
            if not isinstance(error.__cause__, OutOfMemoryError):
                raise
            reason = str(error.__cause__).splitlines()[0]
            raise SweepError(
                f"{self.store.address}: Ray killed a trial as memory ran short ({reason}); "
                "lower search.max_concurrent_trials or train.optim.batch_size, then go on: python -m sweeps resume "
                f"{self.store.address}"
            ) from error
        finally:
            self.recorder.close()
            shutil.rmtree(scratch, ignore_errors=True)

    @property
    def _param_space(self) -> dict[str, Any]:
        return {
            TRAIN: self.config.train.model_dump(),
            DIRECTORY: self.store.address,
            LAUNCHER: self.placement.launcher,
            NUM_THREADS: self.placement.cpus_per_worker,
            NUM_DEVICES: self.placement.num_devices,
            DEVICE: self.device,
            BODY: self.body,
            MAX_FAILURES: self.config.stop.max_failures,
            EVALUATE_TESTS: self.config.evaluate_tests,
        }

    def _run_config(self, scratch: Path, listener: Listener) -> tune.RunConfig:
        return tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=self.config.stop.max_failures),  # of actors and nodes
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep their own
            callbacks=[listener],
            stop=self.limits,
            verbose=0,
        )
