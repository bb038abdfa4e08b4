"""One image of a synthetic set: drawn from version, seed and index alone, and written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hhrnet_deploy.data.synth_folder import write_image
from hhrnet_deploy.data.synth_scene import draw_scene

GENERATOR = "hhrnet-synth"
GENERATOR_VERSION = 1

ImageFormat = Literal["png", "jpg"]


@dataclass(frozen=True)
class Order:
    """What every image of a set has in common; ``poses`` is the path of a pose file, ``folder`` takes the images."""

    seed: int
    poses: str | None
    image_format: ImageFormat
    short_side: int | None
    folder: str


@dataclass(frozen=True)
class Drawn:
    """An image that was written: its COCO record, its annotations without ids, the SHA-256 of its RGB bytes."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    pixels_sha256: str


def draw_image(order: Order, poses: list[NDArray[np.float64]] | None, index: int) -> Drawn:
    """Draw and write image number ``index``, counted from 0.

    Raises:
        OSError: it cannot be written.
    """
    rng = np.random.Generator(np.random.PCG64([GENERATOR_VERSION, order.seed, index]))
    scene = draw_scene(rng, poses)
    image, annotations = scene.image, scene.annotations
    if order.short_side is not None and min(image.shape[:2]) > order.short_side:
        image, annotations = _shrink(image, annotations, order.short_side)
    name = f"{index + 1:012d}.{order.image_format}"
    write_image(Path(order.folder, name), image)
    height, width = image.shape[:2]
    record = {"id": index + 1, "file_name": name, "width": width, "height": height}
    return Drawn(record, annotations, hashlib.sha256(image.tobytes()).hexdigest())


def _shrink(
    image: NDArray[np.uint8], annotations: list[dict[str, Any]], short_side: int
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    import cv2

    height, width = image.shape[:2]
    factor = short_side / min(height, width)
    size = (round(width * factor), round(height * factor))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), [_scaled_note(note, size[0] / width, size[1] / height) for note in annotations]


def _scaled_note(note: dict[str, Any], x: float, y: float) -> dict[str, Any]:
    factors = np.array([x, y])
    keypoints = np.asarray(note["keypoints"], float).reshape(-1, 3)
    keypoints[:, :2] *= factors
    return {
        **note,
        "area": round(note["area"] * x * y, 2),
        "bbox": (np.asarray(note["bbox"]).reshape(2, 2) * factors).round(2).reshape(-1).tolist(),
        "segmentation": [
            (np.asarray(polygon).reshape(-1, 2) * factors).round(2).reshape(-1).tolist()
            for polygon in note["segmentation"]
        ],
        "keypoints": [
            int(value) if column == 2 else round(float(value), 2)
            for row in keypoints
            for column, value in enumerate(row)
        ],
    }
