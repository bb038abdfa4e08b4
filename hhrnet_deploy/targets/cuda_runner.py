"""Runs a TensorRT or TensorRT-RTX plan with pycuda: images in, people out, the heads never leave the card."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.people import People
from hhrnet_deploy.targets.cuda_facts import Batch
from hhrnet_deploy.targets.cuda_people import UnusableHeadsError, check_baked, grid_of, heads_of, people_of
from hhrnet_deploy.targets.cuda_photos import PhotoBatch, photo_batches
from hhrnet_deploy.targets.cuda_pipeline import Pixels, Result, Ticket
from hhrnet_deploy.targets.cuda_pixels import DevicePixels, is_on_card, read_pixels
from hhrnet_deploy.targets.cuda_session import Opening, Session
from hhrnet_deploy.targets.runner import Decoder, Images, Runner, RunnerInfo, Size


class CudaRunner(Runner):
    """An engine on the first visible card.

    Several scales and the NumPy decoder take the heads to the host; everything else is decoded on the card. Images may
    be on the card already (DLPack, ``__cuda_array_interface__``).
    """

    def __init__(self, info: RunnerInfo, opening: Opening) -> None:
        super().__init__(info)
        self._opening = opening
        self._session: Session | None = None
        self._collector: ThreadPoolExecutor | None = None

    def _open(self) -> None:
        self._session = Session(self._opening)
        self._collector = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hhrnet-people")

    def _close(self) -> None:
        if self._collector is not None:
            self._collector.shutdown(wait=True)
        session, self._session, self._collector = self._session, None, None
        if session is not None:
            session.close()

    def _run(self, images: Images) -> Heads:
        pipeline = self.session.pipeline
        ticket = pipeline.start(Batch(len(images), _size(images.shape)), Pixels(images))
        return pipeline.finish(ticket, heads_of)

    @property
    def session(self) -> Session:
        """What is open on the card.

        Raises:
            InputError: the runner is not open.
        """
        self._opened()
        assert self._session is not None
        return self._session

    def people(
        self, images: Any, config: DecodeConfig | None = None, *, size: Size | None = None, decoder: Decoder = "native"
    ) -> list[People]:
        """As `Runner.people`; decoded on the card, except several scales and ``decoder="reference"``.

        Raises:
            InputError: as `Runner.people`; for an engine that decodes itself, settings other than its own.
            CudaError: the card failed, or has no memory left.
        """
        one = self._single(images)
        if one is None or (decoder != "native" and self.info.outputs == "heads"):
            self._refuse_scales(images)
            return super().people(images, config, size=size, decoder=decoder)
        ticket, read = self._begin(self._taken(one), config, size, decoder)
        return self.session.pipeline.finish(ticket, read)

    def submit(
        self, images: Any, config: DecodeConfig | None = None, *, size: Size | None = None, decoder: Decoder = "native"
    ) -> Future[list[People]]:
        """As `Runner.submit`; a batch is enqueued while the card works on the one before it.

        Pixels on the card are read after what the calling thread's current stream has been given so far.

        Raises:
            InputError: as `Runner.submit`; pixels on the card that are not dense uint8.
        """
        one = self._single(images)
        if one is None or (decoder != "native" and self.info.outputs == "heads"):
            return super().submit(images, config, size=size, decoder=decoder)
        worker = self._opened()
        pixels = self._taken(one)
        self._slots.acquire()
        answer: Future[list[People]] = Future()
        answer.add_done_callback(lambda _: self._slots.release())
        try:
            enqueued = worker.submit(self._enqueue, answer, lambda: self._begin(pixels, config, size, decoder))
        except BaseException:
            answer.cancel()
            raise
        enqueued.add_done_callback(lambda done: answer.cancel() if done.cancelled() else None)
        return answer

    def people_in_photos(self, photos: Sequence[Any], config: InferenceConfig | None = None) -> list[People]:
        """The people of photos of any sizes, in photo pixels and in the photos' order; the card warps them.

        Args:
            photos: (H, W, 3) uint8 RGB arrays, in host memory or on the card.
            config: short side and decode settings; one scale.

        Raises:
            InputError: another shape or type, several scales, or a size that the engine does not take.
            CudaError: the card failed, or has no memory left.
        """
        config = config or InferenceConfig(short_side=self.info.short_side)
        decode = self.settings(config.decode)
        pipeline = self.session.pipeline
        answers: dict[int, People] = {}
        running: deque[tuple[PhotoBatch, Ticket]] = deque()
        stream = pipeline.streams["upload"].handle
        try:
            for batch in photo_batches(self, photos, config.model_copy(update={"decode": decode}), stream):
                pixels = batch.pixels()
                ticket = pipeline.start_now(batch.batch, pixels)
                while ticket is None and running:
                    self._collect(running.popleft(), decode, answers)
                    ticket = pipeline.start_now(batch.batch, pixels)
                running.append((batch, ticket or pipeline.start(batch.batch, pixels)))
            while running:
                self._collect(running.popleft(), decode, answers)
        finally:
            for _, ticket in running:  # after an error
                pipeline.drop(ticket)
        return [answers[number] for number in range(len(photos))]

    def _collect(self, started: tuple[PhotoBatch, Ticket], config: DecodeConfig, answers: dict[int, People]) -> None:
        batch, ticket = started
        found = self.session.pipeline.finish(ticket, self.reader(batch.batch.count, config))
        for number, warp, people in zip(batch.numbers, batch.warps, found, strict=True):
            answers[number] = warp.to_image(people, batch.batch.grid)

    def _enqueue(self, answer: Future[list[People]], begin: Callable[[], tuple[Ticket, Reader]]) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            ticket, read = begin()
            assert self._collector is not None
            self._collector.submit(self._answer, answer, ticket, read)
        except BaseException as error:
            answer.set_exception(error)

    def _answer(self, answer: Future[list[People]], ticket: Ticket, read: Reader) -> None:
        try:
            assert self._session is not None
            answer.set_result(self._session.pipeline.finish(ticket, read))
        except BaseException as error:
            answer.set_exception(error)

    def _taken(self, images: Any) -> Any:
        """`DevicePixels` of what is on the card, anything else as it is.

        For the calling thread: DLPack makes the upload stream wait for the stream that is current in this thread.
        """
        if not is_on_card(images):
            return images
        self._need_uint8()
        return read_pixels(images, self.session.pipeline.streams["upload"].handle)

    def _begin(
        self, images: Any, config: DecodeConfig | None, size: Size | None, decoder: Decoder
    ) -> tuple[Ticket, Reader]:
        pipeline = self.session.pipeline
        settings = self.settings(config or DecodeConfig())
        if self.info.outputs == "people" and decoder != "native":
            raise InputError(
                f"{self.info.name} decodes inside the engine; the decoder {decoder} was asked for.",
                hint="Leave --decoder out, or build an engine with heads as outputs.",
            )
        if isinstance(images, DevicePixels):
            self._check_shape(images.shape, "uint8")
            pixels = Pixels(addresses=(images.address,), streams=(images.stream,), owners=(images.owner,))
            batch = self._batch(images.shape, size, settings, "device")
        else:
            array = self._check(images)
            pixels, batch = Pixels(array), self._batch(array.shape, size, settings, "host")
        return pipeline.start(batch, pixels), self.reader(batch.count, settings)

    def _batch(self, shape: tuple[int, ...], size: Size | None, config: DecodeConfig, source: Any) -> Batch:
        grid = grid_of(_size(shape), size, config)
        if self.info.outputs == "people" and grid != grid_of(_size(shape), None, config):
            raise InputError(
                f"{self.info.name} gives coordinates in pixels of its input, {_size(shape)}; size {size} was asked for."
            )
        return Batch(shape[0], _size(shape), source, grid, config)

    def reader(self, count: int, config: DecodeConfig) -> Reader:
        """What makes People of the result of ``count`` images."""

        def read(result: Result) -> list[People]:
            try:
                return people_of(result, count, config.max_output)
            except UnusableHeadsError:
                raise self._not_finite("a head") from None

        return read

    def settings(self, config: DecodeConfig) -> DecodeConfig:
        """With a skeleton, and refused where the engine decodes otherwise."""
        if self.info.outputs == "people" and self.info.decode is not None:
            check_baked(self.info.name, self.info.decode, config)
        skeleton = config.skeleton or self.info.skeleton
        if skeleton.num_joints != self.info.skeleton.num_joints:
            raise InputError(
                f"Skeleton {skeleton.name} has {skeleton.num_joints} joints, {self.info.name} has "
                f"{self.info.skeleton.num_joints}."
            )
        return config.model_copy(update={"skeleton": skeleton})

    def _single(self, images: Any) -> Any | None:
        """The images, when they are of one scale."""
        if not (isinstance(images, Sequence) and not isinstance(images, str | bytes)):
            return images
        alone = len(images) == 1 and isinstance(images[0], Sequence) and len(images[0]) == 2
        return images[0][1] if alone else None

    def _refuse_scales(self, images: Any) -> None:
        if self.info.outputs == "people" and isinstance(images, Sequence) and len(images) > 1:
            raise InputError(
                f"{self.info.name} decodes inside the engine, one scale at a time; {len(images)} scales were asked.",
                hint="Leave --scales out, or build an engine with heads as outputs.",
            )

    def _need_uint8(self) -> None:
        if self.info.input != "uint8":
            raise InputError(
                f"{self.info.name} takes normalised images, which the host makes; the pixels are on the card.",
                hint="Build it from a graph that was exported without --input float, or send the pixels from the host.",
            )


Reader = Callable[[Result], list[People]]


def _size(shape: tuple[int, ...]) -> Size:
    return int(shape[2]), int(shape[1])
