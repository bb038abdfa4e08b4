"""Key-point data sets: COCO, CrowdPose, and any set in COCO's format with its own skeleton."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard, overload

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.data import labels
from hhrnet_deploy.data.annotation_file import AnnotationFile, JsonObject, read_annotation_file
from hhrnet_deploy.data.crowdpose import image_id_of
from hhrnet_deploy.data.layout import Kind, Layout, find_layout
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.skeletons import COCO, CROWDPOSE, Skeleton, default_skeleton, find_skeleton

_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known about the people in it.

    Attributes:
        image_id: as in result files: the JSON's id (COCO), the number in the file name (CrowdPose).
        path: the image file; it may be missing.
        width, height: in pixels, as the JSON has it.
        annotations: the annotation objects of this image in file order, unchanged; a fresh list.
    """

    image_id: int
    path: Path
    width: int
    height: int
    annotations: list[JsonObject]


@dataclass(frozen=True)
class _Images:
    """The images in the order of the file (COCODataset.py:52: ``list(coco.imgs.keys())``)."""

    ids: list[int]
    json_ids: list[int]
    names: list[str]
    sizes: list[tuple[int, int]]


class KeypointDataset(Sequence[Sample]):
    """One split of a data set, in the order of its annotation file.

    Annotations of other listed categories (animals, things) are left out. The others are parsed when a sample is asked
    for; only the file's text stays in memory.

    Attributes:
        layout: where its files are; ``root``, ``split``, ``kind``, ``annotation_file`` and ``image_folder`` are its.
        skeleton: the joints of its people.
        category_id: COCO's category of people with key points, as it stands in result files; 1 where none is given.
        has_annotations: False for test-dev, whose annotations are not published.
    """

    def __init__(self, layout: Layout, skeleton: Skeleton | str | Path | None = None) -> None:
        self.layout = layout
        owners: array[int] = array("q")
        categories: array[int] = array("q")
        lengths: dict[int, set[int]] = {}

        def visit(annotation: Any) -> None:
            owners.append(_owner(annotation, len(owners), layout.annotation_file))
            category = annotation.get("category_id")
            categories.append(category if _is_number(category) else _NO_CATEGORY)
            lengths.setdefault(categories[-1], set()).add(_keypoint_count(annotation))

        self._file = read_annotation_file(layout.annotation_file, visit)
        self.has_annotations = self._file.has_annotations
        category = keypoint_category(self._file)
        self.category_id = category.get("id", 1)
        self.skeleton = choose_skeleton(layout, category, skeleton)
        others = other_categories(self._file)
        counts = [counts for category, counts in lengths.items() if category not in others]
        _require_lengths(set().union(*counts), self.skeleton, layout.annotation_file)
        self._images = _read_images(self._file, layout)
        foreign = np.isin(np.frombuffer(categories, np.int64), sorted(others)) if others else None
        self._order, self._first = _group(owners, self._images.json_ids, foreign)
        self._selected = np.arange(len(self._images.ids))

    @property
    def root(self) -> Path:
        """The data set's folder."""
        return self.layout.root

    @property
    def split(self) -> str:
        """The split's name."""
        return self.layout.split

    @property
    def kind(self) -> Kind:
        """Whose rules hold for image ids, training masks and AP."""
        return self.layout.kind

    @property
    def annotation_file(self) -> Path:
        """The JSON file."""
        return self.layout.annotation_file

    @property
    def image_folder(self) -> Path:
        """What ``file_name`` in the JSON is relative to."""
        return self.layout.image_folder

    @property
    def image_ids(self) -> list[int]:
        """The image ids in order."""
        return [self._images.ids[number] for number in self._selected]

    @property
    def paths(self) -> list[Path]:
        """The image files in order; no annotation is parsed."""
        return [self.image_folder / self._images.names[number] for number in self._selected]

    def __len__(self) -> int:
        return len(self._selected)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> KeypointDataset: ...

    def __getitem__(self, index: int | slice) -> Sample | KeypointDataset:
        """The sample at ``index``; a slice gives a data set."""
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return self._sample(int(self._selected[index]))

    def __iter__(self) -> Iterator[Sample]:
        return (self._sample(int(number)) for number in self._selected)

    def select(self, indices: Sequence[int]) -> KeypointDataset:
        """The same data set with only the samples at ``indices``, in that order; nothing is copied."""
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen._selected = self._selected[np.asarray(indices, np.int64)]
        return chosen

    def annotated(self) -> KeypointDataset:
        """Without the images that have no annotation at all, crowds included (COCOKeypoints.py:55-60)."""
        counts = np.diff(self._first)[self._selected]
        return self.select([int(index) for index in np.flatnonzero(counts)])

    def joints(self, sample: Sample) -> npt.NDArray[np.float64]:
        """(P, K, 3) float64 x, y, visibility of the people with joints; as ``labels.joints``."""
        return labels.joints(sample.annotations, self.skeleton.num_joints)

    def ignore_mask(self, sample: Sample) -> npt.NDArray[np.bool_]:
        """(height, width) bool, True where a loss may not look; nowhere for CrowdPose (CrowdPoseKeypoints.py:118)."""
        if self.kind == "crowdpose":
            return np.zeros((sample.height, sample.width), np.bool_)
        return labels.ignore_mask(sample.annotations, sample.width, sample.height)

    def _sample(self, number: int) -> Sample:
        span = self._order[self._first[number] : self._first[number + 1]]
        width, height = self._images.sizes[number]
        return Sample(
            self._images.ids[number],
            self.image_folder / self._images.names[number],
            width,
            height,
            [self._file.annotation(int(position)) for position in span],
        )


