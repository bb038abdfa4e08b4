"""What was decided about number types when an engine was built; part of its manifest."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CalibrationRecord(_Model):
    """The set that the ranges come from.

    Attributes:
        name, images: of the set.
        set_sha256: which images, in which order.
        network_sha256: of the network that was measured.
        method: how thresholds were chosen; None where only magnitudes were looked at.
    """

    name: str
    images: int
    set_sha256: str
    network_sha256: str
    method: str | None = None


class LayerSensitivity(_Model):
    """What one convolution alone costs when it computes in int8 and everything else does not.

    Attributes:
        name: the convolution.
        noise: mean over the heads of (error / reference)^2, both as sums of squares; smaller is better.
        multiply_adds: of the layer at the preset's size, in millions.
    """

    name: str
    noise: float
    multiply_adds: float


class BudgetStep(_Model):
    """One measurement of the accuracy budget: so many layers in higher precision, this drop."""

    layers: tuple[str, ...]
    ap: float | None
    drop: float | None
    int8_share: float


class Budget(_Model):
    """How the layers in higher precision were chosen.

    Attributes:
        max_ap_drop: the limit asked for.
        data: what AP was measured on.
        reference_ap: of the float32 network.
        steps: in the order they were measured; the last one is the engine's.
        sensitivity: of every convolution, most sensitive first.
    """

    max_ap_drop: float
    data: str
    reference_ap: float | None
    steps: tuple[BudgetStep, ...]
    sensitivity: tuple[LayerSensitivity, ...]


class Quantization(_Model):
    """Number types inside the engine's graph.

    Attributes:
        family: the kind of target the graph was written for.
        calibration: where ranges come from.
        kept: convolutions in higher precision than the engine's, with the reason.
        float32_tensors: tensors kept in float32 because float16 would overflow, with their largest magnitude.
        int8_share: share of the multiply-adds in int8, 0 to 1.
        note: what the precision means on this target where that is not obvious.
        budget: how the accuracy budget went, when there was one.
    """

    family: str
    calibration: CalibrationRecord
    kept: dict[str, str] = {}
    float32_tensors: dict[str, float] = {}
    int8_share: float = Field(0.0, ge=0, le=1)
    note: str | None = None
    budget: Budget | None = None
