"""Drawing for synthetic scenes: antialiased, shaded and patterned polygons, and the map of who is where.

Shading is done in float32 with the exactly rounded operations only (no sine, no exponential), and shapes are cut at
1/16 pixel, so that the pixels do not depend on the processor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]

_SHIFT = 4
_SMALLEST_SHADED = 9  # pixels; what is smaller gets one colour
_LINE_AA = 16  # cv2.LINE_AA, named here so that importing this module does not load OpenCV


@dataclass(frozen=True)
class Pattern:
    """A cloth pattern: ``plain``, ``stripes`` (across), ``bands`` (along), ``plaid`` or ``dots``; period in heights."""

    kind: str
    colour: tuple[float, float, float]
    period: float
    strength: float


@dataclass(frozen=True)
class Paint:
    """How a shape is filled.

    Attributes:
        colour: RGB, 0 to 255.
        pattern: drawn over the colour, or None.
        roundness: how much darker a limb is at its sides, 0 to 1.
    """

    colour: tuple[float, float, float]
    pattern: Pattern | None = None
    roundness: float = 0.28


@dataclass(frozen=True)
class Axis:
    """A limb's axis in pixels: start, end and half width; patterns and shading follow it."""

    start: Array
    end: Array
    half_width: float
    scale: float


class Canvas:
    """An RGB picture and, of the same size, the number of the part seen at each pixel (0: background)."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.image = image
        self.parts: NDArray[np.uint16] = np.zeros(image.shape[:2], np.uint16)

    def polygon(self, points: Array, paint: Paint, part: int | None, axis: Axis | None, light: float = 0.0) -> None:
        """Fill a polygon (M, 2) in pixels; ``part`` None leaves the map of parts as it is."""
        import cv2

        height, width = self.parts.shape
        low = np.floor(points.min(axis=0)).astype(int) - 1
        high = np.ceil(points.max(axis=0)).astype(int) + 2
        x0, y0 = max(low[0], 0), max(low[1], 0)
        x1, y1 = min(high[0], width), min(high[1], height)
        if x0 >= x1 or y0 >= y1:
            return
        fixed = np.rint((points - (x0, y0)) * (1 << _SHIFT)).astype(np.int32)[None]
        patch = self.image[y0:y1, x0:x1]
        shaded = axis is not None and min(y1 - y0, x1 - x0) >= _SMALLEST_SHADED
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        if shaded or part is not None:
            cv2.fillPoly(mask, fixed, 255, _LINE_AA, _SHIFT)
        if part is not None:
            # From the antialiased mask: OpenCV's plain fill differs between releases, this one does not (4.10 to 4.14).
            self.parts[y0:y1, x0:x1][mask > 127] = part
        if axis is None or not shaded:
            cv2.fillPoly(patch, fixed, [int(channel) for channel in paint.colour], _LINE_AA, _SHIFT)
        else:
            _blend(patch, _shade((x0, y0, x1, y1), paint, axis, light), mask)


def _blend(patch: NDArray[np.uint8], colour: Float32, mask: NDArray[np.uint8]) -> None:
    """Lay a colour over a patch, in place, as far as the mask (0 to 255) covers it."""
    alpha = mask[..., None].astype(np.float32) * np.float32(1 / 255)
    mixed = patch + (colour - patch) * alpha
    np.clip(mixed, 0, 255, out=mixed)
    patch[...] = (mixed + np.float32(0.5)).astype(np.uint8)


def _shade(box: tuple[int, int, int, int], paint: Paint, axis: Axis, light: float) -> Float32:
    base = np.asarray(paint.colour, np.float32)
    x0, y0, x1, y1 = box
    along = axis.end - axis.start
    length = max(float(np.sqrt(along @ along)), 1e-3)
    ux, uy = (np.round(along / length, 6)).tolist()
    xs = np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - axis.start[0])
    ys = np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - axis.start[1])
    across = xs * np.float32(-uy) + (ys * np.float32(ux))[:, None]
    side = np.clip(across * np.float32(1 / max(axis.half_width, 0.5)), -1.2, 1.2)
    factor = np.float32(1.04) - np.float32(paint.roundness) * side * side + np.float32(light) * side
    colour = np.broadcast_to(base, (*factor.shape, 3))
    if paint.pattern is not None and paint.pattern.kind != "plain":
        lengthwise = xs * np.float32(ux) + (ys * np.float32(uy))[:, None]
        weight = _weave(paint.pattern, lengthwise, across, axis.scale)[..., None]
        colour = colour + (np.asarray(paint.pattern.colour, np.float32) - base) * weight
    return np.asarray(colour * factor[..., None], np.float32)


def _weave(pattern: Pattern, along: Float32, across: Float32, scale: float) -> Float32:
    """Share of the pattern's colour at each pixel, 0 to ``strength``."""
    frequency = np.float32(1 / max(pattern.period * scale, 3.0))
    u, v = along * frequency, across * frequency
    u, v = u - np.floor(u), v - np.floor(v)
    half = np.float32(0.5)
    if pattern.kind == "stripes":
        share = (u < half).astype(np.float32)
    elif pattern.kind == "bands":
        share = (v < half).astype(np.float32)
    elif pattern.kind == "plaid":
        share = ((u < half).astype(np.float32) + (v < half)) * half
    else:
        share = ((u - half) ** 2 + (v - half) ** 2 < np.float32(0.08)).astype(np.float32)
    return np.asarray(share * np.float32(pattern.strength), np.float32)


_CIRCLE = np.stack([np.cos(np.arange(20) * np.pi / 10), np.sin(np.arange(20) * np.pi / 10)], axis=1)


def ellipse(centre: Array, radius_x: float, radius_y: float | None = None, angle: float = 0.0) -> Array:
    """Corners (20, 2) of an ellipse, turned by ``angle`` radians."""
    points = _CIRCLE * (radius_x, radius_x if radius_y is None else radius_y)
    if angle:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = points @ turn.T
    return np.asarray(points + centre)


def hull(*shapes: Array) -> Array:
    """Convex hull of the corners of several shapes."""
    import cv2

    corners = np.concatenate(shapes).astype(np.float32)
    return np.asarray(cv2.convexHull(corners)[:, 0], float)


def capsule(start: Array, end: Array, radius_start: float, radius_end: float) -> Array:
    """A limb: the convex hull of two circles."""
    return hull(ellipse(start, radius_start), ellipse(end, radius_end))
