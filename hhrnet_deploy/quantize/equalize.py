"""Equalisation: channels of one tensor get ranges of like size, so that one scale suits all of them.

Between convolutions HRNet only has ReLU, sums and nearest-neighbour upsampling, which all commute with a positive
factor per channel. Tensors that meet in a sum form a group with common factors: the convolutions that write into the
group divide their output channels by them, those that read it multiply their input channels (Nagel et al., "Data-free
quantization through weight equalization and bias correction", ICCV 2019, section 4.1, here for whole groups and by
activations instead of weights). In float32 the heads stay the same but for the last bits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from hhrnet_deploy.quantize.plan import Split, make_plan
from hhrnet_deploy.quantize.topology import CONVOLUTIONS, Topology, attribute, read_topology

Factors = npt.NDArray[np.float32]
Maxima = npt.NDArray[np.float32]
# Operators that commute with a factor per channel, and how many activations they read.
_OPERANDS = {"Relu": 1, "Add": 2, "Resize": 1}
# What the range of a channel loses, that of its weights gains, and a convolution has one scale for all its inputs. So
# the factors go most of the way only: the migration strength of Xiao et al., "SmoothQuant", ICML 2023. docs/int8.md has
# what it brings.
_STRENGTH = 0.75
# A channel that hardly ever is on is not blown up beyond this: its weights would outweigh all others.
_MOST = 2.0**10


def equalized(topology: Topology, maxima: dict[str, Maxima]) -> Topology:
    """The same network with other factors between its layers.

    Args:
        topology: of the float32 graph.
        maxima: key of a tensor -> (C,) largest magnitude of each channel; tensors that are not in it keep their group
            as it is.
    """
    groups, split = _groups(topology), make_plan(topology).split
    factors = {group: _factors(topology, tensors, maxima, split) for group, tensors in groups.items()}
    of_tensor = {tensor: factors[group] for group, tensors in groups.items() for tensor in tensors}
    model = onnx.ModelProto()
    model.CopyFrom(topology.model)
    for node in model.graph.node:
        if node.op_type not in CONVOLUTIONS:
            continue
        read = split.features if split is not None and split.node == node.name else node.input[0]
        _rescale(topology, model, node, of_tensor.get(read), of_tensor.get(node.output[0]))
    return read_topology(model)


def _rescale(
    topology: Topology, model: onnx.ModelProto, node: onnx.NodeProto, read: Factors | None, written: Factors | None
) -> None:
    """Multiply a convolution's input channels by ``read`` and divide its output channels by ``written``."""
    outputs = CONVOLUTIONS.index(node.op_type)
    weight = topology.constant(node.input[1]).astype(np.float32)
    if read is not None:
        # The deconvolution reads features first, then coarse, which keeps its size.
        whole = np.ones(weight.shape[1 - outputs], np.float32)
        whole[: len(read)] = read
        weight = weight * _along(whole, 1 - outputs)
    if written is not None:
        weight = weight / _along(written, outputs)
        if len(node.input) > 2:
            bias = topology.constant(node.input[2]).astype(np.float32) / written
            node.input[2] = _added(model, f"{node.name}/equalized_bias", bias)
    node.input[1] = _added(model, f"{node.name}/equalized_weight", weight)


def _along(values: Factors, axis: int) -> Factors:
    return values.reshape([-1 if number == axis else 1 for number in range(4)])


def _added(model: onnx.ModelProto, name: str, value: npt.NDArray[np.float32]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _factors(topology: Topology, tensors: list[str], maxima: dict[str, Maxima], split: Split | None) -> Factors | None:
    """Each channel's share of the group's largest magnitude, 0 to 1, to `_STRENGTH`; None where nothing may change."""
    if not all(_may_change(topology, tensor, split) for tensor in tensors):
        return None
    known = [maxima[key] for tensor in tensors if (key := topology.key(tensor)) in maxima]
    if not known:
        return None
    largest = np.max(known, axis=0).astype(np.float64)
    if not largest.any():
        return None
    share: npt.NDArray[np.float64] = np.maximum(largest / largest.max(), 1.0 / _MOST)
    return (share**_STRENGTH).astype(np.float32)


def _may_change(topology: Topology, tensor: str, split: Split | None) -> bool:
    """Whether all who write and read the tensor can take the factors up or pass them on."""
    source = topology.made_by(tensor)
    if source is None or tensor == topology.entry or source.name in topology.heads:
        return False
    nodes = [source, *(topology.nodes[edge.node] for edge in topology.consumers.get(tensor, ()))]
    joined = split.concat if split is not None and split.features == tensor else None
    return all(
        (node.op_type in _OPERANDS and len(topology.activations(node)) == _OPERANDS[node.op_type])
        or (node.op_type in CONVOLUTIONS and attribute(node, "group", 1) == 1)
        or node.name == joined
        for node in nodes
    )


def _groups(topology: Topology) -> dict[str, list[str]]:
    """Tensors that share their factors, by one of them."""
    parent: dict[str, str] = {}

    def root(tensor: str) -> str:
        parent.setdefault(tensor, tensor)
        while parent[tensor] != tensor:
            tensor = parent[tensor]
        return tensor

    def join(tensors: Iterable[str]) -> None:
        first, *others = tensors
        for other in others:
            parent[root(other)] = root(first)

    for node in topology.nodes.values():
        if node.op_type in _OPERANDS:
            join([node.output[0], *(name for _, name in topology.activations(node))])
        elif node.op_type in CONVOLUTIONS:
            root(node.output[0])
    groups: dict[str, list[str]] = {}
    for tensor in parent:
        groups.setdefault(root(tensor), []).append(tensor)
    return groups
