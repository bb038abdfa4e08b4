"""A batch of one shape as a CUDA graph: copy, mirroring, network and decoding are one call of the host."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import People
from hhrnet_deploy.targets.cuda_errors import CudaError, without_frames
from hhrnet_deploy.targets.cuda_facts import Batch
from hhrnet_deploy.targets.cuda_graphs import Graph, capture
from hhrnet_deploy.targets.cuda_ops import on_one_stream
from hhrnet_deploy.targets.cuda_people import grid_of
from hhrnet_deploy.targets.cuda_pipeline import Contexts, fill, result_views
from hhrnet_deploy.targets.cuda_pipeline import Pixels as BatchPixels
from hhrnet_deploy.targets.cuda_plan import HOST_INPUT, HOST_RESULT, BatchPlan, plan_batch
from hhrnet_deploy.targets.cuda_runner import CudaRunner
from hhrnet_deploy.targets.cuda_slots import Slot
from hhrnet_deploy.targets.runner import Size
from hhrnet_deploy.targets.trt_engine import PlanContext


class GraphRun:
    """One shape of an open `CudaRunner`, with memory and execution context of its own.

    ``with GraphRun(runner, count=1, size=(704, 512)) as graph: graph.images[:] = ...; graph.launch(); graph.people()``.
    Used by one thread at a time.
    """

    def __init__(self, runner: CudaRunner, count: int, size: Size, config: DecodeConfig | None = None) -> None:
        """Nothing is captured yet.

        Args:
            runner: open, and open until this is closed.
            count: N.
            size: (W, H) of the network input.
            config: as `CudaRunner.people`.

        Raises:
            InputError: an engine with normalised input, which the host would have to make anew each time.
        """
        if runner.info.input != "uint8":
            raise InputError(
                f"{runner.info.name} takes normalised images; a graph takes pixels.",
                hint="Build it from a graph that was exported without --input float.",
            )
        self._runner = runner
        self._config = runner.settings(config or DecodeConfig())
        self._batch = Batch(count, size, "host", grid_of(size, None, self._config), self._config)
        self._plan: BatchPlan
        self._slot: Slot
        self._contexts: dict[int, PlanContext] = {}
        self._graph: Graph | None = None
        self._stream: Any = None

    def __enter__(self) -> Self:
        """Run the batch once, then capture it.

        Raises:
            InputError: the engine was not built for it.
            CudaError: no memory, or TensorRT does something that a graph cannot hold.
        """
        pipeline = self._runner.session.pipeline
        self._plan = plan_batch(pipeline.engine.facts, self._batch)
        with pipeline.issuing, without_frames(), pipeline.driver.current(f"capturing {self._runner.info.name}"):
            self._slot = Slot(pipeline.driver)
            try:
                self._capture()
            except BaseException:
                self._free()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pipeline = self._runner.session.pipeline
        with pipeline.issuing, without_frames(), pipeline.driver.current("closing a graph"):
            self._free()

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """The pinned input, (N, H, W, 3) uint8: write warped pixels here, while no run is under way."""
        view: npt.NDArray[np.uint8] = self._slot.host_array(self._plan, HOST_INPUT)
        return view[: self._batch.count]

    def launch(self) -> None:
        """Start the graph; returns at once.

        Raises:
            CudaError: CUDA refuses.
        """
        pipeline = self._runner.session.pipeline
        # The stream is the pipeline's: while another thread captures, nothing else may go into it.
        with pipeline.issuing, pipeline.driver.current("running a graph"):
            assert self._graph is not None
            self._graph.launch(self._stream.handle)
            self._slot.events["done"].record(self._stream)

    def people(self) -> list[People]:
        """Wait for the last launch and read its people.

        Raises:
            CudaError: something in it failed on the card.
            HHRNetError: the network returned NaN or infinity.
        """
        read = self._runner.reader(self._batch.count, self._config)
        with self._runner.session.driver.current("waiting for a graph"):
            self._slot.events["done"].synchronize()
            return read(result_views(self._plan, self._slot.host(self._plan, HOST_RESULT)))

    def _capture(self) -> None:
        pipeline = self._runner.session.pipeline
        plan, slot = self._plan, self._slot
        slot.make_room(plan, pipeline.engine.facts, self._batch)
        self._stream = pipeline.streams["network"]
        runs = Contexts(pipeline.engine, self._contexts, self._stream.handle)
        ops = on_one_stream(plan.ops)
        count, (width, height) = self._batch.count, self._batch.size
        fill(slot, plan, self._batch, BatchPixels(np.zeros((count, height, width, 3), np.uint8)))
        others = pipeline.constants(self._batch)
        # TensorRT does work in the first run of a shape that cannot be captured.
        pipeline.issue(ops, plan, slot, others, runs)
        self._stream.synchronize()
        if not all(context.is_capturable(self._stream.handle) for context in self._contexts.values()):
            raise CudaError(
                f"{self._runner.info.name} cannot be captured for {count} images of {width}x{height}: TensorRT "
                "allocates memory while it runs them.",
                hint="Build it for smaller sizes (--shapes, --max-batch), or use people() or submit().",
            )
        self._graph = capture(self._stream.handle, lambda: pipeline.issue(ops, plan, slot, others, runs))

    def _free(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
        try:
            if self._graph is not None:
                self._graph.close()
        except CudaError:
            pass
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()
        self._graph = self._stream = None
        self._slot.close()
