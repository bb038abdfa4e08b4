"""What the synthetic sets promise: equal seeds give equal sets, and every label agrees with the picture."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hhrnet_deploy
from hhrnet_deploy.data import synth_image
from hhrnet_deploy.data.coco import open_dataset
from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.data.labels import segmentation_mask
from hhrnet_deploy.data.synth import GENERATOR_VERSION, synthesize
from hhrnet_deploy.data.synth_canvas import Canvas
from hhrnet_deploy.data.synth_figure import PARTS, Placed, draw_figure
from hhrnet_deploy.data.synth_image import Order
from hhrnet_deploy.data.synth_look import sample_look
from hhrnet_deploy.data.synth_poses import sample_body
from hhrnet_deploy.data.synth_scene import FEWEST_JOINTS, SMALLEST_AREA, Scene, draw_scene, label_person
from hhrnet_deploy.data.synth_workers import draw_images
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.skeletons import COCO


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.Generator(np.random.PCG64([77, index])), None) for index in range(100)]


def _document(folder: Path, split: str = "val2017") -> dict[str, Any]:
    text = (folder / "annotations" / f"person_keypoints_{split}.json").read_text()
    document: dict[str, Any] = json.loads(text)
    return document


def test_equal_seeds_give_equal_sets_whatever_the_workers(tmp_path: Path) -> None:
    one = synthesize(tmp_path / "one", 4, 11)
    two = synthesize(tmp_path / "two", 4, 11, workers=2)
    other = synthesize(tmp_path / "other", 4, 12)
    assert (one.annotations_sha256, one.pixels_sha256) == (two.annotations_sha256, two.pixels_sha256)
    assert one.pixels_sha256 != other.pixels_sha256
    assert one.annotations_sha256 != other.annotations_sha256
    names = sorted(path.relative_to(one.folder) for path in one.folder.rglob("*") if path.is_file())
    assert all((one.folder / name).read_bytes() == (two.folder / name).read_bytes() for name in names)


def test_a_longer_set_starts_with_the_shorter_one(tmp_path: Path) -> None:
    synthesize(tmp_path / "short", 2, 5)
    synthesize(tmp_path / "long", 3, 5)
    short, long = _document(tmp_path / "short"), _document(tmp_path / "long")
    assert long["annotations"][: len(short["annotations"])] == short["annotations"]


def test_the_folder_opens_as_a_coco_data_set(tmp_path: Path) -> None:
    made = synthesize(tmp_path / "set", 3, 21)
    dataset = open_dataset(tmp_path / "set")
    assert len(dataset) == made.images == 3
    assert dataset.skeleton.joints == COCO.joints
    assert _document(tmp_path / "set")["info"]["generator_version"] == GENERATOR_VERSION
    for sample in dataset:
        assert read_image(sample.path).shape == (sample.height, sample.width, 3)
        assert {note["image_id"] for note in sample.annotations} <= {sample.image_id}


def test_labels_agree_with_the_outlines(scenes: list[Scene]) -> None:
    joints_off = total = 0
    for scene in scenes[:30]:
        height, width = scene.image.shape[:2]
        for note in scene.annotations:
            mask = segmentation_mask(note, width, height)
            keypoints = np.array(note["keypoints"]).reshape(17, 3)
            assert note["num_keypoints"] == (keypoints[:, 2] > 0).sum()
            assert (keypoints[keypoints[:, 2] == 0] == 0).all()
            assert mask.sum() == pytest.approx(note["area"], rel=0.25, abs=60)
            x, y, w, h = note["bbox"]
            rows, columns = np.nonzero(mask)
            assert columns.min() >= x - 1
            assert columns.max() <= x + w
            assert rows.min() >= y - 1
            assert rows.max() <= y + h
            labelled = keypoints[keypoints[:, 2] > 0]
            assert (labelled[:, :2] >= 0).all()
            assert (labelled[:, :2] <= (width, height)).all()
            for px, py, _ in keypoints[keypoints[:, 2] == 2]:
                near = mask[max(int(py) - 2, 0) : int(py) + 3, max(int(px) - 2, 0) : int(px) + 3]
                joints_off += not near.any()
                total += 1
    assert total > 300
    assert joints_off <= 0.005 * total


def test_small_people_and_people_with_few_joints_have_no_joints(scenes: list[Scene]) -> None:
    notes = [note for scene in scenes for note in scene.annotations]
    assert any(note["num_keypoints"] == 0 for note in notes)
    for note in notes:
        if note["num_keypoints"]:
            assert note["area"] >= SMALLEST_AREA
            assert note["num_keypoints"] >= FEWEST_JOINTS


def test_sizes_and_counts_are_spread_like_those_of_coco(scenes: list[Scene]) -> None:
    people = [[note for note in scene.annotations if note["num_keypoints"]] for scene in scenes]
    roots = np.sqrt([note["area"] for notes in people for note in notes])
    # COCO train2017 subset: 53, 85, 151 (quartiles).
    assert 45 <= np.quantile(roots, 0.25) <= 70
    assert 70 <= np.median(roots) <= 110
    assert 115 <= np.quantile(roots, 0.75) <= 185
    counts = np.array([len(notes) for notes in people])
    assert 0.3 <= (counts == 1).mean() <= 0.6
    assert (counts >= 8).any()
    assert len({scene.image.shape for scene in scenes}) >= 6


def _draw_one(yaw: float, *, covered: bool = False, seed: int = 2) -> tuple[dict[str, Any], Placed]:
    rng = np.random.Generator(np.random.PCG64(seed))
    canvas = Canvas(np.full((400, 400, 3), 90, np.uint8))
    body = sample_body(rng, yaw)
    placed = Placed(body, sample_look(rng), (200.0, 200.0), 300.0)
    draw_figure(canvas, placed, 1, 0.0)
    if covered:
        canvas.parts[190:] = 2 * PARTS
    note = label_person(canvas, placed, 1)
    assert note is not None
    return note, placed


@pytest.mark.parametrize("seed", range(8))
def test_left_is_on_the_right_of_the_picture_only_when_facing_the_viewer(seed: int) -> None:
    front, _ = _draw_one(0.0, seed=seed)
    back, _ = _draw_one(np.pi, seed=seed)
    facing, turned = (np.array(note["keypoints"]).reshape(17, 3) for note in (front, back))
    assert facing[5, 0] > facing[6, 0]
    assert turned[5, 0] < turned[6, 0]
    assert (turned[:3, 2] == 0).all()
    assert facing[5:7, 2].min() > 0


def test_faces_are_labelled_when_they_are_turned_to_the_viewer() -> None:
    seen = [np.array(_draw_one(0.0, seed=seed)[0]["keypoints"])[2] for seed in range(12)]
    assert np.mean(np.array(seen) == 2) > 0.8


def test_a_hidden_joint_is_labelled_only_next_to_a_seen_one() -> None:
    whole, placed = _draw_one(0.0)
    covered, _ = _draw_one(0.0, covered=True)
    before, after = (np.array(note["keypoints"]).reshape(17, 3) for note in (whole, covered))
    places = placed.keypoints
    assert places[15:, 1].min() > 200
    assert (before[15:, 2] == 2).all()
    assert (after[15:, 2] == 0).all()  # ankles below the line: their knees are hidden too
    assert (after[11:13, 2] == 1).all()  # hips just below it: the shoulders are seen
    assert covered["area"] < whole["area"]


def test_near_people_are_drawn_over_far_ones() -> None:
    canvas = Canvas(np.zeros((300, 300, 3), np.uint8))
    rng = np.random.Generator(np.random.PCG64(1))
    far = Placed(sample_body(rng, 0.0), sample_look(rng), (150.0, 150.0), 150.0)
    near = Placed(sample_body(rng, 0.0), sample_look(rng), (150.0, 150.0), 250.0)
    draw_figure(canvas, far, 1, 0.0)
    alone = label_person(canvas, far, 1)
    draw_figure(canvas, near, 2, 0.0)
    behind, front = label_person(canvas, far, 1), label_person(canvas, near, 2)
    assert alone is not None
    assert front is not None
    assert behind is None or behind["area"] < 0.8 * alone["area"]


def test_shrunk_images_keep_labels_in_place(tmp_path: Path) -> None:
    synthesize(tmp_path / "full", 2, 9)
    synthesize(tmp_path / "small", 2, 9, short_side=160, image_format="jpg")
    full, small = _document(tmp_path / "full"), _document(tmp_path / "small")
    for large_image, small_image in zip(full["images"], small["images"], strict=True):
        assert min(small_image["width"], small_image["height"]) == 160
        factor = small_image["width"] / large_image["width"]
        pairs = zip(full["annotations"], small["annotations"], strict=True)
        for one, two in ((a, b) for a, b in pairs if a["image_id"] == large_image["id"]):
            before, after = (np.array(note["keypoints"]).reshape(17, 3) for note in (one, two))
            np.testing.assert_allclose(after[:, :2], before[:, :2] * factor, atol=1.0)
            assert (after[:, 2] == before[:, 2]).all()
            assert two["area"] == pytest.approx(one["area"] * factor**2, rel=0.01)


def test_an_interruption_leaves_the_earlier_set_and_nothing_else(tmp_path: Path) -> None:
    synthesize(tmp_path / "set", 1, 1)
    before = _document(tmp_path / "set")

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "set", 3, 2, progress=stop)
    assert _document(tmp_path / "set") == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    synthesize(tmp_path / "set", 1, 2)
    assert _document(tmp_path / "set") != before


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synth_image, "write_image", full)
    with pytest.raises(InputError, match="No space left"):
        synthesize(tmp_path / "set", 2, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_cannot_write_reports_why(tmp_path: Path) -> None:
    order = Order(seed=1, poses=None, image_format="png", short_side=None, folder=str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="No such file"):
        list(draw_images(order, 4, 2))


def test_workers_draw_after_opencv_used_threads_of_its_own(tmp_path: Path) -> None:
    import cv2

    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (999, 999), interpolation=cv2.INTER_LINEAR)
    assert synthesize(tmp_path / "set", 3, 1, workers=3).images == 3


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not generated by this tool"):
        synthesize(tmp_path / "photos", 1, 1)
    assert (tmp_path / "photos" / "mine.txt").read_text() == "keep"


def test_a_set_that_somebody_added_to_is_left_alone(tmp_path: Path) -> None:
    synthesize(tmp_path / "set", 1, 1, split="train2017")
    with pytest.raises(
        InputError, match=r"holds annotations/person_keypoints_train2017\.json besides the split val2017"
    ):
        synthesize(tmp_path / "set", 1, 1, split="val2017")
    (tmp_path / "set" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        synthesize(tmp_path / "set", 1, 2, split="train2017")
    assert (tmp_path / "set" / "notes.txt").read_text() == "keep"


def test_workers_take_no_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert synthesize(tmp_path / "set", 2, 1, workers=2).images == 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_nothing_and_shows_no_tracebacks(tmp_path: Path, stop: signal.Signals) -> None:
    words = ["hhrnet", "data", "synth", "set", "--images", "5000", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.argv = {words!r}; from hhrnet_deploy.cli.app import main; main()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(hhrnet_deploy.__file__ or "").parents[1])},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".set.*/images/val2017/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    if stop is signal.SIGINT:
        os.killpg(process.pid, stop)  # as a terminal sends it, to the workers too
    else:
        process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "images has to be at least 1"),
        ({"seed": -1}, "seed has to be at least 0"),
        ({"split": "../x"}, "plain name"),
        ({"image_format": "gif"}, "png"),
        ({"short_side": 4}, "at least 32"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"images": 1, "seed": 0, **change}
    with pytest.raises(InputError, match=message):
        synthesize(tmp_path / "set", **arguments)
    assert list(tmp_path.iterdir()) == []
