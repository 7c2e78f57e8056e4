"""Shows each trial's curves in TensorBoard: appends its scores to an event file of its own."""

import struct
import time
from collections.abc import Callable
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboardX.record_writer import masked_crc32c  # type: ignore[import-untyped]

from sweeps.records import TRIALS, Row

SCALARS = ("dev.f1", "dev.exact_match", "train_loss", "eval_loss", "learning_rate")


class CurveFiles:
    """Appends to `trials/<id>/tensorboard/`, one file a trial, its epochs as steps.

    A picture of a sweep must never end it: after the first failure there is one warning and nothing more is written.
    tensorboardX's own writer would keep a thread, a queue and an open file for each trial.
    """

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        """Writes nothing yet.

        Args:
            directory: Of the sweep.
            say: Called with a warning.
        """
        self._directory, self._say = directory, say
        self._is_broken = False

    def record(self, row: Row) -> None:
        """Appends the scores of a row, once it is written; a row without any adds nothing."""
        values = {name: row[name] for name in SCALARS if isinstance(row.get(name), int | float)}
        epochs = row.get("epochs_trained")
        if self._is_broken or not values or not isinstance(epochs, int):
            return
        trial_id = str(row["trial_id"])
        path = self._directory / TRIALS / trial_id / "tensorboard" / f"events.out.tfevents.{trial_id}"
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as file:
                now = row.get("time", time.time())
                opening = b"" if file.tell() else frame(Event(wall_time=now, file_version="brain.Event:2"))
                file.write(opening + frame(Event(wall_time=now, step=epochs, summary=summary)))
        except OSError as error:
            self._is_broken = True
            self._say(f"warning: {path}: cannot be written: {error.strerror}; TensorBoard will not show this sweep")


def frame(event: Event) -> bytes:
    """Returns an event as a TFRecord: its length, the length's checksum, its bytes, their checksum."""
    content: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc32c(length)) + content + struct.pack("<I", masked_crc32c(content))
