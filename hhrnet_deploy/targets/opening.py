"""Opening whatever can run: an engine bundle, an ONNX file, a checkpoint, the model that ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hhrnet_deploy.errors import BundleError, InputError
from hhrnet_deploy.targets.bundle import Bundle, check_runs_here, is_bundle, read_bundle
from hhrnet_deploy.targets.graph import read_graph
from hhrnet_deploy.targets.registry import find_target, target_names
from hhrnet_deploy.targets.runner import Runner
from hhrnet_deploy.targets.target import RunOptions, Target

if TYPE_CHECKING:
    from hhrnet_deploy.model.presets import Preset

DEFAULT = "default"


def open_engine(path: str | Path, options: RunOptions | None = None) -> Runner:
    """A runner of an engine bundle; files, versions and device are checked here, the engine loads on enter.

    Args:
        path: the bundle's directory, wherever it was moved to.
        options: threads and caches of this run.

    Raises:
        BundleError: missing, edited, truncated, or built by another version or for another device; says which, and
            the command that builds it again.
        MissingDependencyError: the target's library is not installed.
    """
    bundle = read_bundle(path)
    target = _target_of(bundle)
    check_runs_here(bundle, target)
    name = bundle.folder.resolve().name
    manifest = bundle.manifest
    return target.runner(bundle.folder, manifest.info(name), dict(manifest.hints), options or RunOptions())


def open_onnx(path: str | Path, options: RunOptions | None = None) -> Runner:
    """A runner of an exported ONNX file, in ONNX Runtime.

    Raises:
        InputError: the file is missing, unreadable or was not exported by hhrnet-deploy.
    """
    from hhrnet_deploy.targets.onnxruntime import OnnxRuntimeRunner

    graph = read_graph(path)
    if graph.metadata.outputs == "people":
        raise InputError(
            f"{path} decodes inside the graph with TensorRT plugins; ONNX Runtime cannot run it.",
            hint="Build it with --target tensorrt, or export it without --decode plugin.",
        )
    info = graph.info(Path(path).name, "onnxruntime", graph.metadata.precision)
    return OnnxRuntimeRunner(Path(path), info, options or RunOptions())


def open_model(
    what: str | Path = DEFAULT,
    preset: str | Path | Preset | None = None,
    *,
    options: RunOptions | None = None,
    device: str | None = None,
) -> Runner:
    """A runner of a bundle directory, an ``.onnx`` file, a checkpoint file, or ``"default"``, the model that ships.

    Args:
        what: the thing itself, by path.
        preset: of a checkpoint that does not say what it is.
        options: threads and caches, of engines.
        device: torch device, of checkpoints.

    Raises:
        InputError: none of these, or a broken one; see `open_engine`, `open_onnx` and `load_model`.
    """
    path = Path(what)
    if not str(what):
        raise InputError("The model has no name.", hint="Give an engine, an ONNX file, a checkpoint, or default.")
    if str(what) == DEFAULT:
        return _open_checkpoint(DEFAULT, preset, device)
    if path.is_dir() or is_bundle(path):
        return open_engine(path, options)
    if not path.exists():
        raise InputError(
            f"There is no engine, ONNX file or checkpoint {path}.",
            hint="Give a path, or default for the shipped model.",
        )
    if path.suffix == ".onnx":
        return open_onnx(path, options)
    if is_bundle(path.parent) and path.suffix in (".xml", ".bin", ".plan", ".json"):
        raise InputError(f"{path} is one file of an engine bundle.", hint=f"Give the bundle: {path.parent}")
    return _open_checkpoint(path, preset, device)


def _open_checkpoint(path: str | Path, preset: str | Path | Preset | None, device: str | None) -> Runner:
    from hhrnet_deploy.targets.torch import open_checkpoint

    return open_checkpoint(path, preset, device=device)


def _target_of(bundle: Bundle) -> Target:
    name = bundle.manifest.target
    if name not in target_names():
        raise BundleError(
            f"Engine bundle {bundle.folder} is for the target {name}, which this hhrnet-deploy does not know.",
            hint=f"Its targets: {', '.join(target_names())}.",
        )
    return find_target(name)
