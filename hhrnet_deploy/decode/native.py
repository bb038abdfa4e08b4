"""The compiled decoder, called with a checked request."""

from __future__ import annotations

import os
from types import ModuleType

import numpy as np

from hhrnet_deploy.decode.request import DecodeRequest, check_values
from hhrnet_deploy.errors import HHRNetError
from hhrnet_deploy.heads import Array, Heads
from hhrnet_deploy.people import People


def decode(request: DecodeRequest, *, threads: int | None = None, variant: str = "") -> list[People]:
    """People of each image, before any output limit.

    Args:
        request: what to decode.
        threads: images decoded at the same time; default one per processor of this process. The result is the same.
        variant: instruction set (``_native.variants()``); default the best. The result is the same.

    Raises:
        HHRNetError: the compiled module is missing.
        InputError: a head holds NaN, an infinity or a value beyond 1e12 in magnitude.
    """
    native = load_native()
    config = request.config
    options = native.Options(
        detection_threshold=config.detection_threshold,
        tag_threshold=config.tag_threshold,
        nms_kernel=config.nms_kernel,
        max_people=config.max_people,
        adjust=config.adjust,
        refine=config.refine,
        use_detection_val=config.use_detection_val,
        ignore_too_much=config.ignore_too_much,
    )
    found = native.decode(
        [_rows_contiguous(heads) for heads in request.scales],
        request.tag_scale,
        *request.grid,
        list(request.skeleton.flip_index),
        list(request.skeleton.grouping_order),
        options,
        threads or _processors(),
        variant,
    )
    people = [People(*image) for image in found if image is not None]
    if len(people) < len(found):
        check_values(request)  # names the value
        raise AssertionError("the compiled decoder refused values that the reference accepts")
    return people


def workspace_bytes(request: DecodeRequest) -> int:
    """The memory that decoding one image of ``request`` takes beside its heads, in bytes."""
    scales = [_rows_contiguous(heads) for heads in request.scales]
    return int(load_native().workspace_bytes(scales, request.tag_scale, *request.grid, request.config.max_people))


def _processors() -> int:
    """How many processors this process may use; where the system cannot say, how many there are."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def load_native() -> ModuleType:
    """The module ``_native``.

    Raises:
        HHRNetError: it is not built; says how to build it. There is no silent fallback to the reference.
    """
    try:
        from hhrnet_deploy.decode import _native
    except ImportError as error:
        raise HHRNetError(
            f"The compiled decoder cannot be imported ({error}).",
            hint="Build it with `pip install -e .` in the checkout (a C++17 compiler is needed), or ask for the slow "
            'NumPy decoder with decoder="reference" (--decoder reference).',
        ) from error
    return _native


def _rows_contiguous(heads: Heads) -> tuple[Array, Array, Array | None, Array | None]:
    """The arrays of ``heads``; one whose rows are not contiguous, or that is not aligned, is copied."""
    coarse, fine, coarse_flipped, fine_flipped = heads.as_tuple()
    if coarse_flipped is None or fine_flipped is None:
        return _with_contiguous_rows(coarse), _with_contiguous_rows(fine), None, None
    return (
        _with_contiguous_rows(coarse),
        _with_contiguous_rows(fine),
        _with_contiguous_rows(coarse_flipped),
        _with_contiguous_rows(fine_flipped),
    )


def _with_contiguous_rows(array: Array) -> Array:
    usable = (
        array.strides[-1] == array.itemsize
        and all(stride % array.itemsize == 0 for stride in array.strides)
        and array.flags.aligned
        and array.dtype.isnative
    )
    return array if usable else np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
