"""Drawing one articulated figure: body, clothes, hair and face, far parts first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hhrnet_deploy.data.synth_canvas import Axis, Canvas, Paint, capsule, ellipse, hull
from hhrnet_deploy.data.synth_look import Colour, Look
from hhrnet_deploy.data.synth_poses import FACE, HEAD_RADII, Body

Array = NDArray[np.float64]

# Parts of one person; the canvas stores person * PARTS + part, persons counted from 1.
PARTS = 32
TORSO, HEAD, PELVIS, NECK = 1, 2, 3, 4
UPPER_ARM, FOREARM, HAND, THIGH, SHIN, FOOT = 6, 8, 10, 12, 14, 16  # + 0 left, + 1 right
# A joint is seen where one of these parts is on top.
SHOWN_BY: tuple[tuple[int, ...], ...] = (
    *((HEAD,),) * 5,
    (TORSO, UPPER_ARM),
    (TORSO, UPPER_ARM + 1),
    (UPPER_ARM, FOREARM),
    (UPPER_ARM + 1, FOREARM + 1),
    (FOREARM, HAND),
    (FOREARM + 1, HAND + 1),
    (PELVIS, THIGH, TORSO),
    (PELVIS, THIGH + 1, TORSO),
    (THIGH, SHIN),
    (THIGH + 1, SHIN + 1),
    (SHIN, FOOT),
    (SHIN + 1, FOOT + 1),
)

_HAIR_IN_FRONT = 0.1  # how far a head faces the viewer before long hair falls behind the trunk


@dataclass(frozen=True)
class Placed:
    """A body in the picture: ``origin`` is the middle of its hips and ``height`` its standing height, in pixels."""

    body: Body
    look: Look
    origin: tuple[float, float]
    height: float

    def pixels(self, points: Array) -> Array:
        """Image places (..., 2) of points (..., 3) in heights, cut at 1/256 pixel."""
        return np.asarray(np.rint((points[..., :2] * self.height + self.origin) * 256) / 256)

    @property
    def keypoints(self) -> Array:
        """(17, 2) joints in pixels; the face follows the size of the head."""
        joints = self.body.joints.copy()
        joints[:5] = self.on_head(FACE)
        return self.pixels(joints)

    def on_head(self, places: Array) -> Array:
        """Body coordinates of places given in units of the head's radii."""
        size = HEAD_RADII * self.look.head_size
        return np.asarray(self.body.head_centre + (places * size) @ self.body.head.T)


def face_seen(placed: Placed) -> NDArray[np.bool_]:
    """(5,) whether nose, eyes and ears lie on the side of the head that is turned to the viewer."""
    depth = (FACE * HEAD_RADII) @ placed.body.head.T
    limits = np.array([-0.012, 0.002, 0.002, -0.022, -0.022])
    return np.asarray(depth[:, 2] > limits)


_Step = tuple[float, Callable[[], None]]


