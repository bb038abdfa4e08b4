"""Calibration sets: which images the ranges are measured on, named so exactly that another machine finds the same.

Written on the command line as ``coco:DIR[:SPLIT][:N]`` (any folder that `open_dataset` reads), a folder of images
(``DIR[:N]``), or a manifest (a shipped name or a JSON file; ``FILE.json:DIR`` where the manifest names real images).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.data.coco import KeypointDataset, open_dataset
from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.data.manifest import ImageEntry, ImagesManifest, SyntheticManifest, read_manifest
from hhrnet_deploy.data.synth_cache import ensure_synthetic
from hhrnet_deploy.data.synth_writer import Progress
from hhrnet_deploy.data.warp import Warp
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import sha256_of
from hhrnet_deploy.resources import CALIBRATION, find

DEFAULT_SET = "synthetic_calibration_128"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_SYNTAX = "Write coco:DIR[:SPLIT][:N], a folder DIR[:N], the name of a shipped manifest, or FILE.json[:DIR]."
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CalibrationImage:
    """One image file; ``sha256`` is None for a generated set, whose manifest holds one hash of all pixels."""

    path: Path
    entry: ImageEntry | None


@dataclass(frozen=True)
class CalibrationSet:
    """Images in a fixed order.

    Attributes:
        name: short, for reports.
        images: in order.
        manifest: what names them.
        digest: SHA-256 of which images these are, in this order.
    """

    name: str
    images: tuple[CalibrationImage, ...]
    manifest: SyntheticManifest | ImagesManifest
    digest: str

    def __len__(self) -> int:
        return len(self.images)

    def warped(self, short_side: int, *, start: int = 0) -> Iterator[Pixels]:
        """The network inputs (1, H, W, 3) uint8 RGB, each at the size its own photo takes.

        Raises:
            InputError: an image is missing, unreadable or no longer the one the manifest names.
        """
        for image in self.images[start:]:
            pixels = _read(image)
            height, width = pixels.shape[:2]
            try:
                warp = Warp.plan(width, height, short_side)
            except InputError as error:
                raise InputError(f"{image.path}: {error.fact}", hint="Leave it out of the set.") from error
            yield warp.apply(pixels)[None]


def open_calibration(text: str | None = None, *, progress: Progress | None = None) -> CalibrationSet:
    """The set that ``text`` names; see the module for its syntax.

    Args:
        text: the set; None takes `DEFAULT_SET`.
        progress: called with (images done, images in all) while a synthetic set is drawn.

    Raises:
        InputError: no such set, folder or manifest, or a wrong number of images.
    """
    if text is None:
        text = DEFAULT_SET
    if not text:
        raise InputError("The calibration set has no name.", hint=_SYNTAX)
    if text.startswith("coco:"):
        return _from_dataset(text.removeprefix("coco:"))
    if any(Path(folder).is_dir() for folder in (text, text.partition(":")[0], text.rpartition(":")[0]) if folder):
        return _from_folder(*_with_count(text))
    path, _, root = text.partition(":")
    manifest_path = _manifest_path(path)
    manifest = read_manifest(manifest_path)
    if isinstance(manifest, SyntheticManifest):
        if root:
            raise InputError(f"{path} names its images itself; {root!r} after it means nothing.", hint=_SYNTAX)
        return _from_synthetic(manifest, manifest_path, progress)
    return _from_manifest(manifest, root, text)


def _manifest_path(name: str) -> Path:
    try:
        return find(CALIBRATION, name)
    except InputError as error:
        raise InputError(error.fact, hint=f"{error.hint or ''} {_SYNTAX}".strip()) from error


def _with_count(text: str) -> tuple[str, int | None]:
    """``DIR:N`` as (DIR, N); a count has to be a number from 1."""
    head, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, None
    return head, _count(tail, text)


def _count(number: str, text: str) -> int:
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise InputError(f"Expected a number of images after the last colon of {text!r}, got {number!r}.", hint=_SYNTAX)
    return int(number)


def _from_dataset(text: str) -> CalibrationSet:
    parts = text.split(":")
    if not parts[0] or len(parts) > 3:
        raise InputError(f"Cannot read the calibration set 'coco:{text}'.", hint=_SYNTAX)
    root, rest = parts[0], parts[1:]
    count = None
    if rest and rest[-1].isascii() and rest[-1].isdigit():
        count = _count(rest.pop(), text)
    if len(rest) > 1:
        raise InputError(f"Expected a number of images after the last colon, got {rest[-1]!r}.", hint=_SYNTAX)
    try:
        dataset = open_dataset(root, rest[0] if rest else None)
    except InputError as error:
        raise InputError(error.fact, hint=_SYNTAX) from error
    numbers = _spread(len(dataset), count, f"{root} ({dataset.split})")
    return _real(
        name=_plain(f"{Path(root).resolve().name}_{dataset.split}_{len(numbers)}"),
        source=dataset.kind,
        split=dataset.split,
        chosen=_how(len(dataset), len(numbers)),
        files=[_sample(dataset, number) for number in numbers],
    )


def _sample(dataset: KeypointDataset, number: int) -> tuple[int | None, Path, str]:
    sample = dataset[number]
    return sample.image_id, sample.path, sample.path.relative_to(dataset.image_folder).as_posix()


def _from_folder(folder: str, count: int | None) -> CalibrationSet:
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise InputError(f"The folder {folder} holds no image ({', '.join(sorted(_SUFFIXES))}).", hint=_SYNTAX)
    numbers = _spread(len(paths), count, folder)
    return _real(
        name=_plain(f"{Path(folder).resolve().name}_{len(numbers)}"),
        source="folder",
        split=None,
        chosen=_how(len(paths), len(numbers)),
        files=[(None, paths[number], paths[number].name) for number in numbers],
    )


def _spread(available: int, count: int | None, where: str) -> list[int]:
    """``count`` numbers below ``available`` at equal distances: no chance, and all parts of the set are in."""
    if available == 0:
        raise InputError(f"{where} holds no image.", hint=_SYNTAX)
    if count is None:
        return list(range(available))
    if count > available:
        raise InputError(f"{where} holds {available} images, {count} were asked for.")
    return [number * available // count for number in range(count)]


def _how(available: int, count: int) -> str:
    return f"all {available}" if count == available else f"{count} of {available}, at equal distances"


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".-") or "images"


def _real(
    *, name: str, source: str, split: str | None, chosen: str, files: Sequence[tuple[int | None, Path, str]]
) -> CalibrationSet:
    entries = [ImageEntry(id=number, file_name=file_name, sha256=_hash(path)) for number, path, file_name in files]
    manifest = ImagesManifest(
        kind="images", name=name, source=source, split=split, chosen=chosen, images=tuple(entries)
    )
    images = [CalibrationImage(path, entry) for (_, path, _), entry in zip(files, entries, strict=True)]
    return CalibrationSet(name, tuple(images), manifest, _digest(entries))


def _hash(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"The calibration image {path} does not exist.", hint="`hhrnet data check DIR` lists others.")
    return sha256_of(path)


def _from_manifest(manifest: ImagesManifest, root: str, text: str) -> CalibrationSet:
    if not root:
        raise InputError(
            f"Manifest {manifest.name} names real images, which lie elsewhere; it has to be said where.",
            hint=f"Write --calibration {text}:DIR with the folder of the data set or of the images.",
        )
    folder = Path(root)
    if manifest.split is not None:
        folder = open_dataset(folder, manifest.split).image_folder
    images = tuple(CalibrationImage(folder / entry.file_name, entry) for entry in manifest.images)
    for image in images:
        if not image.path.is_file():
            raise InputError(f"Manifest {manifest.name} names {image.path}, which does not exist.")
    return CalibrationSet(manifest.name, images, manifest, _digest(manifest.images))


def _from_synthetic(manifest: SyntheticManifest, path: Path, progress: Progress | None) -> CalibrationSet:
    dataset = open_dataset(ensure_synthetic(path, progress), manifest.split)
    images = tuple(CalibrationImage(sample.path, None) for sample in dataset)
    digest = hashlib.sha256(f"{manifest.annotations_sha256} {manifest.pixels_sha256}".encode()).hexdigest()
    return CalibrationSet(manifest.name, images, manifest, digest)


def _digest(entries: Sequence[ImageEntry]) -> str:
    """Which pixels in which order; names and ids are left out, they change nothing."""
    return hashlib.sha256(" ".join(entry.sha256 for entry in entries).encode()).hexdigest()


def _read(image: CalibrationImage) -> Pixels:
    if image.entry is not None and _hash(image.path) != image.entry.sha256:
        raise InputError(
            f"{image.path} is not the image that the calibration manifest names: its SHA-256 differs.",
            hint="Fetch the data set again, or make a new manifest with hhrnet calibrate --write-manifest.",
        )
    return read_image(image.path)
