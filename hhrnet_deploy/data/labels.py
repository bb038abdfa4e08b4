"""What the annotations of one image mean for training: the joints to learn and the regions to leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import InputError

CHECK_HINT = "`hhrnet data check` lists everything that is wrong with a data set."

# Coordinates, and pixels along an outline, that no annotation of a photo reaches.
_FARTHEST = 1e6
_LONGEST_OUTLINE = 4e6

Annotations = Sequence[dict[str, Any]]


def people(annotations: Annotations) -> list[dict[str, Any]]:
    """The annotations that have at least one labelled joint (COCOKeypoints.py:75-78).

    The official code keeps people without any too; they add nothing to its targets or losses.

    Raises:
        InputError: keypoints are not finite numbers in threes.
    """
    kept = (item for item in annotations if not is_crowd(item) or labelled_joints(item) > 0)
    return [item for item in kept if item.get("keypoints") and (_triples(item)[:, 2] > 0).any()]


def is_crowd(annotation: dict[str, Any]) -> bool:
    """Whether ``iscrowd`` marks a region of many people; left out or null means no.

    Raises:
        InputError: it is neither a number nor true or false.
    """
    value = annotation.get("iscrowd")
    if value is None or isinstance(value, int | float):
        return bool(value)
    raise InputError(f"Annotation {annotation.get('id')} has iscrowd {value!r}, expected 0 or 1.", hint=CHECK_HINT)


def labelled_joints(annotation: dict[str, Any]) -> int:
    """``num_keypoints`` as it stands (CrowdPose counts visible joints only), counted where the file leaves it out.

    Raises:
        InputError: it is no whole number, or keypoints are not finite numbers in threes.
    """
    stated = annotation.get("num_keypoints")
    if stated is not None:
        if not isinstance(stated, int | float) or stated != stated // 1:
            raise InputError(
                f"Annotation {annotation.get('id')} has num_keypoints {stated!r}, expected a whole number.",
                hint=CHECK_HINT,
            )
        return int(stated)
    return int((_triples(annotation)[:, 2] > 0).sum()) if annotation.get("keypoints") else 0


def joints(annotations: Annotations, num_joints: int) -> npt.NDArray[np.float64]:
    """(P, K, 3) float64 x, y in pixels and visibility (0, 1, 2) of ``people(annotations)``.

    Raises:
        InputError: an annotation does not have 3 K finite numbers.
    """
    chosen = people(annotations)
    result = np.zeros((len(chosen), num_joints, 3), np.float64)
    for row, annotation in zip(result, chosen, strict=True):
        row[:] = _numbers(annotation, "keypoints", 3 * num_joints).reshape(num_joints, 3)
    return result


def boxes(annotations: Annotations) -> npt.NDArray[np.float64]:
    """(P, 4) float64 x, y, width, height in pixels of ``people(annotations)``; around the joints where none is given.

    Raises:
        InputError: a box or key points are not finite numbers.
    """
    chosen = people(annotations)
    result = np.zeros((len(chosen), 4), np.float64)
    for row, annotation in zip(result, chosen, strict=True):
        if annotation.get("bbox"):
            row[:] = _numbers(annotation, "bbox", 4)
        else:
            points = _triples(annotation)
            points = points[points[:, 2] > 0, :2]
            row[:] = *points.min(axis=0), *np.ptp(points, axis=0)
    return result


def ignore_mask(annotations: Annotations, width: int, height: int) -> npt.NDArray[np.bool_]:
    """(height, width) bool, True inside crowds and people without labelled joints (COCOKeypoints.py:126-145).

    Where such an annotation has no segmentation its box is taken.

    Raises:
        InputError: a segmentation or box is malformed.
    """
    ignored = np.zeros((height, width), np.bool_)
    for annotation in annotations:
        if is_crowd(annotation) or labelled_joints(annotation) == 0:
            ignored |= segmentation_mask(annotation, width, height)
    return ignored


def segmentation_mask(annotation: dict[str, Any], width: int, height: int) -> npt.NDArray[np.bool_]:
    """(height, width) bool, True inside the annotation's polygons or run lengths, or its box where it has neither.

    Raises:
        InputError: a segmentation or box is malformed.
    """
    from pycocotools import mask

    segmentation = annotation.get("segmentation")
    try:
        if not segmentation:
            encoded = mask.frPyObjects(_box(annotation)[None], height, width)
        else:
            encoded = _encode(segmentation, width, height)
        return np.asarray(np.asarray(mask.decode(encoded)).any(axis=2), np.bool_)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"Annotation {annotation.get('id')} has a malformed segmentation: {error}.", hint=CHECK_HINT
        ) from error


def segmentation_problem(segmentation: Any, width: int, height: int) -> str | None:
    """What is wrong with polygons or run lengths for an image of that size; None when they are sound."""
    try:
        _encode(segmentation, width, height)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        return str(error) or type(error).__name__
    return None


def _encode(segmentation: Any, width: int, height: int) -> Any:
    """The run lengths of pycocotools, one per polygon; its C code is only given what it can bear."""
    from pycocotools import mask

    if isinstance(segmentation, list):
        return mask.frPyObjects(_polygons(segmentation), height, width)
    return [_run_lengths(segmentation, width, height)]


def _box(annotation: dict[str, Any]) -> npt.NDArray[np.float64]:
    box = _numbers(annotation, "bbox", 4)
    _require_drawable(np.stack([box[:2], box[:2] + box[2:]]))
    return box


def _require_drawable(points: npt.NDArray[np.float64]) -> None:
    """Raise ValueError for (N, 2) corners that the C code would crash on, or take gigabytes for.

    It walks the outline in steps of a fifth of a pixel, in memory, and casts coordinates to int.
    """
    steps = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
    if np.abs(points).max() > _FARTHEST or steps > _LONGEST_OUTLINE:
        raise ValueError("its coordinates are far outside of any image")


def _triples(annotation: dict[str, Any]) -> npt.NDArray[np.float64]:
    count = len(annotation["keypoints"]) // 3
    return _numbers(annotation, "keypoints", 3 * count).reshape(count, 3)


def _numbers(annotation: dict[str, Any], key: str, count: int) -> npt.NDArray[np.float64]:
    try:
        values = np.asarray(annotation.get(key), np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise InputError(
            f"Annotation {annotation.get('id')} needs {count} finite numbers as {key}, got {annotation.get(key)!r}.",
            hint=CHECK_HINT,
        )
    return values


def _polygons(segmentation: list[Any]) -> list[list[float]]:
    for polygon in segmentation:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or points.size < 4 or points.size % 2 or not np.isfinite(points).all():
            raise ValueError("a polygon has to be a list of an even number (at least 6) of finite coordinates")
        _require_drawable(points.reshape(-1, 2))
    return segmentation


def _run_lengths(segmentation: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    from pycocotools import mask

    size, counts = segmentation["size"], segmentation["counts"]
    if list(size) != [height, width]:
        raise ValueError(f"its size is {size}, the image's [{height}, {width}]")
    runs = counts if isinstance(counts, list) else _decompress(counts)
    # The C code trusts the lengths; wrong ones would make it read or write beyond the mask.
    if any(not isinstance(run, int) or run < 0 for run in runs) or sum(runs) != width * height:
        raise ValueError("its run lengths do not add up to the image")
    return dict(mask.frPyObjects({"size": [height, width], "counts": runs}, height, width))


def _decompress(counts: str | bytes) -> list[int]:
    """Run lengths from COCO's text form: 5 bits a character, later ones as differences (maskApi.c, rleFrString)."""
    digits = [byte - 48 for byte in (counts.encode("ascii") if isinstance(counts, str) else counts)]
    runs: list[int] = []
    value = shift = 0
    for digit in digits:
        if not 0 <= digit < 64 or shift > 30:
            raise ValueError("its run lengths hold a character that they cannot have")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("its run lengths are cut off")
    return runs
