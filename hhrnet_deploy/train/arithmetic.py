"""Which type a recipe's precision computes in on a device, and with which kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

NO_BF16 = (
    "This processor multiplies no bf16 numbers itself, and emulating them takes several times as long as float32: "
    "the recipe's bf16 is computed in float32."
)
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type that forward passes are cast to; None leaves them in float32.

    Args:
        precision: of the recipe. ``bf16`` falls back to float32 where the device would emulate it.
        device: where to compute.
    """
    if precision == "bf16" and not has_bf16(device):
        return None
    return _AUTOCAST.get(precision)


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 itself.

    CPUs do that oneDNN has kernels for (x86: with AVX-512), GPUs from Ampere on.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def fastest_kernels() -> Iterator[None]:
    """Let cuDNN try its kernels where a shape is new, as the official configuration does; a run has one shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
