"""pycuda's driver interface over the simulated card: what the runtime uses of it, where pycuda itself is not built."""

from __future__ import annotations

import ctypes
import importlib.machinery
import struct
import types
from collections.abc import Sequence
from typing import Any

import numpy as np


class Error(Exception): ...


class OutOfMemoryError(Error): ...


class LogicError(Error): ...


class Api:
    """Calls of the simulated libcuda; results other than 0 become pycuda's errors."""

    def __init__(self, sim: ctypes.CDLL) -> None:
        self.sim = sim

    def __call__(self, name: str, *arguments: Any) -> None:
        code = getattr(self.sim, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.sim.cuGetErrorString(code, ctypes.byref(text))
            kind = OutOfMemoryError if code == 2 else LogicError
            raise kind(f"{name.removesuffix('_v2')} failed: {(text.value or b'').decode()}")


class _Handle:
    _destroy = ""

    def __init__(self, api: Api, create: str, *arguments: Any) -> None:
        self.api, self.value = api, ctypes.c_void_p()
        api(create, ctypes.byref(self.value), *arguments)

    def __del__(self) -> None:
        self.api(self._destroy, self.value)


class Allocation(_Handle):
    """Of the card, and of pinned memory where it is an array's base."""

    def __init__(self, api: Api, create: str, free: str, nbytes: int, *flags: Any) -> None:
        self._free, self.nbytes, self.live = free, nbytes, False
        super().__init__(api, create, ctypes.c_size_t(nbytes), *flags)
        self.live = True

    def __int__(self) -> int:
        return int(self.value.value or 0)

    def free(self) -> None:
        if self.live:
            self.live = False
            self.api(self._free, self.value)

    def __del__(self) -> None:
        self.free()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"shape": (self.nbytes,), "typestr": "|u1", "data": (int(self), False), "version": 3}


class Stream(_Handle):
    _destroy = "cuStreamDestroy_v2"

    @property
    def handle(self) -> int:
        return int(self.value.value or 0)

    def synchronize(self) -> None:
        self.api("cuStreamSynchronize", self.value)

    def wait_for_event(self, event: Event) -> None:
        self.api("cuStreamWaitEvent", self.value, event.value, 0)


class Event(_Handle):
    _destroy = "cuEventDestroy_v2"

    def time_since(self, earlier: Event) -> float:
        milliseconds = ctypes.c_float()
        self.api("cuEventElapsedTime_v2", ctypes.byref(milliseconds), earlier.value, self.value)
        return milliseconds.value

    def record(self, stream: Stream) -> None:
        self.api("cuEventRecord", self.value, stream.value)

    def synchronize(self) -> None:
        self.api("cuEventSynchronize", self.value)


class Function:
    def __init__(self, api: Api, name: str) -> None:
        self.api, self.value, self.format = api, ctypes.c_void_p(), ""
        api("cuModuleGetFunction", ctypes.byref(self.value), None, name.encode())

    def prepare(self, arg_types: str) -> None:
        self.format = "@" + arg_types

    def prepared_async_call(self, grid: Sequence[int], block: Sequence[int], stream: Stream, *args: int) -> None:
        packed = ctypes.create_string_buffer(struct.pack(self.format, *args), struct.calcsize(self.format))
        size = ctypes.c_size_t(len(packed))
        extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(packed), 2, ctypes.addressof(size), None)
        self.api("cuLaunchKernel", self.value, *grid, *block, 0, stream.value, None, extra)


class Module:
    def __init__(self, api: Api) -> None:
        self.api = api
        api("cuModuleLoadData", ctypes.byref(ctypes.c_void_p()), None)

    def get_function(self, name: str) -> Function:
        return Function(self.api, name)


class Context:
    """The primary context; ``pop`` and ``synchronize`` are static, as pycuda's."""

    api: Api

    def __init__(self, api: Api) -> None:
        Context.api, self.value = api, ctypes.c_void_p()
        api("cuDevicePrimaryCtxRetain", ctypes.byref(self.value), 0)

    def push(self) -> None:
        self.api("cuCtxPushCurrent_v2", self.value)

    @staticmethod
    def pop() -> None:
        Context.api("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    @staticmethod
    def synchronize() -> None:
        Context.api("cuCtxSynchronize")


def make_package(sim: ctypes.CDLL) -> dict[str, types.ModuleType]:
    """``pycuda`` and ``pycuda.driver``, for sys.modules."""
    api = Api(sim)
    package, driver = types.ModuleType("pycuda"), types.ModuleType("pycuda.driver")
    package.__spec__ = importlib.machinery.ModuleSpec("pycuda", None, is_package=True)
    package.__path__ = []

    class Device:
        def __init__(self, number: int) -> None: ...

        def retain_primary_context(self) -> Context:
            return Context(api)

        def name(self) -> str:
            return "Simulated"

    def mem_get_info() -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        api("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def pagelocked_empty(shape: int, dtype: Any) -> Any:
        return np.asarray(Allocation(api, "cuMemHostAlloc", "cuMemFreeHost", shape, 0), dtype)

    def address_of(array: Any) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    def memcpy_htod(dest: int, src: Any) -> None:
        api("cuMemcpyHtoD_v2", ctypes.c_void_p(dest), address_of(src), ctypes.c_size_t(src.nbytes))

    def memcpy_dtoh(dest: Any, src: int) -> None:
        api("cuMemcpyDtoH_v2", address_of(dest), ctypes.c_void_p(src), ctypes.c_size_t(dest.nbytes))

    def memcpy_htod_async(dest: int, src: Any, stream: Stream) -> None:
        api("cuMemcpyHtoDAsync_v2", ctypes.c_void_p(dest), address_of(src), ctypes.c_size_t(src.nbytes), stream.value)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream) -> None:
        api("cuMemcpyDtoHAsync_v2", address_of(dest), ctypes.c_void_p(src), ctypes.c_size_t(dest.nbytes), stream.value)

    def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
        places = ctypes.c_void_p(dest), ctypes.c_void_p(src), ctypes.c_size_t(size)
        api("cuMemcpyDtoDAsync_v2", *places, stream.value)

    flags = types.SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)
    names: dict[str, Any] = {
        **{"Error": Error, "MemoryError": OutOfMemoryError, "LogicError": LogicError, "Context": Context},
        **{"Device": Device, "event_flags": flags, "init": lambda: api("cuInit", 0)},
        "Stream": lambda flags: Stream(api, "cuStreamCreate", flags),
        "Event": lambda flags: Event(api, "cuEventCreate", flags),
        "mem_alloc": lambda nbytes: Allocation(api, "cuMemAlloc_v2", "cuMemFree_v2", nbytes),
        "module_from_buffer": lambda data: Module(api),
        "get_driver_version": lambda: 13000,
    }
    functions = (
        mem_get_info,
        pagelocked_empty,
        memcpy_htod,
        memcpy_dtoh,
        memcpy_htod_async,
        memcpy_dtoh_async,
        memcpy_dtod_async,
    )
    for name, value in {**names, **{one.__name__: one for one in functions}}.items():
        setattr(driver, name, value)
    package.driver = driver  # type: ignore[attr-defined]
    return {"pycuda": package, "pycuda.driver": driver}
