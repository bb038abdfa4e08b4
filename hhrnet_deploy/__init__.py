"""HigherHRNet from a PyTorch checkpoint to an engine, with COCO AP measured at both ends.

Importing this package loads nothing heavy; each public name brings what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hhrnet_deploy.decode import decode_heads
    from hhrnet_deploy.evaluate import evaluate
    from hhrnet_deploy.export.exporting import export_onnx
    from hhrnet_deploy.heads import Heads
    from hhrnet_deploy.model.checkpoint import load_model
    from hhrnet_deploy.people import People
    from hhrnet_deploy.pipeline.build import build_engine
    from hhrnet_deploy.pipeline.pose import Pose
    from hhrnet_deploy.targets.opening import open_engine

__all__ = [
    "Heads",
    "People",
    "Pose",
    "build_engine",
    "decode_heads",
    "evaluate",
    "export_onnx",
    "load_model",
    "open_engine",
]

_MODULES = {
    "Heads": "hhrnet_deploy.heads",
    "People": "hhrnet_deploy.people",
    "Pose": "hhrnet_deploy.pipeline.pose",
    "build_engine": "hhrnet_deploy.pipeline.build",
    "decode_heads": "hhrnet_deploy.decode",
    "export_onnx": "hhrnet_deploy.export.exporting",
    "load_model": "hhrnet_deploy.model.checkpoint",
    "open_engine": "hhrnet_deploy.targets.opening",
}


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        # The room itself, which can be called: a function of that name would hide the package from imports.
        return importlib.import_module("hhrnet_deploy.evaluate")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
