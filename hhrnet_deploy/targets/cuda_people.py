"""What a finished batch says, as People and Heads; and which batch a request is."""

from __future__ import annotations

import numpy as np

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.people import People
from hhrnet_deploy.targets.cuda_facts import HEADS
from hhrnet_deploy.targets.cuda_pipeline import Result
from hhrnet_deploy.targets.runner import Size

_LARGEST_SIDE = 1 << 15  # as decode/request.py


class UnusableHeadsError(Exception):
    """A head of an image holds NaN, an infinity or a value beyond 1e12."""


def people_of(result: Result, count: int, limit: int | None) -> list[People]:
    """The people of the first ``count`` images, as copies.

    Args:
        result: ``count`` (N,), ``keypoints`` (N, M*K, K, 3), ``scores`` (N, M*K), ``tags`` (N, M*K, K, L).
        count: images that were asked for.
        limit: most people per image, those with the highest scores.

    Raises:
        UnusableHeadsError: an image has no result.
    """
    found = []
    for image in range(count):
        people = int(result["count"][image])
        if people < 0:
            raise UnusableHeadsError
        keypoints, scores, tags = (result[name][image, :people].copy() for name in ("keypoints", "scores", "tags"))
        one = People(keypoints, scores, tags)
        found.append(one if limit is None else one.highest(limit))
    return found


def heads_of(result: Result) -> Heads:
    """The heads, as float32 copies."""
    arrays = [result[name].astype(np.float32) for name in HEADS if name in result]
    return Heads(*arrays)


def grid_of(images: Size, size: Size | None, config: DecodeConfig) -> Size:
    """(W, H) of the grid in which people are found, as `decode_heads` chooses it.

    Raises:
        InputError: ``size`` is no size.
    """
    if not config.project:
        return images[0] // 2, images[1] // 2
    if size is None:
        return images
    width, height = (int(side) for side in size)
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        raise InputError(f"size has to be (width, height), each from 1 to {_LARGEST_SIDE}, got {tuple(size)}.")
    return width, height


def check_baked(name: str, baked: DecodeConfig, asked: DecodeConfig) -> None:
    """Refuse settings that an engine which decodes itself cannot follow.

    Raises:
        InputError: names those that differ.
    """
    free = {"skeleton", "max_output"}
    inside, outside = baked.model_dump(exclude=free), asked.model_dump(exclude=free)
    different = [f"{key} {inside[key]} (asked: {outside[key]})" for key in inside if inside[key] != outside[key]]
    if different:
        raise InputError(
            f"{name} decodes inside the engine, with {', '.join(different)}.",
            hint="Leave these settings as they are, or build an engine with heads as outputs.",
        )
