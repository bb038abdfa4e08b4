"""Say what is missing or broken in a data set, all of it at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from hhrnet_deploy.data.annotation_file import AnnotationFile, read_annotation_file
from hhrnet_deploy.data.check_annotations import AnnotationRules, Size, is_finite, is_whole
from hhrnet_deploy.data.coco import choose_skeleton, keypoint_category, other_categories, safe_name
from hhrnet_deploy.data.crowdpose import image_id_of
from hhrnet_deploy.data.findings import Finding, Findings, Problem
from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.data.layout import Layout, find_layout, find_layouts
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.skeletons import Skeleton

_IMAGES_AT_ONCE = 256
_ANNOTATED = ("train", "val")  # image folders that are useless without annotations


class Advance(Protocol):
    """What a check calls as it goes on."""

    def __call__(self, done: int) -> None:
        """Told how many images are done."""


Progress = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class SplitReport:
    """What was found in one split.

    Attributes:
        split: its name.
        annotation_file: the JSON file.
        images, annotations, people: how many there are; people have at least one labelled joint.
        findings: what is wrong, errors first.
    """

    split: str
    annotation_file: Path
    images: int
    annotations: int
    people: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class CheckReport:
    """What was found in a data set: ``findings`` that belong to no split, and the splits."""

    root: Path
    findings: tuple[Finding, ...]
    splits: tuple[SplitReport, ...]

    @property
    def all_findings(self) -> list[tuple[str, Finding]]:
        """(split or "", finding) of everything."""
        own = [("", finding) for finding in self.findings]
        return own + [(split.split, finding) for split in self.splits for finding in split.findings]

    def count(self, severity: str) -> int:
        """How many problems of that severity there are: ``error`` or ``warning``."""
        return sum(finding.count for _, finding in self.all_findings if finding.problem.severity == severity)

    @property
    def ok(self) -> bool:
        """Whether the data set is usable: no error was found."""
        return self.count("error") == 0


@contextmanager
def _unseen(_title: str, _total: int) -> Iterator[Advance]:
    yield lambda done: None


def check_dataset(
    root: str | Path,
    split: str | None = None,
    skeleton: Skeleton | str | Path | None = None,
    *,
    progress: Progress = _unseen,
) -> CheckReport:
    """Check a data set in the folder layout of COCO or CrowdPose; every image is decoded.

    Args:
        root: the data set's folder.
        split: one split; by default every one there is.
        skeleton: as ``open_dataset``.
        progress: given a title and a number of images, a context that yields what to call as they are done.

    Raises:
        InputError: the folder does not exist, or ``skeleton`` is not one.
    """
    findings = Findings()
    layouts = find_layouts(root)
    if split is not None or not layouts:
        try:
            layouts = [find_layout(root, split)]
        except InputError as error:
            layouts = []
            findings.add(Problem.ANNOTATION_FILE, str(error))
    if split is None:
        _check_folders(Path(root), layouts, findings)
    reports = tuple(_check_split(layout, skeleton, progress) for layout in layouts)
    return CheckReport(Path(root), findings.collected(), reports)


def _check_folders(root: Path, layouts: list[Layout], findings: Findings) -> None:
    """Image folders that no annotation file refers to."""
    used = {layout.image_folder for layout in layouts}
    if root / "images" in used:
        return
    for folder in sorted(path for path in (root / "images").glob("*") if path.is_dir() and path not in used):
        if folder.name.startswith(_ANNOTATED):
            expected = root / "annotations" / f"person_keypoints_{folder.name}.json"
            findings.add(Problem.NO_ANNOTATION_FILE, f"{folder}: {expected} does not exist")
        else:
            findings.add(Problem.UNUSED_FOLDER, str(folder))


def _check_split(layout: Layout, skeleton: Skeleton | str | Path | None, progress: Progress) -> SplitReport:
    findings = Findings()
    images: list[tuple[str, Size]] = []
    annotations = people = 0
    try:
        file = read_annotation_file(layout.annotation_file)
    except InputError as error:
        findings.add(Problem.ANNOTATION_FILE, str(error))
    else:
        sizes = _check_images(file, layout, findings, images)
        annotations = len(file.starts)
        people = _check_annotations(file, layout, skeleton, sizes, findings)
        _check_files(layout, images, findings, progress)
    return SplitReport(layout.split, layout.annotation_file, len(images), annotations, people, findings.collected())


def _check_images(
    file: AnnotationFile, layout: Layout, findings: Findings, images: list[tuple[str, Size]]
) -> dict[int, Size]:
    """Check the list of images, gather those that can be opened; sizes by image id."""
    sizes: dict[int, Size] = {}
    names: set[str] = set()
    if not file.images:
        findings.add(Problem.NO_IMAGES, str(file.path))
    for number, entry in enumerate(file.images or []):
        problem = _entry_problem(entry)
        if problem is not None:
            findings.add(Problem.IMAGE_ENTRY, f"image number {number}: {problem}")
            continue
        image_id, name, size = entry["id"], entry["file_name"], (entry["width"], entry["height"])
        if image_id in sizes:
            findings.add(Problem.IMAGE_ID_TWICE, f"image {image_id}")
        if name in names:
            findings.add(Problem.IMAGE_NAME_TWICE, name)
        if layout.kind == "crowdpose":
            _check_crowdpose(entry, findings)
        sizes[image_id] = size
        names.add(name)
        images.append((name, size))
    return sizes


def _entry_problem(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "no JSON object"
    for key in ("id", "width", "height"):
        if not is_whole(entry.get(key)):
            return f"{key} is {entry.get(key)!r}"
    if min(entry["width"], entry["height"]) < 1:
        return f"its size is {entry['width']}x{entry['height']}"
    try:
        safe_name(entry.get("file_name"), "it")
    except InputError as error:
        return error.fact
    return None


def _check_crowdpose(entry: dict[str, Any], findings: Findings) -> None:
    index = entry.get("crowdIndex")
    if not is_finite(index) or not 0 <= index <= 1:
        findings.add(Problem.CROWD_INDEX, f"image {entry['id']}: {index!r}")
    try:
        fits = image_id_of(entry["file_name"]) == entry["id"]
    except InputError:
        fits = False
    if not fits:
        findings.add(Problem.IMAGE_ID_NAME, f"image {entry['id']}: {entry['file_name']}")


def _check_annotations(
    file: AnnotationFile,
    layout: Layout,
    given: Skeleton | str | Path | None,
    sizes: dict[int, Size],
    findings: Findings,
) -> int:
    """Check every annotation; how many people have labelled joints."""
    skeleton = _skeleton(file, layout, given, findings)
    listed = [category.get("id") for category in file.categories or [] if isinstance(category, dict)]
    categories = frozenset(identity for identity in listed if is_whole(identity))
    rules = AnnotationRules(layout.kind, skeleton, sizes, categories, findings)
    others = set() if skeleton is None else other_categories(file)
    for number, annotation in enumerate(file.annotations()):
        category = annotation.get("category_id") if isinstance(annotation, dict) else None
        if not (is_whole(category) and category in others):
            rules.check(annotation, number)
    if file.has_annotations and not rules.people:
        findings.add(Problem.NOBODY, str(file.path))
    elif not file.has_annotations and not file.path.name.startswith("image_info_"):
        findings.add(Problem.ANNOTATION_FILE, f"{file.path} has no list of annotations")
    return rules.people


def _skeleton(
    file: AnnotationFile, layout: Layout, given: Skeleton | str | Path | None, findings: Findings
) -> Skeleton | None:
    try:
        category = keypoint_category(file)
        skeleton = choose_skeleton(layout, category, given)
    except InputError as error:
        findings.add(Problem.SKELETON, str(error))
        return None
    names = category.get("keypoints")
    if isinstance(names, list) and names and len(names) != skeleton.num_joints:
        findings.add(
            Problem.SKELETON,
            f"the annotation file names {len(names)} joints, the skeleton {skeleton.name} has {skeleton.num_joints}",
        )
    return skeleton


def _check_files(layout: Layout, images: list[tuple[str, Size]], findings: Findings, progress: Progress) -> None:
    """Decode every image; threads, because OpenCV decodes without the interpreter's lock."""

    def inspect(image: tuple[str, Size]) -> tuple[Problem, str] | None:
        return _file_problem(layout.image_folder / image[0], image[1])

    remaining = iter(images)
    done = 0
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool, progress(f"{layout.split}: reading images", len(images)) as advance:
        while chunk := list(islice(remaining, _IMAGES_AT_ONCE)):
            for problem in pool.map(inspect, chunk):
                if problem is not None:
                    findings.add(*problem)
                done += 1
                advance(done)


def _file_problem(path: Path, size: Size) -> tuple[Problem, str] | None:
    if not path.is_file():
        return Problem.IMAGE_MISSING, str(path)
    try:
        height, width, _ = read_image(path).shape
    except InputError as error:
        return Problem.IMAGE_UNREADABLE, error.fact
    if (width, height) != size:
        return Problem.IMAGE_SIZE, f"{path} is {width}x{height}, the annotation file has {size[0]}x{size[1]}"
    return None
