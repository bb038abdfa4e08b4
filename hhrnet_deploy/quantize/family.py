"""What each kind of target wants of the plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hhrnet_deploy.quantize.histogram import DEFAULT_METHOD, Method
from hhrnet_deploy.quantize.plan import Role

INT8_LEVELS, UINT8_LEVELS = 127, 255


@dataclass(frozen=True)
class Family:
    """What a kind of target wants of the plan.

    Attributes:
        name: for reports.
        unsigned: tensors that cannot be negative take uint8 with zero point 0, twice as fine as int8.
        half: float parts are float16 and scales are representable in it.
        roles: the roles that are quantised.
        method: how thresholds are chosen; docs/int8.md has the measurements.
        fold_relu: leave out a ReLU whose only readers clip at 0 anyway.
        matmul_heads: write the heads of a fixed-size graph as matrix products.
        pairs_fit: neighbouring weights are so small together that processors which add two products in 16 bits do not
            saturate; see `weights.quantized_weight`.
        fold_coarse: the deconvolution of the features takes that of coarse in; see `fold`.
    """

    name: str
    unsigned: bool
    half: bool
    roles: frozenset[Role]
    method: Method = DEFAULT_METHOD
    fold_relu: bool = False
    matmul_heads: bool = False
    pairs_fit: bool = False
    fold_coarse: bool = False


# TensorRT folds a convolution, the other side of the sum and the ReLU into one int8 kernel when the convolution's own
# side of the sum carries no Q/DQ ("Working with quantized types", placement of Q/DQ for residual connections).
TENSORRT = Family("tensorrt", False, True, frozenset({Role.CONVOLUTION, Role.SKIP, Role.RESIZE}))
# OpenVINO and ONNX Runtime compute a sum in 8 bits only when its inputs are; partial sums stay inside one kernel.
_ALL_BUT_SUMS = frozenset(Role) - {Role.SUM}
ONNXRUNTIME = Family("onnxruntime", True, False, _ALL_BUT_SUMS, fold_relu=True, pairs_fit=True, fold_coarse=True)
OPENVINO = replace(ONNXRUNTIME, name="openvino", matmul_heads=True)
FAMILIES = {"openvino": OPENVINO, "onnxruntime": ONNXRUNTIME, "tensorrt": TENSORRT, "tensorrt-rtx": TENSORRT}
