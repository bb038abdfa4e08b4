"""COCO-format annotation files, read without building all of their objects.

COCO's training annotations are 240 MB of JSON and five times that as Python objects. Here the text is kept, every
object is parsed once to see that it is sound, and only where each annotation lies is remembered.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hhrnet_deploy.errors import InputError

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_CHECK_HINT = "`hhrnet data check DIR` lists everything that is wrong with a data set."

JsonObject = dict[str, Any]


@dataclass
class AnnotationFile:
    """The text of an annotation file and where its annotations are.

    Attributes:
        path: the file.
        text: its whole text.
        images, categories: the parsed lists of these names; None where the file has none.
        starts, ends: the span of each annotation in ``text``; empty where the file has no annotations.
        has_annotations: whether the list ``annotations`` is there at all (test-dev has none).
    """

    path: Path
    text: str
    images: list[Any] | None = None
    categories: list[Any] | None = None
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    has_annotations: bool = False

    def annotation(self, number: int) -> Any:
        """The ``number``-th annotation, parsed anew; the caller may keep or change it."""
        return _DECODER.raw_decode(self.text, self.starts[number])[0]

    def annotations(self) -> Iterator[Any]:
        """All annotations in file order, one at a time."""
        return (self.annotation(number) for number in range(len(self.starts)))


def read_annotation_file(path: Path, visit: Callable[[Any], None] = lambda _: None) -> AnnotationFile:
    """Read a COCO-format annotation file.

    Args:
        path: the JSON file.
        visit: called with every annotation, in file order.

    Raises:
        InputError: the file is missing, not UTF-8, not JSON, or not an object with lists.
    """
    text = _read_text(path)
    try:
        return _Scan(AnnotationFile(path, text), visit).run()
    except ValueError as error:  # JSONDecodeError, or a whole number of thousands of digits
        raise InputError(
            f"Annotation file {path} is not valid JSON: {error}.",
            hint="It may have been cut off or saved as a web page; fetch it again.",
        ) from error
    except RecursionError as error:
        raise InputError(f"Annotation file {path} is nested too deeply to be an annotation file.") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"Annotation file {path} does not exist.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"Annotation file {path} is not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise InputError(f"Annotation file {path} cannot be read: {error.strerror}.") from error


class _Scan:
    """One pass over the top level of the file."""

    def __init__(self, file: AnnotationFile, visit: Callable[[Any], None]) -> None:
        self.file = file
        self.text = file.text
        self.visit = visit

    def run(self) -> AnnotationFile:
        position = self._skip(0)
        if self.text[position : position + 1] != "{":
            _DECODER.raw_decode(self.text, position)
            raise InputError(f"Annotation file {self.file.path} has to hold a JSON object at its top level.")
        position = self._skip(position + 1)
        if self.text[position : position + 1] == "}":
            return self._end(position + 1)
        while True:
            position = self._member(position)
            if self.text[position : position + 1] == "}":
                return self._end(position + 1)
            position = self._expect(",", position)

    def _end(self, position: int) -> AnnotationFile:
        if self._skip(position) != len(self.text):
            raise json.JSONDecodeError("Extra data", self.text, position)
        return self.file

    def _member(self, position: int) -> int:
        key, position = _DECODER.raw_decode(self.text, position)
        if not isinstance(key, str):
            raise json.JSONDecodeError("Expecting a property name in double quotes", self.text, position)
        position = self._expect(":", self._skip(position))
        if key == "annotations":
            self._require_list(key, self.text[position : position + 1] == "[")
            return self._skip(self._annotations(position + 1))
        value, position = _DECODER.raw_decode(self.text, position)
        if key in ("images", "categories"):
            self._require_list(key, isinstance(value, list))
            setattr(self.file, key, value)
        return self._skip(position)

    def _annotations(self, position: int) -> int:
        file = self.file
        file.has_annotations = True
        position = self._skip(position)
        if self.text[position : position + 1] == "]":
            return position + 1
        while True:
            annotation, end = _DECODER.raw_decode(self.text, position)
            file.starts.append(position)
            file.ends.append(end)
            self.visit(annotation)
            position = self._skip(end)
            if self.text[position : position + 1] == "]":
                return position + 1
            position = self._expect(",", position)

    def _require_list(self, key: str, is_list: bool) -> None:
        if not is_list:
            raise InputError(f"{key!r} in annotation file {self.file.path} has to be a list.", hint=_CHECK_HINT)

    def _expect(self, character: str, position: int) -> int:
        if self.text[position : position + 1] != character:
            raise json.JSONDecodeError(f"Expecting {character!r}", self.text, position)
        return self._skip(position + 1)

    def _skip(self, position: int) -> int:
        found = _SPACE.match(self.text, position)
        return position if found is None else found.end()
