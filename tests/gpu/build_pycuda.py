"""Compiles pycuda's source package into a wheel: ``build_pycuda.py pycuda-2026.1.tar.gz OUT``. No network is used.

pycuda looks for the toolkit beside the ``nvcc`` that it finds on PATH, which may be a link from elsewhere, and for
curand, which is not needed here. Where there is no driver to link with, an empty library of its name stands in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def toolkit() -> Path | None:
    """The folder of the CUDA toolkit."""
    nvcc = shutil.which("nvcc")
    places = [*([Path(nvcc).resolve().parents[1]] if nvcc else []), Path("/usr/local/cuda")]
    return next((place for place in places if (place / "include" / "cuda.h").is_file()), None)


def driver_folder(scratch: Path, root: Path) -> Path:
    """A folder with ``libcuda.so`` to link with: the driver's, the toolkit's stand-in, or an empty one."""
    folder = scratch / "driver"
    folder.mkdir()
    listing = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    listed = [line.split(" => ")[1] for line in listing.splitlines() if line.strip().startswith("libcuda.so.1 ")]
    paths = [*os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep), "/usr/local/nvidia/lib64", "/usr/lib64"]
    places = [*listed, *(f"{path}/libcuda.so.1" for path in paths if path), str(root / "lib64/stubs/libcuda.so")]
    found = next((place for place in places if Path(place).is_file()), None)
    if found is not None:
        (folder / "libcuda.so").symlink_to(found)
        return folder
    options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null", "-o", str(folder / "libcuda.so")]
    subprocess.run(["gcc", *options], check=True)
    return folder


def build(package: Path, out: Path) -> None:
    """Write the wheel into ``out``."""
    root = toolkit()
    if root is None:
        sys.exit("the CUDA toolkit is not installed: nvcc is not on PATH")
    with tempfile.TemporaryDirectory() as scratch:
        shutil.unpack_archive(str(package), scratch)
        source = next(path for path in Path(scratch).glob("pycuda-*") if path.is_dir())
        driver = str(driver_folder(Path(scratch), root))
        settings = {
            **{"CUDA_ROOT": str(root), "CUDA_INC_DIR": [str(root / "include")], "USE_SHIPPED_BOOST": True},
            **{"CUDA_ENABLE_CURAND": False, "CUDA_ENABLE_GL": False, "CUDADRV_LIBNAME": ["cuda"]},
            **{"CUDADRV_LIB_DIR": [driver], "CXXFLAGS": ["-O2", "-w"]},
            # The stand-in has no symbols: without this the wheel does not even name the driver, and cannot be imported.
            # A second -lcuda because these words come after the first.
            "LDFLAGS": [f"-L{driver}", "-Wl,--no-as-needed", "-lcuda"],
        }
        (source / "siteconf.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
