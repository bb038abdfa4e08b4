"""The one interface of everything that turns warped images into heads and people."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import HHRNetError, InputError, is_memory_full
from hhrnet_deploy.heads import Heads
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import Skeleton

Images = npt.NDArray[np.uint8]
Size = tuple[int, int]
Decoder = Literal["native", "reference"]

MULTIPLE = 32  # H and W of the network input; the deepest branch runs at 1/32
_QUEUE = 4  # batches that submit() takes before it blocks


@dataclass(frozen=True)
class RunnerInfo:
    """What a runner runs, known before anything heavy is loaded.

    Attributes:
        name: what reports call it: folder of the bundle, file of the model, ``default``.
        kind: ``engine``, or ``checkpoint`` for the PyTorch module itself.
        target: ``torch``, ``onnxruntime``, ``openvino``, ...
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        preset: name of the architecture's preset.
        skeleton: the joints, K of them.
        short_side: S, the short side of the network input that the model was made for, in pixels.
        fixed_size: (W, H) when the engine takes that size only, otherwise None.
        max_batch: the largest batch, None without a limit.
        fixed_batch: the engine runs exactly ``max_batch`` images; smaller batches are filled up with black ones.
        has_flip: the engine also returns the heads of the mirrored images.
        input: ``uint8`` when pixels go into the engine as they are, ``float`` when the runner normalises them.
        outputs: ``heads``, or ``people`` when decoding happens inside the engine.
        decode: the settings that an engine with people as outputs was built with.
    """

    name: str
    target: str
    precision: str
    preset: str
    skeleton: Skeleton
    short_side: int
    kind: Literal["engine", "checkpoint"] = "engine"
    fixed_size: Size | None = None
    max_batch: int | None = None
    fixed_batch: bool = False
    has_flip: bool = False
    input: Literal["uint8", "float"] = "uint8"
    outputs: Literal["heads", "people"] = "heads"
    decode: DecodeConfig | None = None


class Runner(ABC):
    """A network that can be run: ``with runner: runner.people(images)``.

    The constructor is pure; sessions and devices appear on enter and vanish on exit. Calls from several threads are
    allowed, they take turns.
    """

    def __init__(self, info: RunnerInfo) -> None:
        self.info = info
        self._lock = threading.Lock()
        self._worker: ThreadPoolExecutor | None = None
        self._slots = threading.BoundedSemaphore(_QUEUE)

    @abstractmethod
    def _open(self) -> None:
        """Load what running needs."""

    @abstractmethod
    def _close(self) -> None:
        """Release what ``_open`` made."""

    @abstractmethod
    def _run(self, images: Images) -> Heads:
        """The heads of checked images, (N, H, W, 3) uint8, contiguous; arrays that no later call changes."""

    def __enter__(self) -> Self:
        if self._worker is not None:
            raise InputError(f"The runner of {self.info.name} is already open.")
        self._open()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"hhrnet-{self.info.target}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is None:
            return
        # What was submitted is finished, unless an error ends the block.
        self._worker.shutdown(wait=True, cancel_futures=kind is not None)
        with self._lock:
            self._worker = None
            self._close()

    def heads(self, images: Any) -> Heads:
        """The network's raw outputs.

        Args:
            images: (N, H, W, 3) uint8 RGB, already warped; a NumPy array or anything on the host that speaks DLPack.

        Raises:
            InputError: not opened, another dtype or shape, sides no multiple of 32, a size or batch that the engine
                does not take, or an engine whose outputs are people.
            HHRNetError: the engine returned NaN or infinity, or memory is full.
        """
        if self.info.outputs == "people":
            raise InputError(
                f"{self.info.name} has people as outputs: its heads never leave the engine.",
                hint="Use people(), or build an engine with heads as outputs.",
            )
        return self._heads(self._check(images))

    def heads_with_flip(self, images: Any, flip: bool = True) -> Heads:
        """As `heads`, with the mirrored images' outputs, or without them, whatever the engine returns itself."""
        if self.info.outputs == "people":
            return self.heads(images)
        return self._with_flip(self._check(images), flip)

    def people(
        self,
        images: Any,
        config: DecodeConfig | None = None,
        *,
        size: Size | None = None,
        decoder: Decoder = "native",
    ) -> list[People]:
        """The people in each image, in pixels of the network input at scale 1.

        Args:
            images: (N, H, W, 3) uint8 RGB as for `heads`, or ``[(scale, images), ...]`` for the multi-scale test.
            config: thresholds and steps; its ``flip`` runs the mirrored images too when the engine does not, and
                ignores them when it does but is not asked to.
            size: (W, H) of the coordinates; default the size of the images at scale 1.
            decoder: ``native`` or ``reference``, which give the same people.

        Raises:
            InputError: as for `heads`; several scales on a fixed-size engine.
        """
        from hhrnet_deploy.decode import decode_heads

        config = config or DecodeConfig()
        if config.skeleton is None:
            config = config.model_copy(update={"skeleton": self.info.skeleton})
        scales = self._scales(images)
        if len(scales) > 1 and self.info.fixed_size is not None:
            raise InputError(
                f"{self.info.name} takes images of {_pixels(self.info.fixed_size)} only and cannot run several scales.",
                hint="Build an engine without --size, or leave --scales out.",
            )
        heads = [(scale, self._with_flip(batch, config.flip)) for scale, batch in scales]
        return decode_heads(heads, size=size or _base_size(scales), config=config, decoder=decoder)

    def submit(
        self,
        images: Any,
        config: DecodeConfig | None = None,
        *,
        size: Size | None = None,
        decoder: Decoder = "native",
    ) -> Future[list[People]]:
        """`people` in the runner's own thread; blocks while several batches are waiting already.

        The images must not be changed before the result is there.
        """
        worker = self._opened()
        self._slots.acquire()
        try:
            future = worker.submit(self.people, images, config, size=size, decoder=decoder)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(lambda _: self._slots.release())
        return future

    def _opened(self) -> ThreadPoolExecutor:
        if self._worker is None:
            raise InputError(
                f"The runner of {self.info.name} is not open.", hint="Use it inside: with open_engine(...) as runner:"
            )
        return self._worker

    def _scales(self, images: Any) -> list[tuple[float, Images]]:
        if not (isinstance(images, Sequence) and not isinstance(images, str | bytes)):
            return [(1.0, self._check(images))]
        if not images:
            raise InputError("The list of scales is empty; expected [(scale, images), ...].")
        if not all(isinstance(item, Sequence) and len(item) == 2 for item in images):
            raise InputError("Several scales have to come as [(scale, images), ...].")
        return [(float(scale), self._check(batch)) for scale, batch in images]

    def _with_flip(self, images: Images, flip: bool) -> Heads:
        heads = self._heads(images)
        if not flip:
            return heads.without_flip()
        if heads.has_flip:
            return heads
        mirrored = self._heads(np.ascontiguousarray(images[:, :, ::-1]))
        return Heads(heads.coarse, heads.fine, mirrored.coarse, mirrored.fine)

    def _heads(self, images: Images) -> Heads:
        count = len(images)
        with self._lock:
            self._opened()
            heads = self._run_in_memory(self._filled(images))
        if heads.batch != count:
            heads = _first(heads, count)
        for name, value in heads.named():
            # A sum is finite only if every value is, and costs a fraction of isfinite over the map.
            if not np.isfinite(value.sum(dtype=np.float32)):
                raise self._not_finite(name)
        return heads

    def _run_in_memory(self, images: Images) -> Heads:
        try:
            return self._run(images)
        except HHRNetError:
            raise
        except Exception as error:
            if not is_memory_full(error):
                raise
            count, height, width, _ = images.shape
            raise HHRNetError(
                f"Memory has no room for {count} image(s) of {_pixels((width, height))} in {self.info.name} "
                f"({self.info.target}).",
                hint="Use a smaller short side or scale, or fewer images at once (--batch).",
            ) from error

    def _not_finite(self, where: str) -> HHRNetError:
        return HHRNetError(
            f"{self.info.name} ({self.info.target}, {self.info.precision}) returned NaN or infinity in {where}.",
            hint="Check the weights, or build the engine with a wider precision.",
        )

    def _filled(self, images: Images) -> Images:
        batch = self.info.max_batch
        if not self.info.fixed_batch or batch is None or len(images) == batch:
            return images
        return np.concatenate([images, np.zeros((batch - len(images), *images.shape[1:]), np.uint8)])

    def _check(self, images: Any) -> Images:
        array = as_array(images)
        self._check_shape(array.shape, str(array.dtype))
        return np.ascontiguousarray(array)

    def _check_shape(self, shape: tuple[int, ...], dtype: str) -> None:
        if dtype != "uint8" or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise InputError(f"Expected images (N, H, W, 3) uint8 RGB, got shape {shape} of {dtype}.")
        count, height, width, _ = shape
        if height % MULTIPLE or width % MULTIPLE:
            raise InputError(
                f"The sides of the network input have to be multiples of {MULTIPLE}, got {_pixels((width, height))}.",
                hint="Warp.plan gives such a size.",
            )
        fixed = self.info.fixed_size
        if fixed is not None and (width, height) != fixed:
            raise InputError(
                f"{self.info.name} takes images of {_pixels(fixed)} only, got {_pixels((width, height))}.",
                hint="Warp to that size, or build an engine without --size.",
            )
        if self.info.max_batch is not None and count > self.info.max_batch:
            raise InputError(
                f"{self.info.name} takes at most {self.info.max_batch} images at once, got {count}.",
                hint="Send smaller batches, or build an engine with a larger --batch.",
            )


