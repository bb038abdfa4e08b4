"""Errors a user can act on.

Every error says what was expected, what was got and what to do. The command line prints these without a
traceback (``HHRNET_DEBUG=1`` shows it); anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import re

# PyTorch on a CPU and on a card, ONNX Runtime, OpenVINO, C++: each has a class of its own, or none.
_MEMORY_FULL = re.compile(r"can't allocate memory|out of memory|failed to allocate|bad_alloc", re.IGNORECASE)


class HHRNetError(Exception):
    """A mistake in the input or the surroundings that the user can mend; the command exits with 1.

    Args:
        fact: one sentence with what was expected and what was got.
        hint: what to do about it; printed on its own line.
    """

    exit_code = 1

    def __init__(self, fact: str, *, hint: str | None = None) -> None:
        super().__init__(fact if hint is None else f"{fact}\n  {hint}")
        self.fact = fact
        self.hint = hint


class InputError(HHRNetError):
    """A file, image, shape, flag or annotation is not what it has to be."""


class CheckpointError(InputError):
    """A checkpoint cannot be read or does not hold the network it is said to hold."""


class BundleError(InputError):
    """An engine bundle is incomplete, edited, foreign or built for something else."""


class MissingDependencyError(HHRNetError):
    """An optional package is needed and not installed; the hint names the extra that brings it."""


class GateFailedError(HHRNetError):
    """A measured figure is beyond the limit that was asked for; the command exits with 3."""

    exit_code = 3


def is_memory_full(error: BaseException) -> bool:
    """Whether an error, of whichever library, says that memory could not be had."""
    return isinstance(error, MemoryError) or _MEMORY_FULL.search(str(error)) is not None
