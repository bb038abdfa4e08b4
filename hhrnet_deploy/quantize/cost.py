"""How much work each convolution is, and how much of it is done in int8."""

from __future__ import annotations

import onnx

from hhrnet_deploy.quantize.plan import Placement
from hhrnet_deploy.quantize.topology import Topology, strides


def multiply_adds(topology: Topology, side: int) -> dict[str, int]:
    """Convolution -> multiply-adds for one ``side`` x ``side`` image.

    A transposed convolution is counted once per input pixel and tap, which is what it computes.
    """
    factor = strides(topology)
    return {node.name: _multiply_adds(topology, node, factor, side) for node in topology.convolutions()}


def _multiply_adds(topology: Topology, node: onnx.NodeProto, factor: dict[str, float], side: int) -> int:
    weights = 1
    for length in topology.constants[node.input[1]].dims:
        weights *= int(length)
    grid = node.output[0] if node.op_type == "Conv" else node.input[0]
    return weights * round((side / factor[grid]) ** 2)


def int8_share(topology: Topology, placement: Placement, side: int) -> float:
    """Share of the multiply-adds that the plan computes in int8; only the features' part of a split one counts."""
    work = multiply_adds(topology, side)
    quantized = {name: float(work[name]) for name in placement.quantized}
    split = placement.split
    if split is not None:
        inputs = topology.constants[topology.nodes[split.node].input[1]].dims[0]
        quantized[split.node] *= split.channels / inputs
    return sum(quantized.values()) / sum(work.values())
