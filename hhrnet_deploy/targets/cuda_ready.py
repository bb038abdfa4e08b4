"""Whether engines can run on a card here, and the one command that adds what is missing. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from hhrnet_deploy.decode.kernel_files import fatbin_file
from hhrnet_deploy.errors import HHRNetError
from hhrnet_deploy.targets.trt_device import compute_capability

# module -> the extra that brings it
_EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx", "pycuda": "cuda"}


@dataclass(frozen=True)
class Missing:
    """What keeps engines from running here, and what to do about it."""

    fact: str
    remedy: str


def missing_to_run(module: str) -> Missing | None:
    """The first thing that is missing to run plans of ``module``; None when all is here.

    Args:
        module: ``tensorrt`` or ``tensorrt_rtx``.
    """
    if compute_capability() is None:
        return Missing(
            "no NVIDIA GPU is visible", "Run it on a machine with one: `nvidia-smi` has to list it. See docs/gpu.md."
        )
    absent = [name for name in (module, "pycuda") if importlib.util.find_spec(name) is None]
    if absent:
        extras = ",".join(_EXTRAS[name] for name in absent)
        command = f"pip install 'hhrnet-deploy[{extras}]'"
        return Missing(f"{' and '.join(absent)} cannot be imported", f"Install what is missing with: {command}")
    try:
        fatbin_file()
    except HHRNetError as error:
        return Missing(error.fact.rstrip("."), error.hint or "")
    return None
