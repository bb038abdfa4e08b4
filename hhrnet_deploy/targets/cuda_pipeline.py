"""Runs planned batches: two in flight, three streams, no wait on the host until a result is asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.targets.cuda_driver import Driver, Kernels
from hhrnet_deploy.targets.cuda_errors import CudaError, clear_frames, without_frames
from hhrnet_deploy.targets.cuda_facts import Batch
from hhrnet_deploy.targets.cuda_graphs import wait_for_stream
from hhrnet_deploy.targets.cuda_ops import STREAMS, Copy, Infer, Launch, Op, Record, Ref, Stream, Wait
from hhrnet_deploy.targets.cuda_plan import (
    HOST_INPUT,
    HOST_RESULT,
    SKELETON,
    SLOTS,
    BatchPlan,
    mirror_matrix,
    plan_batch,
)
from hhrnet_deploy.targets.cuda_slots import Slot
from hhrnet_deploy.targets.normalize import normalize
from hhrnet_deploy.targets.trt_engine import PlanContext, PlanEngine

Result = dict[str, npt.NDArray[Any]]
Read = TypeVar("Read")
_READING = 5.0  # seconds
_PLANS = 64  # the plans used last are kept; photos of ever new sizes make new ones


@dataclass(frozen=True)
class Pixels:
    """What a batch is made of.

    Attributes:
        images: warped pixels in host memory, (N, H, W, 3) uint8.
        photos: the photos in host memory, None for those on the card; (h, w, 3) uint8 each.
        inverses: (N, 6) float64, for photos.
        addresses: of what is on the card, in order.
        streams: handles of the streams that write it; None where nothing has to be waited for.
        owners: kept until the batch is done.
    """

    images: npt.NDArray[np.uint8] | None = None
    photos: tuple[npt.NDArray[np.uint8] | None, ...] = ()
    inverses: npt.NDArray[np.float64] | None = None
    addresses: tuple[int, ...] = ()
    streams: tuple[int | None, ...] = ()
    owners: tuple[object, ...] = ()


@dataclass
class Ticket:
    """A batch that was started."""

    number: int
    plan: BatchPlan
    pixels: Pixels | None = field(repr=False, default=None)


class Pipeline:
    """The slots, streams and contexts of one engine. Made and closed with the card's context current.

    `start` and `finish` may be called from any thread. Every ticket has to be finished: a slot is free again then, and
    `start` waits for one.
    """

    def __init__(self, driver: Driver, engine: PlanEngine, kernels: Kernels) -> None:
        """Nothing is allocated yet.

        Args:
            driver: the card.
            engine: what runs.
            kernels: of the launch table.
        """
        self.driver, self.engine, self.kernels = driver, engine, kernels
        self.streams: dict[Stream, Any] = {name: driver.stream() for name in STREAMS}
        self.contexts: dict[int, PlanContext] = {}
        self._slots = [Slot(driver) for _ in range(SLOTS)]
        self._busy = [False] * SLOTS
        self._changed = threading.Condition()
        self.issuing = threading.Lock()  # held while a batch is enqueued, or captured
        self._plans: OrderedDict[Batch, BatchPlan] = OrderedDict()
        self._skeletons: dict[bytes, Any] = {}

    def constants(self, batch: Batch) -> dict[str, int]:
        """Addresses of what batches share: the flip index and the order of grouping."""
        skeleton = None if batch.config is None else batch.config.skeleton
        if skeleton is None:
            return {}
        rows = np.array([skeleton.flip_index, skeleton.grouping_order], np.int32)
        if rows.tobytes() not in self._skeletons:
            made = self.driver.allocate(rows.nbytes)
            self.driver.write(int(made), rows)
            self._skeletons[rows.tobytes()] = made
        return {SKELETON: int(self._skeletons[rows.tobytes()])}

    def start(self, batch: Batch, pixels: Pixels) -> Ticket:
        """Stage and enqueue a batch; waits on the host only for a free slot.

        A thread that holds tickets of its own may wait for itself here: it calls `start_now`.

        Raises:
            InputError: the engine was not built for it.
            CudaError: memory, a launch or the network failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: not all(self._busy))
            number = self._take()
        return self._issue(number, batch, pixels)

    def start_now(self, batch: Batch, pixels: Pixels) -> Ticket | None:
        """As `start`; None when no slot is free."""
        with self._changed:
            if all(self._busy):
                return None
            number = self._take()
        return self._issue(number, batch, pixels)

    def finish(self, ticket: Ticket, read: Callable[[Result], Read]) -> Read:
        """Wait for a batch and read its result; its slot is free again.

        Args:
            ticket: from `start`.
            read: called with views into pinned memory, which the next batch overwrites: it has to copy what it keeps.

        Raises:
            CudaError: something in it failed on the card.
        """
        slot = self._slots[ticket.number]
        try:
            with without_frames(), self.driver.current(f"waiting for {self.engine.facts.name}"):
                slot.events["done"].synchronize()
                return read(result_views(ticket.plan, slot.host(ticket.plan, HOST_RESULT)))
        finally:
            ticket.pixels = None
            self._release(ticket.number)

    def drop(self, ticket: Ticket) -> None:
        """Finish a batch whose result nobody wants any more."""
        with suppress(CudaError):
            self.finish(ticket, lambda _: None)

    def issue(self, ops: Iterable[Op], plan: BatchPlan, slot: Slot, others: Mapping[str, int], runs: Contexts) -> None:
        """Enqueue operations, in order."""
        for op in ops:
            stream = self.streams[op.stream]
            match op:
                case Wait():
                    stream.wait_for_event(slot.events[op.event])
                case Record():
                    slot.events[op.event].record(stream)
                case Copy():
                    self._copy(op, plan, slot, others, stream)
                case Launch():
                    words = [slot.address(plan, one, others) if isinstance(one, Ref) else one for one in op.arguments]
                    self.kernels.launch(op.kernel, op.grid, words, stream)
                case Infer():
                    tensors = {name: slot.address(plan, ref, others) for name, ref in (*op.inputs, *op.outputs)}
                    runs.of(op.profile).enqueue(op, tensors, stream.handle)

    def close(self) -> None:
        """Wait for the card, then free everything; kernels and engine stay the caller's."""
        try:
            for stream in self.streams.values():
                stream.synchronize()
            with self._changed:  # a thread may still be reading a result; a ticket that was lost is not waited for
                self._changed.wait_for(lambda: not any(self._busy), _READING)
        finally:
            for context in self.contexts.values():
                context.close()
            self.contexts.clear()
            for slot in self._slots:
                slot.close()
            for skeleton in self._skeletons.values():
                skeleton.free()
            self._skeletons.clear()
            self.streams.clear()
            self._plans.clear()

    def _issue(self, number: int, batch: Batch, pixels: Pixels) -> Ticket:
        try:
            # Batches are enqueued whole, one after the other.
            with self.issuing, without_frames(), self.driver.current(f"running {self.engine.facts.name}"):
                plan = self._planned(batch)
                self._start(self._slots[number], plan, batch, pixels)
        except BaseException:
            self._abandon(number)
            raise
        return Ticket(number, plan, pixels)

    def _start(self, slot: Slot, plan: BatchPlan, batch: Batch, pixels: Pixels) -> None:
        slot.make_room(plan, self.engine.facts, batch)
        runs = Contexts(self.engine, self.contexts, self.streams["network"].handle)
        for op in plan.ops:
            if isinstance(op, Infer):
                runs.of(op.profile)  # made before anything is enqueued: it may need memory
        fill(slot, plan, batch, pixels)
        for handle in pixels.streams:
            if handle is not None:
                wait_for_stream(self.streams["upload"].handle, handle)
        others = self.constants(batch) | dict(zip(plan.given, pixels.addresses, strict=True))
        self.issue(plan.ops, plan, slot, others, runs)

    def _copy(self, op: Copy, plan: BatchPlan, slot: Slot, others: Mapping[str, int], stream: Any) -> None:
        source, target = plan.arrays[op.source.array], plan.arrays[op.target.array]
        if source.space == "host":
            self.driver.upload(slot.address(plan, op.target, others), slot.host(plan, source.name), stream)
        elif target.space == "host":
            self.driver.download(slot.host(plan, target.name), slot.address(plan, op.source, others), stream)
        else:
            addresses = (slot.address(plan, op.target, others), slot.address(plan, op.source, others))
            self.driver.copy(*addresses, op.nbytes, stream)

    def _planned(self, batch: Batch) -> BatchPlan:
        if batch not in self._plans:
            while len(self._plans) >= _PLANS:
                self._plans.popitem(last=False)
            self._plans[batch] = plan_batch(self.engine.facts, batch)
        self._plans.move_to_end(batch)
        return self._plans[batch]

    def _take(self) -> int:
        number = self._busy.index(False)
        self._busy[number] = True
        return number

    def _release(self, number: int) -> None:
        with self._changed:
            self._busy[number] = False
            self._changed.notify_all()

    def _abandon(self, number: int) -> None:
        """After a failure half-way: what was enqueued may still use the slot."""
        try:
            with self.issuing, self.driver.current("giving up a batch"):
                for stream in self.streams.values():
                    stream.synchronize()
        except CudaError as error:
            clear_frames(error)  # the first failure is the one that is reported
        self._release(number)


