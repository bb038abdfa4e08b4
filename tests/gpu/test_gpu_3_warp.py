"""The warp on the card has the pixels of the host's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from card import Card, warped_as_opencv_4

from hhrnet_deploy.data.warp import Warp
from hhrnet_deploy.decode.native import load_native

pytestmark = pytest.mark.gpu


def check(card: Card, rng: np.random.Generator) -> None:
    """Photos of several sizes that become inputs of one size, by matrices of any kind."""
    size = tuple(int(side) for side in rng.integers(1, 300, 2))
    photos = [rng.integers(0, 256, (*rng.integers(1, 400, 2), 3), np.uint8) for _ in range(int(rng.integers(1, 5)))]
    matrices = [rng.normal(size=(2, 3)) * [[1, 1, 50], [1, 1, 50]] for _ in photos]
    made = card.warp(photos, matrices, size)
    for photo, matrix, image in zip(photos, matrices, made, strict=True):
        expected = load_native().warp(photo, matrix.reshape(-1).tolist(), *size)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("seed", range(30))
def test_any_matrix(card: Card, seed: int) -> None:
    check(card, np.random.default_rng(seed))


@pytest.mark.parametrize("photo", [(640, 480), (427, 640), (1920, 1080), (333, 517), (4000, 3000)])
def test_photos_as_inference_warps_them(card: Card, photo: tuple[int, int]) -> None:
    image = np.random.default_rng(photo[0]).integers(0, 256, (photo[1], photo[0], 3), np.uint8)
    warp = Warp.plan(*photo, 512)
    made = card.warp([image], [warp.matrix], warp.size)[0]
    np.testing.assert_array_equal(made, warped_as_opencv_4(warp, image))
    if cv2.__version__.startswith("4."):
        np.testing.assert_array_equal(made, warp.apply(image))
