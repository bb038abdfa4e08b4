"""The launch table says what the kernels take."""

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import hhrnet_deploy.decode
from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode import kernel_files, launch_table
from hhrnet_deploy.decode.launch_table import KERNELS, THREADS, Dims, float_bits, floor_to_float32, scalar_values
from hhrnet_deploy.errors import HHRNetError

CSRC = Path(hhrnet_deploy.decode.__file__).parent / "csrc"
CMAKE = Path(__file__).parents[3] / "CMakeLists.txt"
NVCC = ["nvcc", "-std=c++17", "-O3", "--fmad=false", "-diag-suppress", "177", str(CSRC / "kernels.cu")]
C_TYPES = {"float32": "float*", "float64": "double*", "int32": "int*", "uint8": "uint8_t*", "heads": "void*"}
DIMS = Dims(2, 17, 2, 128, 176, 256, 352, 512, 704, 30, 480, 640)


def _architectures() -> list[str]:
    """The compute capabilities that CMake builds for."""
    found = re.search(r"set\(HHRNET_CUDA_ARCHITECTURES ([\d ]+) CACHE", CMAKE.read_text())
    assert found
    return found[1].split()


def _declared() -> dict[str, list[tuple[str, str]]]:
    """(type, name) of every argument of every kernel, in the order of kernels.cu."""
    source = (CSRC / "kernels.cu").read_text()
    found = re.findall(r'extern "C" __global__ void __launch_bounds__\(kThreads(?:, \d)?\)\s+(\w+)\(([^)]*)\)', source)
    return {
        name: [tuple(argument.replace("const ", "").rsplit(" ", 1)) for argument in re.split(r",\s*", arguments)]
        for name, arguments in found
    }


def test_every_kernel_takes_the_arguments_of_the_table() -> None:
    declared = _declared()
    assert list(declared) == list(KERNELS)
    for name, kernel in KERNELS.items():
        pointers = {one.name: C_TYPES[one.dtype] for one in (*kernel.inputs, *kernel.outputs)}
        assert declared[name] == [(pointers.get(argument, "int"), argument) for argument in kernel.arguments], name


def test_every_scalar_of_every_kernel_has_a_value() -> None:
    values = scalar_values(DIMS, DecodeConfig(), half=False)
    for kernel in KERNELS.values():
        assert set(kernel.scalars) <= set(values)
    assert all(-(2**31) <= value < 2**31 for value in values.values())


def test_constants_agree_with_the_headers() -> None:
    headers = "\n".join(path.read_text() for path in CSRC.iterdir() if path.suffix in {".h", ".cu"})
    for constant, value in (
        ("kCell", launch_table.CELL),
        ("kTile", launch_table.TILE),
        ("kThreads", launch_table.THREADS),
    ):
        assert re.search(rf"constexpr int {constant} = {value};", headers), constant


def test_grids_and_shapes_are_positive_whole_numbers() -> None:
    for kernel in KERNELS.values():
        assert all(isinstance(side, int) and side > 0 for side in kernel.grid(DIMS))
        for buffer in (*kernel.inputs, *kernel.outputs):
            assert all(isinstance(side, int) and side > 0 for side in buffer.shape(DIMS)), buffer.name


@pytest.mark.parametrize("dims", [1, 2])
def test_the_memory_of_group_is_what_the_headers_carve(dims: int) -> None:
    places = 30 * 17
    costs, arrived, candidates = 30 * 30 * 8, places * (dims == 1) * 4, places * (2 + dims) * 4
    keys = takers = places * 4
    sizes = dataclasses.replace(DIMS, dims=dims)
    assert launch_table.group_memory_floats(sizes) * 4 == costs + arrived + keys + takers + candidates


def test_the_parts_of_a_joint_have_a_list_each() -> None:
    assert DIMS.parts == 4
    assert launch_table.VALUE.shape(DIMS) == (2, 17, 4, 30)
    assert launch_table.TILE_TAGS.shape(DIMS) == (2, 17, 4, DIMS.tiles)
    assert launch_table.PEAKS.grid(DIMS) == launch_table.REFINE.grid(DIMS) == (17, 2, 4)
    assert dataclasses.replace(DIMS, images=32).parts == 1


