"""``hhrnet predict`` and ``Pose`` on the real path, with a tiny network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import hhrnet_deploy
from hhrnet_deploy.cli.app import app
from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.pipeline.pose import Pose
from hhrnet_deploy.visualize.video import Frame, VideoReader, VideoWriter


def _photo(seed: int = 0, size: tuple[int, int] = (96, 64)) -> np.ndarray:
    """(H, W, 3) RGB of soft blobs, which the tiny network sees people in."""
    small = np.random.default_rng(seed).integers(0, 256, (size[1] // 8 or 1, size[0] // 8 or 1, 3), np.uint8)
    return np.asarray(cv2.resize(small, size), np.uint8)


def _save(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def _video(path: Path, frames: int, size: tuple[int, int] = (96, 64)) -> Path:
    with VideoWriter(path, 10.0) as writer:
        for number in range(frames):
            writer.write(Frame(number, number / 10, _photo(number, size)))
    return path


def _predict(model: Path, folder: Path, *words: object) -> Result:
    arguments = ["predict", *map(str, words), "--model", str(model), "--no-flip", "-o", str(folder)]
    return CliRunner().invoke(app, arguments)


def test_a_broken_photo_does_not_stop_the_others(tiny_onnx: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    _save(photos / "a.png", _photo(1))
    (photos / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no photo")
    _save(photos / "c.png", _photo(2, (64, 96)))
    done = _predict(tiny_onnx, out, photos, "--json", "--coco", tmp_path / "people.json")
    document = json.loads(done.stdout)
    assert [Path(found["source"]).name for found in document["results"]] == ["a.png", "c.png"]
    assert len(document["problems"]) == 1
    assert "b.jpg" in document["problems"][0]
    assert isinstance(done.exception, HHRNetError)
    assert done.exit_code == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.png"]
    assert len(json.loads((tmp_path / "people.json").read_text())["images"]) == 2


def test_the_document_holds_everyone_in_the_tables(tiny_onnx: Path, tmp_path: Path) -> None:
    photo = _save(tmp_path / "a.png", _photo(1))
    done = _predict(tiny_onnx, tmp_path / "out", photo, "--json", "--jsonl", tmp_path / "a.jsonl", "--min-score", "0")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["pictures"] == 1
    assert document["people"] == len(document["results"][0]["people"]) > 0
    assert json.loads((tmp_path / "a.jsonl").read_text()) == document["results"][0]


def test_filters_cut_the_people(tiny_onnx: Path, tmp_path: Path) -> None:
    photo = _save(tmp_path / "a.png", _photo(1))
    done = _predict(tiny_onnx, tmp_path / "out", photo, "--json", "--min-score", "0", "--max-people", "1")
    assert len(json.loads(done.stdout)["results"][0]["people"]) == 1


def test_photos_are_turned_upright(tiny_onnx: Path, tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(_photo(1, (96, 64)))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: 64 wide, 96 high
    picture.save(tmp_path / "turned.jpg", exif=exif)
    done = _predict(tiny_onnx, tmp_path / "out", tmp_path / "turned.jpg", "--json")
    result = json.loads(done.stdout)["results"][0]
    assert (result["width"], result["height"]) == (64, 96)
    overlay = cv2.imread(str(tmp_path / "out" / "turned.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert overlay.shape == (96, 64, 3)


def test_a_video_comes_out_with_every_frame(tiny_onnx: Path, tmp_path: Path) -> None:
    video = _video(tmp_path / "clip.mp4", 13)
    done = _predict(tiny_onnx, tmp_path / "out", video, "--save-video", "--jsonl", tmp_path / "clip.jsonl")
    assert done.exit_code == 0, done.output
    with VideoReader(str(tmp_path / "out" / "clip.mp4")) as reader:
        assert len(list(reader)) == 13
    lines = [json.loads(line) for line in (tmp_path / "clip.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(13))
    assert [line["time"] for line in lines] == pytest.approx([number / 10 for number in range(13)], abs=1e-3)


def test_a_video_is_written_when_nothing_else_is_asked_for(tiny_onnx: Path, tmp_path: Path) -> None:
    video = _video(tmp_path / "clip.mp4", 3)
    assert _predict(tiny_onnx, tmp_path / "out", video).exit_code == 0
    assert (tmp_path / "out" / "clip.mp4").is_file()
    assert _predict(tiny_onnx, tmp_path / "tables", video, "--csv", tmp_path / "a.csv").exit_code == 0
    assert not (tmp_path / "tables").exists()


def test_a_cut_video_ends_with_what_was_there(tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    for number in range(12):
        writer.write(_photo(number))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    photo = _save(tmp_path / "after.png", _photo())
    done = _predict(tiny_onnx, tmp_path / "out", path, photo, "--json")
    document = json.loads(done.stdout)
    assert Path(document["results"][-1]["source"]).name == "after.png"
    assert done.exit_code == (1 if document["problems"] else 0)


def test_a_video_that_does_not_fit_does_not_stop_the_others(tiny_onnx: Path, tmp_path: Path) -> None:
    long, short = _video(tmp_path / "long.mp4", 2, (640, 16)), _video(tmp_path / "short.mp4", 2)
    done = _predict(tiny_onnx, tmp_path / "out", long, short, "--json", "--max-long-side", "256")
    document = json.loads(done.stdout)
    assert {Path(found["source"]).name for found in document["results"]} == {"short.mp4"}
    assert "long.mp4" in document["problems"][0]


def test_no_input_is_ever_replaced(tiny_onnx: Path, tmp_path: Path) -> None:
    photo, video = _save(tmp_path / "a.png", _photo(1)), _video(tmp_path / "clip.mp4", 3)
    before = photo.read_bytes(), video.read_bytes()
    done = _predict(tiny_onnx, tmp_path, photo, video, "--save-video", "--min-score", "0")
    assert done.exit_code == 0, done.output
    assert (photo.read_bytes(), video.read_bytes()) == before
    assert {"a-2.png", "clip-2.mp4"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 5)])
def test_the_smallest_photos_go_through(tiny_onnx: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0], 3), 127, np.uint8)
    done = _predict(tiny_onnx, tmp_path / "out", _save(tmp_path / "a.png", image), "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)["results"][0]
    assert (result["width"], result["height"]) == size


def test_a_photo_whose_name_is_not_utf8_is_drawn_and_listed(tiny_onnx: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    _save(tmp_path / "a.png", _photo()).rename(photos / name)
    words = ["predict", str(photos), "--model", str(tiny_onnx), "--no-flip", "--min-score", "0", "-o", str(out)]
    words += ["--csv", str(tmp_path / "people.csv")]
    done = _command(words, tmp_path, env={"PYTHONIOENCODING": "latin-1"})
    out_text, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert [path.name for path in out.iterdir()] == [name]
    assert "caf\\udce9.png" in (tmp_path / "people.csv").read_text()
    assert "caf" in out_text


def test_names_as_long_as_file_systems_take_are_written(tiny_onnx: Path, tmp_path: Path) -> None:
    photo = _save(tmp_path / "a.png", _photo()).rename(tmp_path / ("日" * 83 + "12.png"))
    assert _predict(tiny_onnx, tmp_path / "out", photo).exit_code == 0
    assert (tmp_path / "out" / photo.name).is_file()


def _command(words: list[str], folder: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    code = f"import sys; sys.argv = {['hhrnet', *words]!r}; from hhrnet_deploy.cli.app import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(hhrnet_deploy.__file__ or "").parents[1])} | (env or {}),
    )


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_was_done(tiny_onnx: Path, tmp_path: Path, stop: signal.Signals) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    _save(photos / "0.png", _photo())
    for number in range(1, 3000):
        os.link(photos / "0.png", photos / f"{number}.png")
    words = ["predict", str(photos), "--model", str(tiny_onnx), "--no-flip", "--no-overlay"]
    process = _command([*words, "--json", "--jsonl", str(tmp_path / "people.jsonl")], tmp_path)
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size > 1e6 for part in tmp_path.glob(".people.*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    done = json.loads(out)["pictures"]
    assert 0 < done < 3000
    # The signal may fall between writing a line and counting it.
    assert len((tmp_path / "people.jsonl").read_text().splitlines()) in (done, done + 1)
    assert not list(tmp_path.glob(".people.*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{photo}", "--coco", "{photo}"], "is one of the inputs"),
        (["{photo}", "--coco", "{photo}.out", "--jsonl", "{photo}.out"], "is the file of --coco, too"),
        (["nothing.jpg"], "nothing.jpg"),
        ([""], "An input is empty"),
        (["{photo}", "--scales", "0.5,2"], "scale"),
        (["{photo}", "--size", "8"], "--size Input should be greater"),
        (["{photo}", "--detection-threshold", "-1"], "--detection-threshold"),
    ],
)
def test_mistakes_say_what_to_change(tiny_onnx: Path, tmp_path: Path, words: list[str], message: str) -> None:
    photo = _save(tmp_path / "a.png", _photo())
    done = _predict(tiny_onnx, tmp_path / "out", *(word.format(photo=photo) for word in words))
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)


def test_inputs_that_do_not_fit_are_problems_of_their_own(tiny_onnx: Path, tmp_path: Path) -> None:
    photo = _save(tmp_path / "a.png", _photo(size=(96, 72)))
    done = _predict(tiny_onnx, tmp_path / "out", photo, "99999999999", tmp_path / "gone.jpg", "--scales", "0.6,1")
    for part in ("gone.jpg", "cannot open camera 99999999999", "at scale 1; its sides have to be multiples of 32"):
        assert part in str(done.exception)


def test_an_output_folder_that_is_a_file_is_named_before_any_work(tmp_path: Path) -> None:
    photo = _save(tmp_path / "a.png", _photo())
    done = CliRunner().invoke(app, ["predict", str(photo), "--model", "no such model", "-o", str(photo)])
    assert "is a file" in str(done.exception)


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(one.keypoints, other.keypoints) and np.array_equal(one.scores, other.scores)


def test_pose_takes_every_kind_of_image(tiny_onnx: Path, tmp_path: Path) -> None:
    import torch
    from PIL import Image

    array = _photo(1)
    path = _save(tmp_path / "a.png", array)
    with Pose.open(tiny_onnx) as pose:
        expected = pose.predict(array)
        assert len(expected) > 0
        tensor = torch.from_numpy(array.copy())
        for image in (
            path,
            str(path),
            Image.fromarray(array),
            tensor,
            tensor.permute(2, 0, 1),
            array[:, ::-1][:, ::-1],
        ):
            assert _same(pose.predict(image), expected), type(image)
        batch = pose.predict([path, array, Image.fromarray(_photo(2, (64, 96)))])
        assert [_same(people, expected) for people in batch] == [True, True, False]
        assert [_same(people, expected) for people in pose.predict(np.stack([array, array]))] == [True, True]
        assert [_same(people, expected) for people in pose.predict(tensor.permute(2, 0, 1)[None])] == [True]
        assert pose.predict([]) == []
        grey = array[:, :, 0]
        assert _same(pose.predict(grey), pose.predict(np.repeat(grey[:, :, None], 3, axis=2)))
        assert _same(pose.predict(Image.fromarray(grey)), pose.predict(grey))
        deep = Image.fromarray(grey.astype(np.uint16) * 257)
        assert deep.mode.startswith("I;16")
        assert _same(pose.predict(deep), pose.predict(grey))


@pytest.mark.parametrize(
    "wrong",
    [None, 3, np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8), "no.jpg"],
    ids=["None", "number", "float", "four channels", "empty", "missing"],
)
def test_pose_says_what_it_expected(tiny_onnx: Path, wrong: Any) -> None:
    with Pose.open(tiny_onnx) as pose, pytest.raises(InputError):
        pose.predict(wrong)
