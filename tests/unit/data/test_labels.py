"""Joints to learn and regions to leave out."""

from __future__ import annotations

import numpy as np
import pytest
from coco_folder import person
from pycocotools import mask as coco_mask

from hhrnet_deploy.data.labels import ignore_mask, is_crowd, joints, people, segmentation_mask
from hhrnet_deploy.errors import InputError

WIDTH, HEIGHT = 20, 12


def rectangle(left, top, right, bottom):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def polygon(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def unlabelled(**changes):
    return person(1, 1, num_keypoints=0, keypoints=[0] * 51, **changes)


def crowd(segmentation):
    return unlabelled(iscrowd=1, segmentation=segmentation)


def test_people_with_joints_only():
    half = person(2, 1, 17)
    half["keypoints"][3:] = [0] * 48
    entries = [person(1, 1), unlabelled(), half, crowd([]), person(5, 1, iscrowd=1, num_keypoints=0)]
    assert [entry["id"] for entry in people(entries)] == [1, 2]
    found = joints(entries, 17)
    assert found.shape == (2, 17, 3)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found[0, 16], [26, 20, 2])
    assert not found[1, 1:].any()


def test_a_crowd_with_counted_joints_is_a_person_as_published():
    assert len(people([person(1, 1, iscrowd=1)])) == 1


def test_nobody():
    assert joints([], 17).shape == (0, 17, 3)
    assert not ignore_mask([], WIDTH, HEIGHT).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x", None, [1]])
def test_unsound_keypoints_are_refused(value):
    entry = person(8, 1)
    entry["keypoints"][4] = value
    with pytest.raises(InputError, match="Annotation 8 needs 51 finite numbers as keypoints"):
        joints([entry], 17)


def test_wrong_number_of_keypoints_is_refused():
    with pytest.raises(InputError, match="needs 42 finite numbers"):
        joints([person(1, 1)], 14)


def test_labelled_people_are_not_masked():
    assert not ignore_mask([person(1, 1)], WIDTH, HEIGHT).any()


def test_joints_are_counted_where_the_file_does_not_say_how_many():
    entry = person(1, 1)
    del entry["num_keypoints"]
    assert not ignore_mask([entry], WIDTH, HEIGHT).any()
    assert people([entry]) == [entry]
    nobody = unlabelled(segmentation=[polygon(2, 3, 6, 9)])
    del nobody["num_keypoints"]
    np.testing.assert_array_equal(ignore_mask([nobody], WIDTH, HEIGHT), rectangle(2, 3, 6, 9))


def test_unlabelled_people_are_masked_along_all_their_polygons():
    entry = unlabelled(segmentation=[polygon(2, 3, 6, 9), polygon(10, 0, 12, 4)])
    expected = rectangle(2, 3, 6, 9) | rectangle(10, 0, 12, 4)
    np.testing.assert_array_equal(ignore_mask([entry, person(2, 1)], WIDTH, HEIGHT), expected)


def test_crowds_are_masked_by_run_lengths_of_both_kinds():
    region = rectangle(1, 2, 9, 8)
    compressed = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
    columns = np.flatnonzero(np.diff(np.concatenate([[0], region.T.ravel(), [0]]).astype(int)))
    runs = np.diff(np.concatenate([[0], columns, [WIDTH * HEIGHT]]))
    for counts in (compressed["counts"].decode(), compressed["counts"], [int(run) for run in runs]):
        entry = crowd({"size": [HEIGHT, WIDTH], "counts": counts})
        np.testing.assert_array_equal(ignore_mask([entry], WIDTH, HEIGHT), region)


def test_long_compressed_run_lengths():
    region = np.random.default_rng(0).random((300, 500)) < 0.5
    region[:, 100:300] = True
    encoded = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
    entry = crowd({"size": [300, 500], "counts": encoded["counts"].decode()})
    np.testing.assert_array_equal(ignore_mask([entry], 500, 300), region)


def test_a_crowd_may_have_polygons():
    np.testing.assert_array_equal(ignore_mask([crowd([polygon(2, 3, 6, 9)])], WIDTH, HEIGHT), rectangle(2, 3, 6, 9))


@pytest.mark.parametrize("segmentation", [None, []])
def test_the_box_stands_in_for_a_missing_segmentation(segmentation):
    entry = unlabelled(segmentation=segmentation, bbox=[3, 2, 5, 30])
    np.testing.assert_array_equal(ignore_mask([entry], WIDTH, HEIGHT), rectangle(3, 2, 8, HEIGHT))


def test_regions_add_up():
    entries = [unlabelled(segmentation=[polygon(0, 0, 5, 5)]), crowd([polygon(3, 3, 9, 9)])]
    expected = rectangle(0, 0, 5, 5) | rectangle(3, 3, 9, 9)
    found = ignore_mask(entries, WIDTH, HEIGHT)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[0, 0, 4e8, 0, 4e8, 4e8]],
        [[0, 0, 1e300, 0, 1e300, 1e300]],
        [[1e9, 1e9, 1e9, 1e9 + 1, 1e9 + 1, 1e9]],
        [[0, 0, 9e5, 9e5] * 6],
        [["a", 2, 3, 4, 5, 6]],
        [3],
        "text",
        {"size": [HEIGHT, WIDTH]},
        {"counts": [1]},
        {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]},
        {"size": [HEIGHT, WIDTH], "counts": [1, 2]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, WIDTH * HEIGHT + 1]},
        {"size": [HEIGHT, WIDTH], "counts": ["a"]},
        {"size": [HEIGHT, WIDTH], "counts": 5},
        {"size": 3, "counts": [1]},
        {"size": [HEIGHT, WIDTH], "counts": "0000000"},
        {"size": [HEIGHT, WIDTH], "counts": "P"},
        {"size": [HEIGHT, WIDTH], "counts": "ü"},
        {"size": [HEIGHT, WIDTH], "counts": "!!"},
    ],
)
def test_malformed_segmentations_are_refused(segmentation):
    """pycocotools would crash or write beyond the mask on several of these."""
    with pytest.raises(InputError, match="Annotation 1 has a malformed segmentation"):
        ignore_mask([crowd(segmentation)], WIDTH, HEIGHT)


def test_malformed_box_is_refused():
    with pytest.raises(InputError, match="needs 4 finite numbers as bbox"):
        segmentation_mask(unlabelled(segmentation=None, bbox=[1, 2, 3]), WIDTH, HEIGHT)


def test_a_box_far_outside_is_refused():
    with pytest.raises(InputError, match="far outside of any image"):
        segmentation_mask(unlabelled(segmentation=None, bbox=[0, 0, 4e8, 4e8]), WIDTH, HEIGHT)


@pytest.mark.parametrize(("value", "crowded"), [(None, False), (0, False), (1, True), (True, True)])
def test_crowds_are_told(value, crowded):
    assert is_crowd({"iscrowd": value}) is crowded


@pytest.mark.parametrize(
    "entry",
    [{"iscrowd": "no"}, {"num_keypoints": "x"}, {"num_keypoints": []}, {"num_keypoints": float("nan")}],
)
def test_odd_counts_and_flags_are_named(entry):
    with pytest.raises(InputError, match=f"Annotation 3 has {next(iter(entry))}"):
        ignore_mask([unlabelled() | {"id": 3} | entry], WIDTH, HEIGHT)


def test_numbers_that_no_float_holds_are_refused():
    entry = person(8, 1)
    entry["keypoints"][4] = 10**400
    with pytest.raises(InputError, match="51 finite numbers"):
        joints([entry], 17)
