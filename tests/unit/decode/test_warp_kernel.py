"""The warp that the CUDA kernel shares with the host has the pixels of OpenCV 4."""

import cv2
import numpy as np
import pytest

from hhrnet_deploy.decode.native import load_native


def _compare(image: np.ndarray, matrix: np.ndarray, width: int, height: int) -> None:
    expected = cv2.warpAffine(image, matrix, (width, height))
    made = load_native().warp(image, matrix.reshape(-1).tolist(), width, height)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("seed", range(20))
def test_one_scale_and_a_shift_as_inference_uses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 300, 2))
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    scale = float(rng.uniform(0.2, 4))
    matrix = np.array([[scale, 0, rng.uniform(-40, 40)], [0, scale, rng.uniform(-40, 40)]])
    _compare(image, matrix, *(int(side) for side in rng.integers(1, 400, 2)))


@pytest.mark.parametrize("seed", range(20))
def test_any_affine_matrix(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    image = rng.integers(0, 256, (*rng.integers(1, 200, 2), 3), np.uint8)
    matrix = rng.normal(size=(2, 3)) * [[1, 1, 50], [1, 1, 50]]
    _compare(image, matrix, *(int(side) for side in rng.integers(1, 300, 2)))


def test_photo_sizes() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((480, 640), (427, 640), (1080, 1920)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        scale = 512 / height
        target = int((scale * width + 63) // 64 * 64)
        matrix = np.array([[scale, 0, (target - scale * width) / 2], [0, scale, 0.0]])
        _compare(image, matrix, target, 512)
