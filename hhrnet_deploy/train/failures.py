"""What torch's own errors in a training mean, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hhrnet_deploy.errors import HHRNetError, is_memory_full


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Say what it means when torch reports a dead loading process.

    Raises:
        HHRNetError: instead of torch's ``RuntimeError``.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise HHRNetError(
            f"A process that loads images was ended from outside: {str(error).strip()}.",
            hint="Memory may have run out; use fewer with --set workers=N. --resume goes on from the last checkpoint.",
        ) from error


@contextmanager
def full_memory_named(images: int, crop: int) -> Iterator[None]:
    """Say which batch memory had no room for.

    Args:
        images: that a device takes at once.
        crop: their side in pixels.

    Raises:
        HHRNetError: instead of torch's ``OutOfMemoryError`` on a card and its ``RuntimeError`` on a CPU.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_memory_full(error):
            raise
        raise HHRNetError(
            f"Memory has no room for {images} images of {crop}x{crop} at once.",
            hint="Take fewer with --set images_per_device=N: gradients are added up to the same global batch. --resume "
            "goes on from the last checkpoint.",
        ) from error
