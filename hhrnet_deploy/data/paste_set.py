"""A training set of people pasted onto other photos, rendered beforehand."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hhrnet_deploy.data.coco import KeypointDataset, Sample, open_dataset
from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.data.paste import Donor, cut_out, paste_people
from hhrnet_deploy.data.synth_background import background
from hhrnet_deploy.data.synth_folder import new_set, write_document, write_image, write_record
from hhrnet_deploy.errors import InputError

Image = NDArray[np.uint8]
_MOST_PHOTOS = 2000  # held in memory, about half a megabyte each; larger splits are drawn from
_MADE_UP_SHARE = 0.15  # of the pictures have a drawn background, for want of photos without people


@dataclass(frozen=True)
class _Photo:
    image: Image
    annotations: list[dict[str, Any]]


def make_paste_set(
    out_dir: str | os.PathLike[str],
    coco_dir: str | Path,
    split: str,
    images: int,
    seed: int,
    *,
    short_side: int | None = 320,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a COCO-layout folder of photos with people of other photos pasted in.

    Args:
        out_dir: new folder, as for ``synthesize``.
        coco_dir: a data set in COCO's layout whose annotations have outlines. Of more than 2,000 photos the seed
            chooses 2,000.
        split: the split to take photos and people from, and the name of the new one.
        images: how many.
        seed: equal seeds give equal sets.
        short_side: pixels; photos with a longer short side are shrunk first. None keeps their size.
        progress: called with (images done, images in all).

    Raises:
        InputError: nobody in the split can be cut out, or the folder cannot be written.
    """
    samples = _existing(open_dataset(coco_dir, split))
    if len(samples) > _MOST_PHOTOS:
        drawn = np.random.Generator(np.random.PCG64(seed)).choice(len(samples), _MOST_PHOTOS, replace=False)
        samples = [samples[index] for index in sorted(drawn)]
    photos = [_read(sample, short_side) for sample in samples]
    donors = [donor for photo in photos for note in photo.annotations if (donor := cut_out(photo.image, note))]
    if not donors:
        raise InputError(
            f"Nobody in {split} of {coco_dir} can be cut out.",
            hint="Donors need an outline (segmentation), at least six joints and 40 x 40 pixels.",
        )
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with new_set(out_dir, split) as part:
        (part / "images" / split).mkdir(parents=True)
        for index in range(images):
            image, notes = _compose(np.random.Generator(np.random.PCG64([seed, index])), photos, donors)
            name = f"{index + 1:012d}.jpg"
            write_image(part / "images" / split / name, image)
            records.append({"id": index + 1, "file_name": name, "width": image.shape[1], "height": image.shape[0]})
            annotations += [
                {**note, "id": len(annotations) + number, "image_id": index + 1} for number, note in enumerate(notes, 1)
            ]
            if progress is not None:
                progress(index + 1, images)
        info = {"description": "People pasted onto other photos by hhrnet-deploy", "source": split, "seed": seed}
        write_document(part, split, info, records, annotations)
        write_record(part, {**info, "images": images})
    return Path(out_dir)


def _existing(dataset: KeypointDataset) -> list[Sample]:
    return [sample for sample in dataset if sample.path.is_file()]


def _read(sample: Sample, short_side: int | None) -> _Photo:
    import cv2

    image = read_image(sample.path)
    height, width = image.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return _Photo(image, sample.annotations)
    factor = short_side / min(height, width)
    size = (round(width * factor), round(height * factor))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    factors = (size[0] / width, size[1] / height)
    return _Photo(small, [_resized(note, sample, factors, size) for note in sample.annotations])


def _resized(
    note: dict[str, Any], sample: Sample, factors: tuple[float, float], size: tuple[int, int]
) -> dict[str, Any]:
    x, y = factors
    result = {**note, "area": float(note.get("area", 0)) * x * y}
    result["bbox"] = (np.asarray(note["bbox"], float).reshape(2, 2) * factors).reshape(-1).tolist()
    if note.get("keypoints"):
        result["keypoints"] = (np.asarray(note["keypoints"], float).reshape(-1, 3) * (x, y, 1)).reshape(-1).tolist()
    segmentation = note.get("segmentation")
    if isinstance(segmentation, list):
        result["segmentation"] = [
            (np.asarray(polygon, float).reshape(-1, 2) * factors).reshape(-1).tolist() for polygon in segmentation
        ]
    elif segmentation:
        result["segmentation"] = _resized_runs(note, sample, size)
    return result


def _resized_runs(note: dict[str, Any], sample: Sample, size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths (crowds) drawn at the new size."""
    import cv2
    from pycocotools import mask

    from hhrnet_deploy.data.labels import segmentation_mask

    whole = segmentation_mask(note, sample.width, sample.height).astype(np.uint8)
    small = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    coded = mask.encode(np.asfortranarray(small))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode("ascii")}


def _compose(rng: np.random.Generator, photos: list[_Photo], donors: list[Donor]) -> tuple[Image, list[dict[str, Any]]]:
    count = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.3, 0.27, 0.18, 0.12, 0.08, 0.05]))
    chosen = [donors[index] for index in rng.integers(len(donors), size=count)]
    if rng.random() < _MADE_UP_SHARE:
        height, width = photos[rng.integers(len(photos))].image.shape[:2]
        return paste_people(rng, background(rng, width, height), chosen)
    photo = photos[rng.integers(len(photos))]
    image, notes = photo.image, photo.annotations
    return paste_people(rng, image, chosen, notes)
