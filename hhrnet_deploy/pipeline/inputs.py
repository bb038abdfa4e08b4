"""What a person types after ``hhrnet predict``: photos, folders, globs, videos, cameras, streams."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hhrnet_deploy.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
_SUFFIXES = f"Photos end in {', '.join(sorted(IMAGE_SUFFIXES))}; videos in {', '.join(sorted(VIDEO_SUFFIXES))}."
_LISTED = 3
_STREAM_SCHEMES = ("rtsp://", "rtmp://", "http://", "https://", "udp://", "tcp://")


@dataclass(frozen=True)
class Photo:
    """One image file."""

    path: Path


@dataclass(frozen=True)
class Video:
    """A video file, a camera number or the URL of a stream."""

    source: str | int

    @property
    def name(self) -> str:
        """A file name stem for outputs."""
        if isinstance(self.source, int):
            return f"camera{self.source}"
        return "stream" if self.source.startswith(_STREAM_SCHEMES) else Path(self.source).stem

    @property
    def is_file(self) -> bool:
        """Whether it ends by itself and may carry sound."""
        return isinstance(self.source, str) and Path(self.source).is_file()


def expand(
    inputs: Sequence[str],
    on_error: Callable[[InputError], None] | None = None,
    on_other_files: Callable[[str], None] | None = None,
) -> list[Photo | Video]:
    """Photos and videos in the order given; folders and globs sorted by name.

    Args:
        inputs: as typed.
        on_error: told about what is wrong with one of them, as long as another gives something.
        on_other_files: told, in a sentence, which files of a folder or glob are no photos or videos by their names.
            Hidden files of a folder are left out without a word.

    Raises:
        InputError: a path that does not exist, a folder or glob without photos or videos, or a file of another kind.
    """
    if not inputs:
        raise InputError("Nothing to predict.", hint="Give photos, folders, globs, videos, or a camera number.")
    found: list[Photo | Video] = []
    wrong: list[InputError] = []
    for item in inputs:
        try:
            found += _expand_one(item, on_other_files)
        except InputError as error:
            wrong.append(error)
    if wrong and (on_error is None or not found):
        raise wrong[0]
    if on_error is not None:
        for each in wrong:
            on_error(each)
    return found


def _expand_one(item: str, on_other_files: Callable[[str], None] | None) -> list[Photo | Video]:
    if not item:
        raise InputError("An input is empty.", hint="Was it a variable of the shell that is not set?")
    if item.startswith(_STREAM_SCHEMES):
        return [Video(item)]
    path = Path(item)
    if path.is_dir():
        shown = (each for each in path.iterdir() if not each.name.startswith("."))
        return _known(shown, f"The folder {path} holds", on_other_files)
    if path.exists():
        return [_file(path)]
    if item.isdecimal():
        return [Video(int(item))]
    matches = [Path(match) for match in glob.glob(item, recursive=True)]
    if not any(match.is_file() for match in matches):
        raise InputError(f"{item!r} is no file, folder, camera number or stream, and no file matches it.")
    return _known(matches, f"{item!r} matches", on_other_files)


def _known(paths: Iterable[Path], where: str, on_other_files: Callable[[str], None] | None) -> list[Photo | Video]:
    """The photos and videos among ``paths``, sorted."""
    known: list[Path] = []
    other: list[Path] = []
    for path in sorted(path for path in paths if path.is_file()):
        (known if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES else other).append(path)
    if not known:
        raise InputError(f"{where} no photo or video{_named(other)}.", hint=_SUFFIXES)
    if other and on_other_files is not None:
        count = "1 file that is" if len(other) == 1 else f"{len(other)} files that are"
        on_other_files(f"{where} {count} no photo or video by name{_named(other)}: not used")
    return [_file(path) for path in known]


def _named(paths: Sequence[Path]) -> str:
    """The first names in parentheses."""
    if not paths:
        return ""
    return f" ({', '.join(path.name for path in paths[:_LISTED])}{', ...' if len(paths) > _LISTED else ''})"


def _file(path: Path) -> Photo | Video:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return Photo(path)
    if suffix in VIDEO_SUFFIXES:
        return Video(str(path))
    raise InputError(
        f"{path} is neither a photo nor a video by its name.",
        hint=_SUFFIXES,
    )
