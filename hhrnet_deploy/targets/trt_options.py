"""What can be asked of a TensorRT build, and the optimisation profiles that follow from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.targets.graph import Graph
from hhrnet_deploy.targets.runner import MULTIPLE

Hw = tuple[int, int]
Range = tuple[Hw, Hw, Hw]

# Longest default input in short sides: 4:1, wider than all but a handful of COCO's photos.
_LONGEST = 4
_DEFAULT_MAX_BATCH = 8
_TILE = 64  # long sides of the size rule are multiples of it (transforms.py:155-176)
_SIZE = re.compile(r"(\d+)x(\d+)")
_CAPABILITY = re.compile(r"\d{1,2}\.\d")


class Profile(BaseModel):
    """One optimisation profile: the smallest, the tuned and the largest input, each (N, H, W)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: tuple[int, int, int]
    opt: tuple[int, int, int]
    max: tuple[int, int, int]


class TensorRtOptions(BaseModel):
    """How TensorRT and TensorRT-RTX build; nothing here changes the precision, which is the graph's.

    Attributes:
        shapes: one optimisation profile each, height x width in pixels: ``512x704`` for that size, or
            ``512x512:512x704:512x1024`` for a range (smallest, tuned, largest). Default: the size rule's landscape
            and portrait photos up to 4:1. Only for graphs without a fixed size.
        max_batch: the largest batch of a graph with a dynamic one, and the one it is tuned for; default 8.
        workspace_mib: limit of the memory that kernels may use for scratch, in MiB; default the whole card.
        optimization_level: 0 (quick build) to 5 (exhaustive); default TensorRT's own, 3.
        timing_cache: file with kernel timings, read and updated; TensorRT only. Default none.
        hardware_compatible: ``ampere+`` runs on every card since compute capability 8.0, ``same-capability`` on every
            card of the same one; TensorRT only. Default: the card it was built on.
        version_compatible: later TensorRT releases of the same major version run the engine; TensorRT only.
        refit: weights can be replaced in the finished engine.
        strip: leave the weights out; they have to be put in again before it runs.
        tf32: allow TF32 in float32 layers, ten bits of mantissa, on cards since Ampere.
        compute_capabilities: the cards an RTX engine is for, for example ``8.6,8.9``; default the card that is
            installed, without one every card since 8.0 that TensorRT-RTX knows. TensorRT-RTX only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shapes: tuple[str, ...] = ()
    max_batch: Annotated[int, Field(ge=1)] | None = None
    workspace_mib: Annotated[int, Field(ge=1)] | None = None
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    timing_cache: Path | None = None
    hardware_compatible: Literal["ampere+", "same-capability"] | None = None
    version_compatible: bool = False
    refit: bool = False
    strip: bool = False
    tf32: bool = False
    compute_capabilities: tuple[str, ...] = ()

    @field_validator("shapes", "compute_capabilities", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Accept one text with commas where a list is expected; YAML reads 8.9 as a number."""
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            return tuple(str(item).strip() for item in items)
        return (str(items),) if isinstance(items, int | float) else items

    @field_validator("shapes")
    @classmethod
    def _readable_shapes(cls, shapes: tuple[str, ...]) -> tuple[str, ...]:
        for text in shapes:
            parse_range(text)
        return shapes

    @field_validator("compute_capabilities")
    @classmethod
    def _readable_capabilities(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for text in values:
            if not _CAPABILITY.fullmatch(text):
                raise ValueError(f"a compute capability looks like 8.9, got {text!r}")
        if len(set(values)) != len(values):
            raise ValueError(f"a compute capability is named twice: {', '.join(values)}")
        return values

    @model_validator(mode="after")
    def _one_way_of_refitting(self) -> TensorRtOptions:
        if self.refit and self.strip:
            raise ValueError("strip already keeps the weights replaceable; leave refit out")
        return self

    def words(self) -> list[str]:
        """The command-line options that ask for this."""
        words: list[str] = []
        for name, value in self.model_dump(exclude_defaults=True).items():
            option = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                words.append(option)
            else:
                words += [option, ",".join(value) if isinstance(value, tuple) else str(value)]
        return words


def parse_range(text: str) -> Range:
    """``HxW`` or ``HxW:HxW:HxW`` in pixels as (smallest, tuned, largest), each (H, W).

    Raises:
        ValueError: another form, sides that are no multiples of 32, or sizes out of order.
    """
    parts = text.split(":")
    found = [_SIZE.fullmatch(part) for part in parts]
    if len(parts) not in (1, 3) or not all(found):
        raise ValueError(f"a shape is HEIGHTxWIDTH or smallest:tuned:largest of them, got {text!r}")
    sizes = [(int(match[1]), int(match[2])) for match in found if match]
    for height, width in sizes:
        if height % MULTIPLE or width % MULTIPLE or not height or not width:
            raise ValueError(f"sides have to be multiples of {MULTIPLE}, got {height}x{width}")
    smallest, tuned, largest = sizes if len(sizes) == 3 else sizes * 3
    if not all(low <= mid <= high for low, mid, high in zip(smallest, tuned, largest, strict=True)):
        raise ValueError(f"sizes have to grow from smallest to largest, got {text!r}")
    return smallest, tuned, largest


def default_ranges(short_side: int) -> tuple[Range, Range]:
    """Landscape and portrait inputs of the size rule: square up to 4:1, tuned for 4:3 photos."""
    tuned = int((short_side * 4 / 3 + _TILE - 1) // _TILE * _TILE)
    longest = _LONGEST * short_side
    landscape = ((short_side, short_side), (short_side, tuned), (short_side, longest))
    portrait = ((short_side, short_side), (tuned, short_side), (longest, short_side))
    return landscape, portrait


def plan_profiles(graph: Graph, options: TensorRtOptions) -> tuple[Profile, ...]:
    """The profiles of a graph; none where its size and batch are fixed.

    Raises:
        InputError: shapes or a batch asked of a graph that has its own, fixed.
    """
    batch = _batches(graph, options)
    if graph.size is not None:
        if options.shapes:
            raise InputError(
                f"{graph.path} takes images of {graph.size[1]}x{graph.size[0]} (height x width) only; the shapes "
                f"{', '.join(options.shapes)} were asked for.",
                hint="Leave --shapes out, or build from the checkpoint or a graph without a fixed size.",
            )
        size = (graph.size[1], graph.size[0])
        return () if graph.batch is not None else (_profile(batch, (size, size, size)),)
    ranges = tuple(parse_range(text) for text in options.shapes) or default_ranges(graph.metadata.short_side)
    return tuple(_profile(batch, sizes) for sizes in ranges)


def _batches(graph: Graph, options: TensorRtOptions) -> tuple[int, int, int]:
    if graph.batch is None:
        largest = options.max_batch or _DEFAULT_MAX_BATCH
        return 1, largest, largest
    if options.max_batch not in (None, graph.batch):
        raise InputError(
            f"{graph.path} takes exactly {graph.batch} images; a largest batch of {options.max_batch} was asked for.",
            hint="Leave --max-batch out, or give --batch dynamic with the checkpoint.",
        )
    return graph.batch, graph.batch, graph.batch


def _profile(batch: tuple[int, int, int], sizes: Range) -> Profile:
    smallest, tuned, largest = ((count, *size) for count, size in zip(batch, sizes, strict=True))
    return Profile(min=smallest, opt=tuned, max=largest)
