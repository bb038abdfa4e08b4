"""Reading and writing video: OpenCV reads; PyAV (extra ``video``) writes H.264 with sound, OpenCV without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from hhrnet_deploy import files
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.visualize.sound import Sound

Image = npt.NDArray[np.uint8]

_DEFAULT_FPS = 30.0
_MAX_FPS = 240.0
# Presentation times of written frames, in ticks per second (the clock of MPEG).
_TICKS = 90_000


@dataclass(frozen=True)
class Frame:
    """One picture of a video: its number, its time in seconds, and (H, W, 3) uint8 RGB."""

    number: int
    time: float
    image: Image


class VideoReader:
    """Frames of a file, camera or stream, in order, each once.

    A damaged file ends at its last readable frame; `ends_early` then says so.

    Args:
        source: a path or URL that OpenCV opens, or a camera number.

    Raises:
        InputError: on entering: it cannot be opened, or its name is not UTF-8.
    """

    def __init__(self, source: str | int) -> None:
        self.source = source
        self.read = 0
        self._counts_frames = False
        self._capture: Any = None

    def __enter__(self) -> Self:
        import cv2

        if isinstance(self.source, str):
            _require_utf8(self.source)
        self._counts_frames = _counts_frames(self.source)
        try:
            self._capture = cv2.VideoCapture(self.source)
        except cv2.error:  # a number that is no int
            self._capture = cv2.VideoCapture()
        if not self._capture.isOpened():
            self._capture.release()
            kind = f"camera {self.source}" if isinstance(self.source, int) else f"video {self.source}"
            raise InputError(
                f"OpenCV cannot open {kind}.", hint="Check that it exists and that ffmpeg knows its format."
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()

    @property
    def fps(self) -> float:
        """Frames per second as announced; 30 where nothing sensible is."""
        import cv2

        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        return fps if 0 < fps <= _MAX_FPS else _DEFAULT_FPS

    @property
    def size(self) -> tuple[int, int]:
        """(W, H) of the frames in pixels as announced; zeros where nothing is."""
        import cv2

        names = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        return int(self._capture.get(names[0])), int(self._capture.get(names[1]))

    @property
    def announced(self) -> int | None:
        """Number of frames the file says it has; None for cameras, streams and containers that do not count them.

        For the others OpenCV gives duration times rate, and the duration may be that of the sound.
        """
        import cv2

        if not self._counts_frames:
            return None
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 else None

    @property
    def ends_early(self) -> bool:
        """Whether a file that was read to its end had clearly fewer frames than it announced.

        A few may be missing in a whole file: edit lists hide them, and decoders hold some back.
        """
        return self.announced is not None and self.read < self.announced - 2 - self.announced // 50

    def __iter__(self) -> Iterator[Frame]:
        import cv2

        time = -1.0 / self.fps
        while True:
            ok, picture = self._capture.read()
            if not ok:
                return
            stamp = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            # Some containers give no times; then the announced rate counts on.
            time = stamp if stamp > time else time + 1.0 / self.fps
            yield Frame(self.read, time, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
            self.read += 1


def _counts_frames(source: str | int) -> bool:
    """Whether it is a file of a kind that stores the number of its frames: MP4 and MOV, and AVI."""
    if isinstance(source, int) or not Path(source).is_file():
        return False
    with Path(source).open("rb") as stream:
        start = stream.read(12)
    return start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip") or start[8:12] == b"AVI "


def _require_utf8(name: str) -> None:
    """OpenCV and FFmpeg take names as UTF-8; OpenCV crashes on others."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = name.encode(errors="backslashreplace").decode()
        raise InputError(f"The name of the video {shown} is not UTF-8.", hint="Rename the file or folder.") from error


class _Encoder(Protocol):
    def add(self, image: Image, time: float) -> None: ...

    def finish(self) -> None: ...


class VideoWriter:
    """Writes frames to a video file, under a temporary name until it is closed.

    Closing renames the file even after an error, so an interrupted run keeps what was done; without a single frame
    nothing is left behind.

    Args:
        path: where the video goes; ``.mp4`` is the usual choice.
        fps: nominal frames per second.
        audio_from: a file whose first sound track goes along (PyAV only): copied where the container takes it, or
            else encoded as AAC.

    Attributes:
        with_sound: whether PyAV is there to write H.264 and sound; otherwise OpenCV writes MPEG-4 part 2, silent.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, *, audio_from: str | None = None) -> None:
        import importlib.util

        self.path = Path(path)
        self.with_sound = importlib.util.find_spec("av") is not None
        self.frames = 0
        self._fps = fps
        self._audio_from = audio_from
        self._part = files.part_of(self.path)
        self._encoder: _Encoder | None = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        _require_utf8(str(self._part))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: Frame) -> None:
        """Append a frame; the first one fixes the size.

        Raises:
            InputError: another size than the first frame's, or a container that cannot hold video.
        """
        height, width = frame.image.shape[:2]
        if self._encoder is None:
            self._size = (width, height)
            self._encoder = self._start(width, height)
        if (width, height) != self._size:
            raise InputError(f"Frame {frame.number} is {width}x{height}, the video began with {self._size}.")
        self._encoder.add(_even(frame.image), frame.time)
        self.frames += 1

    def _start(self, width: int, height: int) -> _Encoder:
        size = (width + width % 2, height + height % 2)
        if self.with_sound:
            return _AvEncoder(self._part, size, self._fps, self._audio_from)
        return _OpenCvEncoder(self._part, size, self._fps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._encoder is not None:
                self._encoder.finish()
            if self.frames:
                os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)


def _even(image: Image) -> Image:
    """The image with its last row and column repeated where a side is odd (4:2:0 needs even sides)."""
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


class _OpenCvEncoder:
    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        import cv2

        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not self._writer.isOpened():
            raise InputError(f"OpenCV cannot write a video named {path.name}.", hint="Use a name that ends in .mp4.")

    def add(self, image: Image, time: float) -> None:
        import cv2

        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def finish(self) -> None:
        self._writer.release()


class _AvEncoder:
    """H.264 through PyAV; the sound goes along as the pictures reach its time."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float, audio_from: str | None) -> None:
        import av

        try:
            self._container = av.open(str(path), "w")
        except (av.error.FFmpegError, ValueError) as error:
            raise InputError(f"No video can be written as {path.name}: {error}.", hint="Use .mp4 or .mkv.") from error
        self._stream: Any = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"preset": "veryfast", "crf": "20"}
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._path, self._last = path, -1
        self._sound = Sound(self._container, audio_from)

    def add(self, image: Image, time: float) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._last = max(self._last + 1, round(time * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        with self._disk_errors():
            self._container.mux(self._stream.encode(frame))
            self._sound.bring_to(time)

    def finish(self) -> None:
        with self._disk_errors():
            self._container.mux(self._stream.encode(None))
            self._sound.bring_to(self._last / _TICKS)
            self._sound.finish()
            self._container.close()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        import av

        try:
            yield
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
