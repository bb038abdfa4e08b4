"""Pasting people onto photos: labels follow what is covered, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hhrnet_deploy.data import paste, paste_set
from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.data.labels import segmentation_mask
from hhrnet_deploy.data.paste import Donor, cut_out, mirrored, paste_people, scaled
from hhrnet_deploy.data.paste_set import make_paste_set
from hhrnet_deploy.data.synth import synthesize
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.skeletons import COCO

_OCTAGON = [50.0, 20.0, 70.0, 20.0, 110.0, 80.0, 110.0, 120.0, 70.0, 180.0, 50.0, 180.0, 10.0, 120.0, 10.0, 80.0]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _photo(width: int = 300, height: int = 240) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return _rng(9).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _note(**change: Any) -> dict[str, Any]:
    keypoints = np.zeros((17, 3))
    keypoints[:, 0] = np.where(np.arange(17) % 2 == 1, 70, 50)  # left joints at x 70, right ones at 50
    keypoints[:, 1] = np.linspace(40, 160, 17).round()
    keypoints[:, 2] = 2
    note = {"id": 5, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "area": 11200.0}
    note |= {
        "bbox": [10.0, 20.0, 100.0, 160.0],
        "segmentation": [_OCTAGON],
        "keypoints": keypoints.reshape(-1).tolist(),
    }
    return {**note, **change}


def _donor() -> Donor:
    donor = cut_out(_photo(), _note())
    assert donor is not None
    return donor


def test_a_donor_carries_its_joints_along() -> None:
    photo, donor = _photo(), _donor()
    shift = np.array(_note()["keypoints"]).reshape(17, 3)[:, :2] - donor.keypoints[:, :2]
    assert (shift == shift[0]).all()
    x, y = shift[0].astype(int)
    tall, wide = donor.mask.shape
    assert (photo[y : y + tall, x : x + wide] == donor.image).all()
    assert (segmentation_mask(_note(), 300, 240)[y : y + tall, x : x + wide] == donor.mask).all()


@pytest.mark.parametrize(
    "change",
    [
        {"iscrowd": 1},
        {"segmentation": []},
        {"segmentation": [[10.0, 20.0, 110.0, 20.0, 110.0, 180.0, 10.0, 180.0]]},  # the box
        {"segmentation": [[40.0, 20.0, 60.0, 20.0, 50.0, 40.0]]},  # too small
        {"keypoints": [0] * 51},
        {"keypoints": [200, 100, 2] * 17},  # the joints lie elsewhere
    ],
)
def test_bad_donors_are_refused(change: dict[str, Any]) -> None:
    assert cut_out(_photo(), _note(**change)) is None


def test_joints_off_the_outline_lose_their_label() -> None:
    keypoints = np.array(_note()["keypoints"]).reshape(17, 3)
    keypoints[9] = 250, 100, 1
    donor = cut_out(_photo(), _note(keypoints=keypoints.reshape(-1).tolist()))
    assert donor is not None
    assert donor.keypoints[9, 2] == 0
    assert (donor.keypoints[:, 2] == 2).sum() == 16


def test_mirroring_swaps_left_and_right() -> None:
    donor, other = _donor(), mirrored(_donor())
    wide = donor.image.shape[1]
    for left, right in COCO.flip_pairs:
        assert other.keypoints[left, 0] == wide - donor.keypoints[right, 0]
        assert other.keypoints[left, 1] == donor.keypoints[right, 1]
    np.testing.assert_array_equal(mirrored(other).image, donor.image)
    np.testing.assert_allclose(mirrored(other).keypoints, donor.keypoints)


def test_scaling_keeps_joints_on_the_person() -> None:
    donor = _donor()
    half = scaled(donor, 0.5)
    assert half.mask.sum() == pytest.approx(donor.mask.sum() / 4, rel=0.03)
    assert half.area == pytest.approx(donor.area / 4, rel=0.03)
    np.testing.assert_allclose(half.keypoints[:, :2], donor.keypoints[:, :2] / 2, rtol=0.03)


def test_labels_of_pasted_people_agree_with_the_picture() -> None:
    for seed in range(20):
        photo = np.zeros((240, 300, 3), np.uint8)
        image, notes = paste_people(_rng(seed), photo, [_donor()])
        assert (photo == 0).all()
        for note in notes:
            mask = segmentation_mask(note, 300, 240)
            keypoints = np.array(note["keypoints"]).reshape(17, 3)
            assert note["num_keypoints"] == (keypoints[:, 2] > 0).sum()
            assert (keypoints[:, :2] >= 0).all()
            assert (keypoints[:, :2] < (300, 240)).all()
            assert image[mask].any(axis=1).mean() > 0.9
            assert not image[~mask].any(axis=1).mean() > 0.05


def test_people_of_the_photo_that_nobody_covers_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paste, "_corner", lambda *_: (260, 200))
    without_outline = _note(id=6)
    del without_outline["segmentation"]
    crowd = _note(id=7, iscrowd=1, num_keypoints=0, keypoints=[0] * 51)
    _, notes = paste_people(_rng(), _photo(), [_donor()], [_note(), without_outline, crowd])
    assert notes[:3] == [_note(), without_outline, crowd]


def test_covered_people_lose_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    donor = scaled(_donor(), 1.0)
    monkeypatch.setattr(paste, "_varied", lambda _rng, donor, *_: donor)
    monkeypatch.setattr(paste, "_corner", lambda *_: (0, 100))
    _, notes = paste_people(_rng(), _photo(), [donor], [_note()])
    old = notes[0]
    before, after = (np.array(note["keypoints"]).reshape(17, 3) for note in (_note(), old))
    assert old["area"] < 0.75 * 11200
    assert old["bbox"][3] < 160
    high = before[:, 1] < 95
    np.testing.assert_allclose(after[high], before[high])
    assert (after[13:, 2] == 0).all()  # knees and ankles: hidden with their neighbours
    assert old["num_keypoints"] == (after[:, 2] > 0).sum() < 17
    assert (after[9, 2], after[7, 2]) == (1, 2) or after[9, 2] == 2


def test_people_who_vanish_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paste, "_varied", lambda _rng, donor, *_: scaled(donor, 1.3))
    monkeypatch.setattr(paste, "_corner", lambda *_: (-10, -4))
    _, notes = paste_people(_rng(), _photo(), [_donor()], [_note()])
    assert len(notes) == 1
    assert "id" not in notes[0]


def test_a_set_is_written_with_everybody_in_it(tmp_path: Path) -> None:
    synthesize(tmp_path / "coco", 6, 3, split="train2017")
    for name in ("one", "two"):
        make_paste_set(tmp_path / name, tmp_path / "coco", "train2017", 5, 4, short_side=200)
    one, two = (
        json.loads((tmp_path / name / "annotations" / "person_keypoints_train2017.json").read_text())
        for name in ("one", "two")
    )
    assert one == two
    assert len(one["images"]) == 5
    ids = [note["id"] for note in one["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert {note["image_id"] for note in one["annotations"]} <= {image["id"] for image in one["images"]}
    assert all(min(image["width"], image["height"]) == 200 for image in one["images"])


def test_large_splits_are_drawn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize(tmp_path / "coco", 6, 3, split="train2017")
    read: list[Path] = []

    def counted(path: Path) -> Any:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(paste_set, "read_image", counted)
    monkeypatch.setattr(paste_set, "_MOST_PHOTOS", 4)
    drawn = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        make_paste_set(tmp_path / name, tmp_path / "coco", "train2017", 1, seed)
        drawn.append(sorted(read))
        read.clear()
    assert [len(set(names)) for names in drawn] == [4, 4, 4]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_set_without_donors_says_what_is_missing(tmp_path: Path) -> None:
    synthesize(tmp_path / "coco", 1, 3, split="train2017")
    path = tmp_path / "coco" / "annotations" / "person_keypoints_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"] = []
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="Nobody in train2017"):
        make_paste_set(tmp_path / "out", tmp_path / "coco", "train2017", 1, 1)
