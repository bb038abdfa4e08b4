"""Where the compiled CUDA kernels are: one fatbin for every GPU, one PTX per kernel for engine plugins."""

from __future__ import annotations

from pathlib import Path

import hhrnet_deploy.decode
from hhrnet_deploy.decode.launch_table import KERNELS
from hhrnet_deploy.errors import HHRNetError


def fatbin_file() -> Path:
    """All kernels, for sm_75, 80, 86, 89, 90, 100, 120 and as PTX.

    Raises:
        HHRNetError: this installation was built without nvcc.
    """
    return _find("kernels.fatbin")


def ptx_file(kernel: str) -> Path:
    """One kernel (a key of ``KERNELS``) as PTX for compute capability 7.5 and later.

    Raises:
        HHRNetError: this installation was built without nvcc.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel has to be one of {', '.join(KERNELS)}, got {kernel!r}")
    return _find(f"{kernel}.ptx")


def _find(name: str) -> Path:
    # An editable installation keeps built files in a second folder of the same package.
    for folder in hhrnet_deploy.decode.__path__:
        path = Path(folder) / "cuda" / name
        if path.is_file():
            return path
    raise HHRNetError(
        f"The CUDA kernels are not part of this installation ({name} is missing): it was built without nvcc.",
        hint="Install the CUDA toolkit (13 or later) so that nvcc is on PATH, then install hhrnet-deploy again from "
        "its sources: pip install --no-binary hhrnet-deploy hhrnet-deploy, or pip install . in a checkout.",
    )
