"""Photos and videos through a ``Pose``: read ahead, answered in order, a bad file never stops the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.pipeline.inputs import Photo, Video
from hhrnet_deploy.pipeline.outputs import Prediction
from hhrnet_deploy.pipeline.pose import Pose

Image = npt.NDArray[np.uint8]

_READERS = 2
_READ_AHEAD = 8


@dataclass(frozen=True)
class Seen:
    """A photo or frame with its prediction; ``image`` is (H, W, 3) uint8 RGB, upright."""

    origin: Photo | Video
    image: Image
    prediction: Prediction


@dataclass
class Problems:
    """What could not be read, as sentences; filled while the predictions are drawn."""

    messages: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        """Remember one."""
        self.messages.append(message)


@dataclass(frozen=True)
class _Item:
    origin: Photo | Video
    image: Image
    frame: int | None = None
    time: float | None = None


def predict_inputs(
    pose: Pose,
    inputs: Sequence[Photo | Video],
    problems: Problems,
    *,
    on_video: Callable[[Video, float, int | None], None] = lambda video, fps, frames: None,
) -> Iterator[Seen]:
    """Every photo and frame with its people, in input order.

    Args:
        pose: open.
        inputs: what to look at.
        problems: gets a sentence for every photo or video that cannot be read or ends early; the rest goes on.
        on_video: called with (video, frames per second, number of frames or None) before a video's first frame.
    """
    for is_photo, group in groupby(inputs, key=lambda item: isinstance(item, Photo)):
        if is_photo:
            photos = [item for item in group if isinstance(item, Photo)]
            yield from _through(pose, _read_photos(pose, photos, problems))
            continue
        for video in (item for item in group if isinstance(item, Video)):
            yield from _through(pose, _read_video(pose, video, problems, on_video))


def _through(pose: Pose, items: Iterable[_Item]) -> Iterator[Seen]:
    waiting: deque[_Item] = deque()

    def feed() -> Iterator[tuple[str, Image]]:
        for item in items:
            waiting.append(item)
            yield _source(item.origin), item.image

    for source, people in pose.stream(feed()):
        item = waiting.popleft()
        height, width = item.image.shape[:2]
        yield Seen(item.origin, item.image, Prediction(source, width, height, people, item.frame, item.time))


def _source(origin: Photo | Video) -> str:
    return str(origin.path if isinstance(origin, Photo) else origin.source)


def _read_photos(pose: Pose, photos: Sequence[Photo], problems: Problems) -> Iterator[_Item]:
    """Photos decoded in threads, a bounded number ahead."""
    from hhrnet_deploy.data.images import read_image

    def read(photo: Photo) -> Image:
        image = read_image(photo.path, exif=True)
        try:
            pose.check_size(image.shape[1], image.shape[0])
        except InputError as error:
            raise InputError(f"{photo.path}: {error.fact}", hint=error.hint) from error
        return image

    pending: deque[tuple[Photo, Future[Image]]] = deque()
    left = iter(photos)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="hhrnet-read") as pool:
        try:
            while True:
                while len(pending) < _READ_AHEAD and (photo := next(left, None)) is not None:
                    pending.append((photo, pool.submit(read, photo)))
                if not pending:
                    return
                photo, future = pending.popleft()
                try:
                    yield _Item(photo, future.result())
                except HHRNetError as error:
                    problems.add(str(error))
        finally:
            for _, future in pending:
                future.cancel()


def _read_video(
    pose: Pose, video: Video, problems: Problems, on_video: Callable[[Video, float, int | None], None]
) -> Iterator[_Item]:
    from hhrnet_deploy.visualize.video import VideoReader

    try:
        with VideoReader(video.source) as reader:
            _check_frame_size(pose, video, reader.size)
            on_video(video, reader.fps, reader.announced)
            for frame in reader:
                yield _Item(video, frame.image, frame.number, frame.time)
            if reader.ends_early:
                problems.add(
                    f"{video.source} announces {reader.announced} frames and ends after {reader.read}: it is damaged "
                    "or was cut off. What was read is done."
                )
    except HHRNetError as error:
        problems.add(str(error))


def _check_frame_size(pose: Pose, video: Video, size: tuple[int, int]) -> None:
    """Turn a video away before its first frame, so that the inputs after it are still looked at."""
    if 0 in size:
        return
    try:
        pose.check_size(*size)
    except InputError as error:
        raise InputError(f"{video.source}: {error.fact}", hint=error.hint) from error
