"""The partial results of an evaluation: one line per image, so that an interrupted run can be continued."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import People

_FORMAT = 1
_SYNC_SECONDS = 1.0

Identity = Mapping[str, Any]


@dataclass(frozen=True)
class ImageRecord:
    """What an evaluation knows about one image.

    Attributes:
        image_id: of the dataset.
        network_scale: pixels of the subject's network input per pixel of the photo.
        subject, reference: people in pixels of the photo; their tags are not kept.
    """

    image_id: int
    network_scale: float
    subject: People
    reference: People | None = None


class PartialResults:
    """A JSON-lines file: a header that says which run it is of, then one line per image.

    Use as a context manager: leaving it closes the file; a file without any image is removed.
    """

    def __init__(self, path: Path, identity: Identity, *, resume: bool) -> None:
        self.path = path
        self._identity = identity
        self._resume = resume
        self._stream: TextIO | None = None
        self._images = 0
        self._synced = 0.0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as on_error:
            stream = on_error.enter_context(self.path.open("a", encoding="utf-8"))
            _lock(stream, self.path)
            kept = self._length_to_keep() if self._resume else 0
            os.truncate(self.path, kept)
            on_error.pop_all()
        self._stream = stream
        if not kept:
            self._write({"hhrnet_partial_results": _FORMAT, "run": self._identity})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._sync(self._stream)
            self._stream.close()
            self._stream = None
        if self._images == 0:
            self.path.unlink(missing_ok=True)

    def append(self, record: ImageRecord) -> None:
        """Add one image; on disk within a second."""
        self._write(_to_json(record))
        self._images += 1

    def records(self) -> Iterator[ImageRecord]:
        """The images so far, read back one by one."""
        with self.path.open(encoding="utf-8") as stream:
            next(stream)
            for line in stream:
                yield _from_json(json.loads(line))

    def remove(self) -> None:
        """Delete the file: the run is complete."""
        self.path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._stream is not None, "PartialResults has to be entered first"
        self._stream.write(json.dumps(line, allow_nan=False) + "\n")
        self._stream.flush()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._sync(self._stream)

    def _sync(self, stream: TextIO) -> None:
        os.fsync(stream.fileno())
        self._synced = time.monotonic()

    def _length_to_keep(self) -> int:
        """Bytes up to the last whole line, once the header is checked; 0 when not even the header is whole."""
        with self.path.open("rb") as stream:
            header = stream.readline()
            if not header.endswith(b"\n"):
                return 0
            self._require_same_run(_object(header))
            end = len(header)
            for line in stream:
                if not line.endswith(b"\n") or not _is_record(line):
                    break
                end += len(line)
                self._images += 1
        return end

    def _require_same_run(self, header: Mapping[str, Any]) -> None:
        found = header.get("run")
        if header.get("hhrnet_partial_results") != _FORMAT or not isinstance(found, dict):
            raise InputError(f"{self.path} is no partial results file of this version of hhrnet eval.", hint=_AFRESH)
        wanted = json.loads(json.dumps(self._identity))
        differing = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
        if differing:
            details = "; ".join(
                f"{key}: {_short(found.get(key))} there, {_short(wanted.get(key))} now" for key in differing
            )
            raise InputError(f"{self.path} is of a different run ({details}).", hint=_AFRESH)


_AFRESH = "Repeat the earlier command with --resume, or leave --resume out to begin afresh, which replaces the file."


def _lock(stream: TextIO, path: Path) -> None:
    """Refuse a file that another evaluation is writing, where the system has locks."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"Another evaluation is writing its partial results to {path}.",
            hint="Wait for it, or give this one another file with --output.",
        ) from error
    except OSError:
        return  # network drives without locks


def _object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; empty where it is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_record(line: bytes) -> bool:
    try:
        _from_json(_object(line))
    except (KeyError, TypeError, ValueError):
        return False
    return True


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _to_json(record: ImageRecord) -> dict[str, Any]:
    return {
        "image_id": record.image_id,
        "network_scale": record.network_scale,
        "subject": _people_to_json(record.subject),
        "reference": None if record.reference is None else _people_to_json(record.reference),
    }


def _from_json(line: Mapping[str, Any]) -> ImageRecord:
    reference = line["reference"]
    return ImageRecord(
        image_id=line["image_id"],
        network_scale=line["network_scale"],
        subject=_people_from_json(line["subject"]),
        reference=None if reference is None else _people_from_json(reference),
    )


def _people_to_json(people: People) -> dict[str, Any]:
    # float32 -> float64 -> decimal -> float32 gives the same bits back.
    return {
        "joints": people.num_joints,
        "count": people.count,
        "keypoints": _numbers(people.keypoints.reshape(len(people), people.num_joints * 3)),
        "scores": _numbers(people.scores),
    }


def _numbers(values: npt.NDArray[np.float32]) -> Any:
    """Nested lists; NaN and infinity become null, which comes back as NaN."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()


def _people_from_json(item: Mapping[str, Any]) -> People:
    keypoints = np.array(item["keypoints"], np.float32).reshape(-1, item["joints"], 3)
    scores = np.array(item["scores"], np.float32)
    return People(keypoints, scores, np.zeros((*keypoints.shape[:2], 0), np.float32), item["count"])
