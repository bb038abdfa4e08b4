"""The geometry between a photo and the network input, bit for bit that of the published results.

Source: get_multi_scale_size, get_affine_transform, resize_align_multi_scale and get_final_preds of the official code
(lib/utils/transforms.py:59-113, 155-202). The content is scaled uniformly and centred along the long side; what lies
outside the photo is black. Pixels are those of OpenCV 4's fixed-point ``warpAffine``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import People

UInt8 = npt.NDArray[np.uint8]
Float64 = npt.NDArray[np.float64]
Size = tuple[int, int]

MAX_LONG_SIDE = 4096
_STEP = 64  # the official code rounds sizes up to this, though the network needs multiples of 32 only
_OPENCV_LIMIT = 32766  # warpAffine keeps pixel numbers in 16 bits and refuses more


@dataclass(frozen=True)
class Warp:
    """How one photo becomes the network input at one scale, and back.

    Attributes:
        image_size: (width, height) of the photo in pixels.
        size: (W, H) of the network input in pixels.
        span: width in photo pixels that fills the network input's width; W / span is the uniform scale.
    """

    image_size: Size
    size: Size
    span: float

    @classmethod
    def plan(
        cls,
        width: int,
        height: int,
        short_side: int,
        *,
        scale: float = 1.0,
        min_scale: float = 1.0,
        max_long_side: int = MAX_LONG_SIDE,
    ) -> Warp:
        """The warp of a ``width`` x ``height`` photo for a network with the short side ``short_side``.

        Args:
            width, height: of the photo in pixels.
            short_side: S of the preset, pixels.
            scale: the scale this input is for.
            min_scale: the smallest scale of a multi-scale test; the sizes of all scales follow from it.
            max_long_side: the longest network input allowed, pixels.

        Raises:
            InputError: the photo is empty or too large for OpenCV, or the input would be longer than allowed.
        """
        _require_photo(width, height)
        short, long = _input_sides(min(width, height), max(width, height), short_side, scale, min_scale)
        if short < 1:
            raise InputError(
                f"Scale {min_scale:g} leaves no pixel of a short side of {short_side}.",
                hint="Take scales such as 0.5, 1 and 2.",
            )
        _require_allowed((width, height), short, long, max_long_side)
        if width < height:
            return cls((width, height), (short, long), float(width))
        # The factors in this order and through 200: the last bit of the product depends on it (transforms.py:66, 173).
        return cls((width, height), (long, short), long / short * height / 200.0 * 200.0)

    @cached_property
    def matrix(self) -> Float64:
        """(2, 3) float64: photo pixels to network-input pixels."""
        photo, network = self._anchors(self.size)
        return _affine(photo, network)

    def apply(self, image: UInt8) -> UInt8:
        """The network input of a photo.

        Args:
            image: (H, W, 3) uint8 of ``image_size``.

        Returns:
            (H', W', 3) uint8 of ``size``; bilinear, black outside the photo.

        Raises:
            InputError: the image has another shape or type than planned for.
        """
        import cv2

        expected = (self.image_size[1], self.image_size[0], 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise InputError(
                f"The warp was planned for a uint8 image of shape {expected}, got {image.dtype} {image.shape}."
            )
        warped = cv2.warpAffine(np.ascontiguousarray(image), self.matrix, self.size, flags=cv2.INTER_LINEAR)
        return np.asarray(warped, np.uint8)

    def to_image(self, people: People, size: Size | None = None) -> People:
        """People in photo pixels; nothing is clipped, and missing joints at (0, 0) are mapped too.

        Args:
            people: with coordinates in pixels of the grid ``size``.
            size: (W, H) of that grid where it is not this warp's ``size``. The official multi-scale test maps back
                with the warp of its smallest scale from the grid of scale 1 (valid.py:158-189).
        """
        photo, network = self._anchors(size or self.size)
        inverse = _affine(network, photo)
        keypoints = people.keypoints.astype(np.float32, copy=True)
        points = keypoints.astype(np.float64)
        # Computed in float64 and rounded to float32 once, as the official transform_preds does.
        for axis, (across, down, offset) in enumerate(inverse):
            keypoints[:, :, axis] = across * points[:, :, 0] + down * points[:, :, 1] + offset
        return people.with_keypoints(keypoints)

    def _anchors(self, size: Size) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Three photo points and the three points of a ``size`` grid they land on (transforms.py:59-93)."""
        width, height = self.image_size
        centre = np.array([int(width / 2.0 + 0.5), int(height / 2.0 + 0.5)], np.float64)
        photo = _corner(centre, self.span * -0.5)
        return photo, _corner(np.array(size, np.float64) * 0.5, size[0] * -0.5)


