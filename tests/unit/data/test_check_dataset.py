"""The check of a data set: every kind of damage is found, sound sets pass."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager

import pytest
from coco_folder import (
    HEIGHT,
    WIDTH,
    coco_folder,
    crowdpose_document,
    document,
    image,
    person,
    sound_folder,
    write_json,
    write_photo,
)

from hhrnet_deploy.data.check import check_dataset
from hhrnet_deploy.data.findings import MAX_EXAMPLES, Findings, Problem
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.skeletons import COCO


def found(root, **options):
    return {item.problem: item.count for _, item in check_dataset(root, **options).all_findings}


def found_with(tmp_path, *annotations, images=(7, 3)):
    return found(coco_folder(tmp_path, document([image(identity) for identity in images], list(annotations))))


def keypoints(changes):
    values = person(1, 7)["keypoints"]
    for position, value in changes.items():
        values[position] = value
    return values


def test_a_sound_set_has_no_findings(tmp_path):
    report = check_dataset(sound_folder(tmp_path))
    assert report.ok
    assert report.all_findings == []
    [split] = report.splits
    assert (split.split, split.images, split.annotations, split.people) == ("val2017", 2, 2, 2)


def test_every_split_is_checked_unless_one_is_named(tmp_path):
    root = sound_folder(tmp_path)
    coco_folder(root, document([image(1)], [person(1, 1, category_id=5)]), "train2017")
    assert [split.split for split in check_dataset(root).splits] == ["train2017", "val2017"]
    assert not check_dataset(root).ok
    assert check_dataset(root, "val2017").ok


def test_absent_annotation_files(tmp_path):
    assert found(tmp_path) == {Problem.ANNOTATION_FILE: 1}
    root = sound_folder(tmp_path)
    assert found(root, split="train2017") == {Problem.ANNOTATION_FILE: 1}
    (root / "images/train2017").mkdir()
    (root / "images/unlabeled2017").mkdir()
    assert found(root) == {Problem.NO_ANNOTATION_FILE: 1, Problem.UNUSED_FOLDER: 1}
    with pytest.raises(InputError, match="does not exist"):
        check_dataset(tmp_path / "absent")


def test_unparsable_annotation_file(tmp_path):
    root = sound_folder(tmp_path)
    path = root / "annotations/person_keypoints_val2017.json"
    path.write_text(path.read_text()[:-20])
    assert found(root) == {Problem.ANNOTATION_FILE: 1}
    path.write_text("[]")
    assert found(root) == {Problem.ANNOTATION_FILE: 1}


def test_lists_that_are_missing(tmp_path):
    path = write_json(tmp_path / "annotations/person_keypoints_val2017.json", {})
    assert found(tmp_path) == {Problem.ANNOTATION_FILE: 1, Problem.NO_IMAGES: 1}
    path.write_text(json.dumps({"images": [], "annotations": []}))
    assert found(tmp_path) == {Problem.NOBODY: 1, Problem.NO_IMAGES: 1}


def test_test_dev_needs_no_annotations(tmp_path):
    write_json(tmp_path / "annotations/image_info_test-dev2017.json", document([image(5)], None))
    write_photo(tmp_path / "images/test2017/000000000005.jpg")
    assert found(tmp_path) == {}


def test_damaged_images(tmp_path):
    root = coco_folder(tmp_path, document([image(number) for number in range(1, 7)], [person(1, 1)]))
    folder = root / "images/val2017"
    (folder / "000000000002.jpg").unlink()
    (folder / "000000000003.jpg").write_bytes((folder / "000000000001.jpg").read_bytes()[:-200])
    (folder / "000000000004.jpg").write_text("<html>")
    (folder / "000000000005.jpg").write_bytes(b"")
    write_photo(folder / "000000000006.jpg", HEIGHT, WIDTH)
    report = check_dataset(root)
    assert {item.problem: item.count for item in report.splits[0].findings} == {
        Problem.IMAGE_MISSING: 1,
        Problem.IMAGE_UNREADABLE: 3,
        Problem.IMAGE_SIZE: 1,
    }
    examples = "\n".join(example for _, item in report.all_findings for example in item.examples)
    assert "000000000003.jpg is truncated" in examples
    assert "000000000006.jpg is 48x64, the annotation file has 64x48" in examples
    assert not report.ok


def test_damaged_image_list(tmp_path):
    entries = [image(1), image(1), image(2, width=0), image(3, file_name="../x.jpg"), {"id": "4"}, 5]
    write_json(tmp_path / "annotations/person_keypoints_val2017.json", document(entries, [person(1, 1)]))
    write_photo(tmp_path / "images/val2017/000000000001.jpg")
    assert found(tmp_path) == {Problem.IMAGE_ID_TWICE: 1, Problem.IMAGE_NAME_TWICE: 1, Problem.IMAGE_ENTRY: 4}


CROWD = {"size": [HEIGHT, WIDTH], "counts": [10, 20, HEIGHT * WIDTH - 30]}
NOBODY = {"num_keypoints": 0, "keypoints": [0] * 51}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"keypoints": keypoints({0: WIDTH + 1})}, Problem.KEYPOINT_OUTSIDE),
        ({"keypoints": keypoints({4: -0.5})}, Problem.KEYPOINT_OUTSIDE),
        ({"keypoints": keypoints({2: 3})}, Problem.KEYPOINT_VISIBILITY),
        ({"keypoints": keypoints({2: 1.5})}, Problem.KEYPOINT_VISIBILITY),
        ({"keypoints": keypoints({3: float("nan")})}, Problem.KEYPOINT_VALUE),
        ({"keypoints": keypoints({3: float("inf")})}, Problem.KEYPOINT_VALUE),
        ({"keypoints": keypoints({3: "12"})}, Problem.KEYPOINT_VALUE),
        ({"keypoints": keypoints({3: True})}, Problem.KEYPOINT_VALUE),
        ({"keypoints": keypoints({3: 10**400})}, Problem.KEYPOINT_VALUE),
        ({"keypoints": [1, 2, 2] * 16}, Problem.KEYPOINT_COUNT),
        ({"keypoints": [1, 2] * 17}, Problem.KEYPOINT_COUNT),
        ({"keypoints": []}, Problem.KEYPOINT_COUNT),
        ({"keypoints": None}, Problem.ANNOTATION_ENTRY),
        ({"num_keypoints": 16}, Problem.NUM_KEYPOINTS),
        ({"keypoints": keypoints({2: 0}), "num_keypoints": 16}, Problem.KEYPOINT_UNLABELLED),
        ({"bbox": [1, 1, 0, 5]}, Problem.BOX_DEGENERATE),
        ({"bbox": [1, 1, 5, -5]}, Problem.BOX_DEGENERATE),
        ({"bbox": [1, 1, 5]}, Problem.ANNOTATION_ENTRY),
        ({"bbox": [1, 1, 5, float("nan")]}, Problem.ANNOTATION_ENTRY),
        ({"bbox": [1, 1, WIDTH + 5, 5]}, Problem.BOX_OUTSIDE),
        ({"bbox": [1, 1, 0, 5], **NOBODY}, Problem.BOX_DEGENERATE_UNUSED),
        ({"area": 0}, Problem.AREA),
        ({"area": float("inf")}, Problem.ANNOTATION_ENTRY),
        ({"area": None}, Problem.ANNOTATION_ENTRY),
        ({"iscrowd": 2}, Problem.ANNOTATION_ENTRY),
        ({"iscrowd": None}, Problem.ANNOTATION_ENTRY),
        ({"num_keypoints": None}, Problem.ANNOTATION_ENTRY),
        ({"id": "a"}, Problem.ANNOTATION_ENTRY),
        ({"id": 0}, Problem.ANNOTATION_ID_ZERO),
        ({"image_id": 8}, Problem.UNKNOWN_IMAGE),
        ({"image_id": "7"}, Problem.ANNOTATION_ENTRY),
        ({"category_id": 2}, Problem.UNKNOWN_CATEGORY),
        ({"segmentation": [[1, 2, 3]]}, Problem.SEGMENTATION),
        ({"segmentation": {"size": [3, 4], "counts": [12]}, "iscrowd": 1}, Problem.SEGMENTATION),
        ({"segmentation": None, **NOBODY}, Problem.NO_SEGMENTATION),
    ],
)
def test_damaged_annotations(tmp_path, changes, problem):
    sound = person(99, 3)
    assert found_with(tmp_path, sound, person(1, 7, **changes)) == {problem: 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"keypoints": keypoints({0: WIDTH, 1: HEIGHT, 3: 0, 4: 0})},
        {"keypoints": keypoints({2: 1})},
        {"segmentation": None},
        {"segmentation": CROWD, "iscrowd": 1, **NOBODY},
        {"segmentation": CROWD, "iscrowd": 1, "keypoints": None, "num_keypoints": 0},
        {"bbox": [-0.5, 0, WIDTH + 1, HEIGHT]},
    ],
)
def test_annotations_at_the_limits_are_sound(tmp_path, changes):
    assert found_with(tmp_path, person(99, 3), person(1, 7, **changes)) == {}


def test_annotation_ids_twice_and_no_object(tmp_path):
    assert found_with(tmp_path, person(4, 3), person(4, 7), "x") == {
        Problem.ANNOTATION_ID_TWICE: 1,
        Problem.ANNOTATION_ENTRY: 1,
    }


def test_nobody_is_only_a_warning(tmp_path):
    report = check_dataset(coco_folder(tmp_path, document([image(1)], [person(1, 1, **NOBODY)])))
    assert [item.problem for _, item in report.all_findings] == [Problem.NOBODY]
    assert report.ok
    assert report.count("warning") == 1


def test_own_joints_need_a_skeleton(tmp_path):
    own = {"name": "bug", "joints": ["head", "tail"], "flip_pairs": [], "sigmas": [0.1, 0.1]}
    root = coco_folder(tmp_path, document([image(1)], [person(1, 1, 2)], ("head", "tail")))
    assert found(root) == {Problem.SKELETON: 1}
    assert found(root, skeleton=COCO) == {Problem.SKELETON: 1, Problem.KEYPOINT_COUNT: 1, Problem.NOBODY: 1}
    write_json(root / "skeleton.json", {**own, "sigmas": [0.1]})
    assert found(root) == {Problem.SKELETON: 1}
    write_json(root / "skeleton.json", own)
    assert found(root) == {}


def test_crowdpose_counts_without_head_and_neck(tmp_path):
    content = crowdpose_document([5, 6])
    write_json(tmp_path / "json/crowdpose_test.json", content)
    for identity in (5, 6):
        write_photo(tmp_path / f"images/{identity}.jpg")
    assert found(tmp_path) == {}
    content["annotations"][0]["num_keypoints"] = 0
    content["images"][0]["crowdIndex"] = 1.5
    content["images"][1].pop("crowdIndex")
    write_json(tmp_path / "json/crowdpose_test.json", content)
    assert found(tmp_path) == {Problem.NUM_KEYPOINTS: 1, Problem.CROWD_INDEX: 2}


def test_crowdpose_ids_are_the_numbers_in_the_names(tmp_path):
    content = crowdpose_document([5, 6])
    content["images"][0]["file_name"] = "7.jpg"
    content["images"][1]["file_name"] = "six.jpg"
    write_json(tmp_path / "json/crowdpose_val.json", content)
    write_photo(tmp_path / "images/7.jpg")
    write_photo(tmp_path / "images/six.jpg")
    assert found(tmp_path) == {Problem.IMAGE_ID_NAME: 2}


def test_many_problems_keep_a_few_examples(tmp_path):
    findings = Findings()
    for number in range(1000):
        findings.add(Problem.IMAGE_MISSING, str(number))
    findings.add(Problem.BOX_OUTSIDE, "box")
    findings.add(Problem.SEGMENTATION, "segmentation")
    first, second, third = findings.collected()
    assert (first.count, first.examples) == (1000, tuple(map(str, range(MAX_EXAMPLES))))
    assert [second.problem, third.problem] == [Problem.SEGMENTATION, Problem.BOX_OUTSIDE]


def test_progress_counts_images(tmp_path):
    seen = []

    @contextmanager
    def progress(title, total):
        seen.append((title, total))
        yield seen.append

    check_dataset(sound_folder(tmp_path), progress=progress)
    assert seen == [("val2017: reading images", 2), 1, 2]


@pytest.mark.skipif("HHRNET_COCO" not in os.environ, reason="needs the environment variable HHRNET_COCO")
def test_the_real_coco_subset_is_usable():
    report = check_dataset(os.environ["HHRNET_COCO"])
    assert report.ok, report.all_findings
    assert sum(split.people for split in report.splits) > 0
