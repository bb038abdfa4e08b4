"""int8 weights: their scales, the pairs that must not saturate, and how they are rounded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.quantize.family import INT8_LEVELS, Family
from hhrnet_deploy.quantize.patches import patches_of
from hhrnet_deploy.quantize.rounding import Float64, Index, round_together
from hhrnet_deploy.quantize.scales import SMALLEST_SCALE, representable, tensor_scale
from hhrnet_deploy.quantize.statistics import Statistics
from hhrnet_deploy.quantize.topology import CONVOLUTIONS, Topology, attribute

Float32 = npt.NDArray[np.float32]

# Two neighbours of one sign: 255 * 128 fits into 16 bits.
_MOST_OF_PAIR = 128
# Keeps the moments positive definite where float32 sums and few images leave directions without any signal.
_DAMPING = 1e-4


def input_moments(topology: Topology, statistics: Statistics, node: onnx.NodeProto, family: Family) -> Float64 | None:
    """(K, K) mean of ``x x^T`` over the patches a convolution reads, as its int8 input has them.

    Rounding the input adds an error of its own, one twelfth of the squared step to each value. None where calibration
    did not measure the patches (`patches.patches_of` says of which convolutions it does) or their squares overflowed.
    """
    patches = patches_of(topology, node)
    measured = None if patches is None else statistics.moments.get(patches.key)
    if measured is None or not np.isfinite(measured.total).all():
        return None
    moments = measured.mean()
    step = float(tensor_scale(topology, statistics, node.input[0], family)[0])
    extra = step**2 / 12 + _DAMPING * float(np.trace(moments)) / len(moments)
    return moments + extra * np.eye(len(moments))


def quantized_weight(
    weight: Float32, node: onnx.NodeProto, family: Family, moments: Float64 | None = None
) -> tuple[npt.NDArray[np.int8], Float32, int]:
    """int8 weights, one scale per output channel, and the axis of the output channels.

    x86 processors without VNNI (``vpmaddubsw``) add two neighbouring products of uint8 and int8 in 16 bits, which
    saturate above 32,767. For families whose ``pairs_fit`` no two such neighbours of one sign exceed 127 before
    rounding and 128 after it: 255 * 128 = 32,640. Neighbours are input channels 0 and 1, 2 and 3, ... of a tap. With an
    odd number of channels oneDNN leaves the last one alone, and ONNX Runtime pairs it with the first of the next tap.

    Args:
        weight: of a convolution (O, C, h, w) or a transposed one (C, O, h, w).
        node: the convolution.
        family: for whom.
        moments: of its input, from `input_moments`; weights are then rounded together (`rounding`), not each by itself.

    Raises:
        InputError: a grouped transposed convolution.
    """
    axis = _channel_axis(node)
    taps = _taps(weight, axis)
    if family.pairs_fit:
        largest = np.maximum(_largest_pair(taps), _largest_pair(taps.reshape(len(taps), 1, -1)))
    else:
        largest = np.abs(taps).max(axis=(1, 2)).astype(np.float32)
    scale = representable(np.maximum(largest / np.float32(INT8_LEVELS), SMALLEST_SCALE), family)
    steps = taps / scale[:, None, None]
    values = np.clip(np.rint(steps), -INT8_LEVELS, INT8_LEVELS)
    if moments is not None:
        values = _rounded_together(steps, values, moments, _partners(*taps.shape[1:]) if family.pairs_fit else ())
    rows = values.reshape(len(values), *weight.shape[2:], -1).astype(np.int8)
    return np.ascontiguousarray(np.moveaxis(np.moveaxis(rows, -1, 1), 0, axis)), scale, axis


def _taps(weight: Float32, axis: int) -> Float32:
    """(O, taps, channels), channels of one tap side by side, as processors read them."""
    rows = np.moveaxis(np.moveaxis(weight, axis, 0), 1, -1)
    return rows.reshape(len(rows), -1, rows.shape[-1])


def _rounded_together(steps: Float32, nearest: Float32, moments: Float64, partners: tuple[Index, ...]) -> Float64:
    """Each output channel's weights rounded together, or the nearest ones where these lose less."""
    exact, each = (values.reshape(len(steps), -1).astype(np.float64) for values in (steps, nearest))
    together = round_together(exact, moments, most=INT8_LEVELS, partners=partners, most_of_pair=_MOST_OF_PAIR)
    losses = [(((values - exact) @ moments) * (values - exact)).sum(axis=1) for values in (together, each)]
    return np.where((losses[0] < losses[1])[:, None], together, each).reshape(steps.shape)


def _largest_pair(taps: Float32) -> Float32:
    """(O, taps, channels) -> (O,) the largest magnitude of two channels of one sign side by side, or of one alone."""
    signed = np.maximum(np.stack([taps, -taps]), 0)
    even = np.pad(signed, [(0, 0), (0, 0), (0, 0), (0, taps.shape[-1] % 2)])
    return np.asarray((even[..., ::2] + even[..., 1::2]).max(axis=(0, 2, 3)), np.float32)


def _partners(taps: int, channels: int) -> tuple[Index, ...]:
    """For weights as one row of taps: each one's neighbour within its tap, and in the whole row."""
    place = np.arange(taps * channels)
    tap, channel = np.divmod(place, channels)
    within = np.where(channel ^ 1 < channels, tap * channels + (channel ^ 1), -1)
    along = np.where(place ^ 1 < len(place), place ^ 1, -1)
    return (within,) if channels % 2 == 0 else (within, along)


def _channel_axis(node: onnx.NodeProto) -> int:
    """The output channels' axis in the weights; grouped transposed convolutions do not occur in this network."""
    if node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1:
        raise InputError(f"{node.name} is a grouped transposed convolution; it cannot be quantised per channel.")
    return CONVOLUTIONS.index(node.op_type)
