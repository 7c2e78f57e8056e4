"""Which precision trains fastest on a device: measured, not assumed."""

import time
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]

# Large enough that the matrix products outweigh the casts: with 4 x 96 tokens noise decided.
_PROBE_BATCH, _PROBE_SEQ_LEN, _PROBE_RUNS = 8, 128, 3
_MIN_GAIN = 1.1
"""bf16 must be faster than fp32 by this factor on a CPU; below it, the more exact arithmetic is worth more."""


def resolve_precision(
    precision: Literal["auto"] | Precision, model: nn.Module, device: torch.device, max_seq_length: int = _PROBE_SEQ_LEN
) -> Precision:
    """Returns the precision to train in.

    `auto` is bf16 on a GPU that computes in it (compute capability 8 and up), fp16 on an older GPU; on a CPU a
    training step is timed in fp32 and in bf16 (which is slower without AVX512-BF16 or AMX). The model is left as it
    was, and so is the random state.

    Args:
        precision: What the configuration asks for; anything but `auto` is returned as it is.
        model: The model on its device.
        device: The device.
        max_seq_length: Tokens in a window that the model takes; windows of at most 128 are timed.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    seq_len = min(_PROBE_SEQ_LEN, max_seq_length)
    seconds = {False: float("inf"), True: float("inf")}
    with torch.random.fork_rng(devices=[]):
        for _ in range(_PROBE_RUNS):
            for bf16 in seconds:
                seconds[bf16] = min(seconds[bf16], _time_step(model, bf16, seq_len))
    model.zero_grad(set_to_none=True)
    return "bf16" if seconds[True] * _MIN_GAIN < seconds[False] else "fp32"


def emulation_warning(precision: Precision, device: torch.device) -> str | None:
    """Returns a warning if a CPU has no instructions for bf16, which PyTorch then emulates; else None.

    Matrix products were then seen to take more than 50 times as long as in fp32 (AMD EPYC of family 25, model 1).
    """
    # Private in PyTorch 2.13, and without a public counterpart.
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if precision != "bf16" or device.type != "cpu" or has_bf16:
        return None
    return "precision is bf16, which this CPU only emulates, many times slower than fp32; set precision=auto"


def _time_step(model: nn.Module, bf16: bool, seq_len: int) -> float:
    batch_size = _PROBE_BATCH * _PROBE_SEQ_LEN // seq_len
    input_ids = torch.zeros(batch_size, seq_len, dtype=torch.int64)
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        output = model(input_ids=input_ids)
        loss = output.start_logits.float().mean() + output.end_logits.float().mean()
    loss.backward()
    return time.perf_counter() - start