def open_dataset(
    root: str | Path, split: str | None = None, skeleton: Skeleton | str | Path | None = None
) -> KeypointDataset:
    """Open one split of a data set in the folder layout of COCO or CrowdPose.

    Args:
        root: the data set's folder.
        split: by default ``val2017`` (CrowdPose: ``test``), or the only one there is.
        skeleton: a skeleton, its name or its file; by default ``skeleton.json`` in the data set's folder or beside its
            annotations, else the built-in one with the joints that the annotation file names.

    Raises:
        InputError: a file is missing or broken, the joints do not fit, or a file name leads out of the image folder.
    """
    return KeypointDataset(find_layout(root, split), skeleton)


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64


_NO_CATEGORY = -_INT64


def _owner(annotation: Any, number: int, path: Path) -> int:
    image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
    if not _is_number(image_id):
        raise InputError(f"Annotation {number} in {path} has no whole number as image_id.", hint=labels.CHECK_HINT)
    return image_id


def _keypoint_count(annotation: JsonObject) -> int:
    """How many numbers ``keypoints`` has; 0 where a crowd has none, -1 where it is missing or no list."""
    keypoints = annotation.get("keypoints", [] if annotation.get("iscrowd") else None)
    return len(keypoints) if isinstance(keypoints, list) else -1


def _require_lengths(lengths: set[int], skeleton: Skeleton, path: Path) -> None:
    wrong = lengths - {0, 3 * skeleton.num_joints}
    if -1 in wrong:
        raise InputError(f"Annotations in {path} have no list of keypoints.", hint=labels.CHECK_HINT)
    if wrong:
        raise InputError(
            f"The skeleton {skeleton.name} needs 3 x {skeleton.num_joints} = {3 * skeleton.num_joints} numbers as "
            f"keypoints; {path} has annotations with {', '.join(map(str, sorted(wrong)))}.",
            hint="Give the data set's own skeleton file with --skeleton.",
        )


def keypoint_category(file: AnnotationFile) -> JsonObject:
    """The first category with key points, else the first, else an empty one.

    Raises:
        InputError: its id is no whole number.
    """
    categories = [category for category in file.categories or [] if isinstance(category, dict)]
    with_keypoints = [category for category in categories if category.get("keypoints")]
    chosen = next(iter(with_keypoints or categories), {})
    if "id" in chosen and not _is_number(chosen["id"]):
        raise InputError(f"A category in {file.path} has no whole number as id.", hint=labels.CHECK_HINT)
    return chosen


