"""Reading photos: what is read as OpenCV reads it, and what is refused."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.errors import InputError

RNG = np.random.default_rng(5)
PHOTO = cv2.GaussianBlur(RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8), (0, 0), 3)


def encoded(pixels=PHOTO, suffix=".jpg", *options) -> bytes:
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


def with_exif(jpeg: bytes, orientation: int, thumbnail: bytes = b"") -> bytes:
    """The JPEG with an APP1 segment that states the orientation, followed by a thumbnail's bytes."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff + thumbnail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def write(path, data: bytes):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_pixels_are_those_of_opencv_in_rgb(tmp_path, suffix):
    path = write(tmp_path / f"photo{suffix}", encoded(PHOTO, suffix))
    image = read_image(path)
    assert image.flags.c_contiguous
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1])


def test_grey_gets_three_equal_channels(tmp_path):
    image = read_image(write(tmp_path / "grey.png", encoded(PHOTO[:, :, 0], ".png")))
    np.testing.assert_array_equal(image, np.repeat(PHOTO[:, :, :1], 3, axis=2))


def test_alpha_is_dropped(tmp_path):
    alpha = np.concatenate([PHOTO, RNG.integers(0, 256, (40, 56, 1), dtype=np.uint8)], axis=2)
    image = read_image(write(tmp_path / "alpha.png", encoded(alpha, ".png")))
    np.testing.assert_array_equal(image, PHOTO[:, :, ::-1])


def test_sixteen_bits_keep_the_high_byte(tmp_path):
    deep = PHOTO.astype(np.uint16) * 256 + 99
    image = read_image(write(tmp_path / "deep.png", encoded(deep, ".png")))
    np.testing.assert_array_equal(image, PHOTO[:, :, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_only_when_asked(tmp_path, orientation):
    path = write(tmp_path / "turned.jpg", with_exif(encoded(), orientation))
    stored = read_image(write(tmp_path / "plain.jpg", encoded()))
    np.testing.assert_array_equal(read_image(path), stored)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored),
    }[orientation]
    np.testing.assert_array_equal(read_image(path, exif=True), upright)


def test_unicode_path(tmp_path):
    assert read_image(write(tmp_path / "Füße 人.jpg", encoded())).shape == (40, 56, 3)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_truncated_jpeg_is_refused(tmp_path, kept, progressive):
    data = encoded(PHOTO, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    with pytest.raises(InputError, match="is truncated"):
        read_image(write(tmp_path / "cut.jpg", data[: int(len(data) * kept)]))


def test_a_photo_that_ends_in_erased_flash_is_refused_at_once(tmp_path):
    data = encoded()
    with pytest.raises(InputError, match="is truncated"):
        read_image(write(tmp_path / "erased.jpg", data[: len(data) // 2] + b"\xff" * (1 << 20)))


@pytest.mark.parametrize("progressive", [0, 1])
def test_bytes_after_the_image_do_not_matter(tmp_path, progressive):
    data = encoded(PHOTO, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, 1)
    image = read_image(write(tmp_path / "tail.jpg", data + b"appended by a camera" + b"\0" * 40))
    np.testing.assert_array_equal(image, read_image(write(tmp_path / "whole.jpg", data)))


def test_a_thumbnails_end_is_not_the_images_end(tmp_path):
    whole = with_exif(encoded(), 1, thumbnail=encoded(PHOTO[:8, :8]))
    assert read_image(write(tmp_path / "whole.jpg", whole)).shape == (40, 56, 3)
    with pytest.raises(InputError, match="is truncated"):
        read_image(write(tmp_path / "cut.jpg", whole[:-100]))


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.995])
def test_truncated_png_is_refused(tmp_path, kept):
    data = encoded(PHOTO, ".png")
    with pytest.raises(InputError, match="is truncated"):
        read_image(write(tmp_path / "cut.png", data[: int(len(data) * kept)]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>not found</html>", "web page"),
        (b"<html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"%PDF-1.7", "PDF"),
        (b"just some text", "cannot decode"),
        (b"\xff\xd8\xff\xd9", "cannot decode"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read_image(write(tmp_path / "photo.jpg", content))
    assert "photo.jpg" in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
