"""Synthetic sets of committed manifests, drawn once per machine and verified."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hhrnet_deploy.data.manifest import SyntheticManifest, read_manifest
from hhrnet_deploy.data.synth_image import GENERATOR, GENERATOR_VERSION
from hhrnet_deploy.data.synth_writer import Progress, SynthResult, synthesize
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import locked
from hhrnet_deploy.resources import CALIBRATION, find


def cache_folder() -> Path:
    """``HHRNET_CACHE``, or ``~/.cache/hhrnet-deploy``.

    Raises:
        InputError: neither the variable nor a home folder is there (a user of a container without an entry).
    """
    given = os.environ.get("HHRNET_CACHE")
    try:
        return Path(given) if given else Path.home() / ".cache" / "hhrnet-deploy"
    except RuntimeError as error:
        raise InputError("This user has no home folder for the cache.", hint="Set HHRNET_CACHE to a folder.") from error


def ensure_synthetic(
    manifest: str | os.PathLike[str], progress: Progress | None = None, *, workers: int | None = None
) -> Path:
    """The folder (COCO layout) of a committed synthetic set; drawn on first use, then taken from the cache.

    Args:
        manifest: bare name of a shipped manifest (``synthetic_eval_500``) or a path.
        progress: called with (images done, images in all) while drawing.
        workers: processes; None: one per processor.

    Raises:
        InputError: the manifest is not valid or not synthetic, belongs to another generator version, or the annotations
            that were drawn are not the ones it names. Differing pixels (another OpenCV build) only warn.
    """
    wanted = read_manifest(find(CALIBRATION, os.fspath(manifest)))
    if not isinstance(wanted, SyntheticManifest):
        raise InputError(f"Manifest {wanted.name} names real images, expected a synthetic set.")
    if (wanted.generator, wanted.generator_version) != (GENERATOR, GENERATOR_VERSION):
        raise InputError(
            f"Manifest {wanted.name} is for {wanted.generator} {wanted.generator_version}, "
            f"this is {GENERATOR} {GENERATOR_VERSION}.",
            hint="Use the hhrnet-deploy release the manifest came with.",
        )
    folder = cache_folder() / f"{wanted.name}-{wanted.annotations_sha256[:12]}"
    if _is_complete(folder, wanted):
        return folder
    with one_at_a_time(folder):
        if not _is_complete(folder, wanted):
            count = workers or min(os.cpu_count() or 1, 8)
            made = synthesize(folder, wanted.images, wanted.seed, split=wanted.split, progress=progress, workers=count)
            _verify(made, wanted)
    return folder


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the set's lock, so that a second process waits for the first instead of replacing what it reads."""
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder.with_name(f".{folder.name}.lock"), wait=True))
        except OSError as error:
            raise InputError(
                f"The cache {folder.parent} cannot be written: {error.strerror}.",
                hint="Set HHRNET_CACHE to a folder that can.",
            ) from error
        yield


def _is_complete(folder: Path, wanted: SyntheticManifest) -> bool:
    """Whether the folder holds the set; it was renamed into place when complete, so looking at the record is enough."""
    try:
        record = json.loads((folder / "synthetic.json").read_text(encoding="utf-8"))
        names = os.listdir(folder / "images" / wanted.split)
    except (OSError, ValueError):
        return False
    annotations = folder / "annotations" / f"person_keypoints_{wanted.split}.json"
    same = isinstance(record, dict) and record.get("annotations_sha256") == wanted.annotations_sha256
    return same and len(names) == wanted.images and annotations.is_file()


def _verify(result: SynthResult, wanted: SyntheticManifest) -> None:
    if result.annotations_sha256 != wanted.annotations_sha256:
        raise InputError(
            f"The set drawn for {wanted.name} is not the committed one: expected annotations "
            f"{wanted.annotations_sha256[:12]}, got {result.annotations_sha256[:12]}.",
            hint="Report the versions of NumPy and OpenCV; constraints.txt names those it was made with.",
        )
    if result.pixels_sha256 != wanted.pixels_sha256:
        warnings.warn(
            f"The pixels of {wanted.name} differ from the committed ones (its people are the same): this OpenCV or "
            "NumPy draws or rounds differently; AP can differ in the last digits.",
            stacklevel=3,
        )
