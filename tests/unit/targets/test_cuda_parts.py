"""The small parts of the CUDA runtime: what is missing, what errors say, pixels on a card, compiled kernels."""

from __future__ import annotations

import ctypes
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.targets import cuda_ready
from hhrnet_deploy.targets.cuda_errors import CudaMemoryError, failed, from_pycuda, out_of_memory, without_frames
from hhrnet_deploy.targets.cuda_people import check_baked, grid_of
from hhrnet_deploy.targets.cuda_pixels import is_on_card, read_pixels
from hhrnet_deploy.targets.trt_kernel_cache import beside


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine that has everything; each test takes something away."""
    monkeypatch.setattr(cuda_ready, "compute_capability", lambda: "sm_89")
    monkeypatch.setattr(cuda_ready.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cuda_ready, "fatbin_file", lambda: Path("kernels.fatbin"))
    assert cuda_ready.missing_to_run("tensorrt") is None
    return monkeypatch


def test_a_missing_card_is_named(ready: Any) -> None:
    ready.setattr(cuda_ready, "compute_capability", lambda: None)
    missing = cuda_ready.missing_to_run("tensorrt")
    assert missing is not None
    assert missing.fact == "no NVIDIA GPU is visible"


@pytest.mark.parametrize(
    ("module", "absent", "command"),
    [
        ("tensorrt", {"pycuda"}, "'hhrnet-deploy[cuda]'"),
        ("tensorrt", {"tensorrt", "pycuda"}, "'hhrnet-deploy[tensorrt,cuda]'"),
        ("tensorrt_rtx", {"tensorrt_rtx", "pycuda"}, "'hhrnet-deploy[rtx,cuda]'"),
    ],
)
def test_missing_packages_come_with_one_command(ready: Any, module: str, absent: set[str], command: str) -> None:
    ready.setattr(cuda_ready.importlib.util, "find_spec", lambda name: None if name in absent else object())
    missing = cuda_ready.missing_to_run(module)
    assert missing is not None
    assert missing.remedy.endswith(f"pip install {command}")


def test_missing_kernels_come_with_their_remedy(ready: Any) -> None:
    def fail() -> Path:
        raise HHRNetError("The kernels are missing.", hint="Install with nvcc.")

    ready.setattr(cuda_ready, "fatbin_file", fail)
    assert cuda_ready.missing_to_run("tensorrt") == cuda_ready.Missing("The kernels are missing", "Install with nvcc.")


def test_errors_carry_call_message_and_remedy() -> None:
    error = from_pycuda(RuntimeError("cuModuleLoadDataEx failed: no kernel image is available"), "opening e")
    assert error.fact == "cuModuleLoadDataEx failed while opening e: no kernel image is available."
    assert "nvcc" in (error.hint or "")
    assert isinstance(failed("cuMemAlloc", "out of memory", "x"), CudaMemoryError)
    assert failed("cuCall", "something new", "x").hint is None


def test_no_room_names_the_batch_that_fits() -> None:
    error = out_of_memory(3 << 30, "8 images", 1 << 30, 2 << 30, 2)
    assert error.fact == "The card has no room for 8 images: 3072 MiB were asked for, 1024 MiB of 2048 MiB are free."
    assert "--batch 2" in (error.hint or "")
    assert "Not even one" in (out_of_memory(1, "x", 0, 1, 0).hint or "")


def test_a_failing_block_leaves_nothing_in_its_frames() -> None:
    class Thing:
        pass

    kept: list[Any] = []

    def use() -> None:
        thing = Thing()
        kept.append(weakref.ref(thing))
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner

    with pytest.raises(ValueError, match="outer") as error, without_frames():
        use()
    gc.collect()
    assert kept[0]() is None
    assert error.value.__cause__ is not None


class _Packed:
    """DLPack of an array in host memory that says it is on a card."""

    def __init__(self, array: Any, device: tuple[int, int], code: int = 1) -> None:
        self.array, self.device = array, device
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.strides = (ctypes.c_int64 * array.ndim)(*(step // array.itemsize for step in array.strides))
        self.streams: list[int] = []
        kind = (array.itemsize * 8 << 8) | code | 1 << 16
        self.tensor = (ctypes.c_uint64 * 8)(
            array.ctypes.data - 4,
            device[0] | device[1] << 32,
            array.ndim | kind << 32,
            ctypes.addressof(self.shape),
            ctypes.addressof(self.strides),
            4,
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: int) -> Any:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


def test_dlpack_is_read_without_a_copy() -> None:
    array = np.zeros((2, 32, 64, 3), np.uint8)
    packed = _Packed(array, (2, 0))
    assert is_on_card(packed)
    pixels = read_pixels(packed, 77)
    assert (pixels.address, pixels.shape, pixels.stream) == (array.ctypes.data, (2, 32, 64, 3), None)
    assert packed.streams == [77], "the writer is told which stream will read"
    alone = _Packed(np.lib.stride_tricks.as_strided(array, (1, 32, 64, 3), (5, 192, 3, 1)), (2, 0))
    assert read_pixels(alone, 0).shape == (1, 32, 64, 3), "the stride of a single image means nothing"


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (_Packed(np.zeros((4, 4, 3), np.uint8), (2, 1)), "device 1"),
        (_Packed(np.zeros((4, 4, 3), np.float32), (2, 0), code=2), "has to be uint8"),
        (_Packed(np.zeros((4, 8, 3), np.uint8)[:, ::2], (2, 0)), "has to be dense"),
        (_Packed(np.zeros((0, 4, 3), np.uint8), (2, 0)), "empty"),
    ],
    ids=["card", "type", "strides", "empty"],
)
def test_what_the_card_cannot_read_is_refused(packed: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pixels(packed, 0)


def test_arrays_in_host_memory_are_not_on_a_card() -> None:
    assert not is_on_card(np.zeros(3, np.uint8))
    assert not is_on_card([1, 2])


def test_grids_are_those_of_the_host_decoder() -> None:
    from hhrnet_deploy.decode import coordinate_grid

    heads = (np.zeros((1, 34, 16, 24), np.float32), np.zeros((1, 17, 32, 48), np.float32))
    for config in (DecodeConfig(flip=False), DecodeConfig(flip=False, project=False)):
        for size in (None, (51, 77)):
            assert grid_of((96, 64), size, config) == coordinate_grid(heads, size=size, config=config)
    with pytest.raises(InputError, match="size has to be"):
        grid_of((96, 64), (0, 5), DecodeConfig())


def test_settings_inside_an_engine_cannot_be_changed() -> None:
    baked = DecodeConfig()
    check_baked("e", baked, DecodeConfig(max_output=3))
    with pytest.raises(InputError, match=r"e decodes inside the engine, with refine True \(asked: False\)"):
        check_baked("e", baked, DecodeConfig(refine=False))


def test_compiled_kernels_lie_beside_the_bundle(tmp_path: Path) -> None:
    assert beside(tmp_path / "fp16", None) == tmp_path / "fp16.kernels"
    assert beside(tmp_path / ".fp16.0123abcd.part", None) == tmp_path / "fp16.kernels", "while it is being built"
    assert beside(tmp_path / "fp16", tmp_path / "cache") == tmp_path / "cache" / "fp16.kernels"
