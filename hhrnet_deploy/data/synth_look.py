"""What synthetic people wear and how they are built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hhrnet_deploy.data.synth_canvas import Paint, Pattern

Colour = tuple[float, float, float]

_SKINS = (
    (255, 219, 190),
    (241, 194, 155),
    (224, 172, 125),
    (198, 134, 92),
    (141, 88, 58),
    (92, 56, 38),
    (250, 205, 180),
)
_HAIRS = ((30, 24, 22), (58, 38, 26), (96, 62, 36), (150, 105, 55), (205, 170, 105), (125, 120, 118), (120, 48, 24))


@dataclass(frozen=True)
class Look:
    """What a figure wears and how it is built; lengths are factors of the standard body."""

    skin: Colour
    hair: Colour
    shirt: Paint
    trousers: Paint
    shoes: Colour
    detail: Colour
    sleeve: float  # 0 none, 1 to the wrist
    leg_cover: float  # 0.3 shorts, 1 to the ankle
    skirt: bool
    long_hair: bool
    hat: Colour | None
    opening: str  # "collar", "buttons", "logo" or "jacket"
    girth: float
    head_size: float


def _tint(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    red, green, blue = (np.asarray(colour) * rng.uniform(1 - spread, 1 + spread / 2) + rng.normal(0, 5, 3)).clip(4, 252)
    return float(np.rint(red)), float(np.rint(green)), float(np.rint(blue))


def _cloth_colour(rng: np.random.Generator) -> Colour:
    kind = rng.random()
    if kind < 0.3:
        return _tint(rng, (rng.uniform(15, 245),) * 3, 0.08)
    base = rng.uniform(25, 235, 3)
    base[rng.integers(3)] *= rng.uniform(0.2, 0.7)
    return _tint(rng, (float(base[0]), float(base[1]), float(base[2])), 0.1)


def _cloth(rng: np.random.Generator, plain: float) -> Paint:
    colour = _cloth_colour(rng)
    if rng.random() < plain:
        return Paint(colour)
    kind = ("stripes", "bands", "plaid", "dots")[rng.integers(4)]
    return Paint(
        colour, Pattern(kind, _cloth_colour(rng), float(rng.uniform(0.02, 0.07)), float(rng.uniform(0.35, 0.9)))
    )


def sample_look(rng: np.random.Generator) -> Look:
    """Clothes, colours and build of one person."""
    skin = _tint(rng, _SKINS[rng.integers(len(_SKINS))], 0.12)
    trousers = _cloth(rng, 0.8)
    if rng.random() < 0.4:
        trousers = Paint(_tint(rng, ((40, 52, 92), (30, 30, 34), (120, 104, 80))[rng.integers(3)], 0.3))
    return Look(
        skin=skin,
        hair=_tint(rng, _HAIRS[rng.integers(len(_HAIRS))], 0.25),
        shirt=_cloth(rng, 0.55),
        trousers=trousers,
        shoes=_cloth_colour(rng),
        detail=_cloth_colour(rng),
        sleeve=float(rng.choice([0.05, 0.3, 0.4, 1.0], p=[0.1, 0.25, 0.2, 0.45])),
        leg_cover=float(rng.choice([0.3, 0.45, 1.0], p=[0.12, 0.2, 0.68])),
        skirt=bool(rng.random() < 0.1),
        long_hair=bool(rng.random() < 0.35),
        hat=_cloth_colour(rng) if rng.random() < 0.18 else None,
        opening=("collar", "buttons", "logo", "jacket")[rng.integers(4)],
        girth=float(np.clip(rng.normal(1.0, 0.11), 0.78, 1.4)),
        head_size=float(rng.uniform(0.95, 1.2)),
    )
