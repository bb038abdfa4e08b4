"""Opening data sets in the layouts of COCO and CrowdPose and with a skeleton of their own."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from coco_folder import coco_folder, crowdpose_document, document, image, person, sound_folder, write_json, write_photo

from hhrnet_deploy.data.check import check_dataset
from hhrnet_deploy.data.coco import open_dataset
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.skeletons import COCO, CROWDPOSE

CUSTOM = {"name": "bug", "joints": ["head", "left_wing", "right_wing"], "flip_pairs": [[1, 2]], "sigmas": [0.1] * 3}


def test_samples_come_in_file_order_with_their_annotations(tmp_path):
    dataset = open_dataset(sound_folder(tmp_path))
    assert [sample.image_id for sample in dataset] == [7, 3] == dataset.image_ids
    first = dataset[0]
    assert first.path == tmp_path / "images/val2017/000000000007.jpg"
    assert (first.width, first.height) == (64, 48)
    assert first.annotations == [person(2, 7)]
    assert (dataset.kind, dataset.split, dataset.skeleton, dataset.category_id) == ("coco", "val2017", COCO, 1)
    assert dataset[-1].image_id == 3
    with pytest.raises(IndexError):
        dataset[2]


def test_annotations_keep_file_order_within_an_image(tmp_path):
    people = [person(9, 3), person(1, 7), person(5, 3), person(2, 3)]
    dataset = open_dataset(coco_folder(tmp_path, document([image(7), image(3), image(4)], people)))
    assert [[entry["id"] for entry in sample.annotations] for sample in dataset] == [[1], [9, 5, 2], []]


def test_annotations_before_images_in_the_file(tmp_path):
    content = document([image(7)], [person(1, 7)])
    root = coco_folder(tmp_path, {"annotations": content["annotations"], "info": {"a": [1, {"b": "]"}]}, **content})
    assert len(open_dataset(root)[0].annotations) == 1


def test_changing_a_sample_does_not_change_the_data_set(tmp_path):
    dataset = open_dataset(sound_folder(tmp_path))
    dataset[0].annotations[0]["keypoints"][0] = -1
    assert dataset[0].annotations == [person(2, 7)]


def test_selections_share_everything(tmp_path):
    people = [person(1, 3), person(2, 5, iscrowd=1, num_keypoints=0, keypoints=[0] * 51)]
    dataset = open_dataset(coco_folder(tmp_path, document([image(7), image(3), image(5)], people)))
    assert dataset.annotated().image_ids == [3, 5]
    assert dataset[1:].image_ids == [3, 5]
    assert dataset[1:].select([1]).image_ids == [5]
    assert dataset.select([2, 0])[0].annotations[0]["id"] == 2
    assert len(dataset) == 3


def test_data_sets_travel_to_worker_processes(tmp_path):
    dataset = open_dataset(sound_folder(tmp_path))[:1]
    assert list(pickle.loads(pickle.dumps(dataset))) == list(dataset)


def test_standard_download_without_the_images_folder(tmp_path):
    root = sound_folder(tmp_path)
    (root / "images/val2017").rename(root / "val2017")
    (root / "images").rmdir()
    assert all(sample.path.is_file() for sample in open_dataset(root))


def test_test_dev_has_images_only(tmp_path):
    write_json(tmp_path / "annotations/image_info_test-dev2017.json", document([image(5)], None, ()))
    write_photo(tmp_path / "images/test2017/000000000005.jpg")
    dataset = open_dataset(tmp_path, "test-dev2017")
    assert not dataset.has_annotations
    assert dataset.skeleton == COCO
    assert dataset[0].path.is_file()
    assert dataset[0].annotations == []


def test_default_split_and_the_only_one(tmp_path):
    root = coco_folder(tmp_path, document([image(1)], []), "train2017")
    assert open_dataset(root).split == "train2017"
    coco_folder(tmp_path, document([image(2)], []), "val2017")
    assert open_dataset(root).split == "val2017"
    coco_folder(tmp_path / "other", document([image(1)], []), "a")
    coco_folder(tmp_path / "other", document([image(1)], []), "b")
    with pytest.raises(InputError, match=r"'val2017'; it has a, b"):
        open_dataset(tmp_path / "other")


def test_crowdpose_official_layout(tmp_path):
    write_json(tmp_path / "json/crowdpose_test.json", crowdpose_document([103319]))
    write_json(tmp_path / "json/crowdpose_val.json", crowdpose_document([5]))
    write_photo(tmp_path / "images/103319.jpg")
    dataset = open_dataset(tmp_path)
    assert (dataset.kind, dataset.split, dataset.skeleton) == ("crowdpose", "test", CROWDPOSE)
    assert dataset[0].image_id == 103319
    assert dataset[0].path == tmp_path / "images/103319.jpg"
    assert dataset.joints(dataset[0]).shape == (1, 14, 3)


def test_crowdpose_flat_folder(tmp_path):
    write_json(tmp_path / "test_crowdpose.json", crowdpose_document([12]))
    write_photo(tmp_path / "12.jpg")
    assert open_dataset(tmp_path)[0].path == tmp_path / "12.jpg"


def test_crowdpose_image_id_is_the_number_in_the_name(tmp_path):
    content = crowdpose_document([44])
    content["images"][0]["file_name"] = "0012.jpg"
    write_json(tmp_path / "json/crowdpose_test.json", content)
    [sample] = open_dataset(tmp_path)
    assert sample.image_id == 12
    assert len(sample.annotations) == 1


def test_crowdpose_never_masks(tmp_path):
    content = crowdpose_document([44])
    content["annotations"][0].update(num_keypoints=0, iscrowd=1)
    write_json(tmp_path / "json/crowdpose_test.json", content)
    dataset = open_dataset(tmp_path)
    assert not dataset.ignore_mask(dataset[0]).any()


@pytest.mark.parametrize("where", ["skeleton.json", "annotations/skeleton.json"])
def test_own_skeleton_lies_with_the_data(tmp_path, where):
    content = document([image(1)], [person(1, 1, 3)], tuple(CUSTOM["joints"]))
    root = coco_folder(tmp_path, content)
    with pytest.raises(InputError, match=r"3 joints of its own \(head, left_wing(.|\n)*--skeleton"):
        open_dataset(root)
    write_json(root / where, CUSTOM)
    dataset = open_dataset(root)
    assert dataset.skeleton.name == "bug"
    assert dataset.joints(dataset[0]).shape == (1, 3, 3)


def test_own_skeleton_given(tmp_path):
    root = coco_folder(tmp_path / "set", document([image(1)], [person(1, 1, 3)], tuple(CUSTOM["joints"])))
    path = write_json(tmp_path / "bug.json", CUSTOM)
    assert open_dataset(root, skeleton=path).skeleton.joints == tuple(CUSTOM["joints"])
    with pytest.raises(InputError, match=r"coco needs 3 x 17 = 51 numbers.*annotations with 9"):
        open_dataset(root, skeleton=COCO)


def test_seventeen_other_joints_are_not_taken_for_people(tmp_path):
    names = tuple(f"bone_{number}" for number in range(17))
    with pytest.raises(InputError, match="joints of its own"):
        open_dataset(coco_folder(tmp_path, document([image(1)], [], names)))


def test_joint_names_are_compared_loosely(tmp_path):
    names = tuple(name.replace("_", " ").title() for name in COCO.joints)
    assert open_dataset(coco_folder(tmp_path, document([image(1)], [], names))).skeleton == COCO


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.jpg", "a/../../secret.jpg", "..\\secret.jpg", "C:\\secret.jpg", "\\\\host\\x.jpg"],
)
def test_file_names_may_not_leave_the_image_folder(tmp_path, name):
    write_json(tmp_path / "annotations/person_keypoints_val2017.json", document([image(1, file_name=name)], []))
    with pytest.raises(InputError, match="leads out of the image folder"):
        open_dataset(tmp_path)


def test_file_names_may_have_folders(tmp_path):
    root = coco_folder(tmp_path, document([image(1, file_name="day..1/a.b.jpg")], []))
    assert open_dataset(root)[0].path.is_file()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("x", "has to be a JSON object"),
        ({"file_name": "a.jpg", "width": 3, "height": 3}, "whole number as id, got None"),
        (image(1, width=0), "0x48 pixels"),
        (image(1, height="48"), "whole number as height, got '48'"),
        (image(True), "whole number as id, got True"),
        (image(1 << 70), "whole number as id"),
        (image(1, file_name=""), "needs a file_name"),
        (image(1, file_name=None), "needs a file_name"),
        (image(1, file_name="a\0.jpg"), "needs a file_name"),
    ],
)
def test_broken_image_entries_are_named(tmp_path, entry, message):
    write_json(tmp_path / "annotations/person_keypoints_val2017.json", document([entry], []))
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(tmp_path)
    assert "Image 0 in" in str(caught.value)


def test_repeated_image_ids_are_refused(tmp_path):
    with pytest.raises(InputError, match="image id 4 2 times"):
        open_dataset(coco_folder(tmp_path, document([image(3), image(4), image(4)], [])))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (None, "no whole number as image_id"),
        ({"id": 1}, "no whole number as image_id"),
        (person(1, 7, keypoints=None), "no list of keypoints"),
        (person(1, 7, keypoints="abc"), "no list of keypoints"),
        (person(1, 7, keypoints=[1, 2, 2]), "with 3"),
    ],
)
def test_broken_annotations_are_named(tmp_path, annotation, message):
    root = coco_folder(tmp_path, document([image(7)], [annotation]))
    with pytest.raises(InputError, match=message):
        open_dataset(root)


def test_crowds_need_no_keypoints(tmp_path):
    root = coco_folder(tmp_path, document([image(7)], [person(1, 7, iscrowd=1, keypoints=None)]))
    assert len(open_dataset(root)[0].annotations) == 1


def test_other_categories_are_left_out(tmp_path):
    dog = {"id": 9, "image_id": 5, "category_id": 18, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    mixed = document([image(5)], [person(1, 5), dog, person(2, 5)])
    mixed["categories"] = [{"id": 18, "name": "dog"}, *mixed["categories"]]
    write_json(tmp_path / "annotations/person_keypoints_val2017.json", mixed)
    (tmp_path / "images/val2017").mkdir(parents=True)
    dataset = open_dataset(tmp_path)
    assert [annotation["id"] for annotation in dataset[0].annotations] == [1, 2]
    write_photo(tmp_path / "images/val2017/000000000005.jpg")
    assert check_dataset(tmp_path).all_findings == []


def test_annotations_of_unknown_images_are_left_out(tmp_path):
    root = coco_folder(tmp_path, document([image(7)], [person(1, 99), person(2, 7)]))
    assert [[entry["id"] for entry in sample.annotations] for sample in open_dataset(root)] == [[2]]


TEXT = json.dumps(document([image(7)], [person(1, 7)]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("<html></html>", "not valid JSON"),
        ("[1, 2]", "JSON object at its top level"),
        (TEXT[: len(TEXT) // 2], "not valid JSON"),
        (TEXT[:-1], "not valid JSON"),
        (TEXT[:-2], "not valid JSON"),
        (TEXT + "}", "Extra data"),
        ('{"images": [] "annotations": []}', "not valid JSON"),
        ('{"images": 3}', "'images' in annotation file"),
        ('{"images": [], "annotations": {"a": 1}}', "'annotations' in annotation file"),
        ('{"annotations": []}', "no list of images"),
        ("{}", "no list of images"),
        ("{1: 2}", "not valid JSON"),
        ('{"images": [],}', "not valid JSON"),
        ('{"images": [], "annotations": [{"image_id": 1, "iscrowd": 1},]}', "not valid JSON"),
        ('{"info": ' + "[" * 100000, "nested too deeply"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "annotations/person_keypoints_val2017.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(tmp_path)
    assert "person_keypoints_val2017.json" in str(caught.value)


def test_other_encodings(tmp_path):
    path = tmp_path / "annotations/person_keypoints_val2017.json"
    path.parent.mkdir()
    path.write_bytes(TEXT.encode("utf-8-sig"))
    assert len(open_dataset(tmp_path)) == 1
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="not UTF-8"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("indent", [None, 1])
def test_any_white_space(tmp_path, indent):
    content = document([image(7), image(3)], [person(1, 3), person(2, 7)])
    path = tmp_path / "annotations/person_keypoints_val2017.json"
    path.parent.mkdir()
    path.write_text("\n " + json.dumps(content, indent=indent, separators=(" ,\t", " :\r\n")) + " \n")
    assert [entry["id"] for sample in open_dataset(tmp_path) for entry in sample.annotations] == [2, 1]


def test_missing_folder_and_layout(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(InputError, match="No annotation file found"):
        open_dataset(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        open_dataset(tmp_path / "file")


def test_empty_set(tmp_path):
    dataset = open_dataset(coco_folder(tmp_path, document([], [])))
    assert list(dataset) == []
    assert list(dataset.annotated()) == []


def test_memory_is_the_text_not_the_objects(tmp_path):
    import tracemalloc

    content = document([image(1)], [person(number, 1) for number in range(2000)])
    path = Path(coco_folder(tmp_path, content)) / "annotations/person_keypoints_val2017.json"
    tracemalloc.start()
    dataset = open_dataset(tmp_path)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == 1
    assert kept < 1.3 * path.stat().st_size


def test_joints_of_a_sample(tmp_path):
    dataset = open_dataset(sound_folder(tmp_path))
    joints = dataset.joints(dataset[0])
    assert joints.dtype == np.float64
    np.testing.assert_array_equal(joints[0, 5], [15, 20, 2])


@pytest.mark.skipif("HHRNET_COCO" not in os.environ, reason="needs the environment variable HHRNET_COCO")
@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_the_real_coco_subset_is_what_pycocotools_reads(split):
    from pycocotools import coco

    dataset = open_dataset(os.environ["HHRNET_COCO"], split)
    api = coco.COCO(str(dataset.annotation_file))
    assert dataset.image_ids == list(api.imgs)
    for sample in dataset:
        assert sample.annotations == api.loadAnns(api.getAnnIds(imgIds=sample.image_id))
        masked = [
            entry
            for entry in sample.annotations
            if (entry["iscrowd"] or not entry["num_keypoints"]) and entry.get("segmentation")
        ]
        if masked:
            expected = np.any([api.annToMask(entry) for entry in masked], axis=0)
            # Boxes stand in for missing segmentations, so the mask may hold more.
            assert not (expected & ~dataset.ignore_mask(sample)).any()
