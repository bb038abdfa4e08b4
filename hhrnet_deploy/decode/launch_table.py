"""The CUDA kernels as data: names, arguments in order, grids and buffers; the one table every launcher reads.

Expressions are functions of :class:`Dims`, whose fields are ints for a launcher and may be symbolic integers for an
engine plugin: they use ``+``, ``*`` and ``//`` only, with what may be symbolic on the left, never the contents of a
buffer. No kernel takes dynamic shared memory, and none needs its outputs cleared. Scalars are int32; a float travels as
its bits.

The sources are ``csrc/kernels.cu`` and the headers named after the steps.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hhrnet_deploy.config import DecodeConfig

THREADS = 512
ROWS_PER_BAND = 8
BLOCKS_PER_JOINT = 8
CELL = 4
TILE = 16

Dtype = Literal["float32", "float64", "int32", "uint8", "heads"]
Expression = Callable[["Dims"], Any]


@dataclass(frozen=True, slots=True)
class Dims:
    """The sizes that all expressions are made of; ints, or symbolic integers inside a plugin.

    Attributes:
        images: N. joints: K. dims: L, 2 with the mirrored image's outputs.
        coarse_height, coarse_width, fine_height, fine_width: of the heads.
        height, width: the grid in which people are found.
        max_people: M.
        source_height, source_width: the photo, for the warp alone.
    """

    images: Any
    joints: Any
    dims: Any
    coarse_height: Any
    coarse_width: Any
    fine_height: Any
    fine_width: Any
    height: Any
    width: Any
    max_people: Any
    source_height: Any = 0
    source_width: Any = 0

    @property
    def bands(self) -> Any:
        """Blocks along the rows of one joint in ``aggregate``."""
        return _ceil_div(self.fine_height, ROWS_PER_BAND)

    @property
    def parts(self) -> Any:
        """Blocks that share a joint, tiles in ``peaks``, people in ``refine``: few images alone do not fill a card."""
        return (self.images + (BLOCKS_PER_JOINT - 1)) // self.images

    @property
    def tiles(self) -> Any:
        """Tiles of the grid, searched or skipped as a whole."""
        return _ceil_div(self.height, TILE) * _ceil_div(self.width, TILE)

    @property
    def capacity(self) -> Any:
        """M*K, the places for people."""
        return self.max_people * self.joints


@dataclass(frozen=True, slots=True)
class Buffer:
    """An argument that is a pointer: its name, element type and shape. ``heads`` is float32 or float16."""

    name: str
    dtype: Dtype
    shape: Expression


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: its arguments are ``inputs``, then ``scalars``, then ``outputs``; its block is THREADS wide."""

    name: str
    inputs: tuple[Buffer, ...]
    scalars: tuple[str, ...]
    outputs: tuple[Buffer, ...]
    grid: Expression

    @property
    def arguments(self) -> tuple[str, ...]:
        """All argument names in order."""
        return (*(one.name for one in self.inputs), *self.scalars, *(one.name for one in self.outputs))


def scalar_values(dims: Dims, config: DecodeConfig, *, half: bool) -> dict[str, Any]:
    """The value of every scalar that any kernel takes, by name; all int32 (or symbolic)."""
    low, high = struct.unpack("<ii", struct.pack("<d", config.tag_threshold))
    names = ("joints", "dims", "coarse_height", "coarse_width", "fine_height", "fine_width", "height", "width")
    return {
        **{
            name: getattr(dims, name)
            for name in (*names, "max_people", "bands", "parts", "source_height", "source_width")
        },
        "half": int(half),
        "detection_threshold": float_bits(floor_to_float32(config.detection_threshold)),
        "tag_threshold_low": low,
        "tag_threshold_high": high,
        "nms_kernel": config.nms_kernel,
        "adjust": int(config.adjust),
        "use_detection_val": int(config.use_detection_val),
        "ignore_too_much": int(config.ignore_too_much),
    }


def floor_to_float32(value: float) -> np.float32:
    """The largest float32 not above ``value``: float32 heat is above one exactly when it is above the other."""
    nearest = np.float32(value)
    return nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf))


def float_bits(value: np.float32) -> int:
    """The bits of a float32 as an int32."""
    return int(np.asarray(value, np.float32).view(np.int32))


def group_memory_floats(dims: Dims) -> Any:
    """float32 places that ``group`` needs per image, an even number.

    They hold the costs (M, M) as float64, which an engine's tensors cannot be, the tags of one dimension that arrived
    (M, K), the keys of all people (M, K), who takes each candidate (K, M) and the merged candidates: value, index
    (K, M) and tag (K, M, L). With two dimensions no tags are kept, so that it is six values for each place either way.
    """
    return 2 * (dims.max_people * dims.max_people + dims.capacity * 3)


def _ceil_div(value: Any, by: int) -> Any:
    return (value + (by - 1)) // by


def _per_channel(*tail: Expression) -> Expression:
    return lambda d: (d.images, d.joints, *(size(d) for size in tail))


def _head(name: str, channels: int, height: Expression, width: Expression) -> Buffer:
    return Buffer(name, "heads", lambda d: (d.images, channels * d.joints, height(d), width(d)))


