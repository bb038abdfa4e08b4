"""Reading and writing video: OpenCV reads; PyAV (extra ``video``) writes H.264 with sound, OpenCV without."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import InputError

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

    A damaged file ends at its last readable frame; ``read`` and ``announced`` then differ.

    Args:
        source: a path or URL that OpenCV opens, or a camera number.
    """

    def __init__(self, source: str | int) -> None:
        self.source = source
        self.read = 0
        self._capture: Any = None

    def __enter__(self) -> Self:
        import cv2

        self._capture = cv2.VideoCapture(self.source)
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
        """Number of frames the file says it has; None for cameras and streams."""
        import cv2

        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 and not isinstance(self.source, int) else None

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
        audio_from: a file whose first sound track is copied (PyAV only).

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
        self._part = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}.part{self.path.suffix}")
        self._encoder: _Encoder | None = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> Self:
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
    """H.264 through PyAV; sound packets are copied as the pictures reach their time."""

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
        self._last = -1
        self._sound = _Sound(self._container, audio_from)

    def add(self, image: Image, time: float) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._last = max(self._last + 1, round(time * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))
        self._sound.copy_until(time)

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._sound.copy_until(self._last / _TICKS)
        self._sound.close()
        self._container.close()


class _Sound:
    """The first sound track of a file, copied packet by packet; silent where there is none."""

    def __init__(self, container: Any, audio_from: str | None) -> None:
        self._container = container
        self._input: Any = None
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None
        if audio_from is None or not Path(audio_from).is_file():
            return
        import av

        self._input = av.open(audio_from)
        if self._input.streams.audio:
            track = self._input.streams.audio[0]
            self._out = container.add_stream_from_template(track)
            self._packets = self._input.demux(track)

    def copy_until(self, time: float) -> None:
        import av

        while True:
            if self._waiting is None:
                try:
                    self._waiting = next(self._packets, None)
                except av.error.FFmpegError:  # the sound of a damaged file ends where it can be read no further
                    self._packets = iter(())
            packet = self._waiting
            if packet is None:
                return
            if packet.dts is not None:
                if float(packet.dts * packet.time_base) > time:
                    return
                packet.stream = self._out
                self._container.mux(packet)
            self._waiting = None

    def close(self) -> None:
        if self._input is not None:
            self._input.close()
