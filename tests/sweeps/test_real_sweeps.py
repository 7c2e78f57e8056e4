"""Sweeps on a real Ray, each in a process of its own as a user starts it."""

import contextlib
import datetime
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_train.config import TrainConfig, build_config, to_yaml, with_values
from qa_train.data import read_squad
from sweeps.config import SearchConfig, SweepConfig
from sweeps.records import Manifest, Row, read_manifest, read_records
from sweeps.search import VALUES, StudySearcher
from sweeps.space import Space, parse_space
from tests import commands
from tests.tiny_models import tiny_model_dir, tiny_squad

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SWEEP = {
    "name": "tiny",
    "train": {
        "data": {"train": "train.json", "dev": "dev.json"},
        "model": {"name": "./model", "max_seq_length": 128, "doc_stride": 32},
        "scale": {"cpus_per_worker": 1, "use_gpu": False},
    },
    "space": {"num_epochs": {"int": [1, 3]}, "optim.learning_rate": {"loguniform": [1e-4, 5e-3]}},
    "search": {"num_trials": 4, "max_concurrent_trials": 1},
    "keep": {"models": None},
}
LONG = ["train.num_epochs=1000", "space={optim.learning_rate: {loguniform: [1e-5, 1e-4]}}", "search.num_trials=2"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with spaces in its name, with `sweep.yaml`, data, models and a home of its own."""
    room = tmp_path_factory.mktemp("room") / "of a user"
    room.mkdir()
    (room / "home").mkdir()
    tiny_squad(room / "train.json", 40)
    tiny_squad(room / "dev.json", 10, seed=1)
    tiny_model_dir(room / "model")
    (room / "broken.json").write_text('{"data": [{"title": "t", "paragraphs": 3}]}')
    (room / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    return room


class SweepCommand(commands.Command):
    """A sweep that a user started, and where it writes."""

    @property
    def directory(self) -> Path:
        """Of the sweep."""
        return self.output.parent / self.output.name.removeprefix("output of ")

    @property
    def rows(self) -> list[Row]:
        return read_records(self.directory)

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.directory)

    def trial_processes(self) -> list[psutil.Process]:
        """Returns the processes that train: forked by a forkserver, itself a child of a Ray worker."""
        return [process for process in self.living() if _is_forkserver(process) and _is_forkserver(process.parent())]

    def is_training(self) -> bool:
        return len(self.rows) >= 2 and bool(self.trial_processes())


def _is_forkserver(process: psutil.Process | None) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process is not None and "multiprocessing.forkserver" in " ".join(process.cmdline())
    return False


@contextlib.contextmanager
def running(room: Path, name: str, *arguments: str) -> Iterator[SweepCommand]:
    """Runs `python -m` in a directory, as `commands.running` does."""
    with commands.running(room, name, "-m", *arguments) as command:
        yield SweepCommand(command.process, command.output, command.family)


def sweeping(room: Path, name: str, *overrides: str) -> contextlib.AbstractContextManager[SweepCommand]:
    """Starts a sweep into `room / name`."""
    return running(room, name, "sweeps", "run", "sweep.yaml", *overrides, "--out", name)


def sweep_config(command: SweepCommand) -> SweepConfig:
    return build_config(SweepConfig, command.manifest.config, "manifest")


def values_of(row: Row) -> dict[str, Any]:
    """What was searched, by dotted name."""
    return {key.removeprefix("config."): value for key, value in row.items() if key.startswith("config.")}


WORK = ("cost.tokens", "cost.tflop")
"""The cost that does not depend on the machine."""


def without_cost(row: Row) -> Row:
    """The part of a row that a repetition must give again."""
    varying = {"time", "node", "host"}
    kept = {key: value for key, value in row.items() if key not in varying and not key.startswith("cost.")}
    return kept | {key: row[key] for key in WORK}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_of(command: SweepCommand, trial_id: str) -> str:
    return sha256(command.directory / "trials" / trial_id / "model" / "model.safetensors")


def assert_only_own_lines(text: str) -> None:
    for line in text.splitlines():
        assert re.match(r"(sweep tiny|trial \d{5}|warning: \d+ trials? failed)\b", line), f"not ours: {line}"


# A sweep of four trials, one after the other in one actor.


@pytest.fixture(scope="module")
def sweep(room: Path) -> SweepCommand:
    with sweeping(room, "a first sweep") as command:
        return command.finish()


def finals(command: SweepCommand) -> list[Row]:
    return [row for row in command.rows if row["status"] != "running"]


def test_a_sweep_ends_well_and_says_so(sweep: SweepCommand) -> None:
    assert sweep.status == 0, sweep.err
    first, last = sweep.out.splitlines()
    assert first == "4 trials completed, 0 failed"
    assert last == f"Wrote manifest.json, records.jsonl and trials/ in {sweep.directory}"


def test_nothing_but_own_lines_is_printed(sweep: SweepCommand) -> None:
    assert_only_own_lines(sweep.err)
    assert len(sweep.err.splitlines()) == 1 + len(sweep.rows)


def test_the_records_have_a_row_for_each_epoch(sweep: SweepCommand) -> None:
    rows = sweep.rows
    by_trial = [[row for row in rows if row["trial_id"] == f"{number:05d}"] for number in range(4)]
    assert sum(map(len, by_trial)) == len(rows)
    for own in by_trial:
        epochs = own[0]["config.num_epochs"]
        assert isinstance(epochs, int)
        assert [row["epochs_trained"] for row in own] == [*range(1, epochs + 1)]
        assert [row["report"] for row in own] == [*range(epochs)]
        assert [row["budget_epochs"] for row in own] == [None] * (epochs - 1) + [epochs]
        assert [row["status"] for row in own] == ["running"] * (epochs - 1) + ["completed"]
        for row in own:
            assert row["attempt"] == 0
            assert row["seed"] == 0
            assert (row["device"], row["launcher"]) == ("cpu-core", "local")
            assert 0 <= _number(row["dev.exact_match"]) <= _number(row["dev.f1"]) <= 100
            assert _number(row["train_loss"]) > 0
            assert _number(row["eval_loss"]) > 0
    assert len({row["node"] for row in rows}) == 1
    times = [_number(row["time"]) for row in rows]
    assert times == sorted(times)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return value


def test_the_configurations_are_what_the_searcher_asks_for(sweep: SweepCommand) -> None:
    searcher = StudySearcher(parse_space(SWEEP["space"]), SearchConfig(num_trials=4))
    for number, row in enumerate(finals(sweep)):
        assert values_of(row) == searcher.suggest(str(number))[VALUES]
        searcher.on_trial_complete(str(number), row)


def test_a_trials_cost_grows_and_its_parts_do_not_exceed_the_whole(sweep: SweepCommand) -> None:
    parts = ("starting", "loading", "training", "evaluating", "checkpointing", "lost")
    for row in sweep.rows:
        assert sum(_number(row[f"cost.{part}_s"]) for part in parts) <= _number(row["cost.device_s"]) + 0.05
        assert row["cost.lost_s"] == 0
        assert _number(row["cost.peak_memory_bytes"]) > 50e6
    for row in finals(sweep):
        first = next(other for other in sweep.rows if other["trial_id"] == row["trial_id"])
        assert row["cost.tokens"] == _number(first["cost.tokens"]) * _number(row["epochs_trained"])


def test_the_manifest_says_what_was_run_and_on_what(sweep: SweepCommand, room: Path) -> None:
    manifest = sweep.manifest
    assert (manifest.sweep_id, manifest.name, manifest.note) == ("a first sweep", "tiny", "")
    assert (manifest.metric, manifest.mode) == ("dev.f1", "max")
    assert (manifest.device, manifest.devices_per_trial) == ("cpu-core", 1)
    assert datetime.datetime.fromisoformat(manifest.created).utcoffset() is not None
    config = sweep_config(sweep)
    assert config.model_dump(mode="json") == manifest.config
    assert config.space == parse_space(SWEEP["space"])
    assert config.train.precision == manifest.precision != "auto"
    assert (config.train.data.train, config.train.data.dev) == (str(room / "train.json"), str(room / "dev.json"))
    assert config.train.model.name == str(room / "model")
    for name in ("train", "dev"):
        assert manifest.data[name]["sha256"] == sha256(room / f"{name}.json")
        assert manifest.data[name]["questions"] == len(read_squad(room / f"{name}.json").examples)
    assert {"untrained.f1", "untrained.exact_match"} < manifest.baselines.keys()
    assert {"question_word_overlap.f1", "question_word_overlap.exact_match"} < manifest.baselines.keys()
    assert manifest.versions["torch"] == torch.__version__
    assert {"python", "ray", "optuna", "transformers"} < manifest.versions.keys()


def test_the_models_learned_and_open_as_any_model_does(sweep: SweepCommand) -> None:
    for row in finals(sweep):
        directory = sweep.directory / "trials" / str(row["trial_id"])
        model = AutoModelForQuestionAnswering.from_pretrained(directory / "model")
        tokenizer = AutoTokenizer.from_pretrained(directory / "model")
        inputs = tokenizer("who designed the tower ?", "the tower was designed by ada .", return_tensors="pt")
        assert model(**inputs).start_logits.shape == inputs["input_ids"].shape
        record = json.loads((directory / "model" / "training.json").read_text())
        scores = record["scores"]["dev"]
        assert (scores["f1"], scores["exact_match"]) == (row["dev.f1"], row["dev.exact_match"])
        trained = build_config(TrainConfig, record["config"], "record")
        assert trained == with_values(sweep_config(sweep).train, values_of(row))
        predictions = json.loads((directory / f"predictions_dev_{row['epochs_trained']}.json").read_text())
        assert len(predictions) == 60
        assert not [*(directory / "checkpoints").glob("*")]
    best = max(_number(row["dev.f1"]) for row in finals(sweep))
    assert best > sweep.manifest.baselines["untrained.f1"] + 10


def test_the_token_of_the_own_ray_is_for_the_user_alone(sweep: SweepCommand, room: Path) -> None:
    token = room / "home" / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_nothing_is_left_in_the_home_directory(sweep: SweepCommand, room: Path) -> None:
    assert [path.name for path in (room / "home").iterdir()] == [".ray"]


# The same again: all of it, but two trials at a time, and the third trial alone.


@dataclass
class Again:
    sweep: SweepCommand
    training: SweepCommand


@pytest.fixture(scope="module")
def again(sweep: SweepCommand, room: Path) -> Again:
    config = with_values(sweep_config(sweep).train, values_of(finals(sweep)[2]))
    (room / "alone.yaml").write_text(to_yaml(config))
    precision = f"train.precision={sweep.manifest.precision}"
    with (
        sweeping(room, "two at once", "search.max_concurrent_trials=2", precision) as two,
        running(room, "alone", "qa_train", "train", "--config", "alone.yaml", "--to", "alone") as alone,
    ):
        return Again(two.finish(), alone.finish())


def test_a_trial_in_a_reused_actor_is_bit_equal_to_a_training_alone(sweep: SweepCommand, again: Again) -> None:
    assert again.training.status == 0, again.training.err
    own, alone = [row for row in sweep.rows if row["trial_id"] == "00002"], again.training.directory
    same = {"dev.f1": "f1", "dev.exact_match": "exact_match"}
    same |= {name: name for name in ("epochs_trained", "budget_epochs", "train_loss", "eval_loss", "learning_rate")}
    for row, report in zip(own, json.loads((alone / "reports.json").read_text()), strict=True):
        assert {name: row[name] for name in same} == {name: report[other] for name, other in same.items()}
        assert {name: row[name] for name in WORK} == {name: report["cost"][name] for name in WORK}
    assert sha256(alone / "model.safetensors") == weights_of(sweep, "00002")
    record = json.loads((alone / "training.json").read_text())
    assert record["precision"] == sweep.manifest.precision


def test_two_trials_run_at_once_on_a_core_each(again: Again) -> None:
    two_at_once = again.sweep
    assert two_at_once.status == 0, two_at_once.err
    assert_only_own_lines(two_at_once.err)
    assert "2 at once with 1 CPU each" in two_at_once.err
    ends = {row["trial_id"]: (_number(row["time"]), _number(row["cost.device_s"])) for row in finals(two_at_once)}
    assert len(ends) == 4
    (end_0, _), (end_1, held_1) = ends["00000"], ends["00001"]
    assert end_1 - held_1 < end_0


def test_the_same_seed_gives_the_same_trials_whatever_runs_beside_them(sweep: SweepCommand, again: Again) -> None:
    for number in range(3):  # those that are sampled before there is anything to learn from
        trial_id = f"{number:05d}"
        rows = [without_cost(row) for row in sweep.rows if row["trial_id"] == trial_id]
        assert rows == [without_cost(row) for row in again.sweep.rows if row["trial_id"] == trial_id]
        assert weights_of(sweep, trial_id) == weights_of(again.sweep, trial_id)


# Trials that fail.


def failing_space(room: Path) -> dict[str, Any]:
    return {
        "model.name": {"choice": [str(room / "model"), str(room / "nan model")]},
        "num_epochs": {"choice": [1, 1000]},
    }


def seed_of(space: Space, expected: list[Mapping[str, Any]]) -> int:
    """Returns the seed with which a random search begins with the expected values."""
    for seed in range(10_000):
        search = SearchConfig(searcher="random", num_trials=len(expected), seed=seed)
        searcher = StudySearcher(space, search)
        if all(searcher.suggest(str(number))[VALUES] == values for number, values in enumerate(expected)):
            return seed
    raise AssertionError("no such seed")


@pytest.fixture(scope="module")
def failing(room: Path) -> SweepCommand:
    """Four trials: its process is killed; its loss is NaN; its actor is killed; all is well."""
    good, bad = room / "model", room / "nan model"
    model = AutoModelForQuestionAnswering.from_pretrained(good)
    with torch.no_grad():
        model.qa_outputs.weight[0, 0] = torch.nan
    model.save_pretrained(bad)
    AutoTokenizer.from_pretrained(good).save_pretrained(bad)
    space = failing_space(room)
    order = [(good, 1000), (bad, 1), (good, 1000), (good, 1)]
    seed = seed_of(parse_space(space), [{"model.name": str(name), "num_epochs": epochs} for name, epochs in order])
    overrides = [f"space={json.dumps(space)}", f"search.seed={seed}", "search.searcher=random", "stop.max_failures=0"]
    with sweeping(room, "failures", *overrides) as command:
        command.wait_for(lambda: _reported(command, "00000"))
        [child] = command.trial_processes()
        child.send_signal(signal.SIGKILL)
        command.wait_for(lambda: _reported(command, "00002"))
        [child] = command.trial_processes()
        server = child.parent()
        assert server is not None
        actor = server.parent()
        assert actor is not None
        actor.send_signal(signal.SIGKILL)
        return command.finish()


def _reported(command: SweepCommand, trial_id: str) -> bool:
    return any(row["trial_id"] == trial_id for row in command.rows)


def test_failed_trials_do_not_end_a_sweep(failing: SweepCommand) -> None:
    assert failing.status == 1, failing.err
    assert [row["status"] for row in finals(failing)] == ["failed", "failed", "failed", "completed"]
    assert failing.out.splitlines()[0] == "1 trials completed, 3 failed"
    own = [line for line in failing.err.splitlines() if "(raylet)" not in line]  # it tells of the killed actor
    assert_only_own_lines("\n".join(own))


def test_a_killed_trial_is_recorded_with_the_signal(failing: SweepCommand) -> None:
    row = finals(failing)[0]
    assert row["error.type"] == "TrialProcessDied"
    assert "killed by signal 9" in str(row["error.message"])
    assert row["error.log"] == "trials/00000/log.txt"
    assert (failing.directory / "trials/00000/log.txt").is_file()
    assert "budget_epochs" not in row


def test_a_loss_that_is_not_finite_is_recorded_with_its_reason(failing: SweepCommand) -> None:
    row = finals(failing)[1]
    assert row["error.type"] == "QAError"
    assert re.match(r"step \d+ of \d+: the training loss is nan; lower optim\.learning_rate", str(row["error.message"]))
    assert "QAError" in (failing.directory / "trials/00001/log.txt").read_text()
    assert _number(row["cost.device_s"]) > 0


def test_a_trial_whose_actor_is_killed_is_recorded(failing: SweepCommand) -> None:
    row = finals(failing)[2]
    assert row["error.type"] == "RayActorError"
    assert _number(row["report"]) >= 1


# Two sweeps that are ended from outside while they run beside each other.


@dataclass
class Running:
    to_kill: SweepCommand
    to_interrupt: SweepCommand


@pytest.fixture(scope="module")
def two_sweeps(room: Path) -> Iterator[Running]:
    with sweeping(room, "driver killed", *LONG) as first, sweeping(room, "interrupted", *LONG) as second:
        for command in (first, second):
            command.wait_for(command.is_training)
        yield Running(first, second)


_CLIENT = "import sys, ray; ray.init(address=sys.argv[1], logging_level='CRITICAL'); print('connected', flush=True)"


def test_the_own_ray_refuses_who_has_not_its_token(two_sweeps: Running, tmp_path: Path) -> None:
    lines = [" ".join(process.cmdline()) for process in two_sweeps.to_interrupt.living()]
    [address] = {found[1] for line in lines if (found := re.search(r"--gcs-address=([\d.]+:\d+)", line))}
    other = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32, "HOME": str(tmp_path)}
    with open(tmp_path / "said", "w") as said:
        client = subprocess.Popen([sys.executable, "-c", _CLIENT, address], env=other, stdout=said, stderr=said)
    try:  # it tries for 20 seconds
        two_sweeps.to_interrupt.wait_for(lambda: client.poll() is not None or (tmp_path / "said").read_text())
        assert "InvalidAuthToken" in (tmp_path / "said").read_text()
        assert "connected" not in (tmp_path / "said").read_text()
    finally:
        client.kill()
        client.wait()


def test_after_a_killed_driver_nothing_is_left_but_readable_records(two_sweeps: Running) -> None:
    command = two_sweeps.to_kill
    command.look()
    names = " ".join(" ".join(process.cmdline()) for process in command.living())
    for part in ("raylet", "gcs_server", "ray::", "multiprocessing.forkserver"):
        assert part in names
    os.kill(command.process.pid, signal.SIGKILL)
    command.process.wait()
    command.must_be_gone()
    assert len(command.rows) >= 2
    assert {row["status"] for row in command.rows} == {"running"}
    assert command.manifest.name == "tiny"


def test_ctrl_c_ends_all_and_records_what_ran(two_sweeps: Running) -> None:
    command = two_sweeps.to_interrupt
    os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does
    command.finish()
    assert command.status == 130
    *lines, last_line = filter(None, command.err.splitlines())
    assert last_line == "interrupted"
    assert_only_own_lines("\n".join(lines))
    assert command.out == ""
    *before, last = command.rows
    assert (last["status"], last["trial_id"], last["report"]) == ("interrupted", "00000", len(before))
    assert {row["status"] for row in before} == {"running"}
    assert "budget_epochs" not in last


# What is refused.


@dataclass
class Refused:
    used_directory: SweepCommand
    too_many: SweepCommand
    bad_data: SweepCommand


@pytest.fixture(scope="module")
def refused(sweep: SweepCommand, room: Path) -> Refused:
    with (
        running(room, "used", "sweeps", "run", "sweep.yaml", "--out", str(sweep.directory)) as used,
        sweeping(room, "too many", "search.max_concurrent_trials=10000") as many,
        sweeping(room, "bad data", "train.data.dev=broken.json") as bad,
    ):
        return Refused(used.finish(), many.finish(), bad.finish())


def assert_refused(command: SweepCommand, *named: str) -> None:
    assert command.status == 2
    assert command.out == ""
    [line] = [line for line in command.err.splitlines() if not line.startswith("sweep tiny: ")]
    assert line.startswith("error: ")
    for text in named:
        assert text in line


def test_a_directory_in_use_is_refused_before_anything_starts(sweep: SweepCommand, refused: Refused) -> None:
    command = refused.used_directory
    assert_refused(command, f"{sweep.directory}: exists and is not empty; give another --out")
    assert len(command.err.splitlines()) == 1
    assert not command.family


def test_a_refused_sweep_changes_nothing_in_the_directory(sweep: SweepCommand, refused: Refused) -> None:
    assert {path.name for path in sweep.directory.iterdir()} == {"manifest.json", "records.jsonl", "study", "trials"}
    assert len(finals(sweep)) == 4
    assert sweep.manifest.sweep_id == "a first sweep"


def test_more_trials_at_once_than_fit_are_refused_with_the_arithmetic(refused: Refused) -> None:
    arithmetic = "search.max_concurrent_trials: 10000 trials of 1 x 1 CPU need 10000 CPU, found "
    assert_refused(refused.too_many, arithmetic, "set search.max_concurrent_trials to at most ")
    assert not refused.too_many.directory.exists()


def test_a_bad_data_file_is_refused_in_one_line(refused: Refused) -> None:
    assert_refused(refused.bad_data, "broken.json: ", "paragraphs")
    assert not refused.bad_data.directory.exists()
