"""Everything the GPU does for one batch, planned as data: memory, copies, kernels, network, events.

Three streams work on a batch one after the other, joined by events, so that the upload and warp of the next batch, the
network of this one and the decoding of the last run at the same time. A batch occupies one of two slots; a slot's first
operation waits for the last one of the batch that had it before. Nothing waits on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode import launch_table as table
from hhrnet_deploy.decode.launch_table import Buffer, Dims, Kernel
from hhrnet_deploy.targets.cuda_facts import HEADS, Batch, EngineFacts, Photo, head_shape
from hhrnet_deploy.targets.cuda_memory import Layout, aligned, lives, pack, side_by_side
from hhrnet_deploy.targets.cuda_ops import Array, Copy, Infer, Launch, Op, Record, Ref, Space, Stream, Wait

SKELETON = "skeleton"
INPUT = "image"
RESULT = "result"
PHOTOS = "photos"
HOST_INPUT, HOST_RESULT = "host_input", "host_result"
SLOTS = 2
_INVERSE_BYTES = 6 * 8
# Tensors that are not wanted still need an address.
_RESULT_OF = {"keypoints": "keypoints", "scores": "scores", "count": "count", "joint_tags": "tags"}


@dataclass(frozen=True)
class Part:
    """A field of the result: where it lies, in bytes, and what it is."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class BatchPlan:
    """One batch as operations in order, and the memory they need.

    Attributes:
        arrays: all memory, by name.
        ops: in the order in which they are issued.
        result: the fields of the pinned result: ``keypoints``, ``scores``, ``count``, ``tags``, or the heads.
        photo_offsets: where each photo that comes from the host lies in the pinned input; None for one on the card.
        given: names of the arrays that the caller owns, in the order of the images.
        filled: images that the engine runs, N or more.
    """

    arrays: Mapping[str, Array]
    ops: tuple[Op, ...]
    result: Mapping[str, Part]
    photo_offsets: tuple[int | None, ...]
    given: tuple[str, ...]
    filled: int

    @cached_property
    def device(self) -> Layout:
        """The slot's memory on the card."""
        return pack(self._in("device"), lives(self.ops))

    @cached_property
    def host(self) -> Layout:
        """The slot's pinned memory."""
        return side_by_side(self._in("host"))

    def _in(self, space: Space) -> list[Array]:
        return [array for array in self.arrays.values() if array.space == space]


def plan_batch(facts: EngineFacts, batch: Batch) -> BatchPlan:
    """Plan one batch.

    Raises:
        InputError: the engine was not built for that many images of that size.
    """
    return _Planner(facts, batch).plan()


def largest_batch(facts: EngineFacts, batch: Batch, free: int) -> int:
    """The most images of that size, fewer than asked for, whose slots fit into ``free`` bytes; 0 when none do."""
    for count in range(batch.count - 1, 0, -1):
        source = batch.source if isinstance(batch.source, str) else batch.source[:count]
        smaller = Batch(count, batch.size, source, batch.grid, batch.config)
        if facts.profile_of((count, batch.size[1], batch.size[0])) is None:
            continue
        if SLOTS * plan_batch(facts, smaller).device.nbytes <= free:
            return count
    return 0


