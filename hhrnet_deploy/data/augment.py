"""Training augmentation: one random affine for image, mask and joints, a random flip, and optional photometric changes.

The geometry is that of the official code (lib/dataset/transforms/transforms.py); every random number is drawn from the
generator passed in, so a sample is a function of its seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Image = npt.NDArray[np.uint8]
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.float32]


class Geometry(BaseModel):
    """Ranges of the random affine; the defaults are the official ones.

    Attributes:
        max_rotation: degrees, either way.
        min_scale, max_scale: side of the square that is cut out, as a multiple of the image's short side.
        max_translation: d: the centre moves by whole source pixels within +-d * (short side / 200) * scale.
        flip: probability of mirroring.
        focus: probability of moving the centre from the middle of the image to that of a person; officially 0. Small
            crops show more people that way.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_rotation: float = Field(30.0, ge=0, le=180)
    min_scale: float = Field(0.75, ge=0.01)
    max_scale: float = Field(1.5, ge=0.01, le=100)
    max_translation: float = Field(40.0, ge=0, le=10_000)
    flip: float = Field(0.5, ge=0, le=1)
    focus: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Geometry:
        if self.min_scale > self.max_scale:
            raise ValueError("min_scale is above max_scale")
        return self


class Photometric(BaseModel):
    """Changes of pixel values; everything is off by default, as in the official recipes.

    Attributes:
        brightness: largest shift, as a part of 255.
        contrast, saturation: largest change of the factor around 1.
        hue: largest change of the channels' balance, as a part of 1.
        grayscale, blur, noise, cutout: probability of each.
        max_blur: largest sigma of the blur in pixels.
        max_noise: largest standard deviation of the noise, in grey levels.
        max_cutout: largest side of the grey rectangle, as a part of the image's side. Joints under it stay targets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    brightness: float = Field(0.0, ge=0, le=1)
    contrast: float = Field(0.0, ge=0, lt=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, lt=1)
    grayscale: float = Field(0.0, ge=0, le=1)
    blur: float = Field(0.0, ge=0, le=1)
    max_blur: float = Field(1.5, gt=0, le=10)
    noise: float = Field(0.0, ge=0, le=1)
    max_noise: float = Field(10.0, gt=0, le=100)
    cutout: float = Field(0.0, ge=0, le=1)
    max_cutout: float = Field(0.25, gt=0, le=1)


@dataclass(frozen=True)
class Placement:
    """One draw of the geometry for one image.

    Attributes:
        center: x, y in source pixels of the middle of the square that is cut out.
        side: side of that square in source pixels.
        rotation: degrees.
        scale: the drawn multiple of the short side; scale-aware targets divide by it.
        flip: mirror the result.
    """

    center: tuple[float, float]
    side: float
    rotation: float
    scale: float
    flip: bool

    def matrix(self, size: int) -> Float64:
        """2x3 affine from source pixels to an output of ``size`` x ``size`` (before the flip; transforms.py:94-119)."""
        factor = size / self.side
        angle = -math.radians(self.rotation)
        cos, sin = math.cos(angle), math.sin(angle)
        shift_x = size * (0.5 - self.center[0] / self.side) - size / 2
        shift_y = size * (0.5 - self.center[1] / self.side) - size / 2
        return np.array(
            [
                [cos * factor, -sin * factor, cos * shift_x - sin * shift_y + size / 2],
                [sin * factor, cos * factor, sin * shift_x + cos * shift_y + size / 2],
            ]
        )


def draw_placement(
    width: int, height: int, geometry: Geometry, rng: np.random.Generator, joints: Float64 | None = None
) -> Placement:
    """Draw a placement for a ``width`` x ``height`` image (transforms.py:128-155).

    Each number is drawn whether or not it ends up used, so that switching one range off leaves the others alone.

    Args:
        width, height: of the image.
        geometry: the ranges.
        rng: where the numbers come from.
        joints: (P, K, 3) x, y, visibility in source pixels; only ``geometry.focus`` looks at them.
    """
    short = min(width, height)
    scale = geometry.min_scale + rng.random() * (geometry.max_scale - geometry.min_scale)
    rotation = (rng.random() * 2 - 1) * geometry.max_rotation
    # Whole pixels from -limit to limit - 1, as randint(-limit, limit) gives them.
    limit = int(geometry.max_translation * short / 200 * scale)
    shift = np.floor(rng.random(2) * 2 * limit) - limit
    flip = bool(rng.random() < geometry.flip)
    focused, choice = rng.random(2)
    middle = np.array([width / 2, height / 2])
    if joints is not None and len(joints) and focused < geometry.focus:
        person = joints[int(choice * len(joints))]
        middle = person[person[:, 2] > 0, :2].mean(axis=0)
    center = (float(middle[0] + shift[0]), float(middle[1] + shift[1]))
    return Placement(center, short * scale, rotation, scale, flip)


def place_image(image: Image, placement: Placement, size: int) -> Image:
    """The network input, (size, size, 3) uint8; black outside the photo."""
    placed = np.asarray(cv2.warpAffine(image, placement.matrix(size), (size, size)), np.uint8)
    return np.ascontiguousarray(placed[:, ::-1]) if placement.flip else placed


def place_mask(mask: npt.NDArray[np.bool_], placement: Placement, size: int) -> Mask:
    """The mask at an output resolution, (size, size) float32 of 0 and 1; 0 outside the photo (transforms.py:157)."""
    warped = cv2.warpAffine(mask.astype(np.uint8) * np.uint8(255), placement.matrix(size), (size, size))
    kept = (warped > 127).astype(np.float32)
    return np.ascontiguousarray(kept[:, ::-1]) if placement.flip else kept


def place_joints(
    joints: Float64, placement: Placement, size: int, flip_index: tuple[int, ...], *, pixel: float = 1.0
) -> Float64:
    """Joints at an output resolution.

    Args:
        joints: (P, K, 3) x, y in source pixels and the visibility.
        placement: the draw.
        size: side of the output.
        flip_index: the skeleton's; joint k of a mirrored image is joint flip_index[k].
        pixel: a pixel of the network input in pixels of the output. The official code takes 1 at every resolution
            (transforms.py:62-76), which moves a mirrored joint by up to 3 input pixels.

    Returns:
        (P, K, 3): x, y in pixels of the output, visibility unchanged. A mirrored x is size - pixel - x.
    """
    placed = joints.copy()
    matrix = placement.matrix(size)
    placed[..., :2] = joints[..., :2] @ matrix[:, :2].T + matrix[:, 2]
    if placement.flip:
        placed = placed[:, list(flip_index)]
        placed[..., 0] = size - placed[..., 0] - pixel
    return placed


def change_pixels(image: Image, photometric: Photometric, rng: np.random.Generator) -> Image:
    """Apply the photometric changes to a (H, W, 3) uint8 RGB image; the same image when all are off."""
    changes: tuple[tuple[float, Callable[..., Any]], ...] = (
        (photometric.grayscale, _to_gray),
        (photometric.blur, _blur),
        (photometric.noise, _add_noise),
        (photometric.cutout, _cut_out),
    )
    image = _jitter(image, photometric, rng)
    for probability, change in changes:
        if probability > 0 and rng.random() < probability:
            image = change(image, photometric, rng)
    return image


def _around_one(extent: float, rng: np.random.Generator, count: int = 1) -> npt.NDArray[np.float32]:
    return (1 + (rng.random(count) * 2 - 1) * extent).astype(np.float32)


_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _jitter(image: Image, photometric: Photometric, rng: np.random.Generator) -> Image:
    """Contrast, saturation, balance and brightness as ONE 3x4 colour matrix, applied in a single pass."""
    if not (photometric.brightness or photometric.contrast or photometric.saturation or photometric.hue):
        return image
    saturation = _around_one(photometric.saturation, rng)[0]
    balance = _around_one(photometric.hue, rng, 3)
    contrast = _around_one(photometric.contrast, rng)[0]
    shift = (rng.random() * 2 - 1) * photometric.brightness * 255
    mix = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * np.tile(_LUMA, (3, 1))
    mix = contrast * balance[:, None] * mix
    offset = 127.5 * (1 - contrast) + shift
    matrix = np.concatenate([mix, np.full((3, 1), offset, np.float32)], axis=1)
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def _to_gray(image: Image, _photometric: Photometric, _rng: np.random.Generator) -> Image:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.repeat(gray[:, :, None], 3, axis=2)


def _blur(image: Image, photometric: Photometric, rng: np.random.Generator) -> Image:
    sigma = max(0.1, rng.random() * photometric.max_blur)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _add_noise(image: Image, photometric: Photometric, rng: np.random.Generator) -> Image:
    deviation = np.float32(rng.random() * photometric.max_noise)
    noise = rng.standard_normal(image.shape, np.float32) * deviation
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _cut_out(image: Image, photometric: Photometric, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    part_x, part_y, at_x, at_y, grey = rng.random(5)
    cut_width = max(1, int(part_x * photometric.max_cutout * width))
    cut_height = max(1, int(part_y * photometric.max_cutout * height))
    left, top = int(at_x * (width - cut_width + 1)), int(at_y * (height - cut_height + 1))
    changed = image.copy()
    changed[top : top + cut_height, left : left + cut_width] = int(grey * 255)
    return changed
