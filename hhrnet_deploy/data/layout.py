"""Where the files of a data set lie: the folder layouts of COCO and CrowdPose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hhrnet_deploy.errors import InputError

Kind = Literal["coco", "crowdpose"]

DEFAULT_SPLITS = ("val2017", "test")  # COCO's, CrowdPose's
LAYOUTS = (
    "annotations/person_keypoints_SPLIT.json with images/SPLIT/ or SPLIT/ (COCO), "
    "annotations/image_info_SPLIT.json with images/test2017/ (COCO test), or "
    "json/crowdpose_SPLIT.json with images/ (CrowdPose)"
)


@dataclass(frozen=True)
class Layout:
    """The files of one split.

    Attributes:
        root: the data set's folder.
        split: for example ``val2017``; CrowdPose: ``train``, ``val``, ``trainval``, ``test``.
        kind: whose rules hold for image ids, masks and AP.
        annotation_file: the JSON file.
        image_folder: what ``file_name`` in the JSON is relative to.
    """

    root: Path
    split: str
    kind: Kind
    annotation_file: Path
    image_folder: Path

    @property
    def skeleton_file(self) -> Path | None:
        """``skeleton.json`` in the data set's folder or beside the annotations; None when there is none."""
        candidates = (self.root / "skeleton.json", self.annotation_file.parent / "skeleton.json")
        return next((path for path in candidates if path.is_file()), None)


# (folder, pattern of the annotation file, kind): the layouts in order of precedence.
_PATTERNS: tuple[tuple[str, re.Pattern[str], Kind], ...] = (
    ("annotations", re.compile(r"person_keypoints_(.+)\.json"), "coco"),
    ("annotations", re.compile(r"image_info_(.+)\.json"), "coco"),
    ("json", re.compile(r"crowdpose_(.+)\.json"), "crowdpose"),
    ("annotations", re.compile(r"crowdpose_(.+)\.json"), "crowdpose"),
    ("", re.compile(r"(.+)_crowdpose\.json"), "crowdpose"),
)


def find_layouts(root: str | Path) -> list[Layout]:
    """Every split of a data set, sorted by name within each layout.

    Raises:
        InputError: the folder does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"Data set folder {folder} {what}.", hint=f"Give a folder with {LAYOUTS}.")
    found: dict[str, Layout] = {}
    for subfolder, pattern, kind in _PATTERNS:
        for path in sorted((folder / subfolder).glob("*.json")):
            match = pattern.fullmatch(path.name)
            if match is not None:
                split = match.group(1)
                found.setdefault(split, Layout(folder, split, kind, path, _image_folder(folder, split, kind)))
    return list(found.values())


def find_layout(root: str | Path, split: str | None = None) -> Layout:
    """The files of one split.

    Args:
        root: the data set's folder.
        split: its name; by default ``val2017`` (CrowdPose: ``test``), or the only one there is.

    Raises:
        InputError: no such folder or split; the message lists the splits found.
    """
    layouts = {layout.split: layout for layout in find_layouts(root)}
    if not layouts:
        raise InputError(f"No annotation file found in {root}.", hint=f"Expected {LAYOUTS}.")
    wanted = DEFAULT_SPLITS if split is None else (split,)
    for name in wanted:
        if name in layouts:
            return layouts[name]
    if split is None and len(layouts) == 1:
        return next(iter(layouts.values()))
    raise InputError(
        f"{root} has no annotations for the split {wanted[0]!r}; it has {', '.join(layouts)}.",
        hint="Choose one of these: with --split, or as split: in a recipe.",
    )


def _image_folder(root: Path, split: str, kind: Kind) -> Path:
    """The first folder that exists of those where the images may lie, else the official one."""
    if kind == "crowdpose":
        candidates = [root / "images", root]
        return next((folder for folder in candidates if any(folder.glob("*.jpg"))), candidates[0])
    names = [split, "test2017"] if split.startswith("test") else [split]
    candidates = [parent / name for name in names for parent in (root / "images", root)]
    candidates.append(root / "images")
    return next((folder for folder in candidates if folder.is_dir()), root / "images" / names[-1])
