"""Fills gpu-kit/ with what a bare CUDA machine without network needs to run tests/gpu. Nothing of it is ever committed.

For Python 3.12 on x86-64 Linux with torch, NumPy, onnx, onnxruntime, OpenCV, pytest and the CUDA toolkit installed
(``--python`` takes another version). TensorRT-RTX's library is packed with xz and cut in two, because some machines
take files of limited size only. HHRNET_COCO names a COCO folder whose val2017 goes along.
"""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "gpu-kit"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64")
BACK_ENDS = ("scikit-build-core", "nanobind", "cmake", "ninja")
# For TensorRT-RTX's source package, then what hhrnet-deploy imports beside torch, NumPy, onnx, onnxruntime and OpenCV.
WITH_DEPENDENCIES = (
    *("setuptools", "wheel"),
    *("pydantic", "pyyaml", "safetensors", "typer", "rich", "hypothesis"),
    *("platformdirs", "pytools", "mako"),
)
ALONE = ("pycocotools", "onnxsim", "tensorrt_rtx_cu13_bindings")
SOURCES = ("pycuda", "tensorrt_rtx_cu13")
LIBRARIES = "tensorrt_rtx_cu13_libs"
PARTS = 2


def pip_download(folder: Path, python: str, packages: Sequence[str], *options: str) -> None:
    """Wheels for the other machine."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), "--only-binary", ":all:"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run(
        [*command, "--python-version", python, "--implementation", "cp", *platforms, *constraints, *options, *packages],
        check=True,
    )


def pip_download_sources(folder: Path, packages: Sequence[str]) -> None:
    """Source packages, unpacked by nobody here."""
    for package in packages:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), "--no-deps"]
        subprocess.run([*command, "--no-binary", package, "--no-build-isolation", package], check=True)


def pack_rtx(folder: Path, python: str, version: str) -> None:
    """TensorRT-RTX's two libraries, compressed as far as xz goes, in parts of one size."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "version.txt"
    if mark.is_file() and mark.read_text(encoding="utf-8") == version:
        return
    with tempfile.TemporaryDirectory() as scratch:
        pip_download(Path(scratch), python, [f"{LIBRARIES}=={version}"], "--no-deps")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if ".so" in name:
                    _cut(lzma.compress(archive.read(name), preset=9 | lzma.PRESET_EXTREME), folder, Path(name).name)
            (folder / "__init__.py").write_bytes(archive.read("tensorrt_rtx_libs/__init__.py"))
    mark.write_text(version, encoding="utf-8")


def _cut(data: bytes, folder: Path, name: str) -> None:
    parts = PARTS if len(data) > 16 << 20 else 1
    size = -(-len(data) // parts)
    for number in range(parts):
        (folder / f"{name}.xz.{number}").write_bytes(data[number * size : (number + 1) * size])


def compile_here(folder: Path, interpreter: str, pycuda: Path) -> None:
    """Wheels of pycuda and of this checkout, with source lines in its kernels for compute-sanitizer."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([interpreter, "-m", "venv", scratch], check=True)
        python = str(Path(scratch) / "bin" / "python")
        packages = ["--constraint", str(ROOT / "constraints.txt"), *BACK_ENDS, "setuptools", "wheel", "numpy"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        tools = {**os.environ, "PATH": os.pathsep.join([str(Path(scratch) / "bin"), os.environ["PATH"]])}
        subprocess.run(
            [python, str(ROOT / "tests/gpu/build_pycuda.py"), str(pycuda), str(folder)], env=tools, check=True
        )
        settings = [f"--config-settings=cmake.define.{name}=ON" for name in ("HHRNET_CUDA", "HHRNET_CUDA_LINEINFO")]
        command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", *settings]
        subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], env=tools, check=True)


def copy_coco(source: Path, target: Path) -> None:
    """The validation photos and their annotations."""
    for place in ("annotations/person_keypoints_val2017.json", "images/val2017"):
        found, goal = source / place, target / place
        goal.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            shutil.copytree(found, goal, dirs_exist_ok=True)
        elif found.is_file():
            shutil.copy(found, goal)


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python")
    parser.add_argument("--rtx", default="1.7.1.116", help="TensorRT-RTX to pack")
    parser.add_argument("--interpreter", help="Python of that version on this machine, to compile with")
    options = parser.parse_args()
    wheels, built = KIT / "wheels", KIT / "built"
    for old in (wheels, built):  # wheels of another version would go along
        shutil.rmtree(old, ignore_errors=True)
        old.mkdir(parents=True)
    pip_download(wheels, options.python, [*WITH_DEPENDENCIES, *(() if options.interpreter else BACK_ENDS)])
    for unwanted in wheels.glob("numpy-*"):  # the machine has its own, which torch fits
        unwanted.unlink()
    alone = [f"{name}=={options.rtx}" if name.startswith("tensorrt") else name for name in ALONE]
    pip_download(wheels, options.python, alone, "--no-deps")
    pip_download_sources(wheels, [f"tensorrt_rtx_cu13=={options.rtx}" if "rtx" in name else name for name in SOURCES])
    if options.interpreter:
        (pycuda,) = wheels.glob("pycuda-*.tar.gz")
        compile_here(built, options.interpreter, pycuda)
        pycuda.unlink()
    pack_rtx(KIT / "rtx", options.python, options.rtx)
    coco = os.environ.get("HHRNET_COCO")
    if coco:
        copy_coco(Path(coco), KIT / "coco")
    for folder in (path for path in (wheels, built, KIT / "rtx", KIT / "coco") if path.is_dir()):
        print(f"{folder.relative_to(ROOT)}: {size_of(folder) / 2**20:.1f} MiB")
    print("Copy gpu-kit/ with the checkout, then run `make gpu-test` there.")


if __name__ == "__main__":
    main()
