from __future__ import annotations

import numpy as np
import pytest
from photo_world import people_of

from hhrnet_deploy.evaluate.agreement import agreement_ap, same_people
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import COCO


def _people(count: int, seed: int = 0, *, missing: float = 0.2) -> People:
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(0, 300, (count, 17, 3))
    keypoints[:, :, 2] = np.where(rng.random((count, 17)) < missing, 0, rng.uniform(0.2, 0.9, (count, 17)))
    return people_of(keypoints, rng.uniform(0.2, 0.9, count))


def _changed(people: People, index: tuple, value: float) -> People:
    keypoints = people.keypoints.copy()
    keypoints[index] += np.float32(value)
    return people.with_keypoints(keypoints)


def test_the_order_of_people_does_not_matter() -> None:
    people = _people(6)
    assert same_people(people, people.select([3, 1, 0, 5, 4, 2]))


def test_another_count_is_different() -> None:
    people = _people(4)
    assert not same_people(people, people.select([0, 1, 2]))
    assert not same_people(People.none(17), people)
    assert same_people(People.none(17), People.none(17))


@pytest.mark.parametrize(("shift", "scale", "expected"), [(0.9, 1.0, True), (1.1, 1.0, False), (1.9, 0.5, True)])
def test_a_joint_may_move_by_one_pixel_of_the_network_input(shift: float, scale: float, expected: bool) -> None:
    people = _people(3, missing=0)
    assert same_people(people, _changed(people, (1, 4, 0), shift), network_scale=scale) is expected


def test_scores_may_differ_by_two_hundredths() -> None:
    people = _people(3, missing=0)
    assert same_people(people, _changed(people, (1, 4, 2), 0.019))
    assert not same_people(people, _changed(people, (1, 4, 2), 0.021))
    higher = People(people.keypoints, people.scores + np.float32(0.021), people.tags)
    assert not same_people(people, higher)


def test_a_joint_found_by_one_only_is_different() -> None:
    people = _people(2, missing=0)
    keypoints = people.keypoints.copy()
    keypoints[0, 3, 2] = 0
    assert not same_people(people, people.with_keypoints(keypoints))


def test_the_place_of_a_joint_that_both_miss_does_not_matter() -> None:
    people = _people(2, missing=0)
    keypoints = people.keypoints.copy()
    keypoints[0, 3] = 0
    elsewhere = keypoints.copy()
    elsewhere[0, 3, :2] = 250
    assert same_people(people.with_keypoints(keypoints), people.with_keypoints(elsewhere))


def test_people_that_could_match_several_are_told_apart() -> None:
    # a at 0 and b at 0.8 against c at 0.7 and d at -0.6: a fits both, b only c, so greedy a-c would leave b alone.
    def at(*places: float) -> People:
        keypoints = np.zeros((len(places), 17, 3))
        keypoints[:, :, 0] = np.array(places)[:, None]
        keypoints[:, :, 2] = 0.5
        return people_of(keypoints, np.full(len(places), 0.5))

    assert same_people(at(0, 0.8), at(0.7, -0.6))
    assert not same_people(at(0, 0.8), at(5, 0.7))


def test_many_people_are_matched_quickly_without_deep_recursion() -> None:
    # 1,100 people in one place: any pairing will do.
    crowd = people_of(np.ones((1100, 17, 3)), np.full(1100, 0.5))
    assert same_people(crowd, crowd)


def test_identical_people_agree_perfectly() -> None:
    lists = [_people(count, seed) for seed, count in enumerate((0, 1, 30, 101, 4))]
    # A person with one joint and one of a single pixel have no area of their own.
    dot = np.zeros((2, 17, 3))
    dot[0, 5] = (40, 50, 0.5)
    dot[1] = (10, 10, 0.5)
    lists.append(people_of(dot, [0.4, 0.5]))
    assert agreement_ap(range(6), lists, lists, COCO) == pytest.approx(1.0, abs=1e-12)


def test_lost_and_moved_people_lower_the_agreement() -> None:
    lists = [_people(4, seed, missing=0) for seed in range(8)]
    assert agreement_ap(range(8), lists, [people.select([0, 1]) for people in lists], COCO) == pytest.approx(
        0.5, abs=0.01
    )
    moved = [people.with_keypoints(people.keypoints + np.float32([60, 0, 0])) for people in lists]
    assert agreement_ap(range(8), lists, moved, COCO) < 0.3


def test_without_reference_people_the_agreement_is_undefined() -> None:
    assert agreement_ap([1], [People.none(17)], [_people(2)], COCO) is None