def as_array(images: Any) -> npt.NDArray[Any]:
    """A NumPy view of an array or of a DLPack object, copied to the host when it lies elsewhere.

    Raises:
        InputError: neither an array nor a DLPack object that reaches the host.
    """
    if isinstance(images, np.ndarray):
        return images
    if not hasattr(images, "__dlpack__"):
        raise InputError(f"Expected images as a NumPy array or a DLPack object, got {type(images).__name__}.")
    try:
        return np.from_dlpack(images)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        copied = _copied_to_host(images)
        if copied is None:
            raise InputError(
                f"The {type(images).__name__} cannot be read on the host through DLPack: {error}."
            ) from error
        return copied


def _copied_to_host(images: Any) -> npt.NDArray[Any] | None:
    try:
        return cast(npt.NDArray[Any], np.from_dlpack(images, device="cpu", copy=True))
    except (BufferError, RuntimeError, TypeError, ValueError):
        return None


def _first(heads: Heads, count: int) -> Heads:
    straight = heads.coarse[:count], heads.fine[:count]
    if heads.coarse_flipped is None or heads.fine_flipped is None:
        return Heads(*straight)
    return Heads(*straight, heads.coarse_flipped[:count], heads.fine_flipped[:count])


def _base_size(scales: list[tuple[float, Images]]) -> Size:
    """(W, H) of the images at scale 1, or of the only scale given."""
    batch = next((batch for scale, batch in scales if scale == 1.0), scales[0][1])
    return batch.shape[2], batch.shape[1]


def _pixels(size: Size) -> str:
    return f"{size[0]}x{size[1]} (width x height)"
