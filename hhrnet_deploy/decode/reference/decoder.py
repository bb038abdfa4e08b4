"""The steps in order, for each image of a batch."""

from __future__ import annotations

import numpy as np

from hhrnet_deploy.decode.reference.adjust import adjust
from hhrnet_deploy.decode.reference.aggregate import merge_heat, merge_tags
from hhrnet_deploy.decode.reference.bilinear import Float32
from hhrnet_deploy.decode.reference.grouping import Person, group
from hhrnet_deploy.decode.reference.means import mean_of_vector
from hhrnet_deploy.decode.reference.peaks import find_peaks
from hhrnet_deploy.decode.reference.project import project_heat, project_tags
from hhrnet_deploy.decode.reference.refine import refine
from hhrnet_deploy.decode.request import DecodeRequest, check_values
from hhrnet_deploy.heads import Array, Heads
from hhrnet_deploy.people import People


def decode(request: DecodeRequest) -> list[People]:
    """People of each image, before any output limit.

    Raises:
        InputError: a head holds NaN, an infinity or a value beyond 1e12 in magnitude.
    """
    check_values(request)
    return [_decode_image(request, image) for image in range(request.batch)]


def full_maps(request: DecodeRequest, image: int) -> tuple[Float32, Float32]:
    """The heat (K, H, W) and tags (K, L, H, W) of one image on the grid in which people are found."""
    flip_index = request.skeleton.flip_index
    scales = [_of_image(heads, image) for heads in request.scales]
    merged = [merge_heat(*heads, flip_index=flip_index) for heads in scales]
    coarse, fine, coarse_flipped, _ = scales[request.tag_scale]
    tags = merge_tags(coarse, coarse_flipped, fine, flip_index)
    width, height = request.grid
    return project_heat(merged, width, height), project_tags(tags, width, height)


def _of_image(heads: Heads, image: int) -> tuple[Array, Array, Array | None, Array | None]:
    coarse, fine, coarse_flipped, fine_flipped = heads.as_tuple()
    if coarse_flipped is None or fine_flipped is None:
        return coarse[image], fine[image], None, None
    return coarse[image], fine[image], coarse_flipped[image], fine_flipped[image]


def _decode_image(request: DecodeRequest, image: int) -> People:
    config = request.config
    heat, tags = full_maps(request, image)
    candidates = [
        find_peaks(
            heat[joint],
            tags[joint],
            kernel=config.nms_kernel,
            threshold=config.detection_threshold,
            limit=config.max_people,
        )
        for joint in range(request.num_joints)
    ]
    people = group(candidates, request.skeleton.grouping_order, config)
    if not people:
        return People.none(request.num_joints, request.tag_dims)
    scores = np.array([mean_of_vector(person.keypoints[:, 2]) for person in people], np.float32)
    for person in people:
        _finish(person, heat, tags, request)
    return People(
        np.stack([person.keypoints for person in people]), scores, np.stack([person.joint_tags for person in people])
    )


def _finish(person: Person, heat: Float32, tags: Float32, request: DecodeRequest) -> None:
    if request.config.adjust:
        adjust(person.keypoints, heat)
    if request.config.refine:
        refine(person.keypoints, heat, tags)
