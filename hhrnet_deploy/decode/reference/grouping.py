"""Grouping candidates into people by associative embedding (group.py:25-96 of the official code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode.reference.assignment import assign
from hhrnet_deploy.decode.reference.means import mean_of_tags
from hhrnet_deploy.decode.reference.peaks import Candidates
from hhrnet_deploy.people import Float32

_NO_PERSON_COST = 1e10


@dataclass
class Person:
    """One person while joints are being collected.

    Attributes:
        keypoints: (K, 3) float32 x, y, score; zeros where missing.
        joint_tags: (K, L) float32; zeros where missing.
        arrived: the tags whose mean is the person's tag, in order of arrival.
    """

    keypoints: Float32
    joint_tags: Float32
    arrived: list[Float32] = field(default_factory=list)

    def set_joint(self, joint: int, candidates: Candidates, which: int) -> None:
        """Take the candidate as this person's ``joint``."""
        self.keypoints[joint] = candidates.x[which], candidates.y[which], candidates.value[which]
        self.joint_tags[joint] = candidates.tags[which]


def group(candidates: Sequence[Candidates], order: Sequence[int], config: DecodeConfig) -> list[Person]:
    """The people in order of insertion, from the candidates of each joint type; ``order`` is the order of the types.

    People are keyed by the first value of the tag that started them; a second start with an equal key overwrites that
    person's joint of this type and restarts its tag list.
    """
    people: dict[float, Person] = {}
    for joint in order:
        found = candidates[joint]
        if not len(found.value):
            continue
        considered = list(people.values())[: config.max_people]
        if config.ignore_too_much and len(considered) == config.max_people:
            continue
        for which, person in enumerate(_match(considered, found, config)):
            if person is None:
                _start(people, len(candidates), joint, found, which)
            else:
                person.set_joint(joint, found, which)
                person.arrived.append(found.tags[which])
    return list(people.values())


def _match(considered: Sequence[Person], found: Candidates, config: DecodeConfig) -> list[Person | None]:
    """The person that each candidate of one joint type belongs to; None where it has to start one."""
    if not considered:
        return [None] * len(found.value)
    distance = _distances(found.tags, [mean_of_tags(person.arrived) for person in considered])
    columns = assign(_costs(distance, found.value, config))
    return [
        considered[column] if column < len(considered) and distance[which, column] < config.tag_threshold else None
        for which, column in enumerate(columns)
    ]


def _start(people: dict[float, Person], joints: int, joint: int, found: Candidates, which: int) -> None:
    """Start a person with a candidate, or overwrite the joint of the one that has the same key."""
    tag = found.tags[which]
    blank = Person(np.zeros((joints, 3), np.float32), np.zeros((joints, len(tag)), np.float32))
    person = people.setdefault(float(tag[0]), blank)
    person.set_joint(joint, found, which)
    person.arrived = [tag]


def _distances(tags: Float32, person_tags: Sequence[Float32]) -> npt.NDArray[np.float64]:
    """The L2 distances (candidates, people), in float64."""
    difference = tags.astype(np.float64)[:, None] - np.stack(person_tags).astype(np.float64)[None]
    return np.asarray(np.sqrt((difference * difference).sum(axis=2)))


def _costs(distance: npt.NDArray[np.float64], score: Float32, config: DecodeConfig) -> npt.NDArray[np.float64]:
    """Matching costs; columns that stand for nobody are added until every candidate can have one."""
    cost = distance
    if config.use_detection_val:
        cost = np.round(distance) * 100 - score.astype(np.float64)[:, None]
    nobody = max(0, cost.shape[0] - cost.shape[1])
    return np.pad(cost, ((0, 0), (0, nobody)), constant_values=_NO_PERSON_COST)
