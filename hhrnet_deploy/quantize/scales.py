"""Scales of activations, and which scales a target can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.quantize.family import INT8_LEVELS, UINT8_LEVELS, Family
from hhrnet_deploy.quantize.statistics import Statistics
from hhrnet_deploy.quantize.topology import Topology

# A tensor that was 0 on every image, or a dead channel, still needs a scale to divide by.
SMALLEST_SCALE = np.float32(1e-12)
_SMALLEST_HALF_SCALE = np.float32(2.0**-24)


def tensor_scale(
    topology: Topology, statistics: Statistics, tensor: str, family: Family
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Scale and zero point of an activation, both of no dimension.

    Raises:
        InputError: the statistics do not know the tensor.
    """
    unsigned = family.unsigned and topology.is_rectified(tensor)
    levels = UINT8_LEVELS if unsigned else INT8_LEVELS
    source = topology.made_by(tensor)
    while source is not None and source.op_type == "Resize":
        tensor = source.input[0]
        source = topology.made_by(tensor)
    figures = statistics.tensors.get(topology.key(tensor))
    if figures is None:
        raise InputError(
            f"The calibration does not cover the tensor {tensor}.",
            hint="Measure again: hhrnet calibrate MODEL --calibration SET",
        )
    scale = np.maximum(np.float32(figures.threshold(family.method, levels) / levels), SMALLEST_SCALE)
    return representable(scale, family), np.array(0, np.uint8 if unsigned else np.int8)


def representable(scale: npt.NDArray[np.float32] | np.float32, family: Family) -> npt.NDArray[np.float32]:
    """The scale, or the next larger one that float16 holds exactly, so that typing changes no number."""
    exact = np.asarray(scale, np.float32)
    if not family.half:
        return exact
    near = exact.astype(np.float16)
    above = np.where(near.astype(np.float32) < exact, np.nextafter(near, np.float16(np.inf)), near)
    return np.maximum(above.astype(np.float32), _SMALLEST_HALF_SCALE)
