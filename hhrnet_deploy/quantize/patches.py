"""Patches of activations: what one output pixel of a convolution adds up, sampled, and their second moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from hhrnet_deploy.quantize.topology import Topology, attribute

Float32 = npt.NDArray[np.float32]

# Values in a patch: those of w48's 3x3 convolutions at an eighth of the size. Memory and time grow with the square.
MOST_VALUES = 864


@dataclass(frozen=True)
class Patches:
    """The patches that one or more convolutions of a tensor read.

    Attributes:
        key: the same in every export of a network.
        tensor: what is cut into patches.
        channels: of it.
        kernel, stride: of the convolutions, both sides alike; the padding is half of the kernel.
    """

    key: str
    tensor: str
    channels: int
    kernel: int
    stride: int

    @property
    def values(self) -> int:
        """K, how many values a patch has: by row, then column, then channel."""
        return self.channels * self.kernel**2


@dataclass
class Moments:
    """Sum of ``x x^T`` over patches x, and how many there were.

    Attributes:
        total: (K, K) float32.
        count: of patches.
    """

    total: Float32
    count: int = 0

    def add(self, patches: Float32) -> None:
        """Count patches (N, K, h, w)."""
        flat = patches.swapaxes(0, 1).reshape(len(self.total), -1)
        self.total += flat @ flat.T
        self.count += flat.shape[1]

    def mean(self) -> npt.NDArray[np.float64]:
        """(K, K) mean of ``x x^T``; zeros when there were none."""
        return self.total.astype(np.float64) / max(self.count, 1)


def patches_of(topology: Topology, node: onnx.NodeProto) -> Patches | None:
    """The patches of a convolution; None for those that are not measured.

    Measured are ungrouped, undilated square convolutions with a padding of half of their kernel, of up to
    `MOST_VALUES` values.
    """
    if node.op_type != "Conv":
        return None
    _, channels, height, width = topology.constants[node.input[1]].dims
    strides = attribute(node, "strides", [1, 1])
    usual = (
        height == width
        and height % 2 == 1
        and strides[0] == strides[1]
        and attribute(node, "group", 1) == 1
        and set(attribute(node, "dilations", [1, 1])) == {1}
        and set(attribute(node, "pads", [0] * 4)) == {height // 2}
    )
    tensor, stride = node.input[0], int(strides[0])
    found = Patches(f"{topology.key(tensor)} {height}x{width}/{stride}", tensor, int(channels), int(height), stride)
    return found if usual and found.values <= MOST_VALUES else None


def sampling(prefix: str, patches: Patches, step: int) -> tuple[list[onnx.NodeProto], str, list[onnx.TensorProto]]:
    """Nodes that cut out the patch of every ``step``-th output pixel, their output (N, K, h, w), and their constants.

    One strided slice per tap copies what is sampled and no more. The first pixel is the ``step // 2``-th of each side,
    or the next one whose patch lies inside of the map; patches that reach beyond it are left out.
    """
    kernel, stride = patches.kernel, patches.stride
    first = step // 2 * stride - kernel // 2
    while first < 0:
        first += step * stride
    taps = [(row, column) for row in range(kernel) for column in range(kernel)]
    constants: dict[str, npt.NDArray[Any]] = {"axes": np.array([2, 3], np.int64)}
    constants["step"] = np.array([step * stride] * 2, np.int64)
    nodes, cut = [], []
    for number, tap in enumerate(taps):
        constants[f"start{number}"] = np.array([first + at for at in tap], np.int64)
        # A tap ends as far before the far edge as the taps behind it reach, so there are equally many of each.
        constants[f"end{number}"] = np.array([at - kernel + 1 or np.iinfo(np.int64).max for at in tap], np.int64)
        bounds = [f"{prefix}/{name}" for name in (f"start{number}", f"end{number}", "axes", "step")]
        cut.append(f"{prefix}/tap{number}")
        nodes.append(helper.make_node("Slice", [patches.tensor, *bounds], [cut[-1]], name=cut[-1]))
    output = f"{prefix}/patches"
    nodes.append(helper.make_node("Concat", cut, [output], name=output, axis=1))
    return nodes, output, [numpy_helper.from_array(value, f"{prefix}/{name}") for name, value in constants.items()]