@dataclass(frozen=True)
class MultiScaleWarp:
    """The warps of one photo at every scale of a test.

    Attributes:
        warps: (scale, warp), largest scale first.
        size: (W, H) of the network input at scale 1, the grid in which people are decoded; also when scale 1 is not
            among the scales.
    """

    warps: tuple[tuple[float, Warp], ...]
    size: Size

    def to_image(self, people: People) -> People:
        """People decoded on the grid ``size``, in photo pixels; as ``get_final_preds`` after the official loop."""
        return self.warps[-1][1].to_image(people, self.size)


def plan_scales(
    width: int, height: int, short_side: int, scales: Sequence[float] = (1.0,), *, max_long_side: int = MAX_LONG_SIDE
) -> MultiScaleWarp:
    """The warps of a photo for every scale, in the order of the official multi-scale test (valid.py:158-165).

    Raises:
        InputError: as ``Warp.plan``, for any of the scales.
    """
    smallest = min(scales)

    def plan(scale: float) -> Warp:
        return Warp.plan(width, height, short_side, scale=scale, min_scale=smallest, max_long_side=max_long_side)

    return MultiScaleWarp(tuple((scale, plan(scale)) for scale in sorted(scales, reverse=True)), plan(1.0).size)


def _input_sides(short: int, long: int, short_side: int, scale: float, min_scale: float) -> Size:
    """(short, long) side of the network input (transforms.py:155-176); the operations keep the official order."""
    smallest = int((min_scale * short_side + _STEP - 1) // _STEP * _STEP)
    smallest_long = int((smallest / short * long + _STEP - 1) // _STEP * _STEP)
    return int(smallest * scale / min_scale), int(smallest_long * scale / min_scale)


def _corner(origin: Float64, up: float) -> npt.NDArray[np.float32]:
    """(3, 2) float32: ``origin``, the point ``up`` above it, and the one that makes a right angle with both."""
    points = np.zeros((3, 2), np.float32)
    points[0] = origin
    points[1] = origin + np.array([0.0, up])
    across = points[0] - points[1]
    points[2] = points[1] + np.array([-across[1], across[0]], np.float32)
    return points


def _affine(source: npt.NDArray[np.float32], target: npt.NDArray[np.float32]) -> Float64:
    import cv2

    return np.asarray(cv2.getAffineTransform(source, target), np.float64)


def _require_photo(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise InputError(f"A photo has to have at least one pixel, got {width}x{height}.")
    if max(width, height) > _OPENCV_LIMIT:
        raise InputError(
            f"A photo may have at most {_OPENCV_LIMIT} pixels per side, got {width}x{height}.",
            hint="Reduce or cut it first.",
        )


def _require_allowed(photo: Size, short: int, long: int, max_long_side: int) -> None:
    if long <= max_long_side:
        return
    size = f"{short}x{long}" if photo[0] < photo[1] else f"{long}x{short}"
    raise InputError(
        f"A {photo[0]}x{photo[1]} photo would become a {size} network input; "
        f"the long side may have at most {max_long_side} pixels.",
        hint=f"Cut the photo, use a smaller short side or scale, or allow it with --max-long-side {long}.",
    )
