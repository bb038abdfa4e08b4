"""Photos of any sizes as batches that the card warps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.targets.cuda_facts import Batch, Photo, buckets
from hhrnet_deploy.targets.cuda_people import grid_of
from hhrnet_deploy.targets.cuda_pipeline import Pixels
from hhrnet_deploy.targets.cuda_pixels import DevicePixels, is_on_card, read_pixels
from hhrnet_deploy.targets.cuda_plan import inverse_affine
from hhrnet_deploy.targets.photos import check_fits, plan_photo
from hhrnet_deploy.targets.runner import Runner, Size

if TYPE_CHECKING:
    from hhrnet_deploy.data.warp import Warp

_BATCH = 8  # where the engine has no limit
Source = npt.NDArray[np.uint8] | DevicePixels


@dataclass(frozen=True)
class PhotoBatch:
    """Photos whose network inputs have one size.

    Attributes:
        batch: what is planned.
        numbers: of the photos, in the caller's order.
        sources: their pixels.
        warps: how each becomes the network input.
    """

    batch: Batch
    numbers: tuple[int, ...]
    sources: tuple[Source, ...]
    warps: tuple[Warp, ...]

    def pixels(self) -> Pixels:
        """What the pipeline takes."""
        card = [one for one in self.sources if isinstance(one, DevicePixels)]
        return Pixels(
            photos=tuple(None if isinstance(one, DevicePixels) else one for one in self.sources),
            inverses=np.array([inverse_affine(warp.matrix) for warp in self.warps], np.float64),
            addresses=tuple(one.address for one in card),
            streams=tuple(one.stream for one in card),
            owners=tuple(one.owner for one in card),
        )


def photo_batches(runner: Runner, photos: Sequence[Any], config: InferenceConfig, stream: int) -> Iterator[PhotoBatch]:
    """The batches of photos, by the size of their network inputs.

    Args:
        runner: whose limits hold.
        photos: (H, W, 3) uint8 arrays, on the host or on the card.
        config: of the warp and of decoding.
        stream: that reads what is on the card.

    Raises:
        InputError: a photo of another shape or type, several scales, or a size that the engine does not take.
    """
    if len(config.scales) > 1:
        raise InputError("The card warps photos for one scale.", hint="Use predict_photos for several scales.")
    if runner.info.input != "uint8":
        raise InputError(
            f"{runner.info.name} takes normalised images; the card warps photos for engines that take pixels.",
            hint="Build it from a graph that was exported without --input float.",
        )
    sources = [_source(photo, stream) for photo in photos]
    warps = [_warp(runner, config, _photo_size(source)) for source in sources]
    for bucket in buckets([warp.size for warp in warps], runner.info.max_batch or _BATCH):
        chosen = tuple(sources[number] for number in bucket.images)
        described = tuple(Photo(_photo_size(one), isinstance(one, DevicePixels)) for one in chosen)
        grid = grid_of(bucket.size, None, config.decode)
        batch = Batch(len(chosen), bucket.size, described, grid, config.decode)
        yield PhotoBatch(batch, bucket.images, chosen, tuple(warps[number] for number in bucket.images))


def _source(photo: Any, stream: int) -> Source:
    if not isinstance(photo, np.ndarray):
        if not is_on_card(photo):
            raise InputError(
                f"A photo has to be a NumPy array or an array on the card, got {type(photo).__name__}.",
                hint="Read files with hhrnet_deploy.data.images.read_image, or use Pose.predict.",
            )
        pixels = read_pixels(photo, stream)
        _check(pixels.shape, "uint8")
        return pixels
    _check(photo.shape, str(photo.dtype))
    return photo


def _check(shape: tuple[int, ...], dtype: str) -> None:
    if dtype != "uint8" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(f"Expected a photo (H, W, 3) uint8 RGB, got shape {shape} of {dtype}.")


def _photo_size(source: Source) -> Size:
    return int(source.shape[1]), int(source.shape[0])


def _warp(runner: Runner, config: InferenceConfig, size: Size) -> Warp:
    check_fits(runner, config, size)
    return plan_photo(config, size).warps[0][1]
