"""AP against annotations, agreement with a reference, and how sure both are.

``hhrnet_deploy.evaluate`` is this package and, called, the function `hhrnet_deploy.evaluate.run.evaluate`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hhrnet_deploy.evaluate.report import EvaluationReport, ModelReport, check_gate
    from hhrnet_deploy.evaluate.run import EvaluationOptions, evaluate

__all__ = ["EvaluationOptions", "EvaluationReport", "ModelReport", "check_gate", "evaluate"]

_HOME = {
    "EvaluationOptions": "run",
    "EvaluationReport": "report",
    "ModelReport": "report",
    "check_gate": "report",
    "evaluate": "run",
}


class _CallablePackage(ModuleType):
    """Importing a submodule binds ``hhrnet_deploy.evaluate`` to the package; so the package answers calls too."""

    def __call__(self, *args: Any, **kwargs: Any) -> EvaluationReport:
        """`hhrnet_deploy.evaluate.run.evaluate`."""
        report: EvaluationReport = self.evaluate(*args, **kwargs)
        return report

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


sys.modules[__name__].__class__ = _CallablePackage
