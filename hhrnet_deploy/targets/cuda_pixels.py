"""Pixels that are on the card already: PyTorch tensors, video frames, anything with DLPack or CUDA's interface."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from hhrnet_deploy.errors import InputError

_CUDA = 2  # kDLCUDA of dlpack.h
_UINT8 = (1, 8, 1)  # kDLUInt, bits, lanes
_LEGACY_STREAM = 1  # the default stream, where version 2 of the interface leaves the order to the caller


@dataclass(frozen=True)
class DevicePixels:
    """A dense uint8 array on the card.

    Attributes:
        address: of its first byte.
        shape: of the array.
        stream: handle of the stream that writes it, which has to be waited for; None when that is arranged already.
        owner: keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    stream: int | None
    owner: object


def is_on_card(value: Any) -> bool:
    """Whether it is an array in the memory of an NVIDIA card."""
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[0]) == _CUDA
    return hasattr(value, "__cuda_array_interface__")


def read_pixels(value: Any, stream: int) -> DevicePixels:
    """The pixels of an array on the first visible card, without a copy.

    Args:
        value: with ``__dlpack__`` (PyTorch, CuPy, video decoders) or ``__cuda_array_interface__`` (Numba, CV-CUDA).
        stream: handle of the stream that will read them; DLPack makes it wait for the writer.

    Raises:
        InputError: another type, another card, or not dense.
    """
    return _from_dlpack(value, stream) if hasattr(value, "__dlpack__") else _from_interface(value)


class _Tensor(ctypes.Structure):
    """``DLTensor`` of dlpack.h, the first member of ``DLManagedTensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(value: Any, stream: int) -> DevicePixels:
    capsule = value.__dlpack__(stream=stream)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    if (tensor.device_type, tensor.device_id) != (_CUDA, 0):
        raise InputError(
            f"The {type(value).__name__} is on device {tensor.device_id}; engines run on the first visible card.",
            hint="Choose the card with CUDA_VISIBLE_DEVICES, or move the pixels to cuda:0.",
        )
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
    kind = (tensor.code, tensor.bits, tensor.lanes)
    _check(value, kind == _UINT8, f"DLPack type {kind}", shape, strides)
    # A capsule that nobody takes over calls the owner's deleter when it goes.
    return DevicePixels((tensor.data or 0) + tensor.byte_offset, shape, None, (capsule, value))


def _from_interface(value: Any) -> DevicePixels:
    fields = value.__cuda_array_interface__
    shape, strides = tuple(fields["shape"]), fields.get("strides")
    _check(value, fields["typestr"] in ("|u1", "<u1", "=u1"), fields["typestr"], shape, strides)
    stream = fields.get("stream") if fields.get("version", 0) >= 3 else _LEGACY_STREAM
    return DevicePixels(int(fields["data"][0]), shape, stream, value)


def _check(value: Any, is_uint8: bool, kind: str, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    """One element is one byte, so strides in elements (DLPack) and in bytes are the same."""
    if not is_uint8:
        raise InputError(f"The {type(value).__name__} on the card has to be uint8, got {kind}.")
    if 0 in shape:
        raise InputError(f"The {type(value).__name__} on the card is empty: shape {shape}.")
    if strides is not None and not _is_dense(shape, strides):
        raise InputError(
            f"The {type(value).__name__} on the card has to be dense, (H, W, 3) or (N, H, W, 3), got shape {shape} "
            f"with strides {tuple(strides)}.",
            hint="Copy it on the card first, for example tensor.permute(1, 2, 0).contiguous() in PyTorch.",
        )


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """In rows, without gaps; the stride of a side of length 1 means nothing."""
    size = 1
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side > 1 and stride != size:
            return False
        size *= side
    return True
