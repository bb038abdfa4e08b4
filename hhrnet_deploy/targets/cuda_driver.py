"""The card through pycuda: its primary context, memory, streams, events and the compiled kernels.

The primary context is the one that PyTorch and TensorRT use too. It is retained once per process and made current only
while a call of this project runs, in whichever thread; nothing is current in between, and ``pycuda.autoinit`` is never
imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.decode.launch_table import KERNELS, THREADS
from hhrnet_deploy.lazy import require
from hhrnet_deploy.targets.cuda_errors import CudaError, from_pycuda

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no implicit wait for the default stream, which other libraries use
PURPOSE = "running engines on an NVIDIA GPU"


@cache
def open_driver() -> Driver:
    """The first visible card; the same object for the whole process.

    Raises:
        MissingDependencyError: pycuda is not installed.
        CudaError: there is no card, or its driver does not work.
    """
    return Driver(require("pycuda.driver", purpose=PURPOSE))


class Driver:
    """One card. Everything but the constructor's work happens inside ``with driver.current(doing)``."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        try:
            cuda.init()
            self.device = cuda.Device(0)
            self._context = self.device.retain_primary_context()
        except cuda.Error as error:
            raise from_pycuda(error, "opening the card") from None

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        """Make the context current in this thread, and say what was being done when a call of CUDA fails.

        Raises:
            CudaError: instead of pycuda's errors, which are not kept: their frames hold objects of the card.
        """
        failure: CudaError | None = None
        self._context.push()
        try:
            yield
        except self.cuda.Error as error:
            failure = from_pycuda(error, doing)
        finally:
            self.cuda.Context.pop()
        if failure is not None:
            raise failure from None

    def version(self) -> int:
        """Of the driver: the newest CUDA it runs, 13000 for 13.0."""
        return int(self.cuda.get_driver_version())

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the card."""
        free, total = self.cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Any:
        """Memory on the card; ``int()`` is its address, ``free()`` gives it back."""
        return self.cuda.mem_alloc(nbytes)

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Page-locked host memory, which the card copies from and to by itself; `unpin` gives it back."""
        pinned: npt.NDArray[np.uint8] = self.cuda.pagelocked_empty(nbytes, np.uint8)
        return pinned

    def unpin(self, array: npt.NDArray[np.uint8]) -> None:
        """Free what `pinned` gave; no view of it may be used any more."""
        base: Any = array.base
        base.free()

    def stream(self) -> Any:
        """A stream that waits for no other."""
        return self.cuda.Stream(_NON_BLOCKING)

    def event(self, *, timing: bool = False) -> Any:
        """An event on which the host sleeps while it waits."""
        flags = self.cuda.event_flags
        quiet = 0 if timing else flags.DISABLE_TIMING
        return self.cuda.Event(flags.BLOCKING_SYNC | quiet)

    def upload(self, address: int, source: npt.NDArray[np.uint8], stream: Any) -> None:
        """Copy pinned host memory to the card."""
        self.cuda.memcpy_htod_async(address, source, stream)

    def write(self, address: int, source: npt.NDArray[Any]) -> None:
        """Copy any host memory to the card; it has arrived, for streams that wait for no other too, on return."""
        self.cuda.memcpy_htod(address, source)
        self.cuda.Context.synchronize()

    def download(self, target: npt.NDArray[np.uint8], address: int, stream: Any) -> None:
        """Copy from the card to pinned host memory."""
        self.cuda.memcpy_dtoh_async(target, address, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        """Copy on the card."""
        self.cuda.memcpy_dtod_async(target, source, nbytes, stream)

    def kernels(self, fatbin: Path) -> Kernels:
        """The compiled kernels."""
        return Kernels(self.cuda.module_from_buffer(fatbin.read_bytes()))


class Kernels:
    """The functions of the launch table, ready to be launched."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._functions = {}
        for name, kernel in KERNELS.items():
            function = module.get_function(name)
            pointers, scalars = (len(kernel.inputs), len(kernel.outputs)), len(kernel.scalars)
            function.prepare("P" * pointers[0] + "i" * scalars + "P" * pointers[1])
            self._functions[name] = function

    def launch(self, name: str, grid: tuple[int, int, int], arguments: Sequence[int], stream: Any) -> None:
        """Launch one kernel: addresses and int32 scalars, in the order of the launch table."""
        self._functions[name].prepared_async_call(grid, (THREADS, 1, 1), stream, *arguments)

    def close(self) -> None:
        """Unload the module."""
        self._functions.clear()
        self._module = None
