"""Skeletons: which joints a person has and how they relate. Custom joints are data, not code."""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from hhrnet_deploy.errors import InputError

MAX_JOINTS = 64


class Skeleton(BaseModel):
    """The joints of one kind of person.

    Attributes:
        name: short name, stored in checkpoints, graphs and manifests.
        joints: K joint names, in channel order.
        flip_pairs: pairs of joints that swap when the image is mirrored.
        sigmas: K OKS constants (standard deviation of the annotation over sqrt(area)).
        limbs: pairs of joints joined by a line in drawings.
        joint_order: the order in which grouping visits the joint types (group.py:25-96 of the official code).
        box_area_factor: when set, the object area of OKS is ``w * h * box_area_factor`` (CrowdPose), otherwise the
            annotation's ``area`` (COCO).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    limbs: tuple[tuple[int, int], ...] = ()
    joint_order: tuple[int, ...] = ()
    box_area_factor: float | None = None

    @field_validator("sigmas")
    @classmethod
    def _sigmas_positive(cls, sigmas: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < sigma < math.inf for sigma in sigmas):
            raise ValueError("every sigma has to be positive")
        return sigmas

    @model_validator(mode="after")
    def _indices_fit(self) -> Skeleton:
        count = len(self.joints)
        if not 1 <= count <= MAX_JOINTS:
            raise ValueError(f"a skeleton has 1 to {MAX_JOINTS} joints, this one has {count}")
        if len(set(self.joints)) != count:
            raise ValueError("joint names have to be unique")
        if len(self.sigmas) != count:
            raise ValueError(f"{count} joints need {count} sigmas, got {len(self.sigmas)}")
        for pair in (*self.flip_pairs, *self.limbs):
            if not all(0 <= joint < count for joint in pair) or pair[0] == pair[1]:
                raise ValueError(f"the pair {list(pair)} does not name two of the joints 0 to {count - 1}")
        paired = [joint for pair in self.flip_pairs for joint in pair]
        if len(set(paired)) != len(paired):
            raise ValueError("a joint can stand in one flip pair only")
        if self.joint_order and sorted(self.joint_order) != list(range(count)):
            raise ValueError(f"joint_order has to hold each of 0 to {count - 1} once")
        return self

    @property
    def num_joints(self) -> int:
        """K, the number of joints."""
        return len(self.joints)

    @cached_property
    def flip_index(self) -> tuple[int, ...]:
        """K channel numbers: channel ``flip_index[k]`` of a mirrored image shows joint k."""
        index = list(range(self.num_joints))
        for left, right in self.flip_pairs:
            index[left], index[right] = right, left
        return tuple(index)

    @cached_property
    def grouping_order(self) -> tuple[int, ...]:
        """``joint_order``, or 0 to K - 1 where none was given."""
        return self.joint_order or tuple(range(self.num_joints))

    @classmethod
    def from_file(cls, path: str | Path) -> Skeleton:
        """Read a skeleton from a JSON file with this class's fields.

        Raises:
            InputError: the file is missing, no JSON, or a field is wrong.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            return cls.model_validate(json.loads(text))
        except OSError as error:
            raise InputError(f"Skeleton file {path} cannot be read: {error.strerror}.") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"Skeleton file {path} is not JSON: {error}.") from error
        except ValidationError as error:
            details = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'skeleton'}: {item['msg']}" for item in error.errors()
            )
            raise InputError(
                f"Skeleton file {path} is not valid: {details}.",
                hint="docs/skeletons.md describes the fields.",
            ) from error


# Grouping order of the official code (group.py:136-141); a skeleton with fewer joints takes it cut short.
_OFFICIAL_ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)

COCO = Skeleton(
    name="coco",
    joints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
    limbs=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
        *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    joint_order=_OFFICIAL_ORDER,
)

CROWDPOSE = Skeleton(
    name="crowdpose",
    joints=(
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "head",
        "neck",
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
    limbs=(
        *((0, 2), (2, 4), (1, 3), (3, 5), (6, 8), (8, 10), (7, 9), (9, 11)),
        *((12, 13), (13, 0), (13, 1), (0, 6), (1, 7), (6, 7)),
    ),
    joint_order=_OFFICIAL_ORDER[:14],
    box_area_factor=0.53,
)

_BUILT_IN = {skeleton.name: skeleton for skeleton in (COCO, CROWDPOSE)}


def find_skeleton(name_or_path: str | Path) -> Skeleton:
    """A built-in skeleton by name (``coco``, ``crowdpose``) or one from a JSON file.

    Raises:
        InputError: neither a built-in name nor a readable skeleton file.
    """
    known = _BUILT_IN.get(str(name_or_path))
    if known is not None:
        return known
    if not Path(name_or_path).exists():
        raise InputError(
            f"Skeleton {str(name_or_path)!r} is neither built in ({', '.join(_BUILT_IN)}) nor a file.",
        )
    return Skeleton.from_file(name_or_path)


def default_skeleton(num_joints: int) -> Skeleton | None:
    """The built-in skeleton with that many joints: 17 COCO, 14 CrowdPose, otherwise None."""
    return next((skeleton for skeleton in _BUILT_IN.values() if skeleton.num_joints == num_joints), None)
