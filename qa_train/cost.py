"""What a run costs: seconds by part, tokens, floating-point operations, memory."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Part = Literal["starting", "loading", "training", "evaluating", "checkpointing", "lost"]


@dataclass
class CostMeter:
    """Adds up what a run has cost so far; part of its checkpoint, so that a resumed run goes on counting.

    Attributes:
        seconds: Wall-clock seconds by part. `lost` is work that had to be done again after an interruption.
        tokens: Tokens trained on, without padding.
        flop: Floating-point operations done in training and evaluation, padding included.
        peak_memory_bytes: Largest memory of one process: allocated on the GPU, or resident on a CPU.
    """

    seconds: dict[Part, float] = field(default_factory=lambda: dict.fromkeys(get_args(Part), 0.0))
    tokens: int = 0
    flop: float = 0.0
    peak_memory_bytes: int = 0
    _parts: list[Part] = field(default_factory=list, init=False, repr=False, compare=False)
    _booked: float = field(default=0.0, init=False, repr=False, compare=False)

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Adds the time that the `with` block takes to a part, also if it raises; a part within it does not count."""
        self._book()
        self._parts.append(name)
        try:
            yield
        finally:
            self._book()
            self._parts.pop()

    def _book(self) -> None:
        """Adds the time since the last booking to the innermost part."""
        now = time.perf_counter()
        if self._parts:
            self.seconds[self._parts[-1]] += now - self._booked
        self._booked = now

    def columns(self, prefix: str = "cost") -> dict[str, float | int]:
        """Returns the costs by their column names in reports and records."""
        parts: dict[str, float | int] = {f"{prefix}.{name}_s": value for name, value in self.seconds.items()}
        return {
            **parts,
            f"{prefix}.tokens": self.tokens,
            f"{prefix}.tflop": self.flop / 1e12,
            f"{prefix}.peak_memory_bytes": self.peak_memory_bytes,
        }

    def copy(self) -> "CostMeter":
        """Returns what has been counted up to now, in a meter that does not go on."""
        self._book()
        return CostMeter.from_json(self.to_json())

    def minus(self, part: "CostMeter") -> "CostMeter":
        """Returns the cost without that of a part of the run; peaks of memory are not told apart."""
        seconds = {name: value - part.seconds[name] for name, value in self.seconds.items()}
        return CostMeter(seconds, self.tokens - part.tokens, self.flop - part.flop, self.peak_memory_bytes)

    def add(self, other: "CostMeter") -> None:
        """Adds the cost of an earlier part of the same run."""
        for name, value in other.seconds.items():
            self.seconds[name] += value
        self.tokens += other.tokens
        self.flop += other.flop
        self.peak_memory_bytes = max(self.peak_memory_bytes, other.peak_memory_bytes)

    def to_json(self) -> dict[str, object]:
        """Returns what `from_json` reads back."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CostMeter":
        """Returns the meter that `to_json` described."""
        return cls(**values)


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the largest memory that this process has held: allocated on a GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class FlopModel:
    """Floating-point operations of a transformer for one sequence, as polynomials in its length.

    A transformer's operations are exactly quadratic in the sequence length (linear layers and attention) and
    proportional to the batch, so three measured lengths give them for every batch.

    Attributes:
        training: [3] coefficients of length**2, length, 1 for a forward and a backward pass.
        inference: [3] the same for a forward pass.
    """

    training: tuple[float, float, float]
    inference: tuple[float, float, float]

    def count(self, batch_size: int, seq_len: int, *, training: bool) -> float:
        """Returns the operations of one pass over a padded batch."""
        coefficients = self.training if training else self.inference
        return batch_size * float(np.polyval(coefficients, seq_len))


_PROBE_LENGTHS = (8, 12, 16)
"""No longer than the shortest window that a configuration may ask for: a model need not have more positions."""


def measure_flop(model: nn.Module, loss_of: Callable[[Tensor], Tensor]) -> FlopModel:
    """Counts a model's operations with `torch.utils.flop_counter` at three lengths and fits the polynomials.

    Attention counts as the plain matrix products that it is, whatever kernel computes it later. The model's gradients
    must be None and are None afterwards; the random state is put back.

    Args:
        model: The model in its training mode, on its device.
        loss_of: Returns the loss of `input_ids` [batch, seq_len] int64.
    """
    device = next(model.parameters()).device

    def count(seq_len: int, training: bool) -> int:
        input_ids = torch.zeros(1, seq_len, dtype=torch.int64, device=device)
        # Of the fused kernels, the counter misses the CPU's and adds what the GPU's compute again.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            loss = loss_of(input_ids)
            if training:
                loss.backward()  # type: ignore[no-untyped-call]
        return int(counter.get_total_flops())

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        training, inference = ([count(length, passes) for length in _PROBE_LENGTHS] for passes in (True, False))
    model.zero_grad(set_to_none=True)
    return FlopModel(_fit(training), _fit(inference))


def _fit(counts: list[int]) -> tuple[float, float, float]:
    a, b, c = np.polyfit(_PROBE_LENGTHS, counts, deg=2)
    return float(a), float(b), float(c)
