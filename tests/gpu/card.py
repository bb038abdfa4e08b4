"""The kernels alone on a card, as the runtime plans and issues them: heads in, people out; photos in, inputs out.

Nothing here needs a GPU by itself: given a simulated card, it runs there.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.data.warp import Warp
from hhrnet_deploy.decode.kernel_files import fatbin_file
from hhrnet_deploy.decode.native import load_native
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import default_skeleton
from hhrnet_deploy.targets.cuda_driver import Driver, open_driver
from hhrnet_deploy.targets.cuda_facts import Batch, EngineFacts, Photo, Range
from hhrnet_deploy.targets.cuda_memory import side_by_side
from hhrnet_deploy.targets.cuda_ops import Launch, Op, Ref, Wait
from hhrnet_deploy.targets.cuda_people import people_of
from hhrnet_deploy.targets.cuda_pipeline import Contexts, Pipeline, Pixels, fill, result_views
from hhrnet_deploy.targets.cuda_plan import HOST_RESULT, INPUT, BatchPlan, inverse_affine, plan_batch
from hhrnet_deploy.targets.cuda_slots import Slot


def warped_as_opencv_4(warp: Warp, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What ``warp.apply`` gives with OpenCV 4: a machine with a card may have OpenCV 5, which rounds differently."""
    return np.asarray(load_native().warp(photo, warp.matrix.reshape(-1).tolist(), *warp.size), np.uint8)


def facts_for(heads: Heads) -> EngineFacts:
    """An engine that would return these heads."""
    height, width = (2 * side for side in heads.fine.shape[2:])
    shape = (heads.batch, height, width)
    outputs = {name: str(value.dtype) for name, value in heads.named()}
    return EngineFacts("heads", heads.num_joints, "uint8", outputs, (Range(shape, shape),))


class Card:
    """A pipeline without an engine. Made and used with ``with driver.current(...)`` inside."""

    def __init__(self, driver: Driver | None = None) -> None:
        self.driver = driver or open_driver()
        with self.driver.current("opening the tests"):
            self.kernels = self.driver.kernels(fatbin_file())
            engine: Any = SimpleNamespace(facts=None)
            self.pipeline = Pipeline(self.driver, engine, self.kernels)

    def close(self) -> None:
        with self.driver.current("closing the tests"):
            self.pipeline.close()
            self.kernels.close()

    def decode(self, heads: Heads, config: DecodeConfig, size: tuple[int, int] | None = None) -> list[People]:
        """The people that the kernels find."""
        with self.driver.current("decoding"), Decoding(self, heads, config, size) as decoding:
            decoding.issue()
            decoding.wait()
            return decoding.people()

    def warp(
        self, photos: Sequence[npt.NDArray[np.uint8]], matrices: Sequence[Any], size: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        """(N, H, W, 3) that the kernel makes of photos of any sizes."""
        shape = (len(photos), size[1], size[0])
        facts = EngineFacts("warp", 17, "uint8", {"coarse": "float32", "fine": "float32"}, (Range(shape, shape),))
        batch = Batch(len(photos), size, tuple(Photo((one.shape[1], one.shape[0])) for one in photos))
        plan = plan_batch(facts, batch)
        pixels = Pixels(photos=tuple(photos), inverses=np.array([inverse_affine(one) for one in matrices]))
        with self.driver.current("warping"):
            slot = Slot(self.driver)
            slot.make_room(plan, facts, batch)
            fill(slot, plan, batch, pixels)
            self.issue([op for op in plan.ops if op.stream == "upload"], plan, slot, {})
            self.pipeline.streams["upload"].synchronize()
            made = np.empty(plan.arrays[INPUT].shape, np.uint8)
            start = slot.address(plan, Ref(INPUT), {})
            self.driver.cuda.memcpy_dtoh(made, start)
            slot.close()
        return made

    def issue(self, ops: Sequence[Op], plan: BatchPlan, slot: Slot, others: dict[str, int]) -> None:
        unused: Any = None
        self.pipeline.issue(ops, plan, slot, others, Contexts(unused, {}, 0))


class Decoding:
    """Heads that lie on the card, and what decodes them."""

    def __init__(self, card: Card, heads: Heads, config: DecodeConfig, size: tuple[int, int] | None = None) -> None:
        skeleton = config.skeleton or default_skeleton(heads.num_joints)
        if config.flip and not heads.has_flip:
            config = config.model_copy(update={"flip": False})
        self.config = config.model_copy(update={"skeleton": skeleton})
        self.card, self.heads = card, heads
        self.facts = facts_for(heads)
        height, width = (2 * side for side in heads.fine.shape[2:])
        grid = (size or (width, height)) if config.project else (width // 2, height // 2)
        self.batch = Batch(heads.batch, (width, height), "host", grid, self.config)
        self.plan = apart(plan_batch(self.facts, self.batch))
        self.launches = [op for op in self.plan.ops if op.stream == "decode" and isinstance(op, Launch)]
        self.after = [op for op in self.plan.ops if op.stream == "decode" and not isinstance(op, Launch | Wait)]

    def __enter__(self) -> Decoding:
        self.slot = Slot(self.card.driver)
        self.slot.make_room(self.plan, self.facts, self.batch)
        self.others = self.card.pipeline.constants(self.batch)
        for name, value in self.heads.named():
            address = self.slot.address(self.plan, Ref(name), self.others)
            self.card.driver.write(address, np.ascontiguousarray(value))
        return self

    def __exit__(self, *_: object) -> None:
        self.slot.close()

    def issue(self, ops: Sequence[Op] | None = None) -> None:
        """Enqueue the kernels and the copy of the result."""
        self.card.issue([*self.launches, *self.after] if ops is None else ops, self.plan, self.slot, self.others)

    def wait(self) -> None:
        self.slot.events["done"].synchronize()

    def people(self) -> list[People]:
        views = result_views(self.plan, self.slot.host(self.plan, HOST_RESULT))
        return people_of(views, self.batch.count, self.config.max_output)


def apart(plan: BatchPlan) -> BatchPlan:
    """The plan with every array in a place of its own: heads stay as they are from one decoding to the next."""
    plan.__dict__["device"] = side_by_side([one for one in plan.arrays.values() if one.space == "device"])
    return plan