class Contexts:
    """Execution contexts by profile, made when first used."""

    def __init__(self, engine: PlanEngine, made: dict[int, PlanContext], stream: int) -> None:
        self._engine, self._made, self._stream = engine, made, stream

    def of(self, profile: int) -> PlanContext:
        """The context of a profile."""
        if profile not in self._made:
            self._made[profile] = self._engine.context(profile, self._stream)
        return self._made[profile]


def fill(slot: Slot, plan: BatchPlan, batch: Batch, pixels: Pixels) -> None:
    """Write the pinned input of a batch; images that a fixed engine runs beyond it repeat the last one."""
    if "host_mirror" in plan.arrays:
        slot.host_array(plan, "host_mirror")[:] = mirror_matrix(batch.size[0])
    if HOST_INPUT not in plan.arrays:
        return
    if pixels.images is None:
        _fill_photos(slot.host(plan, HOST_INPUT), plan, pixels)
        return
    array = slot.host_array(plan, HOST_INPUT)
    if array.dtype == np.uint8:
        _fill_images(array, pixels.images)
        return
    _fill_images(array[: plan.filled], normalize(pixels.images))
    if len(array) > plan.filled:
        _fill_images(array[plan.filled :], normalize(pixels.images[:, :, ::-1]))


def _fill_images(array: npt.NDArray[Any], images: npt.NDArray[Any]) -> None:
    array[: len(images)] = images
    array[len(images) :] = images[-1]


def _fill_photos(block: npt.NDArray[np.uint8], plan: BatchPlan, pixels: Pixels) -> None:
    assert pixels.inverses is not None
    block[: pixels.inverses.nbytes] = pixels.inverses.reshape(-1).view(np.uint8)
    for photo, offset in zip(pixels.photos, plan.photo_offsets, strict=True):
        if photo is not None and offset is not None:
            block[offset : offset + photo.nbytes].reshape(photo.shape)[:] = photo


def result_views(plan: BatchPlan, block: npt.NDArray[np.uint8]) -> Result:
    """The fields of a pinned result."""
    found: Result = {}
    for name, part in plan.result.items():
        size = prod(part.shape) * np.dtype(part.dtype).itemsize
        found[name] = block[part.offset : part.offset + size].view(part.dtype).reshape(part.shape)
    return found
