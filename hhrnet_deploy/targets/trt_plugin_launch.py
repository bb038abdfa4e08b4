"""Launching kernels from inside TensorRT: on its stream, in the context that is current.

pycuda (2026.1) launches only on streams that it made itself, and a plugin gets its stream as a handle; so these few
calls go to the driver directly. What is launched, and with which arguments, is the launch table's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

from hhrnet_deploy.decode.kernel_files import fatbin_file
from hhrnet_deploy.decode.launch_table import THREADS, Kernel
from hhrnet_deploy.errors import HHRNetError
from hhrnet_deploy.targets.trt_device import load_driver


class KernelLauncher:
    """The compiled kernels through a CUDA driver library."""

    def __init__(self, driver: ctypes.CDLL, fatbin: bytes) -> None:
        self._driver = driver
        self._fatbin = fatbin
        self._functions: dict[tuple[int, str], ctypes.c_void_p] = {}

    def launch(self, kernel: Kernel, grid: tuple[int, int, int], arguments: Sequence[int], stream: int) -> None:
        """Enqueue one kernel.

        Args:
            kernel: of the launch table.
            grid: blocks along x, y and z.
            arguments: addresses and int32 scalars, in the table's order.
            stream: handle of the stream.

        Raises:
            HHRNetError: the driver refuses; with its error number.
        """
        pointers = {one.name for one in (*kernel.inputs, *kernel.outputs)}
        values = [
            ctypes.c_void_p(value) if name in pointers else ctypes.c_int32(value)
            for name, value in zip(kernel.arguments, arguments, strict=True)
        ]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = [ctypes.c_uint(size) for size in (*grid, THREADS, 1, 1, 0)]
        function = self._function(kernel.name)
        self._call("cuLaunchKernel", kernel, function, *sizes, ctypes.c_void_p(stream), addresses, None)

    def _function(self, name: str) -> ctypes.c_void_p:
        context = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", name, ctypes.byref(context))
        key = (context.value or 0, name)
        if key not in self._functions:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            self._call("cuModuleLoadData", name, ctypes.byref(module), self._fatbin)
            self._call("cuModuleGetFunction", name, ctypes.byref(function), module, name.encode())
            self._functions[key] = function
        return self._functions[key]

    def _call(self, name: str, doing: Kernel | str, *arguments: object) -> None:
        result = getattr(self._driver, name)(*arguments)
        if result != 0:
            kernel = doing if isinstance(doing, str) else doing.name
            raise HHRNetError(
                f"CUDA's {name} returned error {result} for the kernel {kernel} of a TensorRT plugin.",
                hint="Update the NVIDIA driver, or build the engine with heads as outputs.",
            )


@cache
def kernel_launcher() -> KernelLauncher:
    """The launcher of this process.

    Raises:
        HHRNetError: no driver, or an installation without CUDA kernels.
    """
    driver = load_driver()
    if driver is None:
        raise HHRNetError("There is no NVIDIA driver on this machine; a TensorRT plugin cannot run.")
    return KernelLauncher(driver, fatbin_file().read_bytes())