_COARSE = (_head("coarse", 2, lambda d: d.coarse_height, lambda d: d.coarse_width),)
_FINE = (_head("fine", 1, lambda d: d.fine_height, lambda d: d.fine_width),)
_FLIPPED = (
    _head("coarse_flipped", 2, lambda d: d.coarse_height, lambda d: d.coarse_width),
    _head("fine_flipped", 1, lambda d: d.fine_height, lambda d: d.fine_width),
)
# Row 0: the channel of the mirrored image that shows each joint; row 1: the order of grouping.
SKELETON = Buffer("skeleton", "int32", lambda d: (2, d.joints))

HEAT = Buffer("heat", "float32", _per_channel(lambda d: d.fine_height, lambda d: d.fine_width))
TAGS = Buffer("tags", "float32", _per_channel(lambda d: d.dims, lambda d: d.coarse_height, lambda d: d.coarse_width))
CELLS = Buffer(
    "cells", "float32", _per_channel(lambda d: _ceil_div(d.fine_height, CELL), lambda d: _ceil_div(d.fine_width, CELL))
)
UNUSABLE = Buffer("unusable", "int32", _per_channel(lambda d: d.bands))
VALUE = Buffer("value", "float32", _per_channel(lambda d: d.parts, lambda d: d.max_people))
INDEX = Buffer("index", "int32", _per_channel(lambda d: d.parts, lambda d: d.max_people))
TAG = Buffer("tag", "float32", _per_channel(lambda d: d.parts, lambda d: d.max_people, lambda d: d.dims))
BOUNDS = Buffer("bounds", "float32", _per_channel(lambda d: d.tiles))
TILE_TAGS = Buffer("tile_tags", "float32", _per_channel(lambda d: d.dims * 2, lambda d: d.tiles))
LIVE = Buffer("live", "int32", _per_channel(lambda d: d.tiles))
GROUPED = Buffer("grouped", "float32", lambda d: (d.images, d.capacity, d.joints, 3))
KEYPOINTS = Buffer("keypoints", "float32", lambda d: (d.images, d.capacity, d.joints, 3))
SCORES = Buffer("scores", "float32", lambda d: (d.images, d.capacity))
JOINT_TAGS = Buffer("joint_tags", "float32", lambda d: (d.images, d.capacity, d.joints, d.dims))
PERSON_TAGS = Buffer("person_tags", "float32", lambda d: (d.images, d.capacity, d.dims))
# -1: a head of the image holds NaN, an infinity or a value beyond 1e12, and there is no result.
COUNT = Buffer("count", "int32", lambda d: (d.images,))
GROUP_MEMORY = Buffer("memory", "float32", lambda d: (d.images, group_memory_floats(d)))
PIXELS = Buffer("pixels", "uint8", lambda d: (d.images, d.source_height, d.source_width, 3))
INVERSE = Buffer("inverse", "float64", lambda d: (d.images, 6))
WARPED = Buffer("out", "uint8", lambda d: (d.images, d.height, d.width, 3))

_HEAD_SCALARS = ("half", "joints", "coarse_height", "coarse_width", "fine_height", "fine_width")
_MAP_SCALARS = ("joints", "dims", "coarse_height", "coarse_width", "fine_height", "fine_width", "height", "width")
_MERGED = (HEAT, TAGS, CELLS, UNUSABLE)


def _aggregate_grid(d: Dims) -> tuple[Any, Any, Any]:
    return d.bands, d.joints, d.images


AGGREGATE = Kernel("aggregate", (*_COARSE, *_FINE, SKELETON), _HEAD_SCALARS, _MERGED, _aggregate_grid)
AGGREGATE_FLIP = Kernel(
    "aggregate_flip", (*_COARSE, *_FINE, *_FLIPPED, SKELETON), _HEAD_SCALARS, _MERGED, _aggregate_grid
)
PEAKS = Kernel(
    "peaks",
    (HEAT, CELLS, TAGS),
    (*_MAP_SCALARS, "detection_threshold", "nms_kernel", "max_people"),
    (VALUE, INDEX, TAG, BOUNDS, TILE_TAGS, LIVE),
    lambda d: (d.joints, d.images, d.parts),
)
GROUP = Kernel(
    "group",
    (HEAT, VALUE, INDEX, TAG, SKELETON, UNUSABLE),
    (
        *("joints", "dims", "fine_height", "fine_width", "height", "width", "bands", "parts", "detection_threshold"),
        *("tag_threshold_low", "tag_threshold_high", "max_people", "adjust", "use_detection_val", "ignore_too_much"),
    ),
    (KEYPOINTS, SCORES, JOINT_TAGS, PERSON_TAGS, COUNT, GROUP_MEMORY),
    lambda d: (d.images, 1, 1),
)
# Its ``grouped`` is the keypoints of ``group``.
REFINE = Kernel(
    "refine",
    (HEAT, TAGS, BOUNDS, TILE_TAGS, GROUPED, PERSON_TAGS, COUNT),
    (*_MAP_SCALARS, "max_people"),
    (KEYPOINTS,),
    lambda d: (d.joints, d.images, d.parts),
)
WARP = Kernel(
    "warp",
    (PIXELS, INVERSE),
    ("source_height", "source_width", "height", "width"),
    (WARPED,),
    lambda d: (_ceil_div(d.height, 4), d.images, 1),
)

KERNELS = {one.name: one for one in (AGGREGATE, AGGREGATE_FLIP, PEAKS, GROUP, REFINE, WARP)}
