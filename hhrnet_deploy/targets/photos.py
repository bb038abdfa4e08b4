"""Photos of any sizes through a runner: read and warped in threads, batched by shape, answered in input order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.people import People
from hhrnet_deploy.targets.runner import MULTIPLE, Decoder, Runner, Size

if TYPE_CHECKING:
    from hhrnet_deploy.data.warp import MultiScaleWarp

Pixels = npt.NDArray[np.uint8]
Photo = str | os.PathLike[str] | Pixels
Key = TypeVar("Key", bound=Hashable)

_WINDOW_BYTES = 256 << 20  # of pixels held, warped and given, while waiting for photos of the same shape
_ENGINE_QUEUE = 2  # batches with the engine: one running, one ready
_DEFAULT_WORKERS = 2


@dataclass(frozen=True)
class PhotoPeople(Generic[Key]):
    """The people of one photo.

    Attributes:
        key: what the caller named the photo.
        people: keypoints in pixels of the photo.
        photo_size: (W, H) of the photo.
        network_size: (W, H) of the network input at scale 1.
        network_scale: pixels of the network input per pixel of the photo.
    """

    key: Key
    people: People
    photo_size: Size
    network_size: Size
    network_scale: float


@dataclass(frozen=True)
class _Prepared(Generic[Key]):
    number: int
    key: Key
    name: str
    photo_size: Size
    plan: MultiScaleWarp
    inputs: tuple[tuple[float, Pixels], ...]
    given: int

    @property
    def shapes(self) -> tuple[object, ...]:
        return self.plan.size, *(pixels.shape for _, pixels in self.inputs)

    @property
    def nbytes(self) -> int:
        return self.given + sum(pixels.nbytes for _, pixels in self.inputs)


def plan_photo(config: InferenceConfig, photo_size: Size) -> MultiScaleWarp:
    """The warps of a photo of (W, H) pixels at every scale of ``config``.

    Raises:
        InputError: the network input would be longer than ``config.max_long_side``, or its sides at a scale no
            multiples of 32, which the network cannot take.
    """
    from hhrnet_deploy.data.warp import plan_scales

    plan = plan_scales(*photo_size, config.short_side, config.scales, max_long_side=config.max_long_side)
    for scale, warp in plan.warps:
        if any(side % MULTIPLE for side in warp.size):
            raise InputError(
                f"A photo of {photo_size[0]}x{photo_size[1]} becomes a network input of "
                f"{warp.size[0]}x{warp.size[1]} at scale {scale:g}; its sides have to be multiples of {MULTIPLE}.",
                hint="Take scales such as 0.5, 1 and 2.",
            )
    return plan


def check_fits(runner: Runner, config: InferenceConfig, photo_size: Size) -> None:
    """Say so when a fixed-size engine does not take what a photo of this size becomes.

    A fixed-size engine takes exactly the photos whose published input size (short side S, long side rounded up to
    64) is its own. Squeezing other photos in would be another protocol with another AP, so it is refused.

    Raises:
        InputError: names the photo's size, the network input it becomes, the engine's size and the remedy.
    """
    fixed = runner.info.fixed_size
    if fixed is None:
        return
    if len(config.scales) > 1:
        raise InputError(
            f"{runner.info.name} takes images of {fixed[0]}x{fixed[1]} only and cannot run several scales.",
            hint="Leave --scales out, or build an engine without --size, which takes any size.",
        )
    for _, warp in plan_photo(config, photo_size).warps:
        if warp.size != fixed:
            raise InputError(
                f"A photo of {photo_size[0]}x{photo_size[1]} becomes a network input of {warp.size[0]}x{warp.size[1]}, "
                f"but {runner.info.name} takes {fixed[0]}x{fixed[1]} only (width x height).",
                hint="Photos of mixed sizes need an engine built without --size, which takes any size."
                + ("" if config.short_side == min(fixed) else f" For those that fit this one: --size {min(fixed)}."),
            )


def predict_photos(
    runner: Runner,
    photos: Iterable[tuple[Key, Photo]],
    config: InferenceConfig,
    *,
    decoder: Decoder = "native",
    batch: int = 1,
    workers: int = _DEFAULT_WORKERS,
    exif: bool = False,
) -> Iterator[tuple[Key, People]]:
    """(key, people) of each photo, in input order, keypoints in photo pixels; otherwise as `stream_photos`."""
    for result in stream_photos(runner, photos, config, decoder=decoder, batch=batch, workers=workers, exif=exif):
        yield result.key, result.people


def stream_photos(
    runner: Runner,
    photos: Iterable[tuple[Key, Photo]],
    config: InferenceConfig,
    *,
    decoder: Decoder = "native",
    batch: int = 1,
    workers: int = _DEFAULT_WORKERS,
    exif: bool = False,
) -> Generator[PhotoPeople[Key], None, None]:
    """The people of each photo, in input order.

    Threads read and warp the next photos while the engine runs. Batches hold photos whose network inputs have the same
    shapes, taken from the next ``4 * batch`` photos; which photos share a batch depends on their order and shapes only,
    never on timing. Memory is bounded by that window, whatever the number of photos. After a photo that fails, the
    photos before it are still answered, then the error is raised. Closing the iterator stops the threads.

    Args:
        runner: an open runner.
        photos: (key, path) or (key, (H, W, 3) uint8 RGB array), drawn as needed.
        config: sizes, scales and decode settings; the skeleton defaults to the runner's.
        decoder: ``native`` or ``reference``.
        batch: most photos per batch; never more than the engine takes.
        workers: threads that read and warp.
        exif: turn photos as their EXIF orientation says; evaluation does not, as published.

    Raises:
        InputError: a photo cannot be read (named in the message), is too long or does not fit a fixed-size engine.
    """
    if batch < 1 or workers < 1:
        raise InputError(f"batch and workers have to be at least 1, got {batch} and {workers}.")
    most = min(batch, runner.info.max_batch or batch)
    return _Stream(runner, photos, config, decoder=decoder, batch=most, workers=workers, exif=exif).run()


class _Stream(Generic[Key]):
    """One pass over the photos: reading -> window -> engine -> reorder."""

    def __init__(
        self,
        runner: Runner,
        photos: Iterable[tuple[Key, Photo]],
        config: InferenceConfig,
        *,
        decoder: Decoder,
        batch: int,
        workers: int,
        exif: bool,
    ) -> None:
        self._runner = runner
        self._photos = enumerate(photos)
        self._config = config
        self._decoder: Decoder = decoder
        self._batch = batch
        self._exif = exif
        self._window = 1 if batch == 1 else 4 * batch
        self._ahead = 2 * workers
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="hhrnet-photos")
        self._reading: deque[Future[_Prepared[Key]]] = deque()
        self._waiting: list[_Prepared[Key]] = []
        self._running: deque[tuple[list[_Prepared[Key]], Future[list[People]]]] = deque()
        self._answered: dict[int, PhotoPeople[Key]] = {}
        self._exhausted = False
        self._failure: BaseException | None = None

    def run(self) -> Generator[PhotoPeople[Key], None, None]:
        following = 0
        try:
            while True:
                self._fill_engine()
                if not self._running:
                    break
                self._collect()
                while (result := self._answered.pop(following, None)) is not None:
                    following += 1
                    yield result
            if self._failure is not None:
                raise self._failure
        finally:
            self._stop()

    def _stop(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for _, future in self._running:
            future.cancel()

    def _fill_engine(self) -> None:
        while len(self._running) < _ENGINE_QUEUE:
            self._fill_window()
            if not self._waiting:
                return
            group = self._take_group()
            try:
                self._running.append((group, self._submit(group)))
            except HHRNetError as error:
                self._fail(_naming(error, _names(group)))

    def _fill_window(self) -> None:
        """Wait for photos, in input order, until the window is full; keep the readers busy meanwhile."""
        while len(self._waiting) < self._window and sum(p.nbytes for p in self._waiting) < _WINDOW_BYTES:
            self._read_ahead()
            if not self._reading:
                return
            try:
                self._waiting.append(self._reading.popleft().result())
            except Exception as error:
                self._fail(error)
                return
        self._read_ahead()

    def _read_ahead(self) -> None:
        while not self._exhausted and len(self._reading) < self._ahead:
            try:
                number, (key, photo) = next(self._photos)
            except StopIteration:
                self._exhausted = True
            except Exception as error:
                self._exhausted = True
                self._reading.append(_failed(error))
            else:
                self._reading.append(self._pool.submit(self._prepare, number, key, photo))

    def _fail(self, error: BaseException) -> None:
        """Take no photo after the one that failed; those before it are still answered."""
        if self._failure is None:
            self._failure = error
        self._exhausted = True
        for future in self._reading:
            future.cancel()
        self._reading.clear()

    def _take_group(self) -> list[_Prepared[Key]]:
        """The oldest photo and those of the same shapes behind it."""
        shapes = self._waiting[0].shapes
        group = [photo for photo in self._waiting if photo.shapes == shapes][: self._batch]
        taken = {photo.number for photo in group}
        self._waiting = [photo for photo in self._waiting if photo.number not in taken]
        return group

    def _submit(self, group: list[_Prepared[Key]]) -> Future[list[People]]:
        stacked = [
            (scale, np.stack([photo.inputs[number][1] for photo in group]))
            for number, (scale, _) in enumerate(group[0].inputs)
        ]
        return self._runner.submit(stacked, self._config.decode, size=group[0].plan.size, decoder=self._decoder)

    def _collect(self) -> None:
        group, future = self._running.popleft()
        try:
            people = future.result()
        except HHRNetError as error:
            self._fail(_naming(error, _names(group)))
            self._waiting.clear()
            return
        for photo, found in zip(group, people, strict=True):
            self._answered[photo.number] = self._answer(photo, found)

    def _answer(self, photo: _Prepared[Key], found: People) -> PhotoPeople[Key]:
        last = photo.plan.warps[-1][1]
        return PhotoPeople(
            key=photo.key,
            people=last.to_image(found, self._grid(photo.plan)),
            photo_size=photo.photo_size,
            network_size=photo.plan.size,
            network_scale=photo.plan.size[0] / last.span,
        )

    def _grid(self, plan: MultiScaleWarp) -> Size:
        """(W, H) of the grid that people come in: the network input, or unprojected the largest scale's fine head."""
        if self._config.decode.project:
            return plan.size
        width, height = plan.warps[0][1].size
        return width // 2, height // 2

    def _prepare(self, number: int, key: Key, photo: Photo) -> _Prepared[Key]:
        name = str(key) if isinstance(photo, np.ndarray) else os.fspath(photo)
        try:
            pixels = _pixels(photo, exif=self._exif)
            photo_size = (pixels.shape[1], pixels.shape[0])
            check_fits(self._runner, self._config, photo_size)
            plan = plan_photo(self._config, photo_size)
            inputs = tuple((scale, warp.apply(pixels)) for scale, warp in plan.warps)
        except HHRNetError as error:
            raise _naming(error, name) from error
        except Exception as error:
            error.add_note(f"while reading photo {name}")
            raise
        given = photo.nbytes if isinstance(photo, np.ndarray) else 0
        return _Prepared(number, key, name, photo_size, plan, inputs, given)


def _pixels(photo: Photo, *, exif: bool) -> Pixels:
    if not isinstance(photo, np.ndarray):
        from hhrnet_deploy.data.images import read_image

        return read_image(Path(photo), exif=exif)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise InputError(f"Expected a photo (H, W, 3) uint8 RGB, got shape {photo.shape} of {photo.dtype}.")
    return photo


def _names(group: list[_Prepared[Key]]) -> str:
    return ", ".join(photo.name for photo in group)


def _naming(error: HHRNetError, name: str) -> HHRNetError:
    """The same error with the photo's name in its message."""
    if name in error.fact:
        return error
    named = type(error)(f"Photo {name}: {error.fact}", hint=error.hint)
    named.__cause__ = error
    return named


def _failed(error: BaseException) -> Future[_Prepared[Key]]:
    future: Future[_Prepared[Key]] = Future()
    future.set_exception(error)
    return future
