"""What calibration measured: magnitudes and a histogram per tensor, with the hashes of what they belong to."""

from __future__ import annotations

import json
import logging
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, is_zipfile

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hhrnet_deploy import resources
from hhrnet_deploy.data.synth_cache import cache_folder
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import replacing
from hhrnet_deploy.quantize.histogram import BINS, Histogram, Method, threshold
from hhrnet_deploy.quantize.patches import Moments

_log = logging.getLogger(__name__)
_NAMES, _LENGTHS, _SIZES = TypeAdapter(list[str]), TypeAdapter(dict[str, int]), TypeAdapter(dict[str, tuple[int, int]])
_AGAIN = "Measure again: hhrnet calibrate MODEL --calibration SET"


class Header(BaseModel):
    """What a statistics file belongs to.

    Attributes:
        schema_version: of the file.
        network: digest of the network (`Topology.digest`).
        calibration: digest of the calibration set.
        set_name: its name.
        short_side: S of the warp, pixels.
        images: how many images the set has.
        prepared: how many images were looked at for the equalisation; a killed run goes on from there.
        done: how many images are in the figures of the equalised network; likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[4] = 4
    network: str
    calibration: str
    set_name: str
    short_side: int = Field(ge=32)
    images: int = Field(ge=1)
    prepared: int = Field(0, ge=0)
    done: int = Field(0, ge=0)

    @property
    def complete(self) -> bool:
        """Whether every image is in."""
        return self.done == self.images


@dataclass
class TensorStatistics:
    """One tensor over all images seen: exact extremes, and a histogram of |x| on a grid of its pixels."""

    low: float = 0.0
    high: float = 0.0
    histogram: Histogram = field(default_factory=Histogram)

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high)

    def threshold(self, method: Method, levels: int) -> float:
        """Where to clip; see `histogram.threshold`."""
        return threshold(self.histogram, self.largest, method, levels)


@dataclass
class Statistics:
    """The figures of every observed tensor, by key (`Topology.key`).

    Attributes:
        header: what they belong to.
        tensors: of the equalised network (`equalize.equalized`).
        maxima: (C,) float32, the largest magnitude of each channel before equalisation.
        moments: of the patches that convolutions read, of the equalised network, by `patches.Patches.key`.
    """

    header: Header
    tensors: dict[str, TensorStatistics] = field(default_factory=dict)
    maxima: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write atomically; equal figures make equal bytes."""
        names = sorted(self.tensors)
        found = [self.tensors[name] for name in names]
        patches = sorted(self.moments.items())
        # By handle: np.savez adds .npz to other names.
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                header=np.array(self.header.model_dump_json()),
                names=np.array(json.dumps(names)),
                low=np.array([item.low for item in found], np.float64),
                high=np.array([item.high for item in found], np.float64),
                top=np.array([item.histogram.top for item in found], np.float64),
                counts=np.array([item.histogram.counts for item in found], np.int64).reshape(len(names), BINS),
                channels=np.array(json.dumps({name: len(self.maxima[name]) for name in sorted(self.maxima)})),
                maxima=np.concatenate([[], *(self.maxima[name] for name in sorted(self.maxima))]).astype(np.float32),
                patches=np.array(json.dumps({name: [len(item.total), item.count] for name, item in patches})),
                moments=np.concatenate([np.zeros(0, np.float32), *(_half_of(item.total) for _, item in patches)]),
            )

    def cache(self, path: Path) -> None:
        """`save`, where the file only spares measuring again: one that cannot be written is no error."""
        try:
            self.save(path)
        except OSError as error:
            _log.warning("The calibration is not kept for the next time: %s (%s).", error.strerror or error, path)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote.

        Raises:
            InputError: missing, truncated or written by another version.
        """
        if path.is_dir():
            raise InputError(f"{path} is a folder.", hint="Give the calibration file a name, such as ranges.npz.")
        if not path.is_file():
            raise InputError(f"There is no calibration file {path}.", hint=_AGAIN)
        if not is_zipfile(path):
            raise InputError(f"{path} is no calibration file: it is no .npz archive, or cut short.", hint=_AGAIN)
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls._from_arrays({name: archive[name] for name in archive.files})
        except ValidationError as error:
            first = error.errors()[0]
            detail = (
                f"{'.'.join(map(str, first['loc'])) or 'header'}: {first['msg']}, got {reprlib.repr(first['input'])}"
            )
            raise InputError(f"{path} is no calibration file of this version ({detail}).", hint=_AGAIN) from error
        except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise InputError(f"{path} is no calibration file of this version: {error}.", hint=_AGAIN) from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, Any]) -> Statistics:
        header = Header.model_validate_json(str(arrays["header"]))
        names = _NAMES.validate_json(str(arrays["names"]))
        tensors = {
            name: TensorStatistics(float(low), float(high), Histogram(counts, float(top)))
            for name, low, high, top, counts in zip(
                names, arrays["low"], arrays["high"], arrays["top"], arrays["counts"], strict=True
            )
        }
        lengths = _LENGTHS.validate_json(str(arrays["channels"]))
        ends = np.cumsum(list(lengths.values()))[:-1]
        parts = np.split(arrays["maxima"], ends) if lengths else []
        return cls(header, tensors, dict(zip(lengths, parts, strict=True)), _moments(arrays))

    def check(self, wanted: Header, path: Path) -> None:
        """Refuse figures that belong to something else.

        Raises:
            InputError: another network, another set, another size, or a run that was not finished.
        """
        own = self.header
        pairs = (
            ("of another network (weights or layers differ)", own.network, wanted.network),
            (f"of another calibration set ({own.set_name}, {own.images} images)", own.calibration, wanted.calibration),
            (f"for a short side of {own.short_side} instead of {wanted.short_side}", own.short_side, wanted.short_side),
        )
        for reason, mine, theirs in pairs:
            if mine != theirs:
                raise InputError(f"The calibration file {path} is stale: it is {reason}.", hint=_AGAIN)


def _half_of(symmetric: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(K, K) -> (K (K + 1) / 2,) the values on and above the diagonal."""
    return np.concatenate([row[number:] for number, row in enumerate(symmetric)])


def _moments(arrays: dict[str, Any]) -> dict[str, Moments]:
    """What was saved of the patches.

    Raises:
        ValueError: more or fewer values than the sizes say.
    """
    sizes = _SIZES.validate_json(str(arrays["patches"]))
    halves = [size * (size + 1) // 2 for size, _ in sizes.values()]
    values = arrays["moments"]
    if len(values) != sum(halves):
        raise ValueError(f"{len(values)} moments instead of {sum(halves)}")
    found, start = {}, 0
    for (name, (size, count)), length in zip(sizes.items(), halves, strict=True):
        upper = np.zeros((size, size), np.float32)
        upper[np.triu_indices(size)] = values[start : start + length]
        found[name] = Moments(upper + np.triu(upper, 1).T, count)
        start += length
    return found


def cached_path(header: Header) -> Path:
    """Where the figures of a network and set are kept: ``calibration/cache`` in a checkout, else the user's cache."""
    shipped = resources.folder_of(resources.CALIBRATION)
    checkout = shipped.parent / "pyproject.toml"
    folder = shipped / "cache" if checkout.is_file() else cache_folder() / "calibration"
    return folder / f"{header.set_name}-{header.network[:12]}-{header.calibration[:12]}-{header.short_side}.npz"
