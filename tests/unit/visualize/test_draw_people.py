from __future__ import annotations

import numpy as np
import pytest

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import COCO, Skeleton
from hhrnet_deploy.visualize.draw import CENTRE, LEFT, RIGHT, draw_people, joint_colors
from hhrnet_deploy.visualize.side_by_side import side_by_side

GREY = np.full((240, 320, 3), 127, np.uint8)


def _people(*persons: np.ndarray, scores: list[float] | None = None) -> People:
    keypoints = np.stack(persons).astype(np.float32)
    return People(
        keypoints, np.array(scores or [0.5] * len(persons), np.float32), np.zeros((*keypoints.shape[:2], 1), np.float32)
    )


def _standing(x: float, y: float, height: float = 160) -> np.ndarray:
    """A COCO figure from the front: the person's left is on the right of the picture."""
    across = np.array([0, 2, -2, 4, -4, 12, -12, 18, -18, 20, -20, 8, -8, 9, -9, 10, -10]) * height / 160
    down = np.array([0, -3, -3, -1, -1, 22, 22, 52, 52, 78, 78, 76, 76, 110, 110, 148, 148]) * height / 160
    return np.stack([x + across, y + down, np.full(17, 0.9)], axis=1)


def _count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((image == np.array(color, np.uint8)).all(axis=2).sum())


def test_left_and_right_have_their_colours_on_their_sides() -> None:
    drawn = draw_people(GREY, _people(_standing(160, 40)), COCO, scores=False)
    assert _count(drawn[:, 172:], LEFT) > 20
    assert _count(drawn[:, :148], RIGHT) > 20
    assert _count(drawn[:, :148], LEFT) == _count(drawn[:, 172:], RIGHT) == 0
    assert (GREY == 127).all()


def test_large_people_get_wider_lines() -> None:
    def share(height: float) -> float:
        photo = np.full((800, 800, 3), 127, np.uint8)
        return _count(draw_people(photo, _people(_standing(400, 60, height)), COCO, scores=False), LEFT) / height

    assert share(640) > 2 * share(80)


def test_missing_and_faint_joints_are_not_drawn() -> None:
    person = _standing(160, 40)
    person[9] = (5, 5, 0)
    person[10] = (310, 230, 0.05)
    drawn = draw_people(GREY, _people(person), COCO, scores=False)
    assert (drawn[:20, :20] == 127).all()
    assert (drawn[-20:, -20:] == 127).all()
    everything = draw_people(GREY, _people(person), COCO, scores=False, joint_threshold=0)
    assert (everything[:20, :20] == 127).all()
    assert not (everything[-20:, -20:] == 127).all()


def test_boxes_and_scores_are_drawn_when_asked_for() -> None:
    people = _people(_standing(160, 60))
    plain = draw_people(GREY, people, COCO, scores=False)
    assert (draw_people(GREY, people, COCO, scores=False, boxes=True) != plain).any()
    with_score = draw_people(GREY, people, COCO)
    assert (with_score[:52] != plain[:52]).any()


def test_people_outside_huge_or_broken_are_harmless() -> None:
    far = _standing(160, 40) + np.array([1e9, 0, 0])
    nan = _standing(160, 40) * np.nan
    half_outside = _standing(-3, 200)
    drawn = draw_people(GREY, _people(far, nan, half_outside, scores=[0.5, float("nan"), 0.4]), COCO, boxes=True)
    assert drawn.shape == GREY.shape
    assert (drawn != GREY).any()


def test_the_highest_score_is_on_top() -> None:
    left_arm = np.zeros((17, 3))
    left_arm[[5, 7]] = [[60, 120, 0.9], [260, 120, 0.9]]
    right_arm = np.zeros((17, 3))
    right_arm[[6, 8]] = [[60, 120, 0.9], [260, 120, 0.9]]
    drawn = draw_people(GREY, _people(left_arm, right_arm, scores=[0.9, 0.2]), COCO, scores=False)
    assert _count(drawn, RIGHT) == 0
    assert _count(drawn, LEFT) > 100


def test_nobody_leaves_the_photo_as_it_is() -> None:
    assert (draw_people(GREY, People.none(17), COCO) == GREY).all()


def test_sides_come_from_names_then_from_flip_pairs() -> None:
    hand = Skeleton(
        name="x", joints=("head", "a", "b", "right_c", "left_c"), flip_pairs=((1, 2), (3, 4)), sigmas=(0.1,) * 5
    )
    assert joint_colors(hand) == [CENTRE, LEFT, RIGHT, RIGHT, LEFT]


def test_wrong_images_and_joints_are_refused() -> None:
    with pytest.raises(InputError, match="uint8 RGB"):
        draw_people(GREY.astype(np.float32), People.none(17), COCO)
    with pytest.raises(InputError, match="14 joints"):
        draw_people(GREY, People.none(14), COCO)


def test_pictures_stand_side_by_side_at_one_height() -> None:
    tall = np.zeros((200, 100, 3), np.uint8)
    wide = np.zeros((100, 100, 3), np.uint8)
    row = side_by_side([tall, wide], ["reference", "a title that is much longer than its picture"])
    assert row.shape == (200 + 34, 100 + 8 + 200, 3)
    assert (row[:34, :100] < 200).any()
    with pytest.raises(InputError, match="one title for each"):
        side_by_side([tall], [])
