"""The deconvolution of ``concat(features, coarse)`` as one of the features alone.

Coarse is a 1x1 convolution of the same features, so what the deconvolution makes of it is linear in them, too:

    deconv(features; F) + deconv(coarse; C) = deconv(features; F + W C) + deconv(ones; b C)

with W, b of the head. The last term is the bias of coarse, which the deconvolution sees as 0 outside of the image: a
map that depends on the size alone. Exact up to float32 rounding; coarse and the tags leave the network as they did.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.quantize.plan import Split
from hhrnet_deploy.quantize.topology import Topology

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeaturesPart:
    """The deconvolution that reads the features.

    Attributes:
        weight: (C, O, h, w).
        bias_map: (1, O, h, w), the weights by which ones become the map of coarse's bias; None where coarse has a
            deconvolution of its own.
    """

    weight: Float32
    bias_map: Float32 | None = None


def features_part(topology: Topology, split: Split, *, fold: bool) -> FeaturesPart:
    """The features' part of a split deconvolution.

    Args:
        topology: of the float32 graph.
        split: how the deconvolution is split.
        fold: take coarse's part in. Left out where coarse is no 1x1 convolution of the features.
    """
    weight = topology.constant(topology.nodes[split.node].input[1])
    own, coarse = weight[: split.channels], weight[split.channels :].astype(np.float64)
    head = topology.nodes[topology.heads[0]]
    matrix = topology.constant(head.input[1])
    if not fold or head.input[0] != split.features or matrix.shape[2:] != (1, 1):
        return FeaturesPart(own)
    through = np.einsum("ci,cohw->iohw", matrix[:, :, 0, 0], coarse)
    bias = np.einsum("c,cohw->ohw", topology.constant(head.input[2]), coarse)[None]
    return FeaturesPart((own + through).astype(np.float32), bias.astype(np.float32))
