"""What planning has to know of an engine, and of the batch that it is to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.targets.runner import Size

Nhw = tuple[int, int, int]
HEADS = ("coarse", "fine", "coarse_flipped", "fine_flipped")
PEOPLE = ("keypoints", "scores", "count", "joint_tags", "person_tags")


@dataclass(frozen=True)
class Range:
    """The smallest and the largest input (N, H, W) of one optimisation profile."""

    smallest: Nhw
    largest: Nhw

    def takes(self, shape: Nhw) -> bool:
        """Whether the input is inside."""
        return all(low <= one <= high for low, one, high in zip(self.smallest, shape, self.largest, strict=True))


@dataclass(frozen=True)
class EngineFacts:
    """An engine as its tensors say.

    Attributes:
        name: what messages call it.
        joints: K.
        layout: ``uint8``: (N, H, W, 3) pixels; ``float``: (N, 3, H, W) normalised.
        outputs: element type of every output tensor, by name: heads (`HEADS`), or people (`PEOPLE`).
        profiles: what it takes; a fixed engine has one whose ends are equal.
        decode: the settings inside an engine whose outputs are people.
    """

    name: str
    joints: int
    layout: Literal["uint8", "float"]
    outputs: Mapping[str, str]
    profiles: tuple[Range, ...]
    decode: DecodeConfig | None = None

    @property
    def has_people(self) -> bool:
        """Whether people come out of the engine."""
        return "count" in self.outputs

    @property
    def has_flip(self) -> bool:
        """Whether the engine runs the mirrored images itself."""
        return "fine_flipped" in self.outputs

    @property
    def fixed_batch(self) -> int | None:
        """N when it runs exactly N images."""
        batches = {size[0] for one in self.profiles for size in (one.smallest, one.largest)}
        return next(iter(batches)) if len(batches) == 1 else None

    def profile_of(self, shape: Nhw) -> int | None:
        """The first profile that takes an input (N, H, W)."""
        return next((number for number, one in enumerate(self.profiles) if one.takes(shape)), None)

    def need_profile(self, shape: Nhw) -> int:
        """As `profile_of`.

        Raises:
            InputError: none takes it; lists what they take.
        """
        number = self.profile_of(shape)
        if number is None:
            count, height, width = shape
            ranges = "; ".join(f"{_text(one.smallest)} to {_text(one.largest)}" for one in self.profiles)
            raise InputError(
                f"{self.name} was not built for {count} images of {height}x{width} (height x width); it takes "
                f"{ranges}.",
                hint="Build it with a profile for them: hhrnet build ... --shapes HEIGHTxWIDTH --max-batch N",
            )
        return number


@dataclass(frozen=True)
class Photo:
    """A source of one network input that the card itself warps; (width, height) in pixels."""

    size: Size
    on_device: bool = False


@dataclass(frozen=True)
class Batch:
    """What one batch is.

    Attributes:
        count: N, the images that are asked for.
        size: (W, H) of the network input.
        source: ``host``: warped pixels in host memory; ``device``: on the card; or the photos to be warped there.
        grid: (W, H) in which people are found; unused for heads.
        config: how they are found; None returns the heads.
    """

    count: int
    size: Size
    source: Literal["host", "device"] | tuple[Photo, ...] = "host"
    grid: Size = (0, 0)
    config: DecodeConfig | None = None


@dataclass(frozen=True)
class Bucket:
    """Images whose network inputs have one size: that size (W, H), and their numbers in the order they came."""

    size: Size
    images: tuple[int, ...] = field(default=())


def buckets(sizes: Sequence[Size], most: int | None) -> list[Bucket]:
    """Batches of at most ``most`` images of one size each; every image is in one, numbers rise within each.

    Sizes come in the order of their first image, so that what was sent first is answered first.
    """
    by_size: dict[Size, list[int]] = {}
    for number, size in enumerate(sizes):
        by_size.setdefault(size, []).append(number)
    found = []
    for size, numbers in by_size.items():
        step = most or len(numbers)
        found += [Bucket(size, tuple(numbers[start : start + step])) for start in range(0, len(numbers), step)]
    return sorted(found, key=lambda bucket: bucket.images[0])


def head_shape(name: str, joints: int, shape: Nhw) -> tuple[int, ...]:
    """The shape of a head for an input (N, H, W): (N, 2K, H/4, W/4) of the coarse ones, (N, K, H/2, W/2) of fine."""
    images, height, width = shape
    if name.startswith("coarse"):
        return images, 2 * joints, height // 4, width // 4
    return images, joints, height // 2, width // 2


def _text(shape: Nhw) -> str:
    return f"{shape[0]}x{shape[1]}x{shape[2]} (images x height x width)"
