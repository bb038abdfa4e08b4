"""Overlays as files: pictures with people drawn in, and videos of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.pipeline.inputs import Photo, Video
from hhrnet_deploy.pipeline.predict import Seen
from hhrnet_deploy.skeletons import Skeleton

Image = npt.NDArray[np.uint8]

_KEPT_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Style:
    """What is drawn besides the limbs."""

    boxes: bool = False
    scores: bool = True

    def draw(self, seen: Seen, skeleton: Skeleton) -> Image:
        """A copy of the image with its people."""
        from hhrnet_deploy.visualize.draw import draw_people

        people = seen.prediction.people
        return draw_people(seen.image, people, skeleton, boxes=self.boxes, scores=self.scores)


class OverlayFolder:
    """Writes overlays into one folder, each under its source's name, numbered where two sources share one.

    A name that would replace one of the sources counts as taken.

    Args:
        folder: created when needed.
        sources: resolved paths that must not be replaced.
    """

    def __init__(self, folder: Path, sources: Collection[Path] = ()) -> None:
        self.written: list[Path] = []
        self._folder = folder
        self._sources = sources
        self._taken: set[str] = set()
        self._video: Video | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def begin_video(self, video: Video, fps: float) -> None:
        """Finish the video before and start another; its file appears when it is finished."""
        from hhrnet_deploy.visualize.video import VideoWriter

        self._stack.close()
        path = self._free_name(video.name, ".mp4")
        sound = str(video.source) if video.is_file else None
        self._writer = self._stack.enter_context(VideoWriter(path, fps, audio_from=sound))
        self._video = video
        self.written.append(path)

    def add(self, seen: Seen, picture: Image) -> None:
        """Write the picture of a photo, or append it to the video that was begun."""
        from hhrnet_deploy.visualize.video import Frame

        if isinstance(seen.origin, Photo):
            self._write_photo(seen.origin, picture)
            return
        prediction = seen.prediction
        self._writer.write(Frame(prediction.frame or 0, prediction.time or 0.0, picture))

    def _write_photo(self, photo: Photo, picture: Image) -> None:
        from hhrnet_deploy.data.images import write_picture

        suffix = photo.path.suffix.lower()
        path = self._free_name(photo.path.stem, suffix if suffix in _KEPT_SUFFIXES else ".jpg")
        write_picture(path, picture)
        self.written.append(path)

    def _free_name(self, stem: str, suffix: str) -> Path:
        name, number = f"{stem}{suffix}", 2
        while name in self._taken or (self._folder / name).resolve() in self._sources:
            name, number = f"{stem}-{number}{suffix}", number + 1
        self._taken.add(name)
        return self._folder / name


def files_of(sources: Sequence[Photo | Video]) -> frozenset[Path]:
    """The resolved paths of photos and videos; a camera's number and a stream's URL count as names of files."""
    return frozenset(
        Path(source.path if isinstance(source, Photo) else str(source.source)).resolve() for source in sources
    )
