"""The house has one direction of imports. The table below is the allowed edges; anything else fails."""

from __future__ import annotations

import ast
from pathlib import Path

import hhrnet_deploy

PACKAGE = Path(hhrnet_deploy.__file__).parent if hhrnet_deploy.__file__ else Path()

FLOOR = {"errors", "skeletons", "people", "heads", "config", "lazy", "files", "resources", "signals"}
LOW = {"data", "model", "decode"}
SIDE = {"evaluate", "visualize"}
STAGES = {"export", "quantize", "train"}

# room -> rooms it may import (the floor is allowed to all).
ALLOWED: dict[str, set[str]] = {
    **{room: set() for room in LOW},
    "targets": LOW,
    **{room: LOW | {"targets"} for room in SIDE},
    **{room: LOW | {"targets"} | SIDE for room in STAGES},
    "pipeline": LOW | {"targets"} | SIDE | STAGES,
    "cli": LOW | {"targets"} | SIDE | STAGES | {"pipeline"},
}

# Third-party packages the floor may use.
FLOOR_PACKAGES = {"numpy", "pydantic"}

# Imported where used, so that `import hhrnet_deploy` and `--help` stay light; the rooms that are themselves
# imported late may name them at the top.
HEAVY = {"torch", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "cv2", "onnx", "onnxsim", "av"}


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def _imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports hide the room"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _target_rooms(imports: set[str]) -> set[str]:
    rooms = {name.split(".")[1] for name in imports if name.startswith("hhrnet_deploy.")}
    return {room for room in rooms if room in ALLOWED or room in FLOOR}


def test_every_import_follows_the_table() -> None:
    broken = []
    for path in _sources():
        room = _room(path)
        if room == "__init__":
            continue
        targets = _target_rooms(_imports(ast.parse(path.read_text(encoding="utf-8")))) - FLOOR - {room}
        allowed = ALLOWED.get(room, set())
        broken += [f"{path.relative_to(PACKAGE)} imports {target}" for target in sorted(targets - allowed)]
    assert broken == []


def test_the_floor_uses_only_the_standard_library_numpy_and_pydantic() -> None:
    import sys

    allowed = set(sys.stdlib_module_names) | FLOOR_PACKAGES | {"hhrnet_deploy", "__future__"}
    for name in FLOOR:
        imports = _imports(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8")))
        assert {module.split(".")[0] for module in imports} <= allowed, name


def test_nothing_but_the_cli_imports_the_cli() -> None:
    for path in _sources():
        if _room(path) != "cli":
            assert "hhrnet_deploy.cli" not in " ".join(_imports(ast.parse(path.read_text(encoding="utf-8")))), path


def test_targets_are_siblings() -> None:
    backends = {"openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "torch"}
    for path in (PACKAGE / "targets").glob("*.py"):
        if path.stem not in backends:
            continue
        imports = _imports(ast.parse(path.read_text(encoding="utf-8")))
        others = {f"hhrnet_deploy.targets.{other}" for other in backends - {path.stem}}
        assert not imports & others, path


def test_every_package_folder_is_a_known_room() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms <= set(ALLOWED)


def test_every_floor_file_is_listed() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert files == FLOOR
