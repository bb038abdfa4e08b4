"""The memory of one batch: a block on the card and a pinned block, both of which only grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.targets.cuda_driver import Driver
from hhrnet_deploy.targets.cuda_errors import out_of_memory
from hhrnet_deploy.targets.cuda_facts import Batch, EngineFacts
from hhrnet_deploy.targets.cuda_ops import EVENTS, Event, Ref
from hhrnet_deploy.targets.cuda_plan import BatchPlan, largest_batch


class Slot:
    """Memory and events that one batch at a time occupies. All methods need the card's context."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._device: Any = None
        self._device_bytes = 0
        self._pinned: npt.NDArray[np.uint8] | None = None
        self.events: dict[Event, Any] = {name: driver.event() for name in EVENTS}

    @property
    def device_bytes(self) -> int:
        """What it holds on the card."""
        return self._device_bytes

    def make_room(self, plan: BatchPlan, facts: EngineFacts, batch: Batch) -> None:
        """Have at least the memory of ``plan``.

        Raises:
            CudaMemoryError: says what was asked for and how many images would fit.
        """
        if plan.device.nbytes > self._device_bytes:
            self._grow(plan.device.nbytes, facts, batch)
        if self._pinned is None or plan.host.nbytes > self._pinned.nbytes:
            self._unpin()
            # Photos differ a little in size, and page-locking takes milliseconds.
            self._pinned = self._driver.pinned(plan.host.nbytes + plan.host.nbytes // 4)

    def address(self, plan: BatchPlan, ref: Ref, others: Mapping[str, int]) -> int:
        """Of a place on the card; ``others`` are the constants and the arrays of the caller."""
        if ref.array in others:
            return others[ref.array] + ref.offset
        return int(self._device) + plan.device.offsets[ref.array] + ref.offset

    def host(self, plan: BatchPlan, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a pinned array, as a view."""
        assert self._pinned is not None
        start = plan.host.offsets[name]
        return self._pinned[start : start + plan.arrays[name].nbytes]

    def host_array(self, plan: BatchPlan, name: str) -> npt.NDArray[Any]:
        """A pinned array, as a view of its type and shape."""
        array = plan.arrays[name]
        return self.host(plan, name).view(array.dtype).reshape(array.shape)

    def close(self) -> None:
        """Give everything back."""
        if self._device is not None:
            self._device.free()
        self._device, self._device_bytes = None, 0
        self._unpin()
        self.events.clear()

    def _grow(self, nbytes: int, facts: EngineFacts, batch: Batch) -> None:
        held = self._device_bytes
        if self._device is not None:
            self._device.free()
        self._device, self._device_bytes = None, 0
        try:
            self._device = self._driver.allocate(nbytes)
        except self._driver.cuda.MemoryError:
            failure = self._no_room(nbytes, held, facts, batch)
        else:
            self._device_bytes = nbytes
            return
        raise failure

    def _no_room(self, nbytes: int, held: int, facts: EngineFacts, batch: Batch) -> Exception:
        free, total = self._driver.memory()
        width, height = batch.size
        what = f"{batch.count} images of {width}x{height} in {facts.name}"
        # The other slot grows later, from about what this one held.
        return out_of_memory(nbytes, what, free, total, largest_batch(facts, batch, free + held))

    def _unpin(self) -> None:
        if self._pinned is not None:
            pinned, self._pinned = self._pinned, None
            self._driver.unpin(pinned)
