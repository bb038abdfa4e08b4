"""Random network outputs: people as Gaussian peaks with tags, plus noise, and ties on request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.skeletons import default_skeleton

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Field:
    """How to draw the outputs for one image.

    Attributes:
        people: how many people are drawn.
        joints: K.
        width, height: size of ``fine``; ``coarse`` has half of it unless ``coarse_size`` says otherwise.
        missing: share of joints that are not drawn.
        noise: standard deviation of the noise on heat and, times 10, on tags.
        tag_step: tags are rounded to multiples of it (0.5 makes rounded-distance ties); 0 leaves them continuous.
        heat_step: heat is rounded to multiples of it; makes equal scores and plateaus.
        tag_spread: people's tags are drawn from +-tag_spread; small values make people whose tags are close.
        duplicates: share of joints that are drawn twice.
        coarse_size: (width, height) of ``coarse``.
    """

    people: int = 5
    joints: int = 17
    width: int = 64
    height: int = 64
    missing: float = 0.25
    noise: float = 0.01
    tag_step: float = 0.0
    heat_step: float = 0.0
    tag_spread: float = 8.0
    duplicates: float = 0.0
    coarse_size: tuple[int, int] | None = None

    def draw(self, seed: int, *, flip: bool = False, dtype: type = np.float32) -> tuple[npt.NDArray, ...]:
        """(coarse, fine) or, with ``flip``, (coarse, fine, coarse_flipped, fine_flipped), each of batch 1."""
        rng = np.random.default_rng(seed)
        placed = _place(self, rng)
        sides = [self._side(placed, rng)]
        if flip:
            channel = self._flip_index()
            mirrored = [(channel[joint], self.width - 1 - x, *rest, -tag) for joint, x, *rest, tag in placed]
            sides.append(self._side(mirrored, rng))
        return tuple(array[None].astype(dtype) for side in sides for array in side)

    def _flip_index(self) -> tuple[int, ...]:
        skeleton = default_skeleton(self.joints)
        return tuple(range(self.joints)) if skeleton is None else skeleton.flip_index

    def _side(self, placed: list, rng: np.random.Generator) -> tuple[Float32, Float32]:
        width, height = self.coarse_size or (max(1, self.width // 2), max(1, self.height // 2))
        ratio_x, ratio_y = width / self.width, height / self.height
        fine = np.zeros((self.joints, self.height, self.width))
        coarse = np.zeros((2 * self.joints, height, width))
        coarse[self.joints :] = rng.normal(0, 10 * self.noise, (self.joints, height, width))
        for joint, x, y, size, score, tag in placed:
            _add_blob(fine[joint], x, y, size, score)
            centre = (x + 0.5) * ratio_x - 0.5, (y + 0.5) * ratio_y - 0.5
            near = _add_blob(coarse[joint], *centre, size * max(ratio_x, 0.5), score) > 0.05 * score
            coarse[self.joints + joint][near] = tag + rng.normal(0, self.noise, int(near.sum()))
        fine += rng.normal(0, self.noise, fine.shape)
        coarse[: self.joints] += rng.normal(0, self.noise, (self.joints, height, width))
        if self.tag_step:
            coarse[self.joints :] = np.round(coarse[self.joints :] / self.tag_step) * self.tag_step
        if self.heat_step:
            fine = np.round(fine / self.heat_step) * self.heat_step
            coarse[: self.joints] = np.round(coarse[: self.joints] / self.heat_step) * self.heat_step
        return coarse.astype(np.float32), fine.astype(np.float32)


def _place(field: Field, rng: np.random.Generator) -> list:
    placed = []
    for _ in range(field.people):
        centre = rng.uniform((0, 0), (field.width, field.height))
        reach = rng.uniform(0.05, 0.4) * min(field.width, field.height)
        tag, size = rng.uniform(-field.tag_spread, field.tag_spread), rng.uniform(1.2, 3.0)
        for joint in range(field.joints):
            for _ in range(2 if rng.random() < field.duplicates else 1):
                if rng.random() < field.missing:
                    continue
                x, y = np.clip(centre + rng.normal(0, reach, 2), 0, (field.width - 1, field.height - 1))
                score = rng.uniform(0.05, 1.0)
                placed.append((joint, float(x), float(y), size, score, tag + rng.normal(0, 0.1)))
    return placed


def _add_blob(heat: npt.NDArray, x: float, y: float, size: float, score: float) -> npt.NDArray:
    """Max-merge a Gaussian into ``heat`` (H, W) and return it alone."""
    rows = np.exp(-((np.arange(heat.shape[0]) - y) ** 2) / (2 * size**2))
    columns = np.exp(-((np.arange(heat.shape[1]) - x) ** 2) / (2 * size**2))
    blob = score * rows[:, None] * columns[None]
    blob[blob < 1e-6] = 0  # no subnormal numbers, which no network puts out
    np.maximum(heat, blob, out=heat)
    return blob


def stack(images: list[tuple[npt.NDArray, ...]]) -> tuple[npt.NDArray, ...]:
    """Join drawn images of one shape into one batch."""
    return tuple(np.concatenate(arrays) for arrays in zip(*images, strict=True))
