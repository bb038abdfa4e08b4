"""Every name of TensorRT's API that the targets use, read from their source.

``trt.A.B`` is taken as it stands; what is used on an object is found through the variable's name, which therefore means
one class everywhere in these files. `unknown_objects` finds variables that are missing from the table.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

import hhrnet_deploy.targets.trt_builder as anchor

FILES = sorted(
    path
    for path in Path(anchor.__file__).parent.glob("*.py")
    if path.stem.startswith("trt_") or path.stem in ("tensorrt", "tensorrt_rtx")
)

# variable -> class of the API
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "config": "IBuilderConfig",
    "made": "IOptimizationProfile",
    "timings": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "execution": "IExecutionContext",
    "running": "IRuntimeConfig",
    "store": "IRuntimeCache",
}
# Variables that come from the API and on which no name of it is used.
OPAQUE = {"trt", "logger", "monitor", "serialized", "stored", "flag", "members", "severe", "severity", "problems"}
OPAQUE |= {"found", "missing", "written"}


@dataclass
class Names:
    """What is used.

    Attributes:
        chains: dotted names of the module, ``BuilderFlag.TF32``.
        read: ``Class.attribute`` that are read or called.
        written: ``Class.attribute`` that are assigned to.
        calls: ``Class.method`` or a dotted name -> numbers of positional arguments it is called with.
        bases: classes of the API that ours derive from -> methods that ours define.
    """

    chains: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    calls: dict[str, set[int]] = field(default_factory=dict)
    bases: dict[str, set[str]] = field(default_factory=dict)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _chain(node: ast.AST) -> list[str] | None:
    """``trt.A.B`` as ["trt", "A", "B"]."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else None


def _api_name(node: ast.AST) -> str | None:
    chain = _chain(node)
    if chain is None or len(chain) < 2 or "__" in chain[-1]:
        return None
    if chain[0] == "trt":
        return ".".join(chain[1:])
    return f"{OBJECTS[chain[0]]}.{chain[1]}" if chain[0] in OBJECTS else None


def used_names() -> Names:
    names = Names()
    for path in FILES:
        for node in ast.walk(_tree(path)):
            _collect(node, names)
    return names


def _collect(node: ast.AST, names: Names) -> None:
    if isinstance(node, ast.Attribute) and (name := _api_name(node)):
        chain = _chain(node) or []
        if chain[0] == "trt":
            names.chains.add(name)
        elif isinstance(node.ctx, ast.Store):
            names.written.add(name)
        else:
            names.read.add(name)
    elif isinstance(node, ast.Call) and (name := _api_name(node.func)):
        assert not node.keywords, f"{name}: keywords are not checked"
        names.calls.setdefault(name, set()).add(len(node.args))
    elif isinstance(node, ast.ClassDef):
        for base in node.bases:
            if name := _api_name(base):
                methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)} - {"__init__"}
                names.bases.setdefault(name, set()).update(methods)


def unknown_objects() -> set[str]:
    """Variables that hold something of the API and are in neither table."""
    found: set[str] = set()
    for path in FILES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                name = _api_name(node.value.func)
                if name is not None and "." in f"{name}.":
                    found.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return found - OBJECTS.keys() - OPAQUE
