"""Bodies of synthetic people: the built-in prior and real poses lifted to depth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hhrnet_deploy.data.synth import synthesize
from hhrnet_deploy.data.synth_poses import (
    FOREARM,
    SHIN,
    THIGH,
    UPPER_ARM,
    jitter,
    lift,
    read_poses,
    sample_body,
    usable,
)
from hhrnet_deploy.errors import InputError

# A person facing the viewer, 200 pixels tall, arms hanging.
_STANDING = np.array(
    [
        *([100, 20, 2], [104, 17, 2], [96, 17, 2], [111, 20, 2], [89, 20, 2]),
        *([120, 50, 2], [80, 50, 2], [126, 82, 2], [74, 82, 2], [128, 112, 2], [72, 112, 2]),
        *([112, 108, 2], [88, 108, 2], [114, 156, 2], [86, 156, 2], [115, 204, 2], [85, 204, 2]),
    ],
    float,
)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_bones_of_the_prior_keep_their_lengths() -> None:
    bones = ((5, 7, UPPER_ARM), (8, 10, FOREARM), (11, 13, THIGH), (14, 16, SHIN))
    for seed in range(50):
        joints = sample_body(_rng(seed)).joints
        for parent, child, length in bones:
            assert np.linalg.norm(joints[child] - joints[parent]) == pytest.approx(length)


@pytest.mark.parametrize(("yaw", "towards"), [(np.pi / 2, 1), (-np.pi / 2, -1)])
def test_yaw_turns_the_nose_to_that_side_of_the_picture(yaw: float, towards: int) -> None:
    for seed in range(20):
        body = sample_body(_rng(seed), yaw)
        assert np.sign(body.torso[0, 2]) == towards
        # The side turned away from the nose is the far one: facing right shows the right side of the body.
        assert np.sign(body.joints[6, 2] - body.joints[5, 2]) == towards


def test_a_lifted_pose_keeps_the_joints_it_had() -> None:
    body = lift(_rng(), _STANDING.copy())
    placed = body.joints[5:, :2] - body.joints[5:, :2].mean(axis=0)
    given = _STANDING[5:, :2] - _STANDING[5:, :2].mean(axis=0)
    factor = np.linalg.norm(given) / np.linalg.norm(placed)
    np.testing.assert_allclose(placed * factor, given, atol=1e-6)
    assert body.head[2, 2] > 0.5  # the face was seen


def test_a_mirrored_back_view_faces_away() -> None:
    back = _STANDING.copy()
    back[:, 0] = 200 - back[:, 0]  # left stays left: the person shows the back
    back[:3, 2] = 0
    body = lift(_rng(), back)
    assert body.torso[2, 2] < 0
    assert body.head[2, 2] < 0


def test_missing_joints_are_filled_in_near_the_body() -> None:
    partial = _STANDING.copy()
    partial[[7, 9, 13, 15, 16]] = 0
    body = lift(_rng(), partial)
    assert np.isfinite(body.joints).all()
    assert np.linalg.norm(body.joints[7] - body.joints[5]) == pytest.approx(UPPER_ARM, rel=0.2)
    assert np.linalg.norm(body.joints[15] - body.joints[13]) == pytest.approx(SHIN, rel=0.2)


def test_jitter_mirrors_left_and_right_together() -> None:
    mirrored = 0
    for seed in range(40):
        pose = jitter(_rng(seed), _STANDING)
        assert pose[5, 0] > pose[6, 0]  # facing the viewer before and after
        assert abs(abs(pose[5, 0] - pose[6, 0]) - 40) < 10
        mirrored += pose[:, 0].mean() < 0
    assert 8 < mirrored < 32


def _pose_file(path: Path, people: list[list[list[float]]]) -> Path:
    path.write_text(json.dumps({"images": [{"width": 640, "height": 480, "people": people}]}))
    return path


def test_a_pose_file_changes_the_set_and_is_named_in_it(tmp_path: Path) -> None:
    poses = _pose_file(tmp_path / "poses.json", [_STANDING.tolist()])
    assert len(read_poses(poses)) == 1
    plain, posed = synthesize(tmp_path / "a", 2, 4), synthesize(tmp_path / "b", 2, 4, poses)
    assert plain.annotations_sha256 != posed.annotations_sha256
    info = json.loads((tmp_path / "b" / "annotations" / "person_keypoints_val2017.json").read_text())["info"]
    assert len(info["poses"]) == 64


def test_poses_without_hips_are_not_usable() -> None:
    partial = _STANDING.copy()
    assert usable(partial)
    partial[11] = 0
    assert not usable(partial)


@pytest.mark.parametrize("content", ["", "[]", '{"images": [{"people": [[1, 2]]}]}', '{"images": 3}'])
def test_a_pose_file_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "poses.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"poses\.json"):
        synthesize(tmp_path / "set", 1, 1, path)


def test_a_pose_file_without_a_usable_pose_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no usable pose"):
        read_poses(_pose_file(tmp_path / "poses.json", [np.zeros((17, 3)).tolist()]))
    with pytest.raises(InputError, match="cannot be read"):
        read_poses(tmp_path / "absent.json")
