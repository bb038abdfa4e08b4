"""CrowdPose's trainval: train and val in one file."""

from __future__ import annotations

import json

import pytest
from coco_folder import crowdpose_document, write_json

from hhrnet_deploy.data.coco import open_dataset
from hhrnet_deploy.data.crowdpose import concat_trainval, image_id_of
from hhrnet_deploy.errors import InputError

TRAIN, VAL = crowdpose_document([5, 3]), crowdpose_document([4], first=10)


def folder(root, train=TRAIN, val=VAL):
    write_json(root / "json/crowdpose_train.json", train)
    write_json(root / "json/crowdpose_val.json", val)
    return root


def test_train_comes_first_and_nothing_changes(tmp_path):
    written = concat_trainval(folder(tmp_path))
    assert written == tmp_path / "json/crowdpose_trainval.json"
    assert json.loads(written.read_text()) == {
        "categories": TRAIN["categories"],
        "images": TRAIN["images"] + VAL["images"],
        "annotations": TRAIN["annotations"] + VAL["annotations"],
    }
    assert open_dataset(tmp_path, "trainval").image_ids == [5, 3, 4]


def test_the_folder_of_the_json_files_will_do(tmp_path):
    assert concat_trainval(folder(tmp_path) / "json") == tmp_path / "json/crowdpose_trainval.json"


@pytest.mark.parametrize(
    ("val", "message"),
    [
        (crowdpose_document([5], first=10), "id 5 occurs twice among the images"),
        (crowdpose_document([9], first=2), "id 2 occurs twice among the annotations"),
        ({**VAL, "categories": []}, "categories of train and val"),
        ({**VAL, "images": [{}]}, "without a whole number as id"),
        ({"images": []}, "needs a list named 'categories'"),
        ([], "needs a list named 'categories'"),
    ],
)
def test_what_does_not_fit_leaves_the_earlier_file(tmp_path, val, message):
    earlier = write_json(tmp_path / "json/crowdpose_trainval.json", "earlier")
    with pytest.raises(InputError, match=message):
        concat_trainval(folder(tmp_path, val=val))
    assert json.loads(earlier.read_text()) == "earlier"
    assert sorted(path.name for path in earlier.parent.iterdir()) == [
        "crowdpose_train.json",
        "crowdpose_trainval.json",
        "crowdpose_val.json",
    ]


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(InputError, match=r"crowdpose_train\.json does not exist"):
        concat_trainval(tmp_path)
    (folder(tmp_path) / "json/crowdpose_val.json").write_text("{")
    with pytest.raises(InputError, match=r"crowdpose_val\.json is not valid JSON"):
        concat_trainval(tmp_path)


def test_image_ids_are_numbers_in_names():
    assert image_id_of("images/000123.jpg") == 123
    for name in ("a.jpg", "12a.jpg", "-3.jpg", "٣.jpg", ".jpg"):
        with pytest.raises(InputError, match="names images with numbers"):
            image_id_of(name)
