"""The operations of a batch as data: what the runtime issues, to which stream, on which memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from hhrnet_deploy.decode.launch_table import KERNELS

Stream = Literal["upload", "network", "decode"]
Event = Literal["input", "heads", "done"]
Space = Literal["device", "host", "constant", "given"]
STREAMS: tuple[Stream, ...] = ("upload", "network", "decode")
EVENTS: tuple[Event, ...] = ("input", "heads", "done")
ALIGNMENT = 256  # of every device buffer, as cuMemAlloc aligns


@dataclass(frozen=True, slots=True)
class Array:
    """A block of memory.

    Attributes:
        name: unique within a plan.
        dtype: NumPy's name of the element type.
        shape: of the elements.
        space: ``device``: a part of the slot's memory on the card; ``host``: of its pinned memory; ``constant``: on the
            card, the same for all batches; ``given``: on the card, owned by the caller.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    space: Space = "device"

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Ref:
    """An address: ``offset`` bytes into an array."""

    array: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """``nbytes`` from ``source`` to ``target``; the spaces of the two say in which direction."""

    stream: Stream
    source: Ref
    target: Ref
    nbytes: int

    @property
    def reads(self) -> tuple[Ref, ...]:
        """What it reads."""
        return (self.source,)

    @property
    def writes(self) -> tuple[Ref, ...]:
        """What it writes."""
        return (self.target,)


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel of the launch table; ``arguments`` in the table's order, pointers as `Ref`, scalars as int32."""

    stream: Stream
    kernel: str
    grid: tuple[int, int, int]
    arguments: tuple[Ref | int, ...]

    @property
    def reads(self) -> tuple[Ref, ...]:
        """Its inputs."""
        return _refs(self.arguments[: len(KERNELS[self.kernel].inputs)])

    @property
    def writes(self) -> tuple[Ref, ...]:
        """Its outputs, scratch among them."""
        return _refs(self.arguments[-len(KERNELS[self.kernel].outputs) :])


@dataclass(frozen=True, slots=True)
class Infer:
    """One run of the engine.

    Attributes:
        profile: number of the optimisation profile.
        shape: of the input.
        inputs, outputs: (tensor, address) pairs, all tensors of the engine.
    """

    stream: Stream
    profile: int
    shape: tuple[int, ...]
    inputs: tuple[tuple[str, Ref], ...]
    outputs: tuple[tuple[str, Ref], ...]

    @property
    def reads(self) -> tuple[Ref, ...]:
        """The input."""
        return tuple(ref for _, ref in self.inputs)

    @property
    def writes(self) -> tuple[Ref, ...]:
        """The outputs."""
        return tuple(ref for _, ref in self.outputs)


@dataclass(frozen=True, slots=True)
class Record:
    """Mark the point that the stream has reached with the slot's event."""

    stream: Stream
    event: Event
    reads: tuple[Ref, ...] = ()
    writes: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Have the stream, not the host, wait for the slot's event; no wait while it was never recorded."""

    stream: Stream
    event: Event
    reads: tuple[Ref, ...] = ()
    writes: tuple[Ref, ...] = ()


Op = Copy | Launch | Infer | Record | Wait


def on_one_stream(ops: Iterable[Op]) -> list[Op]:
    """The same work in one stream, which needs no events: what a CUDA graph is captured from."""
    found: list[Op] = []
    for op in ops:
        match op:
            case Copy():
                found.append(Copy("network", op.source, op.target, op.nbytes))
            case Launch():
                found.append(Launch("network", op.kernel, op.grid, op.arguments))
            case Infer():
                found.append(op)
            case Record() | Wait():
                pass
    return found


def _refs(arguments: Iterable[Ref | int]) -> tuple[Ref, ...]:
    return tuple(one for one in arguments if isinstance(one, Ref))
