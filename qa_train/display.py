"""Shows on stderr how a run gets on."""

import sys
from typing import Any

from tqdm import tqdm


class Display:
    """Shows a run's events.

    Attributes:
        summary: What the run's last event told.
    """

    def __init__(self, num_epochs: int, progress: bool) -> None:
        """Shows nothing yet; `progress` says whether there shall be a bar."""
        self.summary: dict[str, Any] = {}
        self._num_epochs, self._num_shown = num_epochs, 0
        self._bar = tqdm(desc="training", unit="step", disable=not progress, leave=False)

    def show(self, event: dict[str, Any]) -> None:
        """Moves the bar, or writes a line for a warning or a report that was not shown yet."""
        if progress := event.get("progress"):
            self._bar.total = progress["num_steps"]
            self._bar.set_postfix(loss=f"{progress['loss']:.3f}", lr=f"{progress['learning_rate']:.2e}", refresh=False)
            self._bar.update(progress["step"] - self._bar.n)
        elif (report := event.get("report")) and report["epochs_trained"] > self._num_shown:
            self._num_shown = report["epochs_trained"]
            self._bar.write(self._describe(report), file=sys.stderr)
        elif "warning" in event:
            self._bar.write(f"warning: {event['warning']}", file=sys.stderr)
        elif "summary" in event:
            self._bar.close()
            self.summary = event["summary"]

    def _describe(self, report: dict[str, Any]) -> str:
        loss = "-" if report["eval_loss"] is None else f"{report['eval_loss']:.3f}"
        return (
            f"epoch {report['epochs_trained']}/{self._num_epochs}: train loss {report['train_loss']:.3f}, "
            f"dev loss {loss}, dev F1 {report['f1']:.2f}, exact match {report['exact_match']:.2f}"
        )