def other_categories(file: AnnotationFile) -> set[int]:
    """The ids of the listed categories that are not `keypoint_category`."""
    ids = (category.get("id") for category in file.categories or [] if isinstance(category, dict))
    return {identity for identity in ids if _is_number(identity)} - {keypoint_category(file).get("id", 1)}


def choose_skeleton(layout: Layout, category: JsonObject, given: Skeleton | str | Path | None) -> Skeleton:
    """The skeleton that was given, that lies with the data set, or whose joints ``category`` names.

    Raises:
        InputError: the category names joints that no built-in skeleton has, or a skeleton file is not valid.
    """
    if given is not None:
        return given if isinstance(given, Skeleton) else find_skeleton(given)
    if layout.skeleton_file is not None:
        return Skeleton.from_file(layout.skeleton_file)
    if layout.kind == "crowdpose":
        return CROWDPOSE
    names = category.get("keypoints")
    if not isinstance(names, list) or not names:
        return COCO
    built_in = default_skeleton(len(names))
    if built_in is None or tuple(map(_plain, names)) != built_in.joints:
        raise InputError(
            f"{layout.annotation_file} has {len(names)} joints of its own ({', '.join(map(str, names[:4]))}, ...).",
            hint="Describe them (names, flip pairs, sigmas) in DIR/skeleton.json or in a file given with --skeleton.",
        )
    return built_in


def _plain(name: Any) -> str:
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def _read_images(file: AnnotationFile, layout: Layout) -> _Images:
    if file.images is None:
        raise InputError(f"Annotation file {file.path} has no list of images.", hint=labels.CHECK_HINT)
    images = _Images([], [], [], [])
    for number, entry in enumerate(file.images):
        image_id, name, size = _image_fields(entry, f"Image {number} in {file.path}")
        images.json_ids.append(image_id)
        images.ids.append(image_id_of(name) if layout.kind == "crowdpose" else image_id)
        images.names.append(name)
        images.sizes.append(size)
    for ids in (images.json_ids, images.ids):
        most_common, count = Counter(ids).most_common(1)[0] if ids else (0, 0)
        if count > 1:
            raise InputError(f"{file.path} has the image id {most_common} {count} times.", hint=labels.CHECK_HINT)
    return images


def _image_fields(entry: Any, where: str) -> tuple[int, str, tuple[int, int]]:
    if not isinstance(entry, dict):
        raise InputError(f"{where} has to be a JSON object.", hint=labels.CHECK_HINT)
    for key in ("id", "width", "height"):
        if not _is_number(entry.get(key)):
            raise InputError(f"{where} needs a whole number as {key}, got {entry.get(key)!r}.", hint=labels.CHECK_HINT)
    if min(entry["width"], entry["height"]) < 1:
        raise InputError(f"{where} is {entry['width']}x{entry['height']} pixels.", hint=labels.CHECK_HINT)
    return entry["id"], safe_name(entry.get("file_name"), where), (entry["width"], entry["height"])


def safe_name(name: Any, where: str) -> str:
    """``name`` if it stays inside the image folder.

    Raises:
        InputError: it is no string, empty, absolute or climbs up with ``..``; ``where`` begins the message.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"{where} needs a file_name, got {name!r}.", hint=labels.CHECK_HINT)
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or PureWindowsPath(name).root
    if absolute or ".." in PureWindowsPath(name).parts:
        raise InputError(f"{where} has the file name {name!r}, which leads out of the image folder.")
    return name


def _group(
    owners: array[int], image_ids: list[int], left_out: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Annotation numbers ordered by image, and where each image's begin; without those ``left_out``, or of no image."""
    number_of = {image_id: number for number, image_id in enumerate(image_ids)}
    numbers = np.fromiter((number_of.get(owner, -1) for owner in owners), np.int64, len(owners))
    if left_out is not None:
        numbers[left_out] = -1
    order = np.argsort(numbers, kind="stable")
    first = np.searchsorted(numbers[order], np.arange(len(image_ids) + 1))
    return order, first.astype(np.int64)
