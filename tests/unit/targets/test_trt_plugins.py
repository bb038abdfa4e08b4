"""The ops on the real bindings of several releases: registered, described and launched as TensorRT's builder does.

The PTX is compiled once per change of its sources and kept in the cache; without nvcc the tests that read it are
skipped, which HHRNET_REQUIRE_TRT_CONTRACT=1 turns into failures.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_trt_contract import ROOT, bindings, missing, stub_libraries

import hhrnet_deploy.decode
from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.data.synth_cache import cache_folder
from hhrnet_deploy.decode.launch_table import KERNELS, THREADS, Dims, scalar_values
from hhrnet_deploy.decode.plugin_ops import HEADS, OPS, PEOPLE, SKELETON_TENSOR, chain
from hhrnet_deploy.errors import HHRNetError
from hhrnet_deploy.targets.trt_plugin_launch import KernelLauncher
from hhrnet_deploy.targets.trt_plugins import plugin_kind, register_plugins

CSRC = Path(hhrnet_deploy.decode.__file__).parent / "csrc"
QUICK = ("10.9.0.34", "10.16.1.11", "11.4.0.106")
V3 = ("10.3.0", "10.9.0.34", "11.4.0.106")


@pytest.fixture(scope="session")
def ptx() -> Path:
    """A folder with the PTX of every kernel, as CMake makes it."""
    sources = sorted(path for path in CSRC.iterdir() if path.suffix in {".h", ".cu"})
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = cache_folder() / "ptx" / digest
    if folder.is_dir():
        return folder
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        missing("nvcc is not installed")
    temporary = folder.with_name(f".{digest}.{os.getpid()}")
    temporary.mkdir(parents=True)
    for number, name in enumerate(KERNELS, 1):
        flags = ["-std=c++17", "-O3", "--fmad=false", "-diag-suppress", "177", f"-DHHRNET_ONLY={number}"]
        output = ["-arch=compute_75", "-ptx", "-o", str(temporary / f"{name}.ptx")]
        subprocess.run([nvcc, *flags, str(CSRC / "kernels.cu"), *output], check=True)
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(temporary)
    return folder


def drive(version: str, kind: str, ptx: Path, folder: Path) -> dict[str, Any]:
    stubs = stub_libraries(folder, version.partition(".")[0])
    path = os.pathsep.join([str(bindings(version)), str(ROOT)])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "trt_plugin_probe.py"), kind, str(ptx)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": str(stubs)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)  # nothing else is there, whatever TensorRT warns of
    assert report["version"] == version
    return report["ops"]


@pytest.mark.parametrize("version", QUICK)
def test_quick_plugins_resolve_and_launch_the_kernels_of_the_table(version: str, ptx: Path, tmp_path: Path) -> None:
    ops = drive(version, "quick", ptx, tmp_path)
    assert ops.keys() == OPS.keys()
    for name, made in ops.items():
        assert (made["kernel"], made["block"]) == (name, [THREADS, 1, 1])
        assert made["bytes"] == (ptx / f"{name}.ptx").stat().st_size
        assert made["symbolic"] > 0


@pytest.mark.parametrize("version", V3)
def test_general_plugins_launch_the_same(version: str, ptx: Path, tmp_path: Path) -> None:
    ops = drive(version, "v3", ptx, tmp_path)
    assert {name: made["kernel"] for name, made in ops.items()} == {name: name for name in OPS}


@pytest.mark.parametrize("name", OPS)
def test_the_ptx_takes_pointers_scalars_pointers(name: str, ptx: Path) -> None:
    text = (ptx / f"{name}.ptx").read_text()
    kernel = OPS[name].kernel
    entry = re.search(rf"\.visible \.entry {name}\(([^)]*)\)", text)
    assert entry
    found = re.findall(rf"\.param \.(\w+) {name}_param_(\d+)", entry[1])
    expected = ["u64"] * len(kernel.inputs) + ["u32"] * len(kernel.scalars) + ["u64"] * len(kernel.outputs)
    assert found == [(kind, str(number)) for number, kind in enumerate(expected)]
    assert ".target sm_75" in text
    # The driver compiles it once more: arithmetic without a rounding mode could be fused there, and change bits.
    arithmetic = re.findall(r"\s(?:fma|mad|mul|add|sub|div|sqrt|rcp)(?:\.\w+)*\.f(?:32|64)\s", text)
    assert {word.strip().split(".")[1] for word in arithmetic} <= {"rn"}
    assert not [word for word in arithmetic if word.strip().startswith(("fma", "mad"))]
    assert ".extern .shared" not in text  # no dynamic shared memory


@pytest.mark.parametrize("flip", [True, False])
def test_the_ops_give_any_launcher_the_same_numbers(flip: bool) -> None:
    """Grids and scalars of the ops, from the shapes of their inputs, against those of the launch table itself."""
    rng = random.Random(flip)
    for _ in range(50):
        height, width = (32 * rng.randint(1, 64) for _ in range(2))
        config = DecodeConfig(max_people=rng.randint(1, 100), project=rng.random() < 0.5, nms_kernel=3)
        joints, levels, images = rng.randint(1, 64), 2 if flip else 1, rng.randint(1, 64)
        grid = (height, width) if config.project else (height // 2, width // 2)
        sides = (height // 4, width // 4, height // 2, width // 2)
        dims = Dims(images, joints, levels, *sides, *grid, config.max_people)
        values = scalar_values(dims, config, half=False)
        for step in chain(flip=flip, refine=True):
            op = step.op
            shapes = [one.shape(dims) for one in op.kernel.inputs]
            attributes = op.attribute_values(config, joints, levels)
            assert op.grid(shapes, attributes) == op.kernel.grid(dims)
            assert op.scalars(shapes, attributes, half=False) == tuple(values[name] for name in op.kernel.scalars)
            assert op.output_shapes(shapes, attributes) == tuple(one.shape(dims) for one in op.kernel.outputs)
            assert all(-(2**31) <= value < 2**31 for value in attributes.values())


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_the_chain_reads_what_was_made_and_makes_people_once(flip: bool, refine: bool) -> None:
    steps = chain(flip=flip, refine=refine)
    known = {*HEADS[: 4 if flip else 2], SKELETON_TENSOR}
    made: list[str] = []
    for step in steps:
        assert set(step.inputs) <= known
        known.update(step.outputs)
        made += step.outputs
        assert len(step.inputs) == len(step.op.kernel.inputs)
        assert len(step.outputs) == len(step.op.kernel.outputs)
    assert len(set(made)) == len(made)
    assert sorted(name for name in made if not name.startswith("decode/")) == sorted(PEOPLE)
    assert steps[-1].op.name == ("refine" if refine else "group")


def test_a_launch_reaches_the_driver_in_the_order_of_the_table() -> None:
    calls: list[Any] = []

    def launched(*arguments: Any) -> int:
        addresses = arguments[-2]
        values = []
        for address, name in zip(addresses, kernel.arguments, strict=True):
            kind = ctypes.c_int32 if name in kernel.scalars else ctypes.c_uint64
            values.append(kind.from_address(address).value)
        calls.append(([one.value for one in arguments[1:8]], arguments[8].value, values))
        return 0

    kernel = OPS["peaks"].kernel
    succeed = lambda *_: 0  # noqa: E731
    driver: Any = SimpleNamespace(
        cuCtxGetCurrent=succeed, cuModuleLoadData=succeed, cuModuleGetFunction=succeed, cuLaunchKernel=launched
    )
    given = [2**40 + 1, 2, 3, *range(-5, len(kernel.scalars) - 5), *range(2**41, 2**41 + len(kernel.outputs))]
    KernelLauncher(driver, b"fatbin").launch(kernel, (7, 8, 9), given, 2**42)
    assert calls == [([7, 8, 9, THREADS, 1, 1, 0], 2**42, given)]
    driver.cuLaunchKernel = lambda *_: 700
    with pytest.raises(HHRNetError, match="cuLaunchKernel returned error 700 for the kernel peaks"):
        KernelLauncher(driver, b"fatbin").launch(kernel, (1, 1, 1), given, 0)


def test_rtx_and_old_releases_are_refused_by_name() -> None:
    rtx: Any = SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7", IPluginV3=object)
    with pytest.raises(HHRNetError, match=r"tensorrt_rtx 1\.7 takes no plugins like aggregate"):
        register_plugins(rtx)
    old: Any = SimpleNamespace(__name__="tensorrt", __version__="8.6")
    with pytest.raises(HHRNetError, match=r"tensorrt 8\.6 takes no plugins"):
        register_plugins(old)
    assert plugin_kind(old) == "python"
