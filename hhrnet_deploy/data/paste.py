"""Real people cut out along their outlines and pasted onto other photos, for training where photos are few.

A joint that a pasted person covers follows the rule of the synthetic sets: it stays labelled (v = 1) while a
neighbouring joint of the same person is seen, otherwise its label goes (v = 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hhrnet_deploy.data.labels import segmentation_mask
from hhrnet_deploy.data.synth_scene import FEWEST_JOINTS, NEIGHBOURS, outlines
from hhrnet_deploy.skeletons import COCO

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Array = NDArray[np.float64]
Note = dict[str, Any]

_FEWEST_DONOR_JOINTS = 6
_SMALLEST_DONOR_AREA = 40.0**2
_FULLEST_BOX = 0.85  # an outline that fills its box is the box, not the person


@dataclass(frozen=True)
class Donor:
    """One person cut out of a photo.

    Attributes:
        image: (h, w, 3) uint8 RGB around the person.
        mask: (h, w) bool, the person's visible pixels.
        keypoints: (17, 3) x, y in pixels of ``image``, v; x and y mean nothing where v is 0.
        area: object area in pixels, as annotated.
    """

    image: Image
    mask: Mask
    keypoints: Array
    area: float


def cut_out(image: Image, annotation: Note) -> Donor | None:
    """The person of an annotation, or None when it does not make a good donor.

    A donor is no crowd, has an outline that is more than its box, at least six labelled joints and 40 x 40 pixels, and
    the outline agrees with the joints (four of five labelled ones lie on it, give or take a few pixels; the others lose
    their label).

    Args:
        image: (H, W, 3) uint8 RGB, the photo.
        annotation: COCO annotation of a person in it.
    """
    import cv2

    if annotation.get("iscrowd") or not annotation.get("segmentation"):
        return None
    keypoints = np.asarray(annotation.get("keypoints") or np.zeros(51), float).reshape(17, 3)
    known = keypoints[:, 2] > 0
    height, width = image.shape[:2]
    mask = segmentation_mask(annotation, width, height)
    if known.sum() < _FEWEST_DONOR_JOINTS or mask.sum() < _SMALLEST_DONOR_AREA:
        return None
    reach = 2 * (int(np.sqrt(mask.sum())) // 24) + 3
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8))
    places = np.clip(keypoints[known, :2], 0, (width - 1, height - 1)).astype(int)
    on_outline = wide[places[:, 1], places[:, 0]] > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if on_outline.mean() < 0.8 or mask.sum() > _FULLEST_BOX * np.ptp(rows) * np.ptp(columns):
        return None
    y0, y1 = max(rows[0] - 3, 0), min(rows[-1] + 4, height)
    x0, x1 = max(columns[0] - 3, 0), min(columns[-1] + 4, width)
    moved = keypoints - np.array([x0, y0, 0])
    moved[np.flatnonzero(known)[~on_outline], 2] = 0  # what hid these joints stays behind in the photo
    area = float(annotation.get("area") or mask.sum())
    return Donor(image[y0:y1, x0:x1].copy(), mask[y0:y1, x0:x1].copy(), moved, area)


def mirrored(donor: Donor) -> Donor:
    """The donor seen in a mirror; left and right joints change places."""
    width = donor.image.shape[1]
    keypoints = donor.keypoints[list(COCO.flip_index)].copy()
    keypoints[:, 0] = width - keypoints[:, 0]
    return replace(
        donor,
        image=np.ascontiguousarray(donor.image[:, ::-1]),
        mask=np.ascontiguousarray(donor.mask[:, ::-1]),
        keypoints=keypoints,
    )


def scaled(donor: Donor, factor: float) -> Donor:
    """The donor at ``factor`` times its size."""
    import cv2

    height, width = donor.image.shape[:2]
    size = (max(round(width * factor), 4), max(round(height * factor), 4))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    x, y = size[0] / width, size[1] / height
    return Donor(
        np.asarray(cv2.resize(donor.image, size, interpolation=method), np.uint8),
        np.asarray(cv2.resize(donor.mask.astype(np.uint8) * 255, size, interpolation=method) > 127),
        donor.keypoints * (x, y, 1),
        donor.area * x * y,
    )


@dataclass
class _Layer:
    """One person of the picture: what its annotation says, and which pixels it still shows."""

    note: Note
    whole: int
    mask: Mask
    changed: bool


def paste_people(
    rng: np.random.Generator, image: Image, donors: Sequence[Donor], annotations: Sequence[Note] = ()
) -> tuple[Image, list[Note]]:
    """Paste people onto a photo, far (small) ones first, mirrored, scaled and shifted at random.

    Args:
        rng: the only source of chance.
        image: (H, W, 3) uint8 RGB; it is not changed.
        donors: whom to paste.
        annotations: COCO annotations of the people in ``image`` already; those that are covered in part get a new
            outline, area, box and visibilities, those that vanish are left out.

    Returns:
        The new picture and its annotations, those of ``annotations`` first; new ones lack ``id`` and ``image_id``.
    """
    height, width = image.shape[:2]
    result = image.copy()
    layers = [_layer_of(note, width, height) for note in annotations]
    for donor in sorted((_varied(rng, donor, width, height) for donor in donors), key=lambda donor: donor.area):
        corner = _corner(rng, donor, width, height)
        placed = _blend(rng, result, donor, corner)
        for layer in layers:
            _cover(layer, placed)
        layers.append(_new_layer(donor, corner, placed))
    finished = (_finish(layer) for layer in layers)
    return result, [note for note in finished if note is not None]


def _layer_of(note: Note, width: int, height: int) -> _Layer:
    mask = segmentation_mask(note, width, height)
    return _Layer(dict(note), int(mask.sum()), mask, changed=False)


def _varied(rng: np.random.Generator, donor: Donor, width: int, height: int) -> Donor:
    """Mirrored every other time, at a size drawn like COCO's, enlarged at most by half."""
    if rng.random() < 0.5:
        donor = mirrored(donor)
    short = min(width, height)
    wanted = float(np.clip(0.2 * np.exp(rng.normal(0, 0.6)), 0.08, 0.7)) * short
    return scaled(donor, min(wanted / float(np.sqrt(donor.area)), 1.5))


