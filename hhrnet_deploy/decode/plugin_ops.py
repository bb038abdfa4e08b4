"""The ops of domain ``hhrnet`` as data: the kernels of the launch table as an engine sees them.

Shapes, grids and scalars come from the launch table, with dimensions that are ints or symbolic integers. What does not
follow from the shapes of the inputs is an attribute, always an int32: an engine's parser hands floats over as float32,
which would move thresholds, so they travel as their bits under the names of the kernels' scalars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode.launch_table import (
    AGGREGATE,
    AGGREGATE_FLIP,
    GROUP,
    PEAKS,
    REFINE,
    THREADS,
    Dims,
    Kernel,
    scalar_values,
)

DOMAIN = "hhrnet"
VERSION = "1"
# What leaves a graph that decodes, in this order; everything else that an op writes is scratch.
PEOPLE = ("keypoints", "scores", "count", "joint_tags", "person_tags")
HEADS = ("coarse", "fine", "coarse_flipped", "fine_flipped")
SKELETON_TENSOR = "decode/skeleton"
PROJECT = "project"

Shapes = Sequence[Sequence[Any]]
_FROM_INPUTS = {
    "half",
    "coarse_height",
    "coarse_width",
    "fine_height",
    "fine_width",
    "height",
    "width",
    "bands",
    "parts",
}


@dataclass(frozen=True, slots=True)
class PluginOp:
    """One op: a kernel, and the scalars of it that are attributes.

    Attributes:
        kernel: its inputs and outputs are the op's tensors, in order; scratch is among the outputs.
        attributes: names, in order. ``project`` is 1 where the grid is twice as large as ``fine``.
    """

    kernel: Kernel
    attributes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The op's type, which is the kernel's name."""
        return self.kernel.name

    def dims(self, inputs: Shapes, attributes: Mapping[str, int]) -> Dims:
        """The sizes of the launch table.

        Args:
            inputs: the shape of every input; batch, heights and widths may be symbolic.
            attributes: their values, by name.
        """
        shapes = dict(zip((one.name for one in self.kernel.inputs), inputs, strict=True))
        fine = shapes.get("fine", shapes.get("heat"))
        coarse = shapes.get("coarse", shapes.get("tags"))
        assert fine is not None
        times = 1 + attributes.get(PROJECT, 1)
        return Dims(
            images=fine[0],
            joints=attributes["joints"],
            dims=attributes.get("dims", 2 if "fine_flipped" in shapes else 1),
            coarse_height=0 if coarse is None else coarse[-2],
            coarse_width=0 if coarse is None else coarse[-1],
            fine_height=fine[-2],
            fine_width=fine[-1],
            height=fine[-2] * times,
            width=fine[-1] * times,
            max_people=attributes.get("max_people", 0),
        )

    def output_shapes(self, inputs: Shapes, attributes: Mapping[str, int]) -> tuple[tuple[Any, ...], ...]:
        """The shape of every output."""
        dims = self.dims(inputs, attributes)
        return tuple(one.shape(dims) for one in self.kernel.outputs)

    def grid(self, inputs: Shapes, attributes: Mapping[str, int]) -> tuple[Any, Any, Any]:
        """Blocks along x, y and z; a block is `block` threads."""
        x, y, z = self.kernel.grid(self.dims(inputs, attributes))
        return x, y, z

    @property
    def block(self) -> int:
        """Threads of a block."""
        return THREADS

    def scalars(self, inputs: Shapes, attributes: Mapping[str, int], *, half: bool) -> tuple[Any, ...]:
        """The kernel's scalars, in order: attributes, and what follows from the inputs.

        Args:
            inputs: the shape of every input.
            attributes: their values.
            half: the heads are float16.
        """
        dims = self.dims(inputs, attributes)
        known = {**attributes, "half": int(half)}
        return tuple(known[name] if name in known else getattr(dims, name) for name in self.kernel.scalars)

    def attribute_values(self, config: DecodeConfig, joints: int, dims: int) -> dict[str, int]:
        """The attributes that ask for these settings, in order; all int32.

        Args:
            config: thresholds and switches.
            joints: K.
            dims: L, 2 with the mirrored images' heads.
        """
        known = scalar_values(Dims(1, joints, dims, 0, 0, 0, 0, 0, 0, config.max_people), config, half=False)
        known[PROJECT] = int(config.project)
        return {name: known[name] for name in self.attributes}


def _op(kernel: Kernel) -> PluginOp:
    settings = tuple(name for name in kernel.scalars if name not in _FROM_INPUTS)
    return PluginOp(kernel, (*settings, PROJECT) if "height" in kernel.scalars else settings)


OPS = {kernel.name: _op(kernel) for kernel in (AGGREGATE, AGGREGATE_FLIP, PEAKS, GROUP, REFINE)}


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the chain from heads to people, with the names of its tensors."""

    op: PluginOp
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def chain(*, flip: bool, refine: bool) -> tuple[Step, ...]:
    """The nodes of a graph that decodes; its tensors are `HEADS`, `SKELETON_TENSOR`, `PEOPLE`, and ``decode/...``.

    Args:
        flip: the heads of the mirrored images are there.
        refine: look for missing joints; otherwise the keypoints of ``group`` are the result.
    """
    names = ["aggregate_flip" if flip else "aggregate", "peaks", "group", *(["refine"] if refine else [])]
    made = {**{head: head for head in HEADS}, "skeleton": SKELETON_TENSOR}
    steps = []
    for name in names:
        op = OPS[name]
        inputs = tuple(made[one.name] for one in op.kernel.inputs)
        for one in op.kernel.outputs:
            replaced = name == "group" and refine and one.name == "keypoints"
            made[one.name] = one.name if one.name in PEOPLE and not replaced else f"decode/{name}/{one.name}"
        steps.append(Step(op, inputs, tuple(made[one.name] for one in op.kernel.outputs)))
        if name == "group":
            made["grouped"] = made["keypoints"]
    return tuple(steps)
