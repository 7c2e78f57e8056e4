"""A sweep whose trials train nothing, for tests that kill its driver: run as `python -m tests.sweeps.fake_trials`."""

import json
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

from qa_train.config import build_config
from qa_train.errors import DataError
from sweeps.config import SweepConfig
from sweeps.probe import Probe
from sweeps.sweep_store import local_copy
from sweeps.trial import TrialJob, append_report, reported_epochs

EPOCH_S = 0.1


def config(**changes: Any) -> SweepConfig:
    """Returns a sweep's configuration; `changes` are sections that are its own."""
    plain = {
        "train": {"data": {"train": "none.json"}, "scale": {"cpus_per_worker": 1, "use_gpu": False}},
        "space": {"num_epochs": {"int": [1, 6]}, "optim.learning_rate": {"loguniform": [1e-6, 1e-3]}},
    }
    return build_config(SweepConfig, plain | changes, "test")


def changed(before: SweepConfig, changes: dict[str, Any]) -> SweepConfig:
    return build_config(SweepConfig, before.model_dump(mode="json") | changes, "test")


def train_nothing(job: TrialJob, connection: Connection) -> None:
    """Takes the place of `run_trial`: keeps a checkpoint after each epoch and goes on from it."""
    checkpoint = job.directory / "checkpoint"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    known = reported_epochs(job.directory)
    num_epochs, rate = job.config.num_epochs, job.config.optim.learning_rate
    with open(job.directory / "epochs.txt", "a") as trained:
        for epoch in range(1, num_epochs + 1):
            if epoch > done:
                time.sleep(EPOCH_S)
                trained.write(f"{epoch}\n")
                trained.flush()
                partial = job.directory / "checkpoint.tmp"
                partial.write_text(str(epoch))
                partial.replace(checkpoint)
            is_last = epoch == num_epochs
            message = {
                "status": "completed" if is_last else "running",
                "report": epoch - 1,
                "epochs_trained": epoch,
                "budget_epochs": epoch if is_last else None,
                "dev.f1": 50 + 10 * epoch / 6 - 1e4 * abs(rate - 1e-4) + job.config.seed,
                "cost.training_s": EPOCH_S * epoch,
            }
            if is_last and job.evaluate_tests:
                message["test.clean.f1"] = 40.0
            job.store.push()
            if epoch not in known:
                append_report(job, message)
            connection.send(message)
    connection.close()


def has_begun(place: str) -> bool:
    """Whether there is a sweep to go on with."""
    try:
        return (local_copy(place) / "manifest.json").exists()
    except DataError:
        return False


def main(place: str, changes: dict[str, Any]) -> None:
    """Runs a sweep in a new directory, or goes on with the one that is there, with these sections changed."""
    from sweeps import runner

    data = {"train": {"path": "none.json", "sha256": "0", "questions": 1}}
    runner._probe = lambda config, placement: Probe("fp32", "cpu-core", data, {}, {})
    if has_begun(place):
        result = runner.resume_sweep(place, lambda before: changed(before, changes), body=train_nothing)
    else:
        result = runner.run_sweep(config(**changes), place, body=train_nothing)
    print(json.dumps({"completed": result.num_completed, "failed": result.num_failed}))


if __name__ == "__main__":
    from tests.sweeps import fake_trials  # so that workers find the trial's body by its module's name

    fake_trials.main(sys.argv[1], json.loads(sys.argv[2]))
