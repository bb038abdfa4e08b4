"""Backgrounds, clutter, foreground objects and the camera's traces for synthetic scenes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hhrnet_deploy.data.synth_canvas import Axis, Canvas, Paint, Pattern, capsule, ellipse

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Colour = tuple[float, float, float]

_LINEAR_EXACT = 5  # cv2.INTER_LINEAR_EXACT: the same bits on every processor
FOREGROUND = 1


def _colour(rng: np.random.Generator, low: float = 15, high: float = 240) -> Colour:
    grey = rng.uniform(low, high)
    mix = rng.uniform(0, 1) ** 2
    red, green, blue = np.rint(grey * (1 - mix) + rng.uniform(low, high, 3) * mix).tolist()
    return red, green, blue


def _noise(rng: np.random.Generator, width: int, height: int, cell: int, grey: bool) -> NDArray[np.int16]:
    """Smooth noise of the given cell size, -128 to 127."""
    import cv2

    small = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 1 if grey else 3), dtype=np.uint8)
    wide = cv2.resize(small, (width, height), interpolation=_LINEAR_EXACT)
    return np.asarray(wide.reshape(height, width, -1).astype(np.int16) - 128)


def background(rng: np.random.Generator, width: int, height: int) -> Image:
    """Walls, ground, sky or plain texture with noise at several scales, (height, width, 3)."""
    top, bottom, ground = (np.array(_colour(rng), np.float32) for _ in range(3))
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    rows = top + (bottom - top) * ramp * np.float32(rng.uniform(0, 1))
    if rng.random() < 0.7:
        horizon = int(height * rng.uniform(0.25, 0.85))
        rows[horizon:] = ground * np.linspace(0.8, 1.1, height - horizon, dtype=np.float32)[:, None]
    field = np.repeat(np.rint(rows).astype(np.int16)[:, None], width, axis=1)
    for cell, most in ((96, 60), (24, 42), (7, 30), (2, 18)):
        if rng.random() < 0.75:
            strength = int(rng.integers(4, most))
            field += (_noise(rng, width, height, cell, rng.random() < 0.75) * strength) >> 7
    return np.clip(field, 0, 255).astype(np.uint8)


def _random_paint(rng: np.random.Generator) -> Paint:
    if rng.random() < 0.6:
        return Paint(_colour(rng), None, float(rng.uniform(0, 0.3)))
    kind = ("stripes", "bands", "plaid", "dots")[rng.integers(4)]
    pattern = Pattern(kind, _colour(rng), float(rng.uniform(0.02, 0.15)), float(rng.uniform(0.2, 0.9)))
    return Paint(_colour(rng), pattern, float(rng.uniform(0, 0.3)))


def _shape(rng: np.random.Generator, centre: Array, size: float) -> tuple[Array, Axis]:
    """A box, board, blob, rod or limb-like bar."""
    angle = float(np.round(rng.choice([0.0, 0.0, rng.uniform(-0.4, 0.4), rng.uniform(0, np.pi)]), 4))
    along = np.array([np.cos(angle), np.sin(angle)]) * size * rng.uniform(0.3, 1.0)
    normal = np.array([-np.sin(angle), np.cos(angle)]) * size * rng.uniform(0.15, 0.8)
    kind = rng.integers(5)
    if kind <= 1:
        points = np.stack(
            [centre + along + normal, centre + along - normal, centre - along - normal, centre - along + normal]
        )
    elif kind == 2:
        points = ellipse(centre, float(np.abs(along).max()) + 2, float(np.abs(normal).max()) + 2, angle)
    elif kind == 3:
        radius = size * rng.uniform(0.04, 0.14) + 1
        points = capsule(centre - along, centre + along, radius, radius * rng.uniform(0.5, 1.0))
        normal = normal / max(float(np.linalg.norm(normal)), 1e-6) * radius
    else:
        turns = np.sort(rng.uniform(0, 2 * np.pi, 7))
        points = centre + np.stack([np.cos(turns), np.sin(turns)], axis=1) * rng.uniform(0.3, 0.9, (7, 1)) * size
    half = max(float(np.linalg.norm(normal)), 2.0)
    return points, Axis(centre - along, centre + along, half * 1.3, 300.0)


def clutter(rng: np.random.Generator, canvas: Canvas, count: int) -> None:
    """Objects behind everybody."""
    height, width = canvas.parts.shape
    for _ in range(count):
        centre = rng.uniform((0, 0), (width, height))
        points, axis = _shape(rng, centre, float(min(width, height) * rng.uniform(0.04, 0.4)))
        canvas.polygon(points, _random_paint(rng), None, axis, float(rng.uniform(-0.15, 0.15)))


def foreground(rng: np.random.Generator, canvas: Canvas, centre: Array, size: float) -> None:
    """One object that hides what is behind it."""
    points, axis = _shape(rng, centre, size)
    canvas.polygon(points, _random_paint(rng), FOREGROUND, axis, float(rng.uniform(-0.15, 0.15)))


def camera(rng: np.random.Generator, image: Image) -> Image:
    """Illumination, blur and sensor noise."""
    import cv2

    height, width = image.shape[:2]
    gain = rng.uniform(0.72, 1.18) * rng.uniform(0.93, 1.07, 3)
    offset = rng.uniform(-12, 22)
    table = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255)
    image = np.asarray(cv2.LUT(image, np.rint(table).astype(np.uint8)[None]), np.uint8)
    if rng.random() < 0.4:
        falls = np.clip(128 + _noise(rng, width, height, 260, True) // 3, 60, 160)
        image = ((image.astype(np.uint16) * falls.astype(np.uint16)) >> 7).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        window = 3 if rng.random() < 0.75 else 5
        image = np.asarray(cv2.GaussianBlur(image, (window, window), 0), np.uint8)
    strength = int(rng.integers(0, 14))
    grain = rng.integers(0, 2 * strength + 1, (height, width), dtype=np.uint8)
    lifted = cv2.add(image, cv2.merge([grain, grain, grain]))
    return np.asarray(cv2.subtract(lifted, np.full_like(lifted, strength)), np.uint8)
