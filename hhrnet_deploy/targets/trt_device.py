"""The CUDA card that is installed, asked of the driver itself: works on desktops and Jetsons, without any package."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# CUdevice_attribute, docs.nvidia.com/cuda/cuda-driver-api
_MAJOR, _MINOR = 75, 76


@cache
def compute_capability() -> str | None:
    """``sm_89`` and the like of the first visible card; None without one. Creates no CUDA context."""
    driver = load_driver()
    device = ctypes.c_int()
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    major, minor = (_attribute(driver, number, device) for number in (_MAJOR, _MINOR))
    return None if major is None or minor is None else f"sm_{major}{minor}"


def load_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver library; None where there is none."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _attribute(driver: ctypes.CDLL, number: int, device: ctypes.c_int) -> int | None:
    value = ctypes.c_int()
    return value.value if driver.cuDeviceGetAttribute(ctypes.byref(value), number, device) == 0 else None
