"""The rules that one annotation of a data set has to keep (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from hhrnet_deploy.data.findings import Findings, Problem
from hhrnet_deploy.data.labels import segmentation_problem
from hhrnet_deploy.data.layout import Kind
from hhrnet_deploy.skeletons import Skeleton

Size = tuple[int, int]

_LARGEST = 1e9  # no pixel coordinate or area of an image that can be opened is beyond


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether ``value`` is an int that is no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a number that can be a coordinate or area; no NaN, infinity or bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


@dataclass
class AnnotationRules:
    """Holds annotations against their images, categories and skeleton.

    Attributes:
        kind: CrowdPose annotations need no ``area``.
        skeleton: None where it could not be found; the number of keypoints is not checked then.
        sizes: (width, height) of each image by id.
        categories: the known category ids; empty where the file lists none.
        people: annotations seen so far that have labelled joints.
    """

    kind: Kind
    skeleton: Skeleton | None
    sizes: Mapping[int, Size]
    categories: frozenset[int]
    findings: Findings
    people: int = 0
    _ids: set[int] = field(default_factory=set)

    def check(self, annotation: Any, number: int) -> None:
        """Check the ``number``-th annotation of the file."""
        if not isinstance(annotation, dict):
            self.findings.add(Problem.ANNOTATION_ENTRY, f"annotation number {number} is no JSON object")
            return
        where = f"annotation {annotation.get('id', f'number {number}')}"
        self._fields(annotation, where)
        size = self._references(annotation, where)
        labelled = self._keypoints(annotation, where, size)
        self.people += labelled > 0
        self._box(annotation, where, size, labelled)
        self._segmentation(annotation, where, size)

    def _fields(self, annotation: dict[str, Any], where: str) -> None:
        for key in ("id", "image_id", "category_id", "num_keypoints"):
            if not is_whole(annotation.get(key)):
                self._malformed(where, key, annotation)
        if annotation.get("iscrowd") not in (0, 1):
            self._malformed(where, "iscrowd", annotation)
        if self.kind == "coco" and not is_finite(annotation.get("area")):
            self._malformed(where, "area", annotation)

    def _malformed(self, where: str, key: str, annotation: dict[str, Any]) -> None:
        got = repr(annotation[key])[:60] if key in annotation else "nothing"
        self.findings.add(Problem.ANNOTATION_ENTRY, f"{where}: {key} is {got}")

    def _references(self, annotation: dict[str, Any], where: str) -> Size | None:
        """Check the ids; the size of the annotation's image if that is known."""
        identity, image_id, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        if is_whole(identity):
            if identity in self._ids:
                self.findings.add(Problem.ANNOTATION_ID_TWICE, where)
            self._ids.add(identity)
            if identity == 0:
                self.findings.add(Problem.ANNOTATION_ID_ZERO, f"image {image_id}")
        if is_whole(category) and self.categories and category not in self.categories:
            self.findings.add(Problem.UNKNOWN_CATEGORY, f"{where}: category {category}")
        if not is_whole(image_id):
            return None
        if image_id not in self.sizes:
            self.findings.add(Problem.UNKNOWN_IMAGE, f"{where}: image {image_id}")
        return self.sizes.get(image_id)

    def _keypoints(self, annotation: dict[str, Any], where: str, size: Size | None) -> int:
        """Check the keypoints; how many are labelled."""
        keypoints = annotation.get("keypoints", [] if annotation.get("iscrowd") else None)
        if not isinstance(keypoints, list):
            self._malformed(where, "keypoints", annotation)
            return 0
        if len(keypoints) % 3 or (self.skeleton and len(keypoints) not in self._lengths(annotation)):
            wanted = f", 3 x {self.skeleton.num_joints} expected" if self.skeleton else ", threes expected"
            self.findings.add(Problem.KEYPOINT_COUNT, f"{where}: {len(keypoints)} numbers{wanted}")
            return 0
        if not all(map(is_finite, keypoints)):
            wrong = next(value for value in keypoints if not is_finite(value))
            self.findings.add(Problem.KEYPOINT_VALUE, f"{where}: {wrong!r}"[:120])
            return 0
        labelled = 0
        for joint in range(len(keypoints) // 3):
            x, y, visibility = keypoints[3 * joint : 3 * joint + 3]
            labelled += visibility > 0
            self._keypoint(x, y, visibility, f"{where}: {self._name(joint)}", size)
        self._count(annotation, where, labelled)
        return labelled

    def _lengths(self, annotation: dict[str, Any]) -> tuple[int, ...]:
        full = 3 * self.skeleton.num_joints if self.skeleton else 0
        return (0, full) if annotation.get("iscrowd") else (full,)

    def _name(self, joint: int) -> str:
        return self.skeleton.joints[joint] if self.skeleton else f"joint {joint}"

    def _keypoint(self, x: float, y: float, visibility: float, where: str, size: Size | None) -> None:
        if visibility not in (0, 1, 2):
            self.findings.add(Problem.KEYPOINT_VISIBILITY, f"{where} has visibility {visibility}")
        elif visibility == 0:
            if x or y:
                self.findings.add(Problem.KEYPOINT_UNLABELLED, f"{where} at ({x}, {y})")
        elif size and not (0 <= x <= size[0] and 0 <= y <= size[1]):
            self.findings.add(Problem.KEYPOINT_OUTSIDE, f"{where} at ({x}, {y}) in {size[0]}x{size[1]}")

    def _count(self, annotation: dict[str, Any], where: str, labelled: int) -> None:
        stated = annotation.get("num_keypoints")
        if not is_whole(stated):
            return
        # CrowdPose counts without head and neck; what matters there is whether the person has any.
        same = stated == labelled if self.kind == "coco" else (stated > 0) == (labelled > 0)
        if not same:
            self.findings.add(Problem.NUM_KEYPOINTS, f"{where}: {stated} stated, {labelled} labelled")

    def _box(self, annotation: dict[str, Any], where: str, size: Size | None, labelled: int) -> None:
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
            self._malformed(where, "bbox", annotation)
            return
        x, y, width, height = box
        area = annotation.get("area")
        if labelled and is_finite(area) and area <= 0:
            self.findings.add(Problem.AREA, f"{where}: {area}")
        if width <= 0 or height <= 0:
            problem = Problem.BOX_DEGENERATE if labelled else Problem.BOX_DEGENERATE_UNUSED
            self.findings.add(problem, f"{where}: {box}")
        elif size and (x < -1 or y < -1 or x + width > size[0] + 1 or y + height > size[1] + 1):
            self.findings.add(Problem.BOX_OUTSIDE, f"{where}: {box} in {size[0]}x{size[1]}")

    def _segmentation(self, annotation: dict[str, Any], where: str, size: Size | None) -> None:
        segmentation = annotation.get("segmentation")
        if not segmentation:
            masked = annotation.get("iscrowd") or annotation.get("num_keypoints") == 0
            if masked and self.kind == "coco":
                self.findings.add(Problem.NO_SEGMENTATION, where)
            return
        problem = segmentation_problem(segmentation, *size) if size else None
        if problem is not None:
            self.findings.add(Problem.SEGMENTATION, f"{where}: {problem}"[:200])
