"""Heads to people."""

from __future__ import annotations

from typing import Literal, get_args

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode.native import decode as decode_native
from hhrnet_deploy.decode.reference.decoder import decode as decode_reference
from hhrnet_deploy.decode.request import HeadsLike, make_request
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import People

DecoderName = Literal["native", "reference"]
DEFAULT_CONFIG = DecodeConfig()


def decode_heads(
    heads: HeadsLike,
    *,
    size: tuple[int, int] | None = None,
    config: DecodeConfig = DEFAULT_CONFIG,
    decoder: DecoderName = "native",
) -> list[People]:
    """Find the people in the network's outputs, one ``People`` per image.

    Args:
        heads: ``Heads``, (coarse, fine), (coarse, fine, coarse_flipped, fine_flipped), or a list of (scale, heads) in
            any order, where the tags come from scale 1 or the only one. Arrays are NumPy or DLPack, float32 or float16.
        size: (W, H) of the network input of scale 1, in which coordinates are given; default twice its ``fine``. With
            ``config.project`` off, coordinates are those of the largest ``fine`` instead (:func:`coordinate_grid`).
        config: thresholds and switches; flipped outputs are ignored with ``flip=False``.
        decoder: ``"native"`` (compiled) or ``"reference"`` (NumPy, the specification); the results are equal.

    Raises:
        InputError: heads, scales, size and skeleton do not fit each other, or a head holds NaN, an infinity or a value
            beyond 1e12 in magnitude.
        HHRNetError: the compiled decoder is asked for and not built.
    """
    if decoder not in get_args(DecoderName):
        raise InputError(f"decoder has to be one of {', '.join(get_args(DecoderName))}, got {decoder!r}.")
    request = make_request(heads, size, config)
    people = decode_native(request) if decoder == "native" else decode_reference(request)
    limit = config.max_output
    return people if limit is None else [found.highest(limit) for found in people]
