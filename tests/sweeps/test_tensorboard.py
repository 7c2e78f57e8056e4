import struct
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]

from sweeps.records import Row
from sweeps.tensorboard import SCALARS, CurveFiles


def row(trial_id: str = "00000", epochs: int = 1, **changes: Any) -> Row:
    own: Row = {"trial_id": trial_id, "status": "running", "epochs_trained": epochs, "time": 1000.0 + epochs}
    scores = {"dev.f1": 10.0 * epochs, "dev.exact_match": 5.0 * epochs, "train_loss": 2.0, "eval_loss": 2.5}
    return own | scores | {"learning_rate": 2.5e-5} | changes


def crc32c(data: bytes) -> int:
    """The checksum by its definition (RFC 3720, B.4), a bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def events(directory: Path, trial_id: str = "00000") -> list[Event]:
    """Reads the file as TensorBoard does."""
    [path] = (directory / "trials" / trial_id / "tensorboard").iterdir()
    assert ".tfevents." in path.name  # by which TensorBoard knows it
    data, found = path.read_bytes(), []
    while data:
        (length,), (check,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        assert check == masked(data[:8])
        content, rest = data[12 : 12 + length], data[12 + length :]
        assert struct.unpack("<I", rest[:4])[0] == masked(content)
        found.append(Event.FromString(content))
        data = rest[4:]
    return found


def test_the_checksum_is_the_standard_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_each_report_is_a_step_with_its_scores(tmp_path: Path) -> None:
    curves = CurveFiles(tmp_path, print)
    curves.record(row())
    curves.record(row(epochs=2) | {"dev.f1": 25.5})
    opening, *steps = events(tmp_path)
    assert (opening.file_version, opening.step) == ("brain.Event:2", 0)
    assert [(step.step, step.wall_time) for step in steps] == [(1, 1001.0), (2, 1002.0)]
    values = {value.tag: value.simple_value for value in steps[1].summary.value}
    assert tuple(values) == SCALARS
    assert values["dev.f1"] == 25.5
    assert values["learning_rate"] == pytest.approx(2.5e-5)


def test_each_trial_has_its_own_file_and_a_resumed_one_goes_on_in_it(tmp_path: Path) -> None:
    for epochs in (1, 2):
        for trial_id in ("00000", "00001"):
            CurveFiles(tmp_path, print).record(row(trial_id, epochs))
    for trial_id in ("00000", "00001"):
        found = events(tmp_path, trial_id)
        assert [event.file_version for event in found] == ["brain.Event:2", "", ""]
        assert [event.step for event in found[1:]] == [1, 2]


def test_what_has_no_score_adds_nothing(tmp_path: Path) -> None:
    curves = CurveFiles(tmp_path, print)
    curves.record({"trial_id": "00000", "status": "failed", "error.type": "QAError"})
    assert not (tmp_path / "trials").exists()
    curves.record(row() | dict.fromkeys(SCALARS))
    assert not (tmp_path / "trials").exists()
    curves.record(row(eval_loss=None))
    assert "eval_loss" not in [value.tag for value in events(tmp_path)[1].summary.value]


def test_what_cannot_be_written_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("in the way")
    said = list[str]()
    curves = CurveFiles(tmp_path, said.append)
    for epochs in (1, 2):
        curves.record(row(epochs=epochs))
    [warning] = said
    assert "cannot be written: Not a directory; TensorBoard will not show this sweep" in warning


def test_a_report_costs_little(tmp_path: Path) -> None:
    curves, num_reports = CurveFiles(tmp_path, print), 200
    started = time.perf_counter()
    for number in range(num_reports):
        curves.record(row(f"{number % 10:05d}", number // 10))
    each = (time.perf_counter() - started) / num_reports
    print(f"{1000 * each:.2f} ms a report")
    assert each < 0.02
