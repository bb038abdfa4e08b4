"""Synthetic people in COCO keypoint format, fixed by seed and generator version.

Every image depends on (``GENERATOR_VERSION``, seed, its index) alone, so the number of workers does not matter. The
default poses come from a parametric prior; ``poses`` takes real ones, for example derived from COCO annotations
(CC BY 4.0, COCO Consortium), which are lifted to depth and completed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hhrnet_deploy.data.synth_folder import new_set, write_document, write_image, write_record
from hhrnet_deploy.data.synth_poses import read_poses
from hhrnet_deploy.data.synth_scene import draw_scene
from hhrnet_deploy.errors import InputError

GENERATOR = "hhrnet-synth"
GENERATOR_VERSION = 1

ImageFormat = Literal["png", "jpg"]
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


@dataclass(frozen=True)
class _Job:
    index: int
    folder: str
    plan: _Plan


@dataclass(frozen=True)
class _Done:
    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    pixels: bytes


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
    with new_set(out_dir) as part:
        result = _fill(part, plan, progress)
    return SynthResult(Path(out_dir), *result)


def _fill(part: Path, plan: _Plan, progress: Progress | None) -> tuple[int, int, str, str]:
    folder = part / "images" / plan.split
    folder.mkdir(parents=True)
    jobs = [_Job(index, str(folder), plan) for index in range(plan.images)]
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pixels = hashlib.sha256()
    for number, done in enumerate(_run(jobs, plan.workers), 1):
        records.append(done.image)
        for note in done.annotations:
            annotations.append({"id": len(annotations) + 1, "image_id": done.image["id"], **note})
        pixels.update(done.pixels)
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


def _run(jobs: list[_Job], workers: int) -> Iterator[_Done]:
    if workers == 1:
        yield from map(_make, jobs)
        return
    with ProcessPoolExecutor(workers, initializer=_single_threaded) as pool:
        yield from pool.map(_make, jobs, chunksize=8)


def _single_threaded() -> None:
    """Let OpenCV use one thread: the processes share the work already."""
    import cv2

    cv2.setNumThreads(1)


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


_POSES: dict[str, list[NDArray[np.float64]]] = {}


def _poses_of(path: str | None) -> list[NDArray[np.float64]] | None:
    if path is None:
        return None
    if path not in _POSES:
        _POSES[path] = read_poses(path)
    return _POSES[path]


def _make(job: _Job) -> _Done:
    """Draw and write one image."""
    plan = job.plan
    rng = np.random.Generator(np.random.PCG64([GENERATOR_VERSION, plan.seed, job.index]))
    scene = draw_scene(rng, _poses_of(plan.poses))
    image, annotations = scene.image, scene.annotations
    if plan.short_side is not None and min(image.shape[:2]) > plan.short_side:
        image, annotations = _shrink(image, annotations, plan.short_side)
    name = f"{job.index + 1:012d}.{plan.image_format}"
    write_image(Path(job.folder, name), image)
    height, width = image.shape[:2]
    record = {"id": job.index + 1, "file_name": name, "width": width, "height": height}
    return _Done(record, annotations, hashlib.sha256(image.tobytes()).digest())


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