def test_an_engine_can_hold_every_buffer_but_those_of_the_warp() -> None:
    """TensorRT tensors are neither float64 nor, beyond the network's input, uint8."""
    for kernel in KERNELS.values():
        types = {buffer.dtype for buffer in (*kernel.inputs, *kernel.outputs)}
        assert types <= {"float32", "int32", "heads"} or kernel.name == "warp"


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.2, 0.3, 1 / 3, 0.5])
def test_the_float32_threshold_decides_as_the_float64_one(threshold: float) -> None:
    floor = floor_to_float32(threshold)
    for value in (floor, np.nextafter(floor, np.float32(1)), np.nextafter(floor, np.float32(-1))):
        assert (value > floor) == (float(value) > threshold)
    assert np.array(float_bits(floor), np.int32).view(np.float32) == floor


def test_missing_kernels_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hhrnet_deploy.decode, "__path__", [str(tmp_path)])
    with pytest.raises(HHRNetError, match="nvcc"):
        kernel_files.fatbin_file()
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "peaks.ptx").write_text("ptx")
    assert kernel_files.ptx_file("peaks").read_text() == "ptx"
    with pytest.raises(ValueError, match="aggregate_flip"):
        kernel_files.ptx_file("sort")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("capability", _architectures())
def test_no_kernel_spills_on_any_architecture(capability: str, tmp_path: Path) -> None:
    """Every architecture of the fatbin: no spills, registers for a block, static shared memory under 48 KB."""
    built = subprocess.run(
        [*NVCC, f"-arch=sm_{capability}", "-cubin", "-Xptxas", "-v", "-o", str(tmp_path / "kernels.cubin")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    report = read_resources(built.stderr)
    assert set(report) == set(KERNELS)
    for name, used in report.items():
        assert used["spill_stores"] == used["spill_loads"] == 0, name
        assert used["shared_bytes"] < 48 * 1024, name
        assert used["registers"] * THREADS <= 65536, name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize(("number", "name"), list(enumerate(KERNELS, 1)))
def test_nvcc_makes_one_ptx_per_kernel(number: int, name: str, tmp_path: Path) -> None:
    ptx = tmp_path / f"{name}.ptx"
    subprocess.run([*NVCC, f"-DHHRNET_ONLY={number}", "-arch=compute_75", "-ptx", "-o", str(ptx)], check=True)
    assert re.findall(r"\.entry (\w+)", ptx.read_text()) == [name]
    assert len(re.findall(rf"\.param \.\w+ {name}_param_\d+", ptx.read_text())) == len(KERNELS[name].arguments)


def test_a_spill_is_read_from_what_ptxas_says() -> None:
    said = (
        "ptxas info    : Compiling entry function 'group' for 'sm_80'\nptxas info    : Function properties for group\n"
        "    80 bytes stack frame, 4 bytes spill stores, 16 bytes spill loads\n"
        "ptxas info    : Used 48 registers, used 1 barriers, 80 bytes cumulative stack size, 5236 bytes smem\n"
    )
    assert read_resources(said) == {
        "group": {"registers": 48, "shared_bytes": 5236, "stack_bytes": 80, "spill_stores": 4, "spill_loads": 16}
    }


def read_resources(ptxas: str) -> dict[str, dict[str, int]]:
    """Registers, static shared memory and spills per kernel, from the output of ptxas -v."""
    report = {}
    for part in ptxas.split("Compiling entry function '")[1:]:
        numbers = {
            "registers": r"Used (\d+) registers",
            "shared_bytes": r"(\d+) bytes smem",
            "stack_bytes": r"(\d+) bytes stack frame",
            "spill_stores": r"(\d+) bytes spill stores",
            "spill_loads": r"(\d+) bytes spill loads",
        }
        found = {key: re.search(pattern, part) for key, pattern in numbers.items()}
        report[part.partition("'")[0]] = {key: int(match[1]) if match else 0 for key, match in found.items()}
    return report
