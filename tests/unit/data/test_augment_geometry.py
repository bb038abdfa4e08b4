"""The random affine, the flip and the photometric changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from hhrnet_deploy.data.augment import (
    Geometry,
    Photometric,
    Placement,
    change_pixels,
    draw_placement,
    place_image,
    place_joints,
    place_mask,
)
from hhrnet_deploy.skeletons import COCO


def _photo(width: int = 120, height: int = 80) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_matrix_scales_about_the_centre_and_rotates_clockwise_for_positive_angles() -> None:
    placement = Placement(center=(60.0, 40.0), side=80.0, rotation=90.0, scale=1.0, flip=False)
    matrix = placement.matrix(40)
    np.testing.assert_allclose(matrix @ [60, 40, 1], [20, 20], atol=1e-12)
    # 10 px right of the centre lands 5 px above it: a positive angle turns the content anticlockwise.
    np.testing.assert_allclose(matrix @ [70, 40, 1], [20, 15], atol=1e-12)


def test_every_resolution_sees_the_same_affine() -> None:
    placement = Placement(center=(50.0, 30.0), side=70.0, rotation=17.0, scale=1.0, flip=False)
    np.testing.assert_allclose(placement.matrix(64) / 4, placement.matrix(16), atol=1e-12)


def test_draws_stay_in_their_ranges_and_fill_them() -> None:
    geometry, rng = Geometry(), np.random.default_rng(1)
    draws = [draw_placement(640, 400, geometry, rng) for _ in range(3000)]
    scales = np.array([draw.scale for draw in draws])
    assert 0.75 <= scales.min() < 0.76
    assert 1.49 < scales.max() <= 1.5
    rotations = np.array([draw.rotation for draw in draws])
    assert -30 <= rotations.min() < -29.8
    assert 29.8 < rotations.max() <= 30
    assert 0.45 < np.mean([draw.flip for draw in draws]) < 0.55
    shifts = np.array([draw.center for draw in draws]) - [320, 200]
    assert (shifts == np.round(shifts)).all()
    limits = (40 * 400 / 200 * scales).astype(int)
    assert (shifts >= -limits[:, None]).all()
    assert (shifts < limits[:, None]).all()
    assert np.abs(shifts).max() > 110


def test_no_translation_for_tiny_images_and_zero_ranges() -> None:
    rng = np.random.default_rng(2)
    assert draw_placement(3, 3, Geometry(), rng).center == (1.5, 1.5)
    still = Geometry(max_rotation=0, min_scale=1, max_scale=1, max_translation=0, flip=0)
    assert draw_placement(10, 6, still, rng) == Placement((5.0, 3.0), 6.0, 0.0, 1.0, False)


def test_focus_centres_a_person() -> None:
    joints = np.zeros((1, 17, 3))
    joints[0, :2] = [[10, 20, 2], [30, 40, 1]]
    geometry = Geometry(focus=1.0, max_translation=0)
    assert draw_placement(200, 100, geometry, np.random.default_rng(0), joints).center == (20.0, 30.0)
    assert draw_placement(200, 100, geometry, np.random.default_rng(0), joints[:0]).center == (100.0, 50.0)


def test_equal_seeds_give_equal_draws() -> None:
    first, second = (draw_placement(99, 77, Geometry(), np.random.default_rng((4, 5, 6))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("flip", [False, True])
def test_joints_land_on_the_pixels_they_mark(flip: bool) -> None:
    """A bright dot is drawn at a joint; after the affine the dot and the joint are still together."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        draw = draw_placement(120, 80, Geometry(max_translation=5, min_scale=1, max_scale=1.2), rng)
        placement = Placement(draw.center, draw.side, draw.rotation, draw.scale, flip)
        photo = np.zeros((80, 120, 3), np.uint8)
        photo[38:43, 58:63] = 255
        joints = np.zeros((1, 17, 3))
        joints[0, 5] = [60, 40, 2]
        image = place_image(photo, placement, 64)
        placed = place_joints(joints, placement, 64, COCO.flip_index)
        k = 6 if flip else 5  # a mirrored left shoulder is a right one
        rows, columns = np.nonzero(image[..., 0] > 127)
        assert placed[0, k, 2] == 2
        assert math.hypot(columns.mean() - placed[0, k, 0], rows.mean() - placed[0, k, 1]) < 0.6


