"""What a check of a data set found, counted by kind and with a few examples of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

Severity = Literal["error", "warning"]

MAX_EXAMPLES = 5


class Problem(Enum):
    """Every kind of problem: its title, and whether the data set is still usable (warning) or not (error)."""

    ANNOTATION_FILE = ("annotation file missing or broken", "error")
    NO_ANNOTATION_FILE = ("image folder without annotation file", "error")
    UNUSED_FOLDER = ("image folder that no annotation file uses", "warning")
    SKELETON = ("skeleton does not fit", "error")
    NO_IMAGES = ("no images listed", "error")
    NOBODY = ("nobody has labelled joints", "warning")
    IMAGE_ENTRY = ("image entry malformed", "error")
    IMAGE_ID_TWICE = ("image id used twice", "error")
    IMAGE_NAME_TWICE = ("image file listed twice", "warning")
    IMAGE_ID_NAME = ("image id differs from the number in the file name", "error")
    CROWD_INDEX = ("crowdIndex missing or not in 0 to 1", "error")
    IMAGE_MISSING = ("image missing", "error")
    IMAGE_UNREADABLE = ("image unreadable", "error")
    IMAGE_SIZE = ("image size differs from the annotation file", "error")
    ANNOTATION_ENTRY = ("annotation field missing or malformed", "error")
    ANNOTATION_ID_TWICE = ("annotation id used twice", "error")
    ANNOTATION_ID_ZERO = ("annotation id 0, whose match pycocotools counts as a miss", "error")
    UNKNOWN_IMAGE = ("annotation of an unknown image", "error")
    UNKNOWN_CATEGORY = ("annotation of an unknown category", "error")
    KEYPOINT_COUNT = ("wrong number of keypoints", "error")
    KEYPOINT_VALUE = ("keypoint is not a finite number", "error")
    KEYPOINT_VISIBILITY = ("keypoint visibility not 0, 1 or 2", "error")
    KEYPOINT_OUTSIDE = ("keypoint outside the image", "error")
    KEYPOINT_UNLABELLED = ("unlabelled keypoint with coordinates", "warning")
    NUM_KEYPOINTS = ("num_keypoints differs from the labelled keypoints", "error")
    BOX_DEGENERATE = ("box without area", "error")
    BOX_DEGENERATE_UNUSED = ("box without area, of an annotation without keypoints", "warning")
    BOX_OUTSIDE = ("box reaches outside the image", "warning")
    AREA = ("area not positive", "error")
    SEGMENTATION = ("segmentation malformed", "error")
    NO_SEGMENTATION = ("region to mask has no segmentation: its box is taken", "warning")

    def __init__(self, title: str, severity: Severity) -> None:
        self.title = title
        self.severity = severity


@dataclass(frozen=True)
class Finding:
    """One kind of problem: how often, and the first examples."""

    problem: Problem
    count: int
    examples: tuple[str, ...]


@dataclass
class Findings:
    """Collects problems; memory does not grow with their number."""

    _counts: dict[Problem, int] = field(default_factory=dict)
    _examples: dict[Problem, list[str]] = field(default_factory=dict)

    def add(self, problem: Problem, example: str) -> None:
        """Count one more ``problem``; ``example`` says where and what."""
        self._counts[problem] = self._counts.get(problem, 0) + 1
        examples = self._examples.setdefault(problem, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example)

    def collected(self) -> tuple[Finding, ...]:
        """What was found, in the order of ``Problem``, errors first."""
        found = [problem for problem in Problem if problem in self._counts]
        found.sort(key=lambda problem: problem.severity != "error")
        return tuple(Finding(problem, self._counts[problem], tuple(self._examples[problem])) for problem in found)
