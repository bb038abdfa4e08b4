"""Predictions as files: COCO JSON, CSV, JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hhrnet_deploy import files
from hhrnet_deploy.people import Float32, People
from hhrnet_deploy.skeletons import Skeleton


@dataclass(frozen=True)
class Prediction:
    """The people of one photo or frame, in its pixels.

    Attributes:
        source: the photo's path, or the video's path, camera or URL.
        frame: frame number for videos, None for photos.
        time: seconds from the beginning for videos, None for photos.
        width, height: size of the photo or frame in pixels.
        people: who is on it.
    """

    source: str
    width: int
    height: int
    people: People
    frame: int | None = None
    time: float | None = None

    @property
    def name(self) -> str:
        """The source, with ``#frame`` for a frame of a video."""
        return self.source if self.frame is None else f"{self.source}#{self.frame}"

    def as_document(self) -> dict[str, Any]:
        """Plain data: the shape of one JSON line."""
        document: dict[str, Any] = {"source": self.source, "width": self.width, "height": self.height}
        if self.frame is not None:
            document |= {"frame": self.frame, "time": self.time}
        document["people"] = [
            {"score": float(score), "box": box_of(keypoints), "keypoints": _rounded(keypoints)}
            for keypoints, score in zip(self.people.keypoints, self.people.scores, strict=True)
        ]
        return document


def box_of(keypoints: Float32) -> list[float]:
    """[x, y, width, height] around the joints that were found, (K, 3) keypoints; zeros when there is none."""
    found = keypoints[keypoints[:, 2] > 0, :2]
    if not len(found):
        return [0.0, 0.0, 0.0, 0.0]
    low, high = found.min(axis=0), found.max(axis=0)
    return [round(float(value), 3) for value in (*low, *(high - low))]


def _rounded(keypoints: Float32) -> list[list[float]]:
    return [[round(float(x), 3), round(float(y), 3), round(float(score), 5)] for x, y, score in keypoints]


class Sink(Protocol):
    """Something that takes predictions one by one."""

    def add(self, prediction: Prediction) -> None:
        """Take one; called in order."""


@dataclass
class CocoSink:
    """COCO format with images, categories and annotations (plus ``score``), held in memory until the end."""

    skeleton: Skeleton
    _images: list[dict[str, Any]] = field(default_factory=list)
    _annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, prediction: Prediction) -> None:
        """Take one; called in order."""
        number = len(self._images) + 1
        size = {"width": prediction.width, "height": prediction.height}
        self._images.append({"id": number, "file_name": prediction.name, **size})
        for keypoints, score in zip(prediction.people.keypoints, prediction.people.scores, strict=True):
            box = box_of(keypoints)
            triples = [[x, y, 2 if found > 0 else 0] for x, y, found in _rounded(keypoints)]
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "keypoints": [value for triple in triples for value in (triple if triple[2] else [0, 0, 0])],
                    "keypoint_scores": [found for _, _, found in _rounded(keypoints)],
                    "num_keypoints": sum(triple[2] > 0 for triple in triples),
                    "score": float(score),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )

    def document(self) -> dict[str, Any]:
        """The whole COCO document."""
        category = {
            "id": 1,
            "name": "person",
            "keypoints": list(self.skeleton.joints),
            "skeleton": [[first + 1, second + 1] for first, second in self.skeleton.limbs],
        }
        return {"images": self._images, "categories": [category], "annotations": self._annotations}


class _FileSink(Sink, Protocol):
    """A sink behind a file; ``close`` writes what is still held."""

    def close(self) -> None: ...


class _CocoFileSink(CocoSink):
    def __init__(self, path: Path, skeleton: Skeleton) -> None:
        super().__init__(skeleton)
        self._path = path

    def close(self) -> None:
        self._path.write_text(json.dumps(self.document()), encoding="utf-8")


class _JsonLinesSink:
    def __init__(self, path: Path) -> None:
        self._stream = path.open("w", encoding="utf-8")

    def add(self, prediction: Prediction) -> None:
        self._stream.write(json.dumps(prediction.as_document()) + "\n")

    def close(self) -> None:
        self._stream.close()


class _CsvSink:
    """One row per person; three columns per joint."""

    def __init__(self, path: Path, skeleton: Skeleton) -> None:
        # A file name that is not UTF-8 is escaped, as JSON does it.
        self._stream = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(self._stream)
        joints = [f"{joint}_{part}" for joint in skeleton.joints for part in ("x", "y", "score")]
        self._writer.writerow(["source", "frame", "time", "person", "score", *joints])

    def add(self, prediction: Prediction) -> None:
        frame = "" if prediction.frame is None else prediction.frame
        time = "" if prediction.time is None else f"{prediction.time:.4f}"
        people = prediction.people
        for number, (keypoints, score) in enumerate(zip(people.keypoints, people.scores, strict=True)):
            cells = [value for triple in _rounded(keypoints) for value in triple]
            self._writer.writerow([prediction.source, frame, time, number, f"{score:.5f}", *cells])

    def close(self) -> None:
        self._stream.close()


@dataclass
class _Counted:
    """A sink that knows whether it was given anything."""

    sink: Sink
    count: int = 0

    def add(self, prediction: Prediction) -> None:
        self.sink.add(prediction)
        self.count += 1


@contextmanager
def _kept(path: Path, begin: Callable[[Path], _FileSink]) -> Iterator[Sink]:
    """A sink on a temporary sibling, which is renamed to ``path`` even after an error: what was done so far stays.

    An error before the first prediction, or in closing (a full disk), leaves an existing ``path`` as it was.
    """
    failure: BaseException | None = None
    with files.replacing(path) as temporary:
        sink = begin(temporary)
        counted = _Counted(sink)
        try:
            yield counted
        except BaseException as error:
            failure = error
        sink.close()
        if failure is not None and not counted.count:
            raise failure
    if failure is not None:
        raise failure


def json_lines(path: Path) -> AbstractContextManager[Sink]:
    """One JSON document per photo or frame and line; an interrupted run keeps the lines so far."""
    return _kept(path, _JsonLinesSink)


def table(path: Path, skeleton: Skeleton) -> AbstractContextManager[Sink]:
    """CSV, one row per person; an interrupted run keeps the rows so far."""
    return _kept(path, lambda temporary: _CsvSink(temporary, skeleton))


def coco(path: Path, skeleton: Skeleton) -> AbstractContextManager[Sink]:
    """COCO JSON; an interrupted run keeps the images so far."""
    return _kept(path, lambda temporary: _CocoFileSink(temporary, skeleton))
