"""Where the arrays of a plan lie: those that are never alive at the same time may share memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hhrnet_deploy.targets.cuda_ops import ALIGNMENT, Array, Op


@dataclass(frozen=True)
class Life:
    """From the operation that first writes an array to the last that touches it, both included, by number."""

    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Whether both are alive during one operation."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Layout:
    """One allocation and the arrays in it.

    Attributes:
        offsets: of each array, in bytes.
        nbytes: of the allocation.
    """

    offsets: Mapping[str, int]
    nbytes: int


def lives(ops: Sequence[Op]) -> dict[str, Life]:
    """The life of every array that an operation touches."""
    found: dict[str, Life] = {}
    for number, op in enumerate(ops):
        for ref in (*op.reads, *op.writes):
            first = found[ref.array].first if ref.array in found else number
            found[ref.array] = Life(first, number)
    return found


def pack(arrays: Sequence[Array], alive: Mapping[str, Life]) -> Layout:
    """Place the largest first, each at the lowest offset that no array of its time occupies."""
    placed: list[tuple[int, int, Life]] = []
    offsets: dict[str, int] = {}
    for array in sorted(arrays, key=lambda one: (-one.nbytes, one.name)):
        life, size = alive[array.name], aligned(max(1, array.nbytes))
        offset = 0
        for start, end, _ in sorted((one for one in placed if one[2].meets(life)), key=lambda one: one[0]):
            if offset + size <= start:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, life))
        offsets[array.name] = offset
    return Layout(offsets, max((end for _, end, _ in placed), default=0))


def side_by_side(arrays: Sequence[Array]) -> Layout:
    """One after the other, nothing shared: memory that the host reads and writes at its own time."""
    offsets, end = {}, 0
    for array in arrays:
        offsets[array.name] = end
        end += aligned(max(1, array.nbytes))
    return Layout(offsets, end)


def aligned(nbytes: int) -> int:
    """Rounded up to `ALIGNMENT`."""
    return (nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
