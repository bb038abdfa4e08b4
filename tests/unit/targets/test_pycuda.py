"""The runtime with pycuda itself: compiled here, once, and run on the simulated card.

It needs the CUDA toolkit, which pycuda compiles against, and its source package.
HHRNET_REQUIRE_TRT_CONTRACT=1 turns every skip into a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sim_card import REAL_PYCUDA, build_library
from test_trt_contract import missing

from hhrnet_deploy.data.synth_cache import cache_folder

PYCUDA = "2026.1"
HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BUILD = ROOT / "tests" / "gpu" / "build_pycuda.py"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("simulated-card")]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def pycuda(scratch: Path) -> Path:
    """The folder with pycuda, compiled once."""
    folder = cache_folder() / "pycuda" / f"{PYCUDA}-cp{sys.version_info.major}{sys.version_info.minor}"
    if folder.is_dir():
        return folder
    pip = [sys.executable, "-m", "pip"]
    got = run([*pip, "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation",
               "--dest", str(scratch), f"pycuda=={PYCUDA}"])  # fmt: skip
    if got.returncode != 0:
        missing(f"pycuda's source package cannot be fetched: {got.stderr.strip().splitlines()[-1:]}")
    if shutil.which("nvcc") is None and not Path("/usr/local/cuda/include/cuda.h").is_file():
        missing("the CUDA toolkit is not installed")
    built = run([sys.executable, str(BUILD), str(next(scratch.glob("pycuda-*.tar.gz"))), str(scratch / "wheel")])
    assert built.returncode == 0, built.stderr[-3000:]
    made = folder.with_name(f".{folder.name}.{os.getpid()}")
    wheel = next((scratch / "wheel").glob("*.whl"))
    done = run([*pip, "install", "--quiet", "--no-deps", "--target", str(made), str(wheel)])
    assert done.returncode == 0, done.stderr[-3000:]
    made.rename(folder)
    return folder


def unresolved(extension: Path) -> list[str]:
    """The calls of the driver that an extension needs."""
    listing = run(["nm", "-D", "--undefined-only", str(extension)]).stdout
    return [word for line in listing.splitlines() for word in line.split() if word.startswith("cu")]


def defined(library: Path) -> set[str]:
    listing = run(["nm", "-D", "--defined-only", str(library)]).stdout
    return {line.split()[-1] for line in listing.splitlines()}


def test_the_runtime_runs_with_pycuda_itself(tmp_path: Path) -> None:
    if shutil.which("nm") is None:
        missing("nm is not installed")
    site = pycuda(tmp_path)
    extension = next((site / "pycuda").glob("_driver*.so"))
    known = defined(build_library(tmp_path, "libcuda.so.1"))
    library = build_library(tmp_path, "libcuda.so.1", sorted(set(unresolved(extension)) - known))
    environment = {
        **os.environ,
        REAL_PYCUDA: "1",
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "test_cuda_runtime.py")]
    done = run(command, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "passed" in done.stdout
