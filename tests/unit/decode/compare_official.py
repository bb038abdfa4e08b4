"""Decode random fields with this project and with the official code; print one JSON line of what differs.

HHRNET_OFFICIAL=... ATEN_CPU_CAPABILITY=default python compare_official.py CASES SEED
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import numpy as np
from fields import Field
from official import Official

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode.native import decode
from hhrnet_deploy.decode.reference.decoder import full_maps
from hhrnet_deploy.decode.reference.peaks import find_peaks
from hhrnet_deploy.decode.request import DecodeRequest, make_request


def difference(keypoints: np.ndarray, scores: np.ndarray, other: np.ndarray, other_scores: np.ndarray) -> str:
    """What two lists of people differ in, by the definition of "same people" between decoders; empty if they do not."""
    if keypoints.shape != other.shape:
        return f"{len(keypoints)} people against {len(other)}"
    if ((keypoints[..., 2] > 0) != (other[..., 2] > 0)).any():
        return "found joints"
    limits = (
        ("x, y", keypoints[..., :2] - other[..., :2], 1e-3),
        ("joint scores", keypoints[..., 2] - other[..., 2], 1e-5),
        ("scores", scores - other_scores, 1e-5),
    )
    return next((name for name, delta, limit in limits if np.abs(delta).max(initial=0) > limit), "")


def differs_at_equal_places(keypoints: np.ndarray, other: np.ndarray) -> bool:
    """Whether joints only stand at other places of equal heat, up to rounding: which is first in refine is open."""
    return keypoints.shape == other.shape and bool(np.abs(keypoints[..., 2] - other[..., 2]).max(initial=0) < 1e-6)


def has_equal_peaks(request: DecodeRequest) -> bool:
    """Whether two peaks of one joint have equal heat, up to rounding, so that their order is open."""
    heat, tags = full_maps(request, 0)
    config = request.config
    for joint in range(request.num_joints):
        found = find_peaks(
            heat[joint], tags[joint], kernel=config.nms_kernel, threshold=config.detection_threshold - 1e-6, limit=10**6
        )
        if (np.diff(found.value) > -1e-6).any():
            return True
    return False


def draw(rng: np.random.Generator, seed: int) -> tuple[list, tuple[int, int], DecodeConfig]:
    """Heads of one to three scales, the network's input size, and settings."""
    flip = bool(rng.random() < 0.5)
    field = Field(
        people=int(rng.integers(1, 41)),
        joints=int(rng.choice([14, 17])),
        width=32 * int(rng.integers(1, 5)),
        height=32 * int(rng.integers(1, 5)),
        duplicates=float(rng.choice([0, 0.2])),
        tag_step=float(rng.choice([0, 0, 0.5])),
        tag_spread=float(rng.choice([2, 8, 30])),
        noise=float(rng.choice([0.003, 0.01, 0.05])),
    )
    config = DecodeConfig(
        adjust=bool(rng.random() < 0.8),
        refine=bool(rng.random() < 0.8),
        project=bool(rng.random() < 0.8),
        use_detection_val=bool(rng.random() < 0.8),
        ignore_too_much=bool(rng.random() < 0.2),
        detection_threshold=float(rng.choice([0.05, 0.1, 0.2])),
        tag_threshold=float(rng.choice([0.5, 1, 2])),
        nms_kernel=int(rng.choice([3, 5, 7])),
        max_people=int(rng.choice([10, 20, 30])),
    )
    scaled = [(1.0, field.draw(seed, flip=flip))]
    for scale in ((), (), (), (0.5,), (0.5, 2.0))[int(rng.integers(5))]:
        sized = dataclasses.replace(field, width=int(field.width * scale), height=int(field.height * scale))
        scaled.append((scale, sized.draw(seed, flip=flip)))
    return scaled, (2 * field.width, 2 * field.height), config


def main(cases: int, seed: int) -> None:
    """Compare and print; ``unexplained`` holds what SEMANTICS' exceptions do not cover."""
    checkout = os.environ["HHRNET_OFFICIAL"]
    official, other_format = Official(checkout), Official(checkout, channels_last=True)
    rng = np.random.default_rng(seed)
    people, different, unexplained = 0, [], []
    for case in range(cases):
        scaled, size, config = draw(rng, seed * 1_000_003 + case)
        request = make_request(scaled, size, config)
        found = decode(request, threads=1)[0]
        expected = official.decode(scaled, size, config)
        people += len(found)
        what = difference(found.keypoints, found.scores, *expected)
        if not what:
            continue
        itself = difference(*other_format.decode(scaled, size, config), *expected)
        equal_peaks = has_equal_peaks(request) or differs_at_equal_places(found.keypoints, expected[0])
        entry = {"case": case, "what": what, "official_against_itself": itself, "equal_peaks": equal_peaks}
        different.append(entry)
        if not itself and not equal_peaks:
            unexplained.append(entry)
    print(json.dumps({"images": cases, "people": people, "different": different, "unexplained": unexplained}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
