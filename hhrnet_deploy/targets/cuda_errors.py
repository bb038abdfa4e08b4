"""What CUDA and TensorRT say when something fails, with the call, its meaning and what to do about it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hhrnet_deploy.errors import HHRNetError

_MIB = 1 << 20
# What the driver says -> what to do. First match counts.
_REMEDIES = (
    ("out of memory", "Use a smaller batch (--batch), or end other programs on this card; `nvidia-smi` lists them."),
    (
        "no kernel image",
        "The kernels of this installation were not compiled for this card. Install hhrnet-deploy again where nvcc "
        "knows it: pip install --no-binary hhrnet-deploy hhrnet-deploy",
    ),
    (
        "unsupported toolchain",
        "The driver is older than the CUDA toolkit that compiled the kernels: update the NVIDIA driver.",
    ),
    ("driver version is insufficient", "Update the NVIDIA driver."),
    ("system has unsupported", "Update the NVIDIA driver, or restart the machine after an update of it."),
    (
        "illegal memory access",
        "The card cannot be used by this process any more: restart it. If it happens again, run `make gpu-test`, whose "
        "compute-sanitizer step names the kernel, and report it.",
    ),
    ("launch timed out", "A display watches the card's time: use a smaller batch, or a card without a display."),
    ("no CUDA-capable device", "Check `nvidia-smi`, and CUDA_VISIBLE_DEVICES."),
    ("ECC", "The card reports memory errors: restart the machine; see `nvidia-smi -q -d ECC`."),
)


class CudaError(HHRNetError):
    """A call of the CUDA driver or of TensorRT failed."""


class CudaMemoryError(CudaError):
    """The card has no memory left for what was asked."""


@contextmanager
def without_frames() -> Iterator[None]:
    """Free what the frames of a failing block hold before its error goes on.

    Objects of CUDA and TensorRT that a traceback keeps alive would be freed at any later time: after their context, or
    inside a callback of TensorRT, where it waits for its own lock for ever.
    """
    try:
        yield
    except BaseException as error:
        clear_frames(error)
        raise


def clear_frames(error: BaseException | None) -> None:
    """Drop the local variables of all finished frames that an error and what led to it hold."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def failed(call: str, message: str, doing: str) -> CudaError:
    """The error of a failed call.

    Args:
        call: its name, ``cuMemAlloc``.
        message: what the library says.
        doing: what it was for, as it ends "... failed while".
    """
    hint = next((remedy for mark, remedy in _REMEDIES if mark.lower() in message.lower()), None)
    kind = CudaMemoryError if "out of memory" in message.lower() else CudaError
    return kind(f"{call} failed while {doing}: {message}.", hint=hint)


def from_pycuda(error: BaseException, doing: str) -> CudaError:
    """pycuda's errors begin with the call: "cuMemAlloc failed: out of memory"."""
    call, mark, message = str(error).partition(" failed: ")
    return failed(call, message, doing) if mark else failed("A call of CUDA", str(error), doing)


def out_of_memory(asked: int, what: str, free: int, total: int, fitting: int) -> CudaMemoryError:
    """Nothing is left on the card.

    Args:
        asked: bytes that were asked for, ``what`` they were for.
        free, total: bytes of the card.
        fitting: how many images at once would fit; 0 when not even one does.
    """
    fact = f"The card has no room for {what}: {_mib(asked)} were asked for, {_mib(free)} of {_mib(total)} are free."
    if fitting:
        return CudaMemoryError(fact, hint=f"{fitting} at once would fit: --batch {fitting}.")
    return CudaMemoryError(
        fact, hint="Not even one image fits: end other programs on this card (`nvidia-smi` lists them), or use smaller "
        "images."
    )  # fmt: skip


def _mib(size: int) -> str:
    return f"{size / _MIB:.0f} MiB"
