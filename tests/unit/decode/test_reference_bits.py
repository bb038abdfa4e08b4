"""The reference computes the bits it says it computes: those of PyTorch and NumPy."""

import os
import subprocess
import sys

import numpy as np
import pytest

from hhrnet_deploy.decode.reference.bilinear import resize
from hhrnet_deploy.decode.reference.means import mean_of_tags, mean_of_vector
from hhrnet_deploy.decode.reference.peaks import find_peaks, max_pool

_TORCH_RESIZE = """
import sys
import numpy as np, torch
maps = np.load(sys.argv[1])
for height, width in ((128, 96), (231, 193), (33, 200)):
    resized = torch.nn.functional.interpolate(torch.from_numpy(maps), size=(height, width), mode="bilinear")
    np.save(f"{sys.argv[2]}/{height}x{width}.npy", resized.numpy())
"""


def test_resize_has_the_bits_of_pytorch(tmp_path) -> None:
    """In a process of its own, because ATEN_CPU_CAPABILITY counts only before PyTorch is loaded."""
    maps = np.random.default_rng(0).normal(size=(1, 17, 64, 48)).astype(np.float32)
    np.save(tmp_path / "maps.npy", maps)
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _TORCH_RESIZE, str(tmp_path / "maps.npy"), str(tmp_path)]
    subprocess.run(command, check=True, env=environment)
    for height, width in ((128, 96), (231, 193), (33, 200)):
        expected = np.load(tmp_path / f"{height}x{width}.npy")
        np.testing.assert_array_equal(resize(maps, height, width), expected)


@pytest.mark.parametrize("dims", [1, 2])
def test_person_tags_have_the_bits_of_numpy(dims: int) -> None:
    rng = np.random.default_rng(dims)
    for count in range(1, 65):
        tags = list((rng.normal(size=(count, dims)) * 30).astype(np.float32))
        np.testing.assert_array_equal(mean_of_tags(tags), np.mean(tags, axis=0))


def test_person_scores_have_the_bits_of_numpy() -> None:
    rng = np.random.default_rng(3)
    for joints in range(1, 65):
        person = rng.random((joints, 4)).astype(np.float32)
        assert mean_of_vector(person[:, 2]) == person[:, 2].mean()


def test_every_value_of_a_plateau_is_a_peak_and_the_first_come_first() -> None:
    heat = np.zeros((6, 8), np.float32)
    heat[1:3, 2:5] = 0.5
    tags = np.zeros((1, 6, 8), np.float32)
    found = find_peaks(heat, tags, kernel=5, threshold=0.1, limit=4)
    assert list(zip(found.y, found.x, strict=True)) == [(1, 2), (1, 3), (1, 4), (2, 2)]


def test_max_pool_ignores_what_is_outside() -> None:
    heat = -np.ones((3, 3), np.float32)
    np.testing.assert_array_equal(max_pool(heat, 5), heat)
