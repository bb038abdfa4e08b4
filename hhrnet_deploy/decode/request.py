"""What a decoder is asked for, validated once: scales in order, the grid of the coordinates, the skeleton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.skeletons import Skeleton, default_skeleton

HeadsLike: TypeAlias = Heads | Sequence[Any]

# Beyond this magnitude float32 sums of squared tag distances and the matching costs lose their meaning.
LARGEST_VALUE = 1e12
MAX_SCALES = 8
_LARGEST_SIDE = 1 << 15
_ARRAYS_OF_HEADS = (2, 4)


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """Heads and settings that fit each other.

    Attributes:
        scales: heads of every scale, largest scale first (the order in which they are summed).
        tag_scale: which of ``scales`` gives the tags.
        grid: (W, H) of the grid in which people are found and their coordinates are given.
        skeleton: flip pairs and grouping order.
        config: thresholds and switches.
    """

    scales: tuple[Heads, ...]
    tag_scale: int
    grid: tuple[int, int]
    skeleton: Skeleton
    config: DecodeConfig

    @property
    def batch(self) -> int:
        """N, the number of images."""
        return self.scales[0].batch

    @property
    def num_joints(self) -> int:
        """K, the number of joints."""
        return self.scales[0].num_joints

    @property
    def tag_dims(self) -> int:
        """L: 2 with the mirrored image's tags, else 1."""
        return 2 if self.scales[0].has_flip else 1


def make_request(heads: HeadsLike, size: tuple[int, int] | None, config: DecodeConfig) -> DecodeRequest:
    """Check and order what :func:`hhrnet_deploy.decode.decode_heads` was given.

    Raises:
        InputError: heads, scales, size and skeleton do not fit each other; says which.
    """
    scaled = sorted(_scaled(heads), key=lambda item: -item[0])
    _check_scales([scale for scale, _ in scaled])
    kept = tuple(one if config.flip else one.without_flip() for _, one in scaled)
    _check_alike(kept)
    tag_scale = next((index for index, (scale, _) in enumerate(scaled) if scale == 1), 0)
    grid = _grid(kept, tag_scale, size, config)
    return DecodeRequest(kept, tag_scale, grid, _skeleton(config, kept[0].num_joints), config)


def coordinate_grid(
    heads: HeadsLike, *, size: tuple[int, int] | None = None, config: DecodeConfig | None = None
) -> tuple[int, int]:
    """(W, H) of the grid in which :func:`decode_heads` gives coordinates for the same arguments.

    It is the network input of scale 1, except with ``project=False``, where it is the largest scale's ``fine``.
    """
    return make_request(heads, size, config or DecodeConfig()).grid


def check_values(request: DecodeRequest) -> None:
    """Refuse NaN, infinities and values beyond 1e12.

    Raises:
        InputError: names the output, the image and the first such value.
    """
    for heads in request.scales:
        for name, array in heads.named():
            bad = ~(np.abs(array.astype(np.float32)) <= LARGEST_VALUE)
            if bad.any():
                place = tuple(int(index) for index in np.unravel_index(int(np.argmax(bad)), array.shape))
                raise unusable_value(name, place, float(array[place]))


def unusable_value(name: str, place: tuple[int, ...], value: float) -> InputError:
    """The error for a value that no decoder accepts, at ``place`` (image, channel, y, x) of output ``name``."""
    image, channel, y, x = place
    return InputError(
        f"Head {name} has to hold finite values up to 1e12 in magnitude, got {value} "
        f"for image {image} in channel {channel} at y {y}, x {x}.",
        hint="The network or engine that made it is broken: check its weights and its precision.",
    )


def as_heads(heads: HeadsLike) -> Heads:
    """``Heads`` from themselves or from (coarse, fine) or four arrays (NumPy or DLPack, used without a copy)."""
    if isinstance(heads, Heads):
        return heads
    arrays = list(heads) if isinstance(heads, list | tuple) else []
    if len(arrays) not in _ARRAYS_OF_HEADS:
        raise InputError(
            f"Heads have to be Heads, (coarse, fine) or (coarse, fine, coarse_flipped, fine_flipped), got "
            f"{type(heads).__name__} of {len(arrays)}."
        )
    return Heads(*arrays)


def _scaled(heads: HeadsLike) -> list[tuple[float, Heads]]:
    """(scale, heads) pairs; plain heads are scale 1."""
    if isinstance(heads, Heads) or not isinstance(heads, list | tuple) or not heads:
        return [(1.0, as_heads(heads))]
    if not all(isinstance(item, list | tuple) and len(item) == 2 and _is_number(item[0]) for item in heads):
        return [(1.0, as_heads(heads))]
    return [(float(scale), as_heads(one)) for scale, one in heads]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _check_scales(scales: list[float]) -> None:
    if not all(np.isfinite(scale) and scale > 0 for scale in scales):
        raise InputError(f"Scales have to be positive numbers, got {scales}.")
    if len(set(scales)) != len(scales):
        raise InputError(f"Every scale may be given once, got {scales}.")
    if len(scales) > MAX_SCALES:
        raise InputError(f"At most {MAX_SCALES} scales can be merged, got {len(scales)}.")
    if len(scales) > 1 and 1.0 not in scales:
        raise InputError(
            f"Several scales need scale 1 among them, because the tags are taken from it; got {scales}.",
            hint="Add scale 1 or give a single scale.",
        )


def _check_alike(scales: tuple[Heads, ...]) -> None:
    first = scales[0]
    for other in scales[1:]:
        if (other.batch, other.num_joints, other.has_flip) != (first.batch, first.num_joints, first.has_flip):
            raise InputError(
                "Heads of all scales need the same images, joints and flip: got "
                f"{first.batch} images, {first.num_joints} joints, flip {first.has_flip} and "
                f"{other.batch} images, {other.num_joints} joints, flip {other.has_flip}."
            )


def _grid(
    scales: tuple[Heads, ...], tag_scale: int, size: tuple[int, int] | None, config: DecodeConfig
) -> tuple[int, int]:
    if not config.project:
        return _fine_size(scales[0])
    if size is None:
        width, height = _fine_size(scales[tag_scale])
        return 2 * width, 2 * height
    width, height = (int(side) for side in size)
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        raise InputError(f"size has to be (width, height), each from 1 to {_LARGEST_SIDE}, got {tuple(size)}.")
    return width, height


def _fine_size(heads: Heads) -> tuple[int, int]:
    height, width = heads.fine.shape[2:]
    return int(width), int(height)


def _skeleton(config: DecodeConfig, joints: int) -> Skeleton:
    skeleton = config.skeleton or default_skeleton(joints)
    if skeleton is None:
        raise InputError(
            f"Heads with {joints} joints fit no built-in skeleton (17 COCO, 14 CrowdPose).",
            hint="Give DecodeConfig(skeleton=...): it holds the flip pairs and the grouping order.",
        )
    if skeleton.num_joints != joints:
        raise InputError(f"Skeleton {skeleton.name} has {skeleton.num_joints} joints, the heads have {joints}.")
    return skeleton
