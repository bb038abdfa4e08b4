"""What this machine can build and run, and what one command would add the rest. Imports none of the heavy packages."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hhrnet_deploy.targets.cuda_ready import missing_to_run

_PACKAGES = (
    *("torch", "onnx", "onnxsim", "onnxruntime", "openvino", "opencv-python-headless", "pycocotools", "numpy"),
    *("tensorrt", "tensorrt-rtx", "pycuda", "polygraphy", "av", "tensorboard", "matplotlib"),
)
_TENSORRT = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_COMPILERS = ("g++", "cmake", "ninja", "nvcc")
_CPU_FACTS = Path("/proc/cpuinfo")
# Linux's names of the instructions.
_VNNI = frozenset({"avx_vnni", "avx512_vnni"})
_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
_TIMEOUT = 20


@dataclass(frozen=True)
class Gpu:
    """One card as ``nvidia-smi`` reports it; memory in MiB."""

    name: str
    compute_capability: str
    memory_mib: int
    driver: str


@dataclass(frozen=True)
class Ability:
    """Something hhrnet does, whether it works here, and what is missing otherwise."""

    name: str
    works: bool
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Everything ``hhrnet doctor`` prints."""

    python: str
    system: str
    cores: int
    memory_gib: float
    packages: dict[str, str | None]
    compilers: dict[str, str | None]
    gpus: list[Gpu]
    abilities: list[Ability]

    def as_document(self) -> dict[str, Any]:
        """The same as plain dictionaries, for JSON."""
        return asdict(self)


def diagnose() -> Diagnosis:
    """Look at Python, packages, compilers, driver and cards; changes nothing."""
    packages = {name: _version_of(name) for name in _PACKAGES}
    compilers = {name: _compiler(name) for name in _COMPILERS}
    gpus = _gpus()
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=_memory_gib(),
        packages=packages,
        compilers=compilers,
        gpus=gpus,
        abilities=_abilities(packages, compilers, gpus),
    )


def _version_of(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _output_of(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _compiler(name: str) -> str | None:
    text = _output_of([name, "--version"])
    if text is None:
        return None
    # nvcc's last line says "Build cuda_13.0.r13.0/...", the line before "release 13.0, V13.0.88".
    found = re.search(r"\bV(\d+(?:\.\d+)+)" if name == "nvcc" else r"\b(\d+(?:\.\d+)+)\b", text)
    return found[1] if found else "unknown"


def _gpus() -> list[Gpu]:
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    text = _output_of(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    rows = [[cell.strip() for cell in line.split(",")] for line in (text or "").splitlines() if line.strip()]
    return [Gpu(row[0], row[1], _whole(row[2]), row[3]) for row in rows if len(row) == 4]


def _whole(text: str) -> int:
    return int(float(text)) if re.fullmatch(r"\d+(\.\d+)?", text) else 0


def _memory_gib() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return 0.0


def _abilities(packages: dict[str, str | None], compilers: dict[str, str | None], gpus: list[Gpu]) -> list[Ability]:
    return [
        _decoder(),
        _cpu_engine("openvino", packages),
        _cpu_engine("onnxruntime", packages),
        *_arithmetic(_cpu_flags(_CPU_FACTS)),
        _tensorrt_build(packages, gpus),
        _rtx_build(packages),
        _gpu_runtime(packages, gpus),
        _kernels(compilers),
        _video(packages),
    ]


def _decoder() -> Ability:
    found = importlib.util.find_spec("hhrnet_deploy.decode._native") is not None
    detail = "compiled decoder is installed" if found else "the compiled decoder is missing from this installation"
    return Ability("native decoder", found, detail, None if found else "pip install --force-reinstall hhrnet-deploy")


def _cpu_engine(package: str, packages: dict[str, str | None]) -> Ability:
    found = packages[package]
    detail = f"builds and runs engines on this CPU ({found})" if found else f"{package} is not installed"
    return Ability(f"target {package}", found is not None, detail, None if found else f"pip install {package}")


def _cpu_flags(facts: Path) -> frozenset[str]:
    """The instructions an x86 processor has; none where the system does not tell."""
    try:
        found = re.search(r"^flags\s*:(.*)$", facts.read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(found[1].split()) if found else frozenset()


def _arithmetic(flags: frozenset[str]) -> list[Ability]:
    """How fast int8 and bf16 are on this CPU; nothing where that is not known."""
    if not flags:
        return []
    vnni, bf16 = bool(flags & _VNNI), bool(flags & _BF16)
    fast = "VNNI" if vnni else "no VNNI: int8 engines are as accurate, but only about twice as fast as float32"
    half = "bf16 instructions" if bf16 else "none here: build fp32 or int8; trainings in bf16 say how they compute"
    return [Ability("fast int8 on this CPU", vnni, fast), Ability("bf16 on this CPU", bf16, half)]


def _tensorrt_build(packages: dict[str, str | None], gpus: list[Gpu]) -> Ability:
    found = packages["tensorrt"]
    if found is None:
        return Ability("target tensorrt", False, "tensorrt is not installed", "pip install 'hhrnet-deploy[tensorrt]'")
    if not gpus:
        return Ability("target tensorrt", False, f"tensorrt {found} is installed, no NVIDIA GPU is visible")
    return Ability("target tensorrt", True, f"builds engines for {gpus[0].name} (tensorrt {found})")


def _rtx_build(packages: dict[str, str | None]) -> Ability:
    found = packages["tensorrt-rtx"]
    detail = f"builds engines, no GPU needed for that ({found})" if found else "tensorrt-rtx is not installed"
    remedy = None if found else "pip install 'hhrnet-deploy[rtx]'"
    return Ability("target tensorrt-rtx", found is not None, detail, remedy)


def _gpu_runtime(packages: dict[str, str | None], gpus: list[Gpu]) -> Ability:
    if not gpus:
        return Ability("run engines on a GPU", False, "no NVIDIA GPU is visible (nvidia-smi lists none)")
    installed = [module for package, module in _TENSORRT.items() if packages[package] is not None]
    missing = missing_to_run((installed or ["tensorrt"])[0])
    if missing is not None:
        return Ability("run engines on a GPU", False, missing.fact, missing.remedy)
    return Ability("run engines on a GPU", True, f"{gpus[0].name}, driver {gpus[0].driver}, {', '.join(installed)}")


def _kernels(compilers: dict[str, str | None]) -> Ability:
    found = compilers["nvcc"]
    detail = f"nvcc {found} compiles the CUDA kernels" if found else "nvcc is not on PATH"
    remedy = None if found else "install the CUDA toolkit, then reinstall hhrnet-deploy"
    return Ability("compile CUDA kernels", found is not None, detail, remedy)


def _video(packages: dict[str, str | None]) -> Ability:
    found = packages["av"]
    detail = f"PyAV {found} copies audio" if found else "PyAV is not installed: videos are written without audio"
    return Ability(
        "video with audio", found is not None, detail, None if found else "pip install 'hhrnet-deploy[video]'"
    )
