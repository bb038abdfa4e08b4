"""Synthetic people in COCO keypoint format, fixed by seed and generator version.

Every image depends on (``GENERATOR_VERSION``, seed, its index) alone, so the number of workers does not matter. The
default poses come from a parametric prior; ``poses`` takes real ones, for example derived from COCO annotations
(CC BY 4.0, COCO Consortium), which are lifted to depth and completed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hhrnet_deploy.data.synth_folder import new_set, write_document, write_record
from hhrnet_deploy.data.synth_image import GENERATOR, GENERATOR_VERSION, ImageFormat, Order
from hhrnet_deploy.data.synth_poses import read_poses
from hhrnet_deploy.data.synth_workers import draw_images
from hhrnet_deploy.errors import InputError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SynthResult:
    """What was written: the folder, the number of images and people, and the hashes that identify the content."""

    folder: Path
    images: int
    people: int
    annotations_sha256: str
    pixels_sha256: str


@dataclass(frozen=True)
class _Plan:
    """One set to be made."""

    images: int
    seed: int
    poses: str | None
    split: str
    workers: int
    image_format: ImageFormat
    short_side: int | None

    def check(self) -> None:
        for name, value, least in (("images", self.images, 1), ("seed", self.seed, 0), ("workers", self.workers, 1)):
            if value < least:
                raise InputError(f"{name} has to be at least {least}, got {value}.")
        if self.image_format not in ("png", "jpg"):
            raise InputError(f"image_format has to be 'png' or 'jpg', got {self.image_format!r}.")
        if self.short_side is not None and self.short_side < 32:
            raise InputError(f"short_side has to be at least 32 pixels, got {self.short_side}.")
        if not self.split or Path(self.split).name != self.split or self.split.startswith("."):
            raise InputError(f"split has to be a plain name such as val2017, got {self.split!r}.")
        if self.poses is not None:
            read_poses(self.poses)


def synthesize(
    out_dir: str | os.PathLike[str],
    images: int,
    seed: int,
    poses: str | os.PathLike[str] | None = None,
    *,
    split: str = "val2017",
    progress: Progress | None = None,
    workers: int = 1,
    image_format: ImageFormat = "png",
    short_side: int | None = None,
) -> SynthResult:
    """Write a COCO-layout folder of synthetic people.

    Args:
        out_dir: new folder; it gets ``images/<split>/`` and ``annotations/person_keypoints_<split>.json``. It appears
            only when complete. An earlier generated set is replaced.
        images: how many, at least 1.
        seed: 0 or more; equal seeds give equal sets.
        poses: file of real poses (:func:`hhrnet_deploy.data.synth_poses.read_poses`); None: the built-in prior.
        split: name of the split in the folder.
        progress: called with (images done, images in all).
        workers: processes; the result does not depend on it.
        image_format: ``png`` keeps every pixel, ``jpg`` (quality 95) is smaller.
        short_side: pixels; shrink images with a longer short side, their annotations along with them.

    Raises:
        InputError: an argument is out of range, the folder holds something else, the pose file is not usable, or the
            disk is full.
    """
    source = None if poses is None else os.fspath(poses)
    plan = _Plan(images, seed, source, split, workers, image_format, short_side)
    plan.check()
    with new_set(out_dir, split) as part:
        result = _fill(part, plan, progress)
    return SynthResult(Path(out_dir), *result)


def _fill(part: Path, plan: _Plan, progress: Progress | None) -> tuple[int, int, str, str]:
    folder = part / "images" / plan.split
    folder.mkdir(parents=True)
    order = Order(plan.seed, plan.poses, plan.image_format, plan.short_side, str(folder))
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pixels = hashlib.sha256()
    for number, done in enumerate(draw_images(order, plan.images, plan.workers), 1):
        records.append(done.image)
        for note in done.annotations:
            annotations.append({"id": len(annotations) + 1, "image_id": done.image["id"], **note})
        pixels.update(bytes.fromhex(done.pixels_sha256))
        if progress is not None:
            progress(number, plan.images)
    info = _info(plan)
    document = write_document(part, plan.split, info, records, annotations)
    people = sum(1 for note in annotations if note["num_keypoints"])
    digest = content_hash(document)
    record = {
        **info,
        "images": plan.images,
        "split": plan.split,
        "annotations_sha256": digest,
        "pixels_sha256": pixels.hexdigest(),
    }
    write_record(part, record)
    return plan.images, people, digest, pixels.hexdigest()


def content_hash(document: dict[str, Any]) -> str:
    """SHA-256 over the labels of a COCO document, whatever the layout of the JSON and the format of the images.

    Outlines are left out: OpenCV releases start and thin the same contour differently.
    """
    images = [[image["id"], image["width"], image["height"]] for image in document["images"]]
    notes = [{key: note[key] for key in note if key != "segmentation"} for note in document["annotations"]]
    text = json.dumps([images, notes], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _info(plan: _Plan) -> dict[str, Any]:
    source = "built-in" if plan.poses is None else hashlib.sha256(Path(plan.poses).read_bytes()).hexdigest()
    return {
        "description": "Synthetic people drawn by hhrnet-deploy",
        "generator": GENERATOR,
        "generator_version": GENERATOR_VERSION,
        "seed": plan.seed,
        "poses": source,
    }