def test_a_mirrored_x_is_size_minus_x_minus_one_at_every_resolution() -> None:
    joints = np.random.default_rng(0).uniform(0, 80, (2, 17, 3))
    straight = Placement((40.0, 40.0), 80.0, 12.0, 1.0, False)
    mirrored = Placement((40.0, 40.0), 80.0, 12.0, 1.0, True)
    for size in (16, 32):
        plain = place_joints(joints, straight, size, COCO.flip_index)
        turned = place_joints(joints, mirrored, size, COCO.flip_index)
        np.testing.assert_allclose(turned[..., 0], size - 1 - plain[:, list(COCO.flip_index), 0])
        np.testing.assert_allclose(turned[..., 1], plain[:, list(COCO.flip_index), 1])


def test_a_joint_mirrored_exactly_stays_at_its_input_pixel() -> None:
    joints = np.random.default_rng(0).uniform(0, 80, (2, 17, 3))
    placement = Placement((40.0, 40.0), 80.0, 12.0, 1.0, True)
    at_input = place_joints(joints, placement, 64, COCO.flip_index)
    for stride in (2, 4):
        small = place_joints(joints, placement, 64 // stride, COCO.flip_index, pixel=1 / stride)
        np.testing.assert_allclose(small[..., :2] * stride, at_input[..., :2])


def test_the_mask_is_binary_and_zero_outside_the_photo() -> None:
    placement = Placement((60.0, 40.0), 240.0, 0.0, 3.0, False)
    mask = place_mask(np.ones((80, 120), np.bool_), placement, 24)
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert mask[12, 12] == 1
    assert mask[0].sum() == 0
    np.testing.assert_array_equal(
        place_mask(np.ones((80, 120), np.bool_), Placement((50.0, 40.0), 240.0, 0.0, 3.0, True), 24),
        place_mask(np.ones((80, 120), np.bool_), Placement((50.0, 40.0), 240.0, 0.0, 3.0, False), 24)[:, ::-1],
    )


def test_photometric_changes_are_off_by_default() -> None:
    photo = _photo()
    assert change_pixels(photo, Photometric(), np.random.default_rng(0)) is photo


@pytest.mark.parametrize(
    "settings",
    [
        {"brightness": 0.3},
        {"contrast": 0.4},
        {"saturation": 0.5},
        {"hue": 0.2},
        {"grayscale": 1.0},
        {"blur": 1.0},
        {"noise": 1.0},
        {"cutout": 1.0},
    ],
    ids=str,
)
def test_each_photometric_change_changes_pixels_and_keeps_the_kind(settings: dict[str, float]) -> None:
    photo = _photo()
    before = photo.copy()
    changed = change_pixels(photo, Photometric(**settings), np.random.default_rng(3))
    assert changed.shape == photo.shape
    assert changed.dtype == np.uint8
    assert (changed != photo).any()
    np.testing.assert_array_equal(photo, before)


def test_gray_is_gray() -> None:
    gray = change_pixels(_photo(), Photometric(grayscale=1.0), np.random.default_rng(0))
    assert (gray[..., 0] == gray[..., 1]).all()
    assert (gray[..., 1] == gray[..., 2]).all()


def test_cutout_covers_one_rectangle_within_its_limit() -> None:
    photo = _photo()
    changed = change_pixels(photo, Photometric(cutout=1.0, max_cutout=0.5), np.random.default_rng(5))
    rows, columns = np.nonzero((changed != photo).any(axis=-1))
    assert np.ptp(rows) < 40
    assert np.ptp(columns) < 60


def test_ranges_are_checked() -> None:
    with pytest.raises(ValidationError, match="min_scale is above max_scale"):
        Geometry(min_scale=1.2, max_scale=1.0)
    with pytest.raises(ValidationError, match="extra"):
        Geometry.model_validate({"rotation": 3})
