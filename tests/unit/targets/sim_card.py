"""A simulated card for tests: builds libcuda_sim.cpp once per session and puts it where the runtime looks.

With HHRNET_SIM_PYCUDA=1 the process was started with the simulated library preloaded as ``libcuda.so.1``, and pycuda
itself is used instead of sim_pycuda.py.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sim_pycuda
import sim_trt

import hhrnet_deploy.decode
from hhrnet_deploy.targets import cuda_driver, cuda_graphs, cuda_ready, cuda_session, trt_device, trt_target

HERE = Path(__file__).parent
CSRC = Path(hhrnet_deploy.decode.__file__ or "").parent / "csrc"
REAL_PYCUDA = "HHRNET_SIM_PYCUDA"


def build_library(folder: Path, name: str, others: Sequence[str] = ()) -> Path:
    """Compile the simulated driver; ``others`` are calls that only have to exist."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    library = folder / name
    stubs = folder / "others.inc"
    stubs.write_text("".join(f"int {one}() {{ return sim::kNotSupported; }}\n" for one in others))
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Werror"]
    paths = [f"-I{CSRC}", f"-I{HERE.parent / 'decode' / 'native'}", f'-DSIM_OTHERS="{stubs}"', f"-Wl,-soname,{name}"]
    source = str(HERE / "native" / "libcuda_sim.cpp")
    subprocess.run([compiler, *flags, *paths, "-x", "c++", source, "-o", str(library)], check=True)
    return library


@dataclass
class Card:
    """The simulated card, and TensorRT on it."""

    sim: ctypes.CDLL
    trt: Any
    folder: Path

    def use(self, monkeypatch: pytest.MonkeyPatch, *, rtx: bool = False) -> Any:
        """Put card, pycuda, kernels and a TensorRT where the runtime finds them; the module is returned."""
        trt = sim_trt.make_module(self.sim, rtx=rtx)
        trt.__spec__ = importlib.machinery.ModuleSpec(trt.__name__, None)
        modules: dict[str, types.ModuleType] = {trt.__name__: trt}
        if os.environ.get(REAL_PYCUDA) != "1":
            modules |= sim_pycuda.make_package(self.sim)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        fatbin = self.folder / "kernels.fatbin"
        fatbin.write_bytes(b"simulated")
        for room in (cuda_session, cuda_ready):
            monkeypatch.setattr(room, "fatbin_file", lambda: fatbin)
        for room in (cuda_ready, trt_target):
            monkeypatch.setattr(room, "compute_capability", lambda: "sm_89")
        for room in (trt_device, cuda_graphs):
            monkeypatch.setattr(room, "load_driver", lambda: self.sim)
        cuda_driver.open_driver.cache_clear()
        cuda_graphs._driver.cache_clear()
        self.trt = trt
        return trt

    def forget(self) -> None:
        """After a test: later ones have no card."""
        cuda_driver.open_driver.cache_clear()
        cuda_graphs._driver.cache_clear()


def open_library(folder: Path) -> ctypes.CDLL:
    """The simulated driver; preloaded where pycuda is the real one."""
    if os.environ.get(REAL_PYCUDA) == "1":
        return ctypes.CDLL("libcuda.so.1")
    return ctypes.CDLL(str(build_library(folder, "libcudasim.so")))
