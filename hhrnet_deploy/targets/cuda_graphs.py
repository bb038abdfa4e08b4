"""What pycuda lacks of the CUDA driver: graphs, and waiting for a stream of another library. Called through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from hhrnet_deploy.targets.cuda_errors import failed
from hhrnet_deploy.targets.trt_device import load_driver

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads go on as they like
_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_Handle = ctypes.c_void_p

# docs.nvidia.com/cuda/cuda-driver-api: arguments of each call; all return a CUresult.
_CALLS: dict[str, tuple[type, ...]] = {
    "cuStreamBeginCapture_v2": (_Handle, ctypes.c_int),
    "cuStreamEndCapture": (_Handle, ctypes.POINTER(_Handle)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(_Handle), _Handle, ctypes.c_ulonglong),
    "cuGraphLaunch": (_Handle, _Handle),
    "cuGraphExecDestroy": (_Handle,),
    "cuGraphDestroy": (_Handle,),
    "cuEventCreate": (ctypes.POINTER(_Handle), ctypes.c_uint),
    "cuEventRecord": (_Handle, _Handle),
    "cuEventDestroy_v2": (_Handle,),
    "cuStreamWaitEvent": (_Handle, _Handle, ctypes.c_uint),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class Graph:
    """A captured sequence that the card runs with one call."""

    def __init__(self, executable: ctypes.c_void_p) -> None:
        self._executable = executable

    def launch(self, stream: int) -> None:
        """Run it in a stream.

        Raises:
            CudaError: CUDA refuses.
        """
        _call("cuGraphLaunch", self._executable, stream)

    def close(self) -> None:
        """Free it."""
        if self._executable:
            _call("cuGraphExecDestroy", self._executable)
            self._executable = ctypes.c_void_p()


def capture(stream: int, issue: Callable[[], None]) -> Graph:
    """What ``issue`` enqueues into ``stream``, as a graph; nothing of it runs now.

    Raises:
        CudaError: an operation cannot be captured.
    """
    _call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
    captured = ctypes.c_void_p()
    try:
        issue()
    except BaseException:
        _driver().cuStreamEndCapture(stream, ctypes.byref(captured))
        if captured:
            _driver().cuGraphDestroy(captured)
        raise
    _call("cuStreamEndCapture", stream, ctypes.byref(captured))
    executable = ctypes.c_void_p()
    try:
        _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), captured, 0)
    finally:
        _driver().cuGraphDestroy(captured)
    return Graph(executable)


def wait_for_stream(stream: int, other: int) -> None:
    """Have ``stream`` wait for all that was enqueued in ``other``, which may be the default stream (0, 1 or 2).

    Raises:
        CudaError: one of them is no stream of the current context.
    """
    event = ctypes.c_void_p()
    _call("cuEventCreate", ctypes.byref(event), _DISABLE_TIMING)
    try:
        _call("cuEventRecord", event, other)
        _call("cuStreamWaitEvent", stream, event, 0)
    finally:
        _driver().cuEventDestroy_v2(event)  # CUDA keeps it until the wait is over


def _call(name: str, *arguments: object) -> None:
    code = getattr(_driver(), name)(*arguments)
    if code != 0:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        raise failed(name, (text.value or f"error {code}".encode()).decode(), "using a CUDA graph or stream")


@cache
def _driver() -> ctypes.CDLL:
    driver = load_driver()
    if driver is None:
        raise failed("Loading libcuda", "no CUDA-capable device is detected", "using a CUDA graph or stream")
    for name, arguments in _CALLS.items():
        function = getattr(driver, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
    return driver
