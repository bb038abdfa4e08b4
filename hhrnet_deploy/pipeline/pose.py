"""``Pose``: people out of photos in two lines, from a checkpoint, an ONNX file or an engine bundle."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import People
from hhrnet_deploy.pipeline.filters import PeopleFilter
from hhrnet_deploy.skeletons import Skeleton
from hhrnet_deploy.targets.runner import Decoder, Runner, RunnerInfo

Image = npt.NDArray[np.uint8]
Key = TypeVar("Key", bound=Hashable)


class Pose:
    """Finds people in photos of any size; results are in photo pixels.

    ``Pose.open("default").predict("photo.jpg")`` works as typed; ``with Pose.open(...) as pose:`` also frees the
    engine at the end.

    Args:
        runner: a runner that is not open yet; it is opened here and closed with this object.
        config: sizes, scales and decode settings; default: the published ones, or those inside an engine that decodes,
            at the runner's own short side.
        keep: which people stay; by default all.
        batch: photos of the same network-input shape that go through the engine at once.
        decoder: ``native`` or ``reference``.
    """

    def __init__(
        self,
        runner: Runner,
        config: InferenceConfig | None = None,
        *,
        keep: PeopleFilter | None = None,
        batch: int = 1,
        decoder: Decoder = "native",
    ) -> None:
        built_in = runner.info.decode or DecodeConfig()
        self.config = config or InferenceConfig(short_side=runner.info.short_side, decode=built_in)
        self._keep = keep or PeopleFilter()
        self._batch = batch
        self._decoder: Decoder = decoder
        self._stack = ExitStack()
        self._runner = self._stack.enter_context(runner)

    @classmethod
    def open(
        cls,
        what: str | Path = "default",
        *,
        preset: str | None = None,
        config: InferenceConfig | None = None,
        keep: PeopleFilter | None = None,
        batch: int = 1,
    ) -> Self:
        """Open an engine bundle, an ONNX file, a checkpoint, or ``"default"``, the model that ships.

        Raises:
            InputError: nothing there, or not a model; BundleError and CheckpointError say what does not fit.
        """
        from hhrnet_deploy.targets.opening import open_model

        return cls(open_model(what, preset=preset), config, keep=keep, batch=batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine; calling it twice is fine."""
        self._stack.close()

    @property
    def info(self) -> RunnerInfo:
        """What runs underneath."""
        return self._runner.info

    @property
    def skeleton(self) -> Skeleton:
        """The joints of the people found."""
        return self._runner.info.skeleton

    def check_size(self, width: int, height: int) -> None:
        """Say so before any work when a photo of this size cannot go through.

        Raises:
            InputError: longer than ``config.max_long_side`` after the size rule, or not the size of a fixed engine.
        """
        from hhrnet_deploy.targets.photos import check_fits, plan_photo

        plan_photo(self.config, (width, height))
        check_fits(self._runner, self.config, (width, height))

    def predict(self, image: Any) -> Any:
        """The people in one image, or a list of People for several.

        Args:
            image: a path; a NumPy array (H, W, 3) or (H, W) uint8 RGB; a PIL image; a torch tensor (3, H, W) or
                (H, W, 3) uint8 RGB; or a batch: a list of these, or one array or tensor with a leading N. Files and
                PIL images are turned upright as their EXIF orientation says.

        Returns:
            `People` in pixels of the (upright) image, or a list of them in the order given.

        Raises:
            InputError: an unreadable file or an array of another shape or type.
        """
        images, single = _as_images(image)
        found = [people for _, people in self.stream(enumerate(images))]
        return found[0] if single else found

    def stream(self, images: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, People]]:
        """(key, people) for each (key, image), in order, while later images are read and warped in threads.

        Memory is bounded whatever the number of images.
        """
        from hhrnet_deploy.targets.photos import predict_photos

        photos = ((key, image if _is_path(image) else _pixels(image)) for key, image in images)
        results = predict_photos(self._runner, photos, self.config, decoder=self._decoder, batch=self._batch, exif=True)
        for key, people in results:
            yield key, self._keep(people, self.skeleton)


def _is_path(image: Any) -> bool:
    return isinstance(image, str | os.PathLike)


def _as_images(image: Any) -> tuple[Sequence[Any], bool]:
    """The images and whether one was given alone."""
    if isinstance(image, list | tuple):
        return image, False
    if getattr(image, "ndim", 0) == 4:
        return list(image), False
    return [image], True


def _pixels(image: Any) -> Image:
    """(H, W, 3) uint8 RGB of an array, PIL image or tensor."""
    if hasattr(image, "getexif"):
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
        # 16 bits a pixel: the high byte, as files are read. PIL's own conversion clips at 255.
        image = np.asarray(image) >> 8 if image.mode.startswith("I;16") else np.asarray(image.convert("RGB"))
        image = image.astype(np.uint8)
    elif hasattr(image, "detach"):
        image = _from_tensor(image)
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"Expected a path, NumPy array, PIL image or torch tensor, got {type(image).__name__}.",
        )
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"Expected an image (H, W, 3) uint8 RGB, got shape {image.shape} of {image.dtype}.")
    return np.ascontiguousarray(image)


def _from_tensor(tensor: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    channels_first = array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3
    return array.transpose(1, 2, 0) if channels_first else array
