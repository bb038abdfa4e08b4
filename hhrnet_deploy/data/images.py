"""Reading photos as the published results read them, and writing pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.files import write_bytes

UInt8 = npt.NDArray[np.uint8]

# After the start of scan every 0xFF of the coded data is followed by 0x00 or a restart marker; anything else is the
# next marker (ITU-T T.81, B.1.1).
# Fill bytes, more 0xFF, may precede a marker; a pattern that takes them in would go back over them quadratically.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_JPEG_EOI = 0xD9
_JPEG_SOS = 0xDA
_FORMATS = "JPEG, PNG, WebP, BMP or TIFF"


def read_image(path: str | os.PathLike[str], *, exif: bool = False) -> UInt8:
    """Read a photo in colour.

    Grey images get three equal channels, alpha is dropped, 16-bit values keep their high byte and CMYK is converted,
    all as ``cv2.IMREAD_COLOR`` does (COCODataset.py:112-122 of the official code).

    Args:
        path: the file.
        exif: turn the image upright as its EXIF orientation says. Evaluation leaves it as stored, because the
            annotations of COCO refer to the stored pixels.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous.

    Raises:
        InputError: the file is missing, empty, no image, or ends before its image data does. OpenCV itself would
            return a truncated JPEG with its lower part grey; people missing there would pass for a bad detector.
    """
    return decode_image(_read_bytes(Path(path)), name=str(path), exif=exif)


def decode_image(data: bytes, *, name: str, exif: bool = False) -> UInt8:
    """Decode the bytes of an image file; as ``read_image``, which see. ``name`` is used in errors."""
    import cv2

    if _is_truncated(data):
        raise InputError(f"{name} is truncated: the file ends before its image data does.", hint="Fetch it again.")
    flags = cv2.IMREAD_COLOR if exif else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"{name} cannot be decoded: {str(error).strip()}.") from error
    if pixels is None:
        raise InputError(f"{name} is no readable image: {_what_it_is(data)}.", hint=f"Give a {_FORMATS} file.")
    return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def write_picture(path: str | os.PathLike[str], image: UInt8) -> None:
    """Write (H, W, 3) uint8 RGB in the format that the suffix of ``path`` names, atomically.

    Raises:
        HHRNetError: the format cannot hold the picture (a JPEG has sides of at most 65,535).
    """
    import cv2

    path = Path(path)
    try:  # in memory: OpenCV crashes on names that are not UTF-8
        _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise HHRNetError(f"{path} cannot be written: {str(error).strip()}.") from error
    write_bytes(path, encoded.tobytes())


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"Image {path} does not exist.") from error
    except IsADirectoryError as error:
        raise InputError(f"Image {path} is a folder.", hint="Give one of the files in it.") from error
    except OSError as error:
        raise InputError(f"Image {path} cannot be read: {error.strerror}.") from error
    if not data:
        raise InputError(f"Image {path} is empty (0 bytes).", hint="Fetch it again.")
    return data


def _is_truncated(data: bytes) -> bool:
    if data.startswith(b"\xff\xd8\xff"):
        return not data.endswith(b"\xff\xd9") and _is_truncated_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _is_truncated_png(data)
    return False


def _is_truncated_jpeg(data: bytes) -> bool:
    """Whether the end-of-image marker of the (outer) image is missing; walks over embedded thumbnails."""
    position = 2
    while (found := _JPEG_MARKER.search(data, position)) is not None:
        marker = found.group(1)[0]
        if marker == _JPEG_EOI:
            return False
        length = data[found.end() : found.end() + 2]
        position = found.end() + int.from_bytes(length, "big")
        if len(length) < 2 or position > len(data):
            return True
    return True


def _is_truncated_png(data: bytes) -> bool:
    """Whether a chunk reaches beyond the file or the end chunk is missing."""
    position = 8
    while position + 12 <= len(data):
        if data[position + 4 : position + 8] == b"IEND":
            return False
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return True


def _what_it_is(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "it holds a web page or XML"
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "it is a HEIC photo, which OpenCV does not read"
    if data.startswith(b"%PDF"):
        return "it is a PDF"
    return f"OpenCV cannot decode it (it starts with {data[:8].hex(' ')})"
