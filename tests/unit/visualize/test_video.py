"""Every frame once, in order, with its sound; an interrupted run keeps what was done."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.visualize.video import Frame, VideoReader, VideoWriter

FPS = 10.0
RATE = 44100


def _frame(number: int, size: tuple[int, int] = (64, 48)) -> Frame:
    """A grey frame whose brightness is its number, which survives compression."""
    width, height = size
    return Frame(number, number / FPS, np.full((height, width, 3), 8 * number + 16, np.uint8))


def _write(path: Path, count: int, size: tuple[int, int] = (64, 48), audio_from: str | None = None) -> None:
    with VideoWriter(path, FPS, audio_from=audio_from) as writer:
        for number in range(count):
            writer.write(_frame(number, size))


def _levels(path: Path) -> list[int]:
    with VideoReader(str(path)) as reader:
        return [round((float(frame.image.mean()) - 16) / 8) for frame in reader]


def _with_sound(path: Path, seconds: int, codec: str = "aac", *, pictures: int | None = None, begin: int = 0) -> None:
    """A film with a tone; ``begin`` is the time in seconds of its first picture and first sound."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=int(FPS), options={"bf": "0"})
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=RATE)
        for number in range(int(seconds * FPS) if pictures is None else pictures):
            frame = av.VideoFrame.from_ndarray(_frame(number).image, format="rgb24")
            frame.pts, frame.time_base = begin * int(FPS) + number, Fraction(1, int(FPS))
            container.mux(picture.encode(frame))
        for start in range(0, seconds * RATE, 1024):
            wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None]
            tone = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = RATE, begin * RATE + start, Fraction(1, RATE)
            container.mux(sound.encode(tone))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))


@pytest.mark.parametrize("with_av", [True, False])
def test_frames_come_back_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_av: bool) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, FPS) as writer:
        writer.with_sound = with_av
        for number in range(25):
            writer.write(_frame(number))
    assert _levels(path) == list(range(25))


def test_odd_sizes_are_written(tmp_path: Path) -> None:
    _write(tmp_path / "odd.mp4", 3, size=(63, 47))
    with VideoReader(str(tmp_path / "odd.mp4")) as reader:
        assert next(iter(reader)).image.shape == (48, 64, 3)


def _heard(path: Path) -> tuple[str, float, float]:
    """Codec, beginning and end of the sound in seconds."""
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        packets = [packet for packet in container.demux(track) if packet.pts is not None]
        last = packets[-1].pts + packets[-1].duration
        base = track.time_base
        assert base is not None
        return track.codec_context.name, float(packets[0].pts * base), float(last * base)


@pytest.mark.parametrize(
    ("name", "codec", "begin", "kept_as"),
    [
        ("in.mp4", "aac", 0, "aac"),
        ("in.ts", "aac", 10, "aac"),
        ("in.ts", "mp2", 0, "mp3float"),  # MP4 has one number for all layers of MPEG audio
        ("in.mkv", "flac", 0, "flac"),
        ("in.avi", "pcm_u8", 0, "aac"),
        ("in.avi", "pcm_s16le", 0, "aac"),
        ("in.avi", "adpcm_ms", 0, "aac"),
    ],
)
def test_the_sound_goes_along(tmp_path: Path, name: str, codec: str, begin: int, kept_as: str) -> None:
    _with_sound(tmp_path / name, 2, codec, begin=begin)
    _write(tmp_path / "out.mp4", 20, audio_from=str(tmp_path / name))
    found, start, end = _heard(tmp_path / "out.mp4")
    assert found == kept_as
    assert abs(start) < 0.1
    assert 1.7 < end < 2.3


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_a_sound_track_without_sound_is_left_out(tmp_path: Path, codec: str) -> None:
    _with_sound(tmp_path / "in.mkv", 0, codec, pictures=5)
    _write(tmp_path / "out.mp4", 5, audio_from=str(tmp_path / "in.mkv"))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio


def test_the_number_of_frames_is_believed_only_where_it_is_stored(tmp_path: Path) -> None:
    found = {}
    for name in ("a.mp4", "a.mkv", "a.ts"):
        _with_sound(tmp_path / name, 3, pictures=5)
        with VideoReader(str(tmp_path / name)) as reader:
            assert len(list(reader)) == 5
            found[name] = (reader.announced, reader.ends_early)
    assert found == {"a.mp4": (5, False), "a.mkv": (None, False), "a.ts": (None, False)}


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    _write(tmp_path / "a.mp4", 2)
    os.rename(tmp_path / "a.mp4", name)
    with pytest.raises(InputError, match=r"caf\\udce9\.mp4 is not UTF-8"), VideoReader(name):
        pass


def test_an_interrupted_run_keeps_the_frames_so_far(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / "out.mp4", FPS) as writer:
            for number in range(7):
                writer.write(_frame(number))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert _levels(tmp_path / "out.mp4") == list(range(7))
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_no_frame_leaves_no_file(tmp_path: Path) -> None:
    _write(tmp_path / "out.mp4", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_ends_with_its_last_readable_frame(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-8, 8, (48, 64, 3))
    with VideoWriter(tmp_path / "whole.mkv", FPS) as writer:
        for number in range(25):
            grey = _frame(number)
            writer.write(Frame(number, grey.time, (grey.image + np.roll(noise, 5 * number, 0)).astype(np.uint8)))
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    levels = _levels(tmp_path / "cut.mkv")
    assert 0 < len(levels) < 25
    assert levels == list(range(len(levels)))


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"page\.mp4"), VideoReader(str(tmp_path / "page.mp4")):
        pass


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", FPS) as writer:
        writer.write(_frame(0))
        with pytest.raises(InputError, match="32x32"):
            writer.write(_frame(1, size=(32, 32)))
