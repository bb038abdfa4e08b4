"""People: what decoding finds in one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import InputError

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class People:
    """The people found in one image, in insertion order of the grouping.

    Attributes:
        keypoints: (P, K, 3) float32: x, y in pixels and the score; score 0 where the joint is missing.
        scores: (P,) float32: the mean joint score before refinement (group.py:268 of the official code).
        tags: (P, K, L) float32: the tag of each joint, 0 where missing; L is 2 with flip test, else 1.
        count: how many people were found; more than P when an output limit cut the list.
    """

    keypoints: Float32
    scores: Float32
    tags: Float32
    count: int = -1

    def __post_init__(self) -> None:
        people = self.keypoints.shape[0]
        if self.keypoints.ndim != 3 or self.keypoints.shape[2] != 3:
            raise InputError(f"keypoints have to be (P, K, 3), got {self.keypoints.shape}.")
        if self.scores.shape != (people,):
            raise InputError(f"scores have to be ({people},), got {self.scores.shape}.")
        if self.tags.ndim != 3 or self.tags.shape[:2] != self.keypoints.shape[:2]:
            raise InputError(f"tags have to be {(*self.keypoints.shape[:2], 'L')}, got {self.tags.shape}.")
        if self.count < 0:
            object.__setattr__(self, "count", people)

    def __len__(self) -> int:
        return int(self.keypoints.shape[0])

    @classmethod
    def none(cls, num_joints: int, tag_dims: int = 1) -> People:
        """Nobody."""
        return cls(
            np.zeros((0, num_joints, 3), np.float32),
            np.zeros(0, np.float32),
            np.zeros((0, num_joints, tag_dims), np.float32),
        )

    @property
    def num_joints(self) -> int:
        """K, the number of joints."""
        return int(self.keypoints.shape[1])

    def select(self, index: npt.ArrayLike) -> People:
        """The people at ``index`` (indices or a boolean mask), in that order; ``count`` is kept."""
        picked = np.asarray(index)
        return People(self.keypoints[picked], self.scores[picked], self.tags[picked], self.count)

    def with_keypoints(self, keypoints: Float32) -> People:
        """The same people with other keypoints (P, K, 3), for example mapped to another image."""
        return People(keypoints, self.scores, self.tags, self.count)

    def highest(self, limit: int) -> People:
        """The ``limit`` people with the highest scores, still in insertion order."""
        if len(self) <= limit:
            return self
        kept = np.sort(np.argsort(-self.scores, kind="stable")[:limit])
        return self.select(kept)
