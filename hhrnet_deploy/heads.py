"""Heads: what the network says about a batch of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import InputError

Array = npt.NDArray[Any]
_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))


@dataclass(frozen=True, slots=True)
class Heads:
    """The network's raw outputs for N images (pose_higher_hrnet.py:507-520 of the official code).

    Attributes:
        coarse: (N, 2K, H/4, W/4); channels 0 to K-1 heat maps, K to 2K-1 tags. float32, or float16 widened on load.
        fine: (N, K, H/2, W/2), heat maps only.
        coarse_flipped, fine_flipped: the raw outputs for the mirrored images, not flipped back; both or neither.

    Anything that speaks DLPack on the host (a torch tensor, for example) is taken as a NumPy view, without a copy.

    Raises:
        InputError: the arrays do not fit each other, or one is neither an array nor a DLPack object on the host.
    """

    coarse: Array
    fine: Array
    coarse_flipped: Array | None = None
    fine_flipped: Array | None = None

    def __post_init__(self) -> None:
        for name in ("coarse", "fine", "coarse_flipped", "fine_flipped"):
            object.__setattr__(self, name, _on_host(name, getattr(self, name)))
        if (self.coarse_flipped is None) != (self.fine_flipped is None):
            raise InputError("Heads need both flipped outputs or neither; one of the two is missing.")
        for name, value in self.named():
            if value.ndim != 4:
                raise InputError(f"Head {name} has to be 4-dimensional (N, C, H, W), got shape {tuple(value.shape)}.")
            if np.dtype(value.dtype) not in _DTYPES:
                raise InputError(f"Head {name} has to be float32 or float16, got {value.dtype}.")
            if min(value.shape[1:]) < 1:
                raise InputError(f"Head {name} is empty: shape {tuple(value.shape)}.")
        if self.coarse.shape[:2] != (self.batch, 2 * self.num_joints):
            raise InputError(
                f"coarse has to have the batch and twice the channels of fine {tuple(self.fine.shape)}, "
                f"got {tuple(self.coarse.shape)}."
            )
        for straight, flipped in ((self.coarse, self.coarse_flipped), (self.fine, self.fine_flipped)):
            if flipped is not None and flipped.shape != straight.shape:
                raise InputError(f"A flipped head has shape {flipped.shape}, its straight one {straight.shape}.")

    def named(self) -> list[tuple[str, Array]]:
        """The outputs that are present, with their names in the exported graph."""
        pairs = (
            ("coarse", self.coarse),
            ("fine", self.fine),
            ("coarse_flipped", self.coarse_flipped),
            ("fine_flipped", self.fine_flipped),
        )
        return [(name, value) for name, value in pairs if value is not None]

    @property
    def batch(self) -> int:
        """N, the number of images."""
        return int(self.fine.shape[0])

    @property
    def num_joints(self) -> int:
        """K, the number of joints."""
        return int(self.fine.shape[1])

    @property
    def has_flip(self) -> bool:
        """Whether the mirrored images' outputs are present."""
        return self.fine_flipped is not None

    def without_flip(self) -> Heads:
        """The same heads with the mirrored outputs dropped."""
        return Heads(self.coarse, self.fine)

    def image(self, index: int) -> Heads:
        """The heads of one image, batch 1, as views."""
        return Heads(*(None if a is None else a[index : index + 1] for a in self.as_tuple()))  # type: ignore[arg-type]

    def as_tuple(self) -> tuple[Array, Array, Array | None, Array | None]:
        """(coarse, fine, coarse_flipped, fine_flipped)."""
        return self.coarse, self.fine, self.coarse_flipped, self.fine_flipped


def _on_host(name: str, value: Any) -> Array | None:
    if value is None or isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "__dlpack__"):
        raise InputError(f"Head {name} has to be a NumPy array or a DLPack object, got {type(value).__name__}.")
    try:
        return cast(Array, np.from_dlpack(value))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"Head {name}, a {type(value).__name__}, cannot be read on the host: {error}.",
            hint="Detach it and copy it to the CPU first.",
        ) from error
