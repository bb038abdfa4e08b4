"""The targets by name. A new one is a module beside this file and a line in the table."""

from __future__ import annotations

import importlib
import importlib.util

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.targets.target import Target
from hhrnet_deploy.targets.trt_device import compute_capability

# target -> module that holds its `Target` as TARGET; imported when it is asked for.
_MODULES = {
    "openvino": "hhrnet_deploy.targets.openvino",
    "onnxruntime": "hhrnet_deploy.targets.onnxruntime",
    "tensorrt": "hhrnet_deploy.targets.tensorrt",
    "tensorrt-rtx": "hhrnet_deploy.targets.tensorrt_rtx",
}


def target_names() -> list[str]:
    """The targets that engines can be built for."""
    return list(_MODULES)


def default_target() -> str:
    """The target taken where none is named: tensorrt where it and a CUDA card are found, else openvino."""
    if importlib.util.find_spec("tensorrt") is not None and compute_capability() is not None:
        return "tensorrt"
    return "openvino"


def find_target(name: str) -> Target:
    """The target of that name; its library is not loaded yet.

    Raises:
        InputError: there is none.
    """
    if name not in _MODULES:
        raise InputError(f"There is no target {name!r}.", hint=f"Targets: {', '.join(_MODULES)}.")
    target: Target = importlib.import_module(_MODULES[name]).TARGET
    return target
