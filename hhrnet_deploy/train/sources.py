"""From the sources a recipe names to open data sets; sets that do not exist yet are made."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from hhrnet_deploy import resources
from hhrnet_deploy.data.coco import KeypointDataset, open_dataset
from hhrnet_deploy.data.layout import find_layout, find_layouts
from hhrnet_deploy.data.paste_set import make_paste_set
from hhrnet_deploy.data.synth import GENERATOR_VERSION, cache_folder, ensure_synthetic, synthesize
from hhrnet_deploy.data.synth_cache import one_at_a_time
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import sha256_of
from hhrnet_deploy.train.recipe import Pasted, Source, Synthetic

_TRAIN_SPLITS = ("train2017", "trainval", "train")
_VALIDATION_SPLITS = ("val2017", "test", "val")
_MADE_SPLIT = "train2017"
Say = Callable[[str], None]


def open_training_sources(sources: tuple[Source, ...], say: Say) -> tuple[tuple[KeypointDataset, int], ...]:
    """Open the data sets to train on, without images that have no annotation.

    Returns:
        Each data set and how often its images come in an epoch.

    Raises:
        InputError: a set is missing or empty, or the sets have different joints.
    """
    if not sources:
        raise InputError("There is nothing to train on.", hint="Name a data set with --data DIR.")
    parts = tuple((open_source(source, _TRAIN_SPLITS, say).annotated(), source.repeat) for source in sources)
    first = parts[0][0]
    for dataset, _ in parts:
        if not len(dataset):
            raise InputError(f"{dataset.root} has no annotated image in split {dataset.split}.")
        if dataset.skeleton.joints != first.skeleton.joints:
            raise InputError(f"{dataset.root} has other joints than {first.root}; they cannot be trained together.")
    return parts


def open_validation_source(source: Source, say: Say) -> KeypointDataset | None:
    """Open a data set to validate on; None where its folder has no such split with annotations.

    Raises:
        InputError: the set is missing or broken.
    """
    if source.path is not None and source.split is None:
        present = _splits(Path(expanded(source.path)))
        if not present.intersection(_VALIDATION_SPLITS):
            return None
    dataset = open_source(source, _VALIDATION_SPLITS, say)
    return dataset if dataset.has_annotations else None


def open_source(source: Source, splits: tuple[str, ...], say: Say) -> KeypointDataset:
    """Open one source, making it first where it has to be made.

    Args:
        source: the recipe's.
        splits: which split of a folder to take where the source names none, in order of preference.
        say: told before something is made.

    Raises:
        InputError: the set is missing or broken, or none of ``splits`` is there.
    """
    if source.manifest is not None:
        return open_dataset(ensure_synthetic(resources.find(resources.CALIBRATION, source.manifest)))
    if source.synthetic is not None:
        return open_dataset(_drawn(source.synthetic, say), _MADE_SPLIT)
    if source.pasted is not None:
        return open_dataset(_pasted(source.pasted, say), source.pasted.split)
    folder = Path(expanded(source.path or ""))
    if source.split is not None:
        return open_dataset(folder, source.split)
    present = _splits(folder)
    split = next((name for name in splits if name in present), None)
    if split is None:
        raise InputError(
            f"{folder} has none of the splits {', '.join(splits)}; found {', '.join(sorted(present)) or 'none'}.",
            hint="Name the split in the recipe: sources: [{path: ..., split: ...}].",
        )
    return open_dataset(folder, split)


def expanded(path: str) -> str:
    """``path`` with ``$VARIABLES`` and ``~`` expanded.

    Raises:
        InputError: a variable is not set.
    """
    full = os.path.expanduser(os.path.expandvars(path))
    missing = re.search(r"\$\{?(\w+)\}?", full)
    if missing is not None:
        raise InputError(
            f"The recipe's path {path} needs the environment variable {missing.group(1)}, which is not set.",
            hint=f"Set {missing.group(1)} to your data, or train on one folder with --data DIR.",
        )
    return full


def _splits(folder: Path) -> set[str]:
    return {layout.split for layout in find_layouts(folder)}


def _drawn(wanted: Synthetic, say: Say) -> Path:
    poses = None if wanted.poses is None else expanded(wanted.poses)
    what = f"synthetic-{wanted.images}-{wanted.seed}-{wanted.short_side}-v{GENERATOR_VERSION}"
    what += "" if poses is None else f"-{sha256_of(poses)[:8]}"
    folder = Path(cache_folder()) / "training" / what
    with one_at_a_time(folder):
        if not folder.is_dir():
            say(f"Drawing {wanted.images} synthetic images into {folder}.")
            synthesize(
                folder,
                wanted.images,
                wanted.seed,
                poses,
                split=_MADE_SPLIT,
                workers=os.cpu_count() or 1,
                image_format="jpg",
                short_side=wanted.short_side,
            )
    return folder


def _pasted(wanted: Pasted, say: Say) -> Path:
    source = expanded(wanted.path)
    layout = find_layout(source, wanted.split)
    what = f"pasted-{wanted.images}-{wanted.seed}-{wanted.short_side}-{layout.split}"
    what += f"-{sha256_of(layout.annotation_file)[:8]}"
    folder = Path(cache_folder()) / "training" / what
    with one_at_a_time(folder):
        if not folder.is_dir():
            say(f"Pasting people into {wanted.images} photos in {folder}.")
            make_paste_set(folder, source, wanted.split, wanted.images, wanted.seed, short_side=wanted.short_side)
    return folder
