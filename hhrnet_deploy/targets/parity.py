"""How far two sets of heads are apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat

from hhrnet_deploy.errors import GateFailedError
from hhrnet_deploy.heads import Array, Heads


class Difference(BaseModel):
    """Absolute differences of one output, in the output's own unit.

    Attributes:
        max, mean: of the absolute differences over all shapes.
        quantile_999: 99.9 of 100 values are closer than this (the larger one where several shapes were compared).
        reference_std: the standard deviation of the reference, which the others are read against.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max: FiniteFloat
    mean: FiniteFloat
    quantile_999: FiniteFloat
    reference_std: FiniteFloat

    @property
    def relative_max(self) -> float:
        """max / reference_std; 0 where both are 0."""
        return _ratio(self.max, self.reference_std)

    @property
    def relative_mean(self) -> float:
        """mean / reference_std; 0 where both are 0."""
        return _ratio(self.mean, self.reference_std)


class Parity(BaseModel):
    """Two runs of the same images, compared.

    Attributes:
        reference: what the heads were compared with, for example ``torch`` or ``onnx``.
        images: where the images came from.
        shapes: the input shapes that were run, (N, H, W).
        outputs: the difference of every output; ``.heat`` and ``.tags`` are the two halves of a coarse one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str
    images: str
    shapes: tuple[tuple[int, int, int], ...]
    outputs: dict[str, Difference]


class Tolerance(BaseModel):
    """The largest difference allowed, in standard deviations of the reference; None is not checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    relative_max: float | None = None
    relative_mean: float | None = None


# FP32: other summation orders, seen 1e-5 and below. Reduced precisions: bf16 was seen at 0.04 on every CPU tried; what
# they cost in AP is for `hhrnet eval` to say, the limit here only catches a graph that is broken.
TOLERANCES = {
    "fp32": Tolerance(relative_max=1e-3, relative_mean=1e-4),
    "bf16": Tolerance(relative_mean=0.25),
    "fp16": Tolerance(relative_mean=0.1),
    "int8": Tolerance(relative_mean=1.0),
}


def compare(pairs: list[tuple[Heads, Heads]]) -> dict[str, Difference]:
    """Differences of each output over pairs of (reference, other) heads.

    Raises:
        GateFailedError: the two have other outputs or shapes.
    """
    collected: dict[str, list[Difference]] = {}
    for reference, other in pairs:
        _check_same_outputs(reference, other)
        for (name, expected), (_, got) in zip(_parts(reference), _parts(other), strict=True):
            collected.setdefault(name, []).append(_difference(expected, got))
    return {name: _merged(differences) for name, differences in collected.items()}


def check(parity: Parity, tolerance: Tolerance, *, what: str) -> None:
    """Hold the differences against the tolerance.

    Raises:
        GateFailedError: one is beyond it; the message has the figures.
    """
    for name, difference in parity.outputs.items():
        for label, value, limit in (
            ("largest", difference.relative_max, tolerance.relative_max),
            ("mean", difference.relative_mean, tolerance.relative_mean),
        ):
            # Written so that NaN fails.
            if limit is not None and not value <= limit:
                raise GateFailedError(
                    f"{what}: the {label} difference of {name} from {parity.reference} is {value:.2e} of the output's "
                    f"standard deviation, the limit is {limit:.0e}.",
                    hint="Nothing was written; an earlier file is untouched.",
                )


def _check_same_outputs(reference: Heads, other: Heads) -> None:
    expected, got = ([(name, value.shape) for name, value in heads.named()] for heads in (reference, other))
    if expected != got:
        raise GateFailedError(f"Outputs are {got}, the reference has {expected}.")


def _parts(heads: Heads) -> Iterator[tuple[str, Array]]:
    """The outputs, with heat maps and tags apart: tags are an order of magnitude larger and would hide the others."""
    joints = heads.num_joints
    for name, value in heads.named():
        if name.startswith("coarse"):
            yield f"{name}.heat", value[:, :joints]
            yield f"{name}.tags", value[:, joints:]
        else:
            yield name, value


def _difference(expected: Array, got: Array) -> Difference:
    apart = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    return Difference(
        max=float(apart.max()),
        mean=float(apart.mean()),
        quantile_999=float(np.quantile(apart, 0.999)),
        reference_std=float(expected.std(dtype=np.float64)),
    )


def _merged(differences: list[Difference]) -> Difference:
    return Difference(
        max=max(d.max for d in differences),
        mean=sum(d.mean for d in differences) / len(differences),
        quantile_999=max(d.quantile_999 for d in differences),
        reference_std=min(d.reference_std for d in differences),
    )


def _ratio(value: float, std: float) -> float:
    if value == 0:
        return 0.0
    return value / std if std > 0 else float("inf")
