"""Heavy packages, imported where they are used and never before.

``import hhrnet_deploy`` and every ``--help`` stay free of torch, openvino, onnxruntime, cv2, tensorrt and pycuda.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from hhrnet_deploy.errors import MissingDependencyError

# module -> the extra of this distribution that installs it; absent means a required dependency.
_EXTRA_OF = {
    "tensorrt": "tensorrt",
    "pycuda": "cuda",
    "polygraphy": "tensorrt",
    "tensorrt_rtx": "rtx",
    "av": "video",
}


def require(module: str, *, purpose: str) -> ModuleType:
    """Import ``module`` or say which extra brings it.

    Args:
        module: dotted module name, for example ``"tensorrt"``.
        purpose: what needs it, as it ends the sentence "... is needed for".

    Raises:
        MissingDependencyError: the module cannot be imported; the hint holds the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = _EXTRA_OF.get(module.partition(".")[0])
        target = f"hhrnet-deploy[{extra}]" if extra else "hhrnet-deploy"
        raise MissingDependencyError(
            f"{module} is needed for {purpose} and cannot be imported ({error}).",
            hint=f"Install it with: pip install '{target}'",
        ) from error
