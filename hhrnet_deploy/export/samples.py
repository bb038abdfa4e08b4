"""Images to run a graph on when it is compared with its source."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.targets.runner import MULTIPLE

Images = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]  # N, H, W

SYNTHETIC = "synthetic people"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_SEED = 20260


def parity_shapes(short_side: int, size: tuple[int, int] | None, batch: int | None) -> list[Shape]:
    """The (N, H, W) to compare at: the fixed one, or two that differ in everything that is dynamic.

    Args:
        short_side: S of the preset.
        size: (H, W) of a graph with a fixed size.
        batch: N of a graph with a fixed batch.
    """
    short, long = (-(-side // MULTIPLE) * MULTIPLE for side in (short_side, short_side * 11 // 8))
    sizes = [size, size] if size else [(short, long), (long, short)]
    batches = [batch, batch] if batch else [1, 2]
    shapes = [(n, *hw) for n, hw in zip(batches, sizes, strict=True)]
    return list(dict.fromkeys(shapes))


def sample_batches(shapes: Sequence[Shape], folder: str | Path | None = None) -> tuple[list[Images], str]:
    """One batch (N, H, W, 3) uint8 RGB of each shape, and where the images came from.

    Args:
        shapes: (N, H, W) of each batch.
        folder: images of this folder, sorted by name, repeated when there are too few; None draws synthetic people.

    Raises:
        InputError: the folder holds no readable image.
    """
    total = sum(shape[0] for shape in shapes)
    photos = _synthetic(total) if folder is None else _from_folder(Path(folder), total)
    source = iter(photos)
    batches = [np.stack([_resized(next(source), h, w) for _ in range(n)]) for n, h, w in shapes]
    return batches, SYNTHETIC if folder is None else str(folder)


def _from_folder(folder: Path, count: int) -> list[Images]:
    if not folder.is_dir():
        raise InputError(f"There is no folder of images {folder}.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)[:count]
    if not paths:
        raise InputError(f"The folder {folder} holds no image ({', '.join(sorted(_SUFFIXES))}).")
    return list(islice(cycle([read_image(path) for path in paths]), count))


def _synthetic(count: int) -> list[Images]:
    from hhrnet_deploy.data.synth_scene import draw_scene

    return [draw_scene(np.random.default_rng((_SEED, number)), None).image for number in range(count)]


def _resized(image: Images, height: int, width: int) -> Images:
    import cv2

    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
