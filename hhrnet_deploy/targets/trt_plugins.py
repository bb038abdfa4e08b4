"""The ops of domain ``hhrnet`` inside TensorRT: quick plugins where it has them, else IPluginV3."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from hhrnet_deploy.decode.plugin_ops import OPS
from hhrnet_deploy.errors import HHRNetError

Kind = Literal["embedded", "python"]


def plugin_kind(api: Any) -> Kind:
    """Which plugins this release gets.

    Args:
        api: the module ``tensorrt``.

    Returns:
        ``embedded``: the compiled kernels travel inside the plan, which then runs anywhere (10.9 and later);
        ``python``: whoever opens the plan has to register the ops first, in Python.
    """
    return "embedded" if hasattr(api, "QuickPluginCreationRequest") else "python"


def register_plugins(api: Any) -> Kind:
    """Have this process's TensorRT know the ops; calling it again does nothing.

    Args:
        api: the module ``tensorrt``.

    Raises:
        HHRNetError: TensorRT-RTX, which takes no plugins; TensorRT before 10; an installation without CUDA kernels.
    """
    _check(api)
    kind = plugin_kind(api)
    module = "quick" if kind == "embedded" else "v3"
    importlib.import_module(f"hhrnet_deploy.targets.trt_plugin_{module}").register(api)
    return kind


def _check(api: Any) -> None:
    if hasattr(api, "IPluginV3") and api.__name__ != "tensorrt_rtx":
        return
    raise HHRNetError(
        f"{api.__name__} {api.__version__} takes no plugins like {', '.join(OPS)}.",
        hint="Build for tensorrt 10 or later, or export without --decode plugin: the engine's heads are decoded after "
        "it, on the same GPU.",
    )