class _Planner:
    def __init__(self, facts: EngineFacts, batch: Batch) -> None:
        self.facts, self.batch = facts, batch
        self.width, self.height = batch.size
        self.filled = facts.fixed_batch or batch.count
        self.profile = facts.need_profile((self.filled, self.height, self.width))
        wants_flip = batch.config is not None and batch.config.flip
        self.mirrors = wants_flip and not facts.has_people and not facts.has_flip
        doubled = (2 * self.filled, self.height, self.width)
        # Straight and mirrored images in one run where the engine takes twice the batch.
        self.joined = self.mirrors and facts.profile_of(doubled) is not None
        self.flip = wants_flip if facts.decode is None else facts.decode.flip
        self.arrays: dict[str, Array] = {}
        self.ops: list[Op] = []
        self.result: dict[str, Part] = {}
        self.given: list[str] = []
        self.photo_offsets: list[int | None] = []

    def plan(self) -> BatchPlan:
        if self.batch.config is None:
            fields = [(name, dtype, self._head_shape(name, self.filled)) for name, dtype in self.facts.outputs.items()]
        else:
            fields = self._people_fields(self.batch.config)
        self._make_result(fields)
        self.ops.append(Wait("upload", "done"))
        self._input()
        self._mark("upload", "input", "network")
        self._network()
        self._mark("network", "heads", "decode")
        if self.batch.config is not None and not self.facts.has_people:
            self._decode(self.batch.config)
        self.ops.append(Copy("decode", Ref(RESULT), Ref(HOST_RESULT), self.arrays[RESULT].nbytes))
        self.ops.append(Record("decode", "done"))
        offsets, given = tuple(self.photo_offsets), tuple(self.given)
        return BatchPlan(self.arrays, tuple(self.ops), self.result, offsets, given, self.filled)

    # memory

    def _array(self, name: str, dtype: str, shape: Sequence[int], space: Space = "device") -> Ref:
        self.arrays.setdefault(name, Array(name, dtype, tuple(shape), space))
        return Ref(name)

    def _make_result(self, fields: Sequence[tuple[str, str, tuple[int, ...]]]) -> None:
        """One block for all fields: they cross to the host in one copy."""
        end = 0
        for name, dtype, shape in fields:
            self.result[name] = Part(end, dtype, shape)
            end += aligned(Array(name, dtype, shape).nbytes)
        self._array(RESULT, "uint8", (end,))
        self._array(HOST_RESULT, "uint8", (end,), "host")

    def _mark(self, stream: Stream, event: str, waiting: Stream) -> None:
        assert event in ("input", "heads")
        self.ops += [Record(stream, event), Wait(waiting, event)]  # type: ignore[arg-type]

    # the network's input

    def _input(self) -> None:
        if self.facts.layout == "float":
            self._float_input()
            return
        images = 2 * self.filled if self.joined else self.filled
        self._array(INPUT, "uint8", (images, self.height, self.width, 3))
        if isinstance(self.batch.source, tuple):
            self._photos(self.batch.source)
        elif self.batch.source == "host":
            self._from_host(INPUT, "uint8", (self.filled, self.height, self.width, 3))
        else:
            self._from_device()
        if self.mirrors:
            self._mirror()

    def _float_input(self) -> None:
        """The host normalises, and mirrors, what an engine with the classical input takes."""
        images = 2 * self.filled if self.mirrors else self.filled
        self._from_host(INPUT, "float32", (images, 3, self.height, self.width))

    def _from_host(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        target = self._array(name, dtype, shape)
        source = self._array(HOST_INPUT, dtype, shape, "host")
        self.ops.append(Copy("upload", source, target, self.arrays[HOST_INPUT].nbytes))

    def _from_device(self) -> None:
        """One block of warped images that the caller owns; the last one again where the engine runs more."""
        one = self.height * self.width * 3
        count = self.batch.count
        source = self._array("given0", "uint8", (count, self.height, self.width, 3), "given")
        self.given.append("given0")
        self.ops.append(Copy("upload", source, Ref(INPUT), count * one))
        for number in range(count, self.filled):
            self.ops.append(Copy("upload", Ref("given0", (count - 1) * one), Ref(INPUT, number * one), one))

    def _photos(self, photos: tuple[Photo, ...]) -> None:
        """Photos of any sizes, each warped by the kernel; one copy brings their pixels and inverse matrices."""
        end = aligned(len(photos) * _INVERSE_BYTES)
        for photo in photos:
            self.photo_offsets.append(None if photo.on_device else end)
            end += 0 if photo.on_device else photo.size[0] * photo.size[1] * 3
        target = self._array(PHOTOS, "uint8", (end,))
        source = self._array(HOST_INPUT, "uint8", (end,), "host")
        self.ops.append(Copy("upload", source, target, end))
        for number, photo in enumerate(photos):
            offset = self.photo_offsets[number]
            pixels = self._given_photo(photo) if offset is None else Ref(PHOTOS, offset)
            last = number == len(photos) - 1
            for place in range(number, self.filled if last else number + 1):
                self._warp(pixels, Ref(PHOTOS, number * _INVERSE_BYTES), photo, place)

    def _given_photo(self, photo: Photo) -> Ref:
        name = f"given{len(self.given)}"
        self.given.append(name)
        return self._array(name, "uint8", (photo.size[1], photo.size[0], 3), "given")

    def _warp(self, pixels: Ref, inverse: Ref, photo: Photo, place: int) -> None:
        out = Ref(INPUT, place * self.height * self.width * 3)
        dims = self._warp_dims(1, photo.size)
        self._launch("upload", table.WARP, dims, {"pixels": pixels, "inverse": inverse, "out": out})

    def _mirror(self) -> None:
        """The warp by a mirroring matrix copies pixels exactly: all its weights are 0 or 1."""
        out = Ref(INPUT, self.filled * self.height * self.width * 3)
        if not self.joined:
            out = self._array("mirrored", "uint8", (self.filled, self.height, self.width, 3))
        inverse = self._array("mirror", "float64", (self.filled, 6))
        host = self._array("host_mirror", "float64", (self.filled, 6), "host")
        self.ops.append(Copy("upload", host, inverse, self.arrays["mirror"].nbytes))
        dims = self._warp_dims(self.filled, self.batch.size)
        self._launch("upload", table.WARP, dims, {"pixels": Ref(INPUT), "inverse": inverse, "out": out})

    def _warp_dims(self, images: int, source: tuple[int, int]) -> Dims:
        sizes = (images, self.facts.joints, 1, 0, 0, 0, 0, self.height, self.width, 1)
        return Dims(*sizes, source_height=source[1], source_width=source[0])

    # the network

    def _network(self) -> None:
        images = 2 * self.filled if self.joined else self.filled
        self._infer(Ref(INPUT), images, {name: self._output(name, images) for name in self.facts.outputs})
        if self.mirrors and not self.joined:
            source = Ref("mirrored")
            if self.facts.layout == "float":
                source = Ref(INPUT, self.arrays[INPUT].nbytes // 2)
            flipped = {f"{name}_flipped": name for name in self.facts.outputs}
            outputs = {name: self._head(own, name, self.filled) for own, name in flipped.items()}
            self._infer(source, self.filled, outputs)

    def _infer(self, source: Ref, images: int, outputs: Mapping[str, Ref]) -> None:
        profile = self.facts.need_profile((images, self.height, self.width))
        uint8 = (images, self.height, self.width, 3)
        shape = uint8 if self.facts.layout == "uint8" else (images, 3, self.height, self.width)
        self.ops.append(Infer("network", profile, shape, ((INPUT, source),), tuple(outputs.items())))

    def _output(self, name: str, images: int) -> Ref:
        if name in HEADS:
            return self._head(name, name, images) if self.batch.config is not None else self._part(name)
        if name in _RESULT_OF:
            return self._part(_RESULT_OF[name])
        assert self.facts.decode is not None
        dims = self._dims(self.facts.decode)
        return self._buffer(name, table.PERSON_TAGS, dims)

    def _head(self, own: str, tensor: str, images: int) -> Ref:
        return self._array(own, self.facts.outputs[tensor], self._head_shape(tensor, images))

    def _head_shape(self, name: str, images: int) -> tuple[int, ...]:
        return head_shape(name, self.facts.joints, (images, self.height, self.width))

    # decoding

    def _dims(self, config: DecodeConfig) -> Dims:
        width, height = self.batch.grid
        return Dims(
            images=self.filled,
            joints=self.facts.joints,
            dims=2 if self.flip else 1,
            coarse_height=self.height // 4,
            coarse_width=self.width // 4,
            fine_height=self.height // 2,
            fine_width=self.width // 2,
            height=height,
            width=width,
            max_people=config.max_people,
        )

    def _people_fields(self, config: DecodeConfig) -> list[tuple[str, str, tuple[int, ...]]]:
        dims = self._dims(self.facts.decode or config)
        buffers = (("count", table.COUNT), ("scores", table.SCORES), ("keypoints", table.KEYPOINTS))
        return [(name, one.dtype, one.shape(dims)) for name, one in (*buffers, ("tags", table.JOINT_TAGS))]

    def _decode(self, config: DecodeConfig) -> None:
        dims = self._dims(config)
        refs = {name: self._buffer(name, one, dims) for name, one in _SCRATCH.items()}
        refs |= {name: self._part(part) for name, part in _RESULT_OF.items()}
        refs["skeleton"] = self._array(SKELETON, "int32", (2, self.facts.joints), "constant")
        refs |= self._head_refs()
        values = table.scalar_values(dims, config, half=self.facts.outputs["fine"] == "float16")
        self._launch("decode", table.AGGREGATE_FLIP if self.flip else table.AGGREGATE, dims, refs, values)
        self._launch("decode", table.PEAKS, dims, refs, values)
        keypoints = self._buffer("grouped", table.GROUPED, dims) if config.refine else refs["keypoints"]
        memory = self._buffer("group_memory", table.GROUP_MEMORY, dims)
        self._launch("decode", table.GROUP, dims, refs | {"keypoints": keypoints, "memory": memory}, values)
        if config.refine:
            self._launch("decode", table.REFINE, dims, refs | {"grouped": keypoints}, values)

    def _head_refs(self) -> dict[str, Ref]:
        if not self.joined:
            return {name: Ref(name) for name in HEADS if name in self.arrays}
        halves = {name: Ref(name, self.arrays[name].nbytes // 2) for name in ("coarse", "fine")}
        return {"coarse": Ref("coarse"), "fine": Ref("fine"), **{f"{name}_flipped": r for name, r in halves.items()}}

    def _part(self, name: str) -> Ref:
        return Ref(RESULT, self.result[name].offset)

    def _buffer(self, name: str, buffer: Buffer, dims: Dims) -> Ref:
        assert buffer.dtype != "heads"
        return self._array(name, buffer.dtype, buffer.shape(dims))

    def _launch(
        self,
        stream: Stream,
        kernel: Kernel,
        dims: Dims,
        refs: Mapping[str, Ref],
        values: Mapping[str, int] | None = None,
    ) -> None:
        if values is None:
            values = {name: getattr(dims, name) for name in kernel.scalars}
        arguments = tuple(refs[name] if name in refs else int(values[name]) for name in kernel.arguments)
        self.ops.append(Launch(stream, kernel.name, kernel.grid(dims), arguments))


_SCRATCH: dict[str, Buffer] = {
    **{one.name: one for one in (table.HEAT, table.TAGS, table.CELLS, table.UNUSABLE, table.PERSON_TAGS)},
    **{one.name: one for one in (table.VALUE, table.INDEX, table.TAG, table.BOUNDS, table.TILE_TAGS, table.LIVE)},
}


def mirror_matrix(width: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The inverse matrix (6,) that reads column W-1-x at x."""
    return np.array([-1, 0, width - 1, 0, 1, 0], np.float64)


def inverse_affine(forward: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[float]:
    """The inverse of a (2, 3) matrix, operation by operation as ``cv::warpAffine`` and ``csrc/warp.h`` invert it."""
    m = [float(value) for value in forward.reshape(-1)]
    determinant = m[0] * m[4] - m[1] * m[3]
    determinant = 1.0 / determinant if determinant != 0.0 else 0.0
    a, d = m[4] * determinant, m[0] * determinant
    b, c = m[1] * -determinant, m[3] * -determinant
    return [a, b, -a * m[2] - b * m[5], c, d, -c * m[2] - d * m[5]]
