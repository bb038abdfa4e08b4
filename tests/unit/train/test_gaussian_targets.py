"""Targets against a pixel-by-pixel recomputation of SEMANTICS."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode.api import decode_heads
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.train.targets import SMALLEST_SIGMA, gaussian_targets, scale_aware_sigmas, tag_positions

SIZE, K = 19, 3


def _naive(joints: np.ndarray, size: int, sigmas: list[float], exact: bool = False) -> np.ndarray:
    heat = np.zeros((joints.shape[1], size, size))
    for person, sigma in zip(joints, sigmas, strict=True):
        reach = math.floor(3 * sigma + 1 + 0.5)
        for k, (px, py, seen) in enumerate(person):
            x, y = int(px), int(py)  # truncation toward zero
            if seen <= 0 or not (0 <= x < size and 0 <= y < size):
                continue
            middle = (px - 0.5, py - 0.5) if exact else (x, y)
            for row in range(max(0, y - reach), min(size, y + reach + 1)):
                for column in range(max(0, x - reach), min(size, x + reach + 1)):
                    value = math.exp(-((column - middle[0]) ** 2 + (row - middle[1]) ** 2) / (2 * sigma**2))
                    heat[k, row, column] = max(heat[k, row, column], value)
    return heat


def _random(people: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    places = rng.uniform(-3, SIZE + 3, (people, K, 2))
    return np.concatenate([places, rng.integers(0, 3, (people, K, 1))], axis=-1)


@pytest.mark.parametrize("people", [0, 1, 2, 30, 31])
def test_gaussians(people: int) -> None:
    joints = _random(people, people)
    np.testing.assert_allclose(gaussian_targets(joints, SIZE), _naive(joints, SIZE, [2.0] * people), atol=1e-6)


def test_gaussians_of_different_people_keep_their_sigma() -> None:
    joints, sigmas = _random(4, 9), [0.4, 1.0, 1.37, 3.0]
    expected = _naive(joints, SIZE, sigmas)
    np.testing.assert_allclose(gaussian_targets(joints, SIZE, np.array(sigmas)), expected, atol=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_gaussians_wider_than_the_map(exact: bool) -> None:
    """Also of a sigma whose whole window would not fit into memory."""
    joints, sigmas = _random(3, 11), [7.0, 40.0, 1e9]
    expected = _naive(joints[:2], SIZE, sigmas[:2], exact=exact)
    heat = gaussian_targets(joints[:2], SIZE, np.array(sigmas[:2]), exact=exact)
    np.testing.assert_allclose(heat, expected, atol=1e-6)
    assert (gaussian_targets(np.array([[[18.0, 0.0, 2.0]]]), SIZE, sigmas[2], exact=exact) == 1).all()


def test_exact_gaussians() -> None:
    joints, sigmas = _random(5, 10), [0.5, 1.0, 1.37, 2.0, 3.0]
    expected = _naive(joints, SIZE, sigmas, exact=True)
    np.testing.assert_allclose(gaussian_targets(joints, SIZE, np.array(sigmas), exact=True), expected, atol=1e-6)


def test_the_narrowest_exact_gaussian_does_not_fall_between_the_pixels() -> None:
    heat = gaussian_targets(np.array([[[9.0, 9.0, 1.0]]]), SIZE, SMALLEST_SIGMA, exact=True)
    np.testing.assert_allclose(heat[0, 8:10, 8:10], math.exp(-1), rtol=1e-6)


@pytest.mark.parametrize(("exact", "mean_error"), [(False, 0.5), (True, 0.125)])
def test_the_decoder_reads_exact_targets_closer_and_none_to_one_side(exact: bool, mean_error: float) -> None:
    """One person of 17 joints at random places of a 64 x 64 input; error in input pixels along an axis."""
    rng, errors = np.random.default_rng(3), []
    config = DecodeConfig(flip=False)
    for _ in range(60):
        joints = np.concatenate([rng.uniform(12, 52, (1, 17, 2)), np.ones((1, 17, 1))], axis=-1)
        maps = [gaussian_targets(joints / (stride, stride, 1), 64 // stride, 1.5, exact=exact) for stride in (4, 2)]
        coarse = np.concatenate([maps[0], np.zeros_like(maps[0])])
        person = decode_heads(Heads(coarse[None], maps[1][None]), size=(64, 64), config=config)[0]
        errors.append(person.keypoints[0, :, :2] - joints[0, :, :2])
    offsets = np.array(errors)
    assert abs(offsets.mean()) < 0.05
    assert abs(np.abs(offsets).mean() - mean_error) < 0.03


@pytest.mark.parametrize(
    ("x", "column"),
    [(-0.99, 0), (-1.0, None), (0.0, 0), (4.99, 4), (SIZE - 0.01, SIZE - 1), (float(SIZE), None), (math.nan, None)],
)
def test_centres_are_truncated_toward_zero(x: float, column: int | None) -> None:
    joints = np.array([[[x, 5.5, 2.0]]])
    heat = gaussian_targets(joints, SIZE)
    index, visible = tag_positions(joints, SIZE)
    if column is None:
        assert not heat.any()
        assert not visible.any()
        return
    assert np.unravel_index(heat[0].argmax(), (SIZE, SIZE)) == (5, column)
    assert heat[0, 5, column] == 1.0
    assert index[0, 0] == 5 * SIZE + column


def test_window_is_fifteen_pixels_for_sigma_two() -> None:
    heat = gaussian_targets(np.array([[[9.0, 9.0, 1.0]]]), SIZE)
    rows, columns = np.nonzero(heat[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 16, 2, 16)


def test_tags_are_read_in_the_channel_of_their_joint() -> None:
    joints = np.array([[[1.2, 2.8, 1.0], [3.0, 4.0, 0.0], [5.0, 6.0, 2.0]]])
    index, visible = tag_positions(joints, SIZE)
    assert visible.tolist() == [[True, False, True]]
    assert index[0, 0] == 0 * SIZE * SIZE + 2 * SIZE + 1
    assert index[0, 2] == 2 * SIZE * SIZE + 6 * SIZE + 5


def test_sigmas_grow_with_the_longer_side() -> None:
    boxes = np.array([[0.0, 0.0, 64.0, 256.0], [0.0, 0.0, 300.0, 10.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(scale_aware_sigmas(boxes), [2.0, 300 / 128, 1e-3])
    # round(sigma + 0.5), halves to even (COCOKeypoints.py:112-113).
    np.testing.assert_allclose(scale_aware_sigmas(boxes[:2], round_up=True), [2.0, 3.0])
    assert scale_aware_sigmas(np.array([[0.0, 0.0, 1e300, 1.0]])).tolist() == [1e9]
