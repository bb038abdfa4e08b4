"""Inputs, filters and output files of prediction."""

from __future__ import annotations

import csv
import errno
import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import People
from hhrnet_deploy.pipeline import outputs
from hhrnet_deploy.pipeline.filters import PeopleFilter, without_duplicates
from hhrnet_deploy.pipeline.inputs import Photo, Video, expand
from hhrnet_deploy.pipeline.live import LivePage
from hhrnet_deploy.skeletons import COCO


def _people(count: int, seed: int = 0) -> People:
    """People far apart, each with every joint, scores falling from 0.9."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(10, 90, (count, 17, 3)).astype(np.float32)
    keypoints[:, :, 0] += 1000 * np.arange(count, dtype=np.float32)[:, None]
    keypoints[:, :, 2] = 0.5
    return People(keypoints, np.linspace(0.9, 0.1, count, dtype=np.float32), np.zeros((count, 17, 1), np.float32))


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"x")


def test_a_folder_gives_its_photos_and_videos_by_name(tmp_path: Path) -> None:
    _touch(tmp_path, "b.JPG", "a.png", "clip.mp4", "notes.txt")
    assert expand([str(tmp_path)]) == [
        Photo(tmp_path / "a.png"),
        Photo(tmp_path / "b.JPG"),
        Video(str(tmp_path / "clip.mp4")),
    ]


@pytest.mark.parametrize("wrong", [{"min_score": float("nan")}, {"min_score": 2.0}, {"max_people": 0}])
def test_filters_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        PeopleFilter(**wrong)


@pytest.mark.parametrize("words", ["", "*"])
def test_files_of_a_folder_or_glob_that_are_passed_over_are_named(tmp_path: Path, words: str) -> None:
    _touch(tmp_path, "a.png", "b.gif", "c.heic", "d.txt", "e.txt", ".DS_Store", "._a.png")
    (tmp_path / "folder").mkdir()
    told: list[str] = []
    assert expand([str(tmp_path / words)], on_other_files=told.append) == [Photo(tmp_path / "a.png")]
    (sentence,) = told
    assert "4 files" in sentence
    assert "(b.gif, c.heic, d.txt, ...)" in sentence
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"no photo or video \(b\.gif"):
        expand([str(tmp_path / words)])


def test_globs_cameras_and_streams_are_told_apart(tmp_path: Path) -> None:
    _touch(tmp_path, "x1.jpg", "x2.jpg")
    found = expand([str(tmp_path / "x*.jpg"), "0", "rtsp://host/stream"])
    assert found == [Photo(tmp_path / "x1.jpg"), Photo(tmp_path / "x2.jpg"), Video(0), Video("rtsp://host/stream")]


@pytest.mark.parametrize("wrong", ["missing.jpg", "none*.png", "notes.txt", "empty"])
def test_inputs_that_are_nothing_are_named(tmp_path: Path, wrong: str) -> None:
    _touch(tmp_path, "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=wrong.replace("*", r"\*")):
        expand([str(tmp_path / wrong)])


def test_what_is_wrong_with_one_input_is_told_while_another_gives_something(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "readme.txt").touch()
    told: list[InputError] = []
    words = [str(tmp_path / name) for name in ("readme.txt", "a.jpg", "gone.jpg")]
    assert expand(words, told.append) == [Photo(tmp_path / "a.jpg")]
    assert ["readme.txt" in str(told[0]), "gone.jpg" in str(told[1])] == [True, True]
    with pytest.raises(InputError, match=r"readme\.txt"):
        expand(words[:1], told.append)
    assert len(told) == 2


def test_filters_keep_insertion_order() -> None:
    people = _people(5).select([3, 0, 4, 1, 2])
    kept = PeopleFilter(min_score=0.2, max_people=3)(people, COCO)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, 0.5])


def test_no_filter_by_default_changes_nothing() -> None:
    people = _people(4)
    assert np.array_equal(PeopleFilter()(people, COCO).keypoints, people.keypoints)


def test_a_repeated_pose_is_suppressed_and_the_better_one_stays() -> None:
    twice = _people(2).keypoints[[0, 1, 1]].copy()
    twice[2, :, :2] += 0.5
    people = People(twice, np.array([0.9, 0.4, 0.6], np.float32), np.zeros((3, 17, 1), np.float32))
    assert without_duplicates(people, COCO).scores.tolist() == pytest.approx([0.9, 0.6])


def test_nobody_passes_every_filter() -> None:
    assert len(PeopleFilter(0.5, 3, True)(People.none(17), COCO)) == 0


def _predictions() -> list[outputs.Prediction]:
    return [
        outputs.Prediction("a.jpg", 640, 480, _people(2)),
        outputs.Prediction("empty.jpg", 64, 48, People.none(17)),
        outputs.Prediction("v.mp4", 320, 240, _people(1), frame=7, time=0.28),
    ]


def test_coco_json_loads_in_pycocotools(tmp_path: Path) -> None:
    import pycocotools.coco

    with outputs.coco(tmp_path / "people.json", COCO) as sink:
        for prediction in _predictions():
            sink.add(prediction)
    api = pycocotools.coco.COCO(str(tmp_path / "people.json"))
    assert [len(api.getAnnIds(imgIds=[number])) for number in api.getImgIds()] == [2, 0, 1]
    assert api.loadCats([1])[0]["keypoints"] == list(COCO.joints)


def test_json_lines_hold_every_frame(tmp_path: Path) -> None:
    with outputs.json_lines(tmp_path / "people.jsonl") as sink:
        for prediction in _predictions():
            sink.add(prediction)
    lines = [json.loads(line) for line in (tmp_path / "people.jsonl").read_text().splitlines()]
    assert [len(line["people"]) for line in lines] == [2, 0, 1]
    assert (lines[2]["frame"], lines[2]["time"]) == (7, 0.28)


def test_csv_has_a_row_per_person(tmp_path: Path) -> None:
    with outputs.table(tmp_path / "people.csv", COCO) as sink:
        for prediction in _predictions():
            sink.add(prediction)
    with (tmp_path / "people.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["source"], row["person"]) for row in rows] == [("a.jpg", "0"), ("a.jpg", "1"), ("v.mp4", "0")]
    assert float(rows[0]["nose_x"]) == pytest.approx(float(_people(2).keypoints[0, 0, 0]), abs=1e-3)


@pytest.mark.parametrize("name", ["coco", "table", "json_lines"])
def test_an_interruption_keeps_what_was_done(tmp_path: Path, name: str) -> None:
    path = tmp_path / "people.out"
    make = getattr(outputs, name)

    def interrupted() -> None:
        with make(path, COCO) if name != "json_lines" else make(path) as sink:
            sink.add(_predictions()[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "a.jpg" in path.read_text()


@pytest.mark.parametrize("name", ["coco", "table", "json_lines"])
@pytest.mark.parametrize("taken", [0, 1])
def test_a_failure_leaves_the_file_that_was_there(tmp_path: Path, name: str, taken: int) -> None:
    """Before the first prediction, or when what was taken cannot be written any more (a full disk)."""
    path = tmp_path / "people.out"
    path.write_text("of last week")
    make = getattr(outputs, name)

    def failing() -> None:
        with make(path, COCO) if name != "json_lines" else make(path) as sink:
            for prediction in _predictions()[:taken]:
                sink.add(prediction)
                sink.sink.close = lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
            raise RuntimeError

    with pytest.raises(OSError if taken else RuntimeError):
        failing()
    assert path.read_text() == "of last week"
    assert [file.name for file in tmp_path.iterdir()] == ["people.out"]


def test_the_live_page_shows_the_newest_picture() -> None:
    with LivePage() as page:
        page.show(np.zeros((8, 8, 3), np.uint8))
        with urllib.request.urlopen(page.url, timeout=5) as answer:
            assert b"/stream" in answer.read()
        with urllib.request.urlopen(page.url + "stream", timeout=5) as answer:
            assert b"image/jpeg" in answer.read(64)