class _Figure:
    def __init__(self, canvas: Canvas, placed: Placed, person: int, light: float) -> None:
        self.canvas, self.placed, self.light = canvas, placed, light
        self.first = person * PARTS
        self.joints = placed.body.joints
        self.look = placed.look
        self.unit = placed.height

    def draw(self) -> None:
        steps = [*self._trunk_steps(), *self._limb_steps(0), *self._limb_steps(1)]
        if self.look.skirt:
            steps.append((self._middle + 0.2, self._skirt))
        for _, step in sorted(steps, key=lambda pair: pair[0]):
            step()

    @property
    def _middle(self) -> float:
        """Depth of the trunk."""
        return float(self.joints[[5, 6, 11, 12]].mean(axis=0)[2])

    def _trunk_steps(self) -> list[_Step]:
        forward = float(self.placed.body.torso[2, 2])
        head = float(self.placed.body.head_centre[2]) + (0.03 if forward > -0.2 else 0.05)
        return [
            (self._middle, self._torso),
            (float(self.joints[11:13, 2].mean()) - 0.004, self._pelvis),
            (head - 0.02 if forward < 0 else head, self._head),
        ]

    def _limb_steps(self, side: int) -> list[_Step]:
        """Limbs with the depth they are drawn at; arms lie a little in front of the trunk they hang beside."""
        depths = self.joints[:, 2]
        hip, knee, ankle = depths[11 + side], depths[13 + side], depths[15 + side]
        shoulder, elbow, wrist = depths[5 + side], depths[7 + side], depths[9 + side]
        thigh = float(0.6 * hip + 0.4 * knee)
        shin = float(min(0.5 * (knee + ankle), 0.6 * hip + 0.4 * knee + (knee - hip)))
        arm = float(0.5 * (shoulder + elbow)) + 0.015 + (0.03 if abs(shoulder - self._middle) < 0.07 else 0.0)
        lower = float(0.5 * (elbow + wrist)) + 0.02
        forearm = max(lower, arm + 0.001) if wrist >= elbow else min(lower, arm)
        return [
            (thigh, partial(self._thigh, side)),
            (shin, partial(self._shin, side)),
            (arm, partial(self._upper_arm, side)),
            (forearm, partial(self._forearm, side)),
        ]

    def _limb(self, ends: Array, radii: tuple[float, float], paint: Paint, part: int) -> None:
        start, end = self.placed.pixels(ends)
        wide = self.look.girth * self.unit
        axis = Axis(start, end, max(radii) * wide, self.unit)
        self.canvas.polygon(
            capsule(start, end, radii[0] * wide, radii[1] * wide), paint, self.first + part, axis, self.light
        )

    def _split_limb(self, ends: Array, radii: tuple[float, float], cover: float, cloth: Paint, part: int) -> None:
        """A limb whose first ``cover`` (0 to 1) is clothed."""
        if cover < 0.999:
            self._limb(ends, radii, Paint(self.look.skin), part)
        if cover > 0.02:
            middle = ends[0] + (ends[1] - ends[0]) * min(cover, 1.0)
            end = radii[0] + (radii[1] - radii[0]) * min(cover, 1.0)
            self._limb(np.stack([ends[0], middle]), (radii[0] + 0.004, end + 0.006), cloth, part)

    def _upper_arm(self, side: int) -> None:
        ends = self.joints[[5 + side, 7 + side]]
        self._split_limb(ends, (0.037, 0.027), self.look.sleeve * 2, self.look.shirt, UPPER_ARM + side)

    def _forearm(self, side: int) -> None:
        ends = self.joints[[7 + side, 9 + side]]
        reach = ends[1] - ends[0]
        tip = ends[1] + reach / max(float(np.linalg.norm(reach)), 1e-6) * 0.034
        self._limb(np.stack([ends[1], tip]), (0.019, 0.017), Paint(self.look.skin), HAND + side)
        self._split_limb(ends, (0.027, 0.019), self.look.sleeve * 2 - 1, self.look.shirt, FOREARM + side)

    def _thigh(self, side: int) -> None:
        ends = self.joints[[11 + side, 13 + side]]
        self._split_limb(ends, (0.060, 0.041), self.look.leg_cover * 2, self.look.trousers, THIGH + side)

    def _shin(self, side: int) -> None:
        ends = self.joints[[13 + side, 15 + side]]
        down = ends[1] - ends[0]
        down = down / max(float(np.linalg.norm(down)), 1e-6)
        forward = self.placed.body.torso[:, 2]
        toe = forward - down * float(forward @ down)
        toe = toe / max(float(np.linalg.norm(toe)), 1e-6)
        heel = ends[1] + down * 0.026
        self._split_limb(ends, (0.041, 0.025), self.look.leg_cover * 2 - 1, self.look.trousers, SHIN + side)
        foot = np.stack([heel, heel + toe * 0.085 + down * 0.008])
        self._limb(foot, (0.026, 0.020), Paint(self.look.shoes), FOOT + side)

    def _pelvis(self) -> None:
        hips = self.placed.pixels(self.joints[11:13])
        waist = self.placed.pixels(self.joints[11:13] * 0.72 + self.joints[5:7] * 0.28)
        wide = self.look.girth * self.unit
        shape = hull(*(ellipse(p, 0.060 * wide) for p in hips), *(ellipse(p, 0.048 * wide) for p in waist))
        self.canvas.polygon(shape, self.look.trousers, self.first + PELVIS, self._spine(), self.light)

    def _spine(self) -> Axis:
        pairs = self.placed.pixels(self.joints[[5, 6, 11, 12]])
        half = float(np.abs(pairs[0] - pairs[1]).max()) / 2 + 0.05 * self.unit
        return Axis((pairs[0] + pairs[1]) / 2, (pairs[2] + pairs[3]) / 2, half * 1.15, self.unit)

    def _skirt(self) -> None:
        hips, knees = self.joints[11:13], self.joints[13:15]
        hem = self.placed.pixels(hips * 0.35 + knees * 0.65)
        wide = self.look.girth * self.unit
        waist = self.placed.pixels(hips * 0.75 + self.joints[5:7] * 0.25)
        shape = hull(*(ellipse(p, 0.05 * wide) for p in waist), *(ellipse(p, 0.066 * wide) for p in hem))
        self.canvas.polygon(shape, self.look.trousers, self.first + PELVIS, self._spine(), self.light)

    def _torso(self) -> None:
        wide = self.look.girth * self.unit
        shoulders = self.placed.pixels(self.joints[5:7])
        hem = self.placed.pixels(self.joints[11:13] * 0.88 + self.joints[5:7] * 0.12)
        neck = self.placed.pixels(self.joints[5:7].mean(axis=0) - self.placed.body.torso[:, 1] * 0.025)
        top = [ellipse(p, 0.037 * wide) for p in shoulders]
        shape = hull(*top, *(ellipse(p, 0.056 * wide) for p in hem), ellipse(neck, 0.035 * self.unit))
        if self.placed.body.head[2, 2] > _HAIR_IN_FRONT:
            self._long_hair()
        self._neck(neck)
        self.canvas.polygon(shape, self.look.shirt, self.first + TORSO, self._spine(), self.light)
        if self.placed.body.torso[2, 2] > 0.1:
            self._front()

    def _neck(self, base: Array) -> None:
        head = self.placed.pixels(self.placed.body.head_centre + self.placed.body.head[:, 1] * 0.04)
        axis = Axis(base, head, 0.04 * self.unit, self.unit)
        skin = Paint(_scaled(self.look.skin, 0.86))
        self.canvas.polygon(capsule(base, head, 0.034 * self.unit, 0.030 * self.unit), skin, self.first + NECK, axis)

    def _on_chest(self, places: Array) -> Array:
        """Pixels of places on the front: x in half shoulder widths to the left, y from neck (0) to hips (1)."""
        torso = self.placed.body.torso
        shoulders, hips = self.joints[5:7].mean(axis=0), self.joints[11:13].mean(axis=0)
        x, y = places[:, :1], places[:, 1:]
        bulge = 0.062 * (1 - 0.55 * x * x)
        points = shoulders * (1 - y) + hips * y + torso[:, 0] * 0.1 * x * (1 - 0.25 * y) + torso[:, 2] * bulge
        return self.placed.pixels(points)

    def _flat(self, places: Array, colour: Colour) -> None:
        self.canvas.polygon(self._on_chest(places), Paint(colour), None, None)

    def _front(self) -> None:
        look = self.look
        self._flat(np.array([[-0.36, -0.10], [0.36, -0.10], [0.0, 0.20]]), _scaled(look.skin, 0.93))
        if look.opening == "jacket":
            self._flat(np.array([[-0.34, 0.0], [0.34, 0.0], [0.16, 0.9], [-0.16, 0.9]]), look.detail)
            self._flat(np.array([[-0.3, -0.08], [0.3, -0.08], [0.0, 0.14]]), _scaled(look.skin, 0.93))
        elif look.opening == "buttons":
            self._flat(
                np.array([[-0.05, 0.16], [0.05, 0.16], [0.05, 0.9], [-0.05, 0.9]]), _scaled(look.shirt.colour, 0.72)
            )
            for y in (0.28, 0.44, 0.6, 0.76):
                place = self._on_chest(np.array([[0.0, y]]))[0]
                self.canvas.polygon(ellipse(place, 0.009 * self.unit), Paint(look.detail), None, None)
        elif look.opening == "logo":
            self._flat(np.array([[-0.42, 0.3], [0.42, 0.3], [0.42, 0.55], [-0.42, 0.55]]), look.detail)
        else:
            for side in (-1.0, 1.0):
                self._flat(np.array([[side * 0.36, -0.1], [side * 0.5, 0.06], [0.0, 0.24], [0.0, 0.16]]), look.detail)

    def _head(self) -> None:
        placed, look = self.placed, self.look
        head, size = placed.body.head, self.unit * look.head_size
        centre = placed.pixels(placed.body.head_centre)
        angle = float(
            np.round(
                np.arctan2(head[1, 0], head[0, 0]) if abs(head[0, 0]) > 0.3 else np.arctan2(-head[0, 1], head[1, 1]), 6
            )
        )
        turned = abs(float(head[0, 2]))
        radius_x = (HEAD_RADII[0] * (1 - turned) + HEAD_RADII[2] * turned) * size
        angle = (angle + np.pi / 2) % np.pi - np.pi / 2
        axis = Axis(centre, centre + head[:2, 1] * 10, radius_x * 1.2, self.unit)
        part = self.first + HEAD
        hair = Paint(look.hair, None, 0.2)
        if head[2, 2] <= _HAIR_IN_FRONT:
            self._long_hair()
        self._ears(front=False)
        skull = ellipse(centre, radius_x * 1.04, HEAD_RADII[1] * 1.04 * size, angle)
        self.canvas.polygon(skull, hair, part, axis, self.light)
        if look.hat is not None:
            crown = placed.pixels(placed.on_head(np.array([0.0, -0.55, 0.0])))
            self.canvas.polygon(ellipse(crown, radius_x * 1.1, 0.055 * size, angle), Paint(look.hat), part, axis)
        self._face_skin(axis)
        self._ears(front=True)
        if head[2, 2] > -0.1:
            self._features()

    def _long_hair(self) -> None:
        if not self.look.long_hair:
            return
        placed, radius = self.placed, 0.064 * self.unit * self.look.head_size
        top, tail = placed.pixels(placed.on_head(np.array([[0.0, 0.0, -0.1], [0.0, 1.2, -0.45]])))
        axis = Axis(top, tail, radius * 1.2, self.unit)
        shape = capsule(top, tail, radius * 1.08, radius * 0.9)
        self.canvas.polygon(shape, Paint(self.look.hair, None, 0.2), self.first + HEAD, axis, self.light)

    def _face_skin(self, axis: Axis) -> None:
        """The skin of face and jaw: a ring on the head; what lies behind is pushed out to the silhouette."""
        turns = np.arange(24) * (2 * np.pi / 24)
        ring = np.stack([0.93 * np.cos(turns), 0.24 + 0.76 * np.sin(turns), np.full(24, 0.28)], axis=1)
        ring[:, 2] = np.where(ring[:, 1] > 0.3, 0.15, 0.36)
        ring /= np.linalg.norm(ring, axis=1, keepdims=True)
        head = self.placed.body.head
        depth = (ring * HEAD_RADII) @ head[2]
        if head[2, 2] < -0.42 or (depth > 0).sum() < 6:
            return
        seen = ring - (np.minimum(depth, 0) / 0.07)[:, None] * head[2]
        seen /= np.linalg.norm(seen, axis=1, keepdims=True)
        shape = hull(self.placed.pixels(self.placed.on_head(seen)))
        self.canvas.polygon(shape, Paint(self.look.skin, None, 0.16), self.first + HEAD, axis, self.light)

    def _ears(self, front: bool) -> None:
        for index in (3, 4):
            depth = float((FACE[index] * HEAD_RADII) @ self.placed.body.head[2])
            if (depth > 0.012) != front:
                continue
            place = self.placed.pixels(self.placed.on_head(FACE[index]))
            size = self.unit * self.look.head_size
            wide = 0.011 + 0.10 * max(depth - 0.012, 0)
            paint = Paint(_scaled(self.look.skin, 0.94))
            self.canvas.polygon(ellipse(place, wide * size, 0.022 * size), paint, self.first + HEAD, None)
            inner = Paint(_scaled(self.look.skin, 0.66))
            self.canvas.polygon(ellipse(place, wide * 0.5 * size, 0.012 * size), inner, None, None)

    def _features(self) -> None:
        seen = face_seen(self.placed)
        size, head = self.unit * self.look.head_size, self.placed.body.head
        across = max(abs(float(head[0, 0])), 0.35)
        for index in (1, 2):
            if not seen[index]:
                continue
            place = self.placed.pixels(self.placed.on_head(FACE[index]))
            brow = self.placed.pixels(self.placed.on_head(FACE[index] - (0, 0.22, 0)))
            self.canvas.polygon(
                ellipse(place, 0.0155 * size * across, 0.0105 * size), Paint((244, 242, 238)), None, None
            )
            self.canvas.polygon(ellipse(place, 0.0090 * size, 0.0095 * size), Paint((34, 24, 20)), None, None)
            self.canvas.polygon(
                ellipse(brow, 0.019 * size * across, 0.0045 * size), Paint(_scaled(self.look.hair, 0.8)), None, None
            )
        if seen[0]:
            self._nose()
        mouth = np.array([[-0.3, 0.5, 0.84], [0.0, 0.46, 0.92], [0.3, 0.5, 0.84], [0.0, 0.58, 0.9]])
        if float(head[2, 2]) > 0.1:
            self.canvas.polygon(self.placed.pixels(self.placed.on_head(mouth)), Paint((168, 66, 66)), None, None)

    def _nose(self) -> None:
        bridge, left, right, tip = self.placed.pixels(
            self.placed.on_head(
                np.array([[0.0, -0.14, 0.94], [0.17, 0.22, 0.96], [-0.17, 0.22, 0.96], [0.0, 0.16, 1.2]])
            )
        )
        part = self.first + HEAD
        self.canvas.polygon(
            hull(np.stack([bridge, left, right, tip])), Paint(_scaled(self.look.skin, 0.84)), part, None
        )
        shine = ellipse(tip * 0.9 + bridge * 0.1, 0.007 * self.unit * self.look.head_size)
        self.canvas.polygon(shine, Paint(_scaled(self.look.skin, 1.1)), part, None)


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(channel * factor, 255.0) for channel in colour)
    return red, green, blue


def draw_figure(canvas: Canvas, placed: Placed, person: int, light: float) -> None:
    """Draw a figure over what is on the canvas.

    Args:
        canvas: picture and map of parts, changed in place.
        placed: the posed and dressed body.
        person: 1, 2, ...; the map of parts gets ``person * PARTS + part``.
        light: -0.2 to 0.2, how much lighter one side of every limb is.
    """
    _Figure(canvas, placed, person, light).draw()
