"""How much work each convolution is, and how much of it is done in int8."""

from __future__ import annotations

import onnx

from hhrnet_deploy.quantize.fold import features_part
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


def int8_share(topology: Topology, placement: Placement, side: int, *, fold_coarse: bool = False) -> float:
    """Share of the multiply-adds that the plan computes in int8.

    Of a split transposed convolution only the features' part counts as int8. With ``fold_coarse`` that part is all that
    is left of it where the target has `fold` taken coarse in.
    """
    work = {name: float(count) for name, count in multiply_adds(topology, side).items()}
    quantized = {name: work[name] for name in placement.quantized}
    split = placement.split
    if split is not None:
        inputs = topology.constants[topology.nodes[split.node].input[1]].dims[0]
        quantized[split.node] *= split.channels / inputs
        if features_part(topology, split, fold=fold_coarse).bias_map is not None:
            work[split.node] = quantized[split.node]
    return sum(quantized.values()) / sum(work.values())
