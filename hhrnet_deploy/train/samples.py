"""Training samples: one photo with its annotations becomes one input and its targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.data import augment, labels
from hhrnet_deploy.data.coco import KeypointDataset, Sample
from hhrnet_deploy.data.images import read_image
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.train.recipe import Recipe
from hhrnet_deploy.train.targets import SMALLEST_SIGMA, gaussian_targets, scale_aware_sigmas, tag_positions

Float32 = npt.NDArray[np.float32]
COARSE_STRIDE = 4
FINE_STRIDE = 2


class Example(NamedTuple):
    """What the network gets and should say for one image.

    Attributes:
        name: the image file, for messages.
        image: (crop, crop, 3) uint8 RGB.
        coarse_heat, fine_heat: (K, crop/4, crop/4) and (K, crop/2, crop/2) float32.
        coarse_mask, fine_mask: (crop/4, crop/4) and (crop/2, crop/2) float32.
        tag_index, tag_visible: (P, K) int64 and bool.
    """

    name: str
    image: npt.NDArray[np.uint8]
    coarse_heat: Float32
    fine_heat: Float32
    coarse_mask: Float32
    fine_mask: Float32
    tag_index: npt.NDArray[np.int64]
    tag_visible: npt.NDArray[np.bool_]


class Ticket(NamedTuple):
    """Which sample of which epoch; with the recipe's seed it fixes every random number of the sample."""

    epoch: int
    number: int


@dataclass(frozen=True)
class TrainingSet:
    """All samples of an epoch; a map-style data set for ``torch.utils.data``.

    Attributes:
        parts: each data set with how often it comes in an epoch; images without annotations are left out already.
        recipe: crop, augmentation, targets and seed.
    """

    parts: tuple[tuple[KeypointDataset, int], ...]
    recipe: Recipe

    def __len__(self) -> int:
        return sum(len(part) * repeat for part, repeat in self.parts)

    def __getitem__(self, ticket: Ticket) -> Example | InputError:
        """The example; an error is returned, not raised, so that it passes through worker processes unchanged."""
        dataset, sample = self.locate(ticket.number)
        rng = np.random.default_rng((self.recipe.seed, ticket.epoch, ticket.number))
        try:
            return make_example(dataset, sample, self.recipe, rng)
        except InputError as error:
            return error if error.hint is not None else InputError(error.fact, hint=labels.CHECK_HINT)

    def locate(self, number: int) -> tuple[KeypointDataset, Sample]:
        """The data set and sample behind a number from 0 to ``len - 1``."""
        for part, repeat in self.parts:
            if number < len(part) * repeat:
                return part, part[number % len(part)]
            number -= len(part) * repeat
        raise IndexError(number)


def make_example(dataset: KeypointDataset, sample: Sample, recipe: Recipe, rng: np.random.Generator) -> Example:
    """Read, augment and draw the targets.

    Raises:
        InputError: the image is missing or unreadable, or its size is not the annotated one.
    """
    pixels = read_image(sample.path)
    if pixels.shape[:2] != (sample.height, sample.width):
        raise InputError(
            f"{sample.path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, its annotations are for "
            f"{sample.width}x{sample.height}.",
            hint="The file and the annotations belong to different versions of the data set.",
        )
    joints = dataset.joints(sample)
    placement = augment.draw_placement(sample.width, sample.height, recipe.geometry, rng, joints)
    image = augment.change_pixels(augment.place_image(pixels, placement, recipe.crop), recipe.photometric, rng)
    counted = ~dataset.ignore_mask(sample)
    sigmas = _sigmas(sample, recipe, placement)
    heats, masks, placed = [], [], []
    for stride in (COARSE_STRIDE, FINE_STRIDE):
        size = recipe.crop // stride
        pixel = 1 / stride if recipe.targets.exact else 1.0
        placed.append(augment.place_joints(joints, placement, size, dataset.skeleton.flip_index, pixel=pixel))
        heats.append(gaussian_targets(placed[-1], size, sigmas, exact=recipe.targets.exact))
        masks.append(augment.place_mask(counted, placement, size))
    index, visible = tag_positions(placed[0], recipe.crop // COARSE_STRIDE)
    return Example(str(sample.path), image, heats[0], heats[1], masks[0], masks[1], index, visible)


def _sigmas(sample: Sample, recipe: Recipe, placement: augment.Placement) -> float | npt.NDArray[np.float64]:
    options = recipe.targets.scale_aware
    if options is None:
        return recipe.targets.sigma
    sigmas = scale_aware_sigmas(
        labels.boxes(sample.annotations),
        base_size=options.base_size,
        base_sigma=options.base_sigma,
        round_up=options.round_up,
    )
    return np.maximum(sigmas / placement.scale, SMALLEST_SIGMA)
