"""The compiled decoder; use hhrnet_deploy.decode.decode_heads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Options:
    """Thresholds and switches, as DecodeConfig."""

    def __init__(
        self,
        *,
        detection_threshold: float,
        tag_threshold: float,
        nms_kernel: int,
        max_people: int,
        adjust: bool,
        refine: bool,
        use_detection_val: bool,
        ignore_too_much: bool,
    ) -> None: ...

def decode(
    scales: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]],
    tag_scale: int,
    width: int,
    height: int,
    flip_index: Sequence[int],
    order: Sequence[int],
    options: Options,
    threads: int = 1,
    variant: str = "",
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]] | None]:
    """Keypoints (P, K, 3), scores (P,) and tags (P, K, L) of each image; None where no decoder accepts a value."""

def workspace_bytes(
    scales: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]],
    tag_scale: int,
    width: int,
    height: int,
    max_people: int = 30,
) -> int:
    """Bytes of memory one image needs beside its heads."""

def warp(image: NDArray[np.uint8], matrix: Sequence[float], width: int, height: int) -> NDArray[np.uint8]:
    """The (height, width, 3) uint8 image that cv2.warpAffine of OpenCV 4 makes with this forward 2x3 matrix."""

def variants() -> list[str]:
    """The instruction sets this machine can run, best first; all compute the same bits."""