def _corner(rng: np.random.Generator, donor: Donor, width: int, height: int) -> tuple[int, int]:
    """Where the donor's picture goes; up to a quarter of it may lie outside."""
    tall, wide = donor.mask.shape
    low = np.minimum([-0.25 * wide, -0.1 * tall], [width - wide, height - tall])
    high = np.maximum([width - 0.75 * wide, height - 0.75 * tall], low + 1)
    x, y = rng.uniform(low, high)
    return round(x), round(y)


def _blend(rng: np.random.Generator, image: Image, donor: Donor, corner: tuple[int, int]) -> Mask:
    """Paste with a feathered edge and a change of brightness; returns the (H, W) mask of what the donor covers."""
    import cv2

    height, width = image.shape[:2]
    tall, wide = donor.mask.shape
    x0, y0 = max(corner[0], 0), max(corner[1], 0)
    x1, y1 = min(corner[0] + wide, width), min(corner[1] + tall, height)
    covered = np.zeros((height, width), np.bool_)
    if x0 >= x1 or y0 >= y1:
        return covered
    part = np.s_[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
    window = 3 if donor.area < 80**2 else 5
    soft = cv2.GaussianBlur(donor.mask.astype(np.float32), (window, window), 0)[part][..., None]
    gain = (rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    person = donor.image[part].astype(np.float32) * gain
    below = image[y0:y1, x0:x1].astype(np.float32)
    image[y0:y1, x0:x1] = np.clip(below + (person - below) * soft + 0.5, 0, 255).astype(np.uint8)
    covered[y0:y1, x0:x1] = donor.mask[part]
    return covered


def _new_layer(donor: Donor, corner: tuple[int, int], placed: Mask) -> _Layer:
    height, width = placed.shape
    keypoints = donor.keypoints + np.array([*corner, 0])
    x, y = keypoints[:, 0], keypoints[:, 1]
    outside = (x < 0) | (y < 0) | (x >= width) | (y >= height) | (donor.keypoints[:, 2] == 0)
    keypoints[outside] = 0
    whole = int(donor.mask.sum())
    note: Note = {"category_id": 1, "iscrowd": 0, "area": donor.area * int(placed.sum()) / max(whole, 1)}
    note["keypoints"] = keypoints.reshape(-1).tolist()
    return _Layer(_outlined(note, placed), int(placed.sum()), placed.copy(), changed=True)


def _cover(layer: _Layer, placed: Mask) -> None:
    """Take away what a person pasted later hides of an earlier one."""
    hidden = layer.mask & placed
    keypoints = np.asarray(layer.note.get("keypoints") or np.zeros(51), float).reshape(17, 3)
    if layer.note.get("iscrowd") or not (hidden.any() or _on(placed, keypoints).any()):
        return
    layer.changed = True
    before = max(int(layer.mask.sum()), 1)
    layer.mask = layer.mask & ~placed
    layer.note["area"] = float(layer.note.get("area", before)) * int(layer.mask.sum()) / before
    layer.note["keypoints"] = _hide(keypoints, _on(placed, keypoints)).reshape(-1).tolist()
    layer.note = _outlined(layer.note, layer.mask)


def _on(mask: Mask, keypoints: Array) -> Mask:
    """(17,) whether a labelled joint lies on the mask."""
    height, width = mask.shape
    columns = np.clip(keypoints[:, 0], 0, width - 1).astype(int)
    rows = np.clip(keypoints[:, 1], 0, height - 1).astype(int)
    return np.asarray(mask[rows, columns] & (keypoints[:, 2] > 0))


def _hide(keypoints: Array, covered: Mask) -> Array:
    """Labels of a person some of whose joints have just been covered."""
    seen = (keypoints[:, 2] == 2) & ~covered
    result = keypoints.copy()
    for joint in np.flatnonzero(covered):
        if seen[list(NEIGHBOURS[joint])].any():
            result[joint, 2] = 1
        else:
            result[joint] = 0
    return result


def _outlined(note: Note, mask: Mask) -> Note:
    """The annotation with outline and box of a mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return {**note, "segmentation": [], "bbox": [0.0, 0.0, 0.0, 0.0]}
    box = [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)]
    return {**note, "segmentation": outlines(mask), "bbox": box}


def _finish(layer: _Layer) -> Note | None:
    """The final annotation; None where hardly anything is seen any more."""
    note, left = layer.note, int(layer.mask.sum())
    if not layer.changed:
        return note
    if left < 60 or left < 0.1 * layer.whole or not note["segmentation"]:
        return None
    keypoints = np.asarray(note.get("keypoints") or np.zeros(51), float).reshape(17, 3)
    labelled = int((keypoints[:, 2] > 0).sum())
    if labelled < FEWEST_JOINTS:
        keypoints, labelled = np.zeros((17, 3)), 0
    values = [[round(float(x), 2), round(float(y), 2), int(v)] for x, y, v in keypoints]
    flat = [value for triple in values for value in triple]
    return {**note, "area": round(float(note["area"]), 2), "num_keypoints": labelled, "keypoints": flat}
