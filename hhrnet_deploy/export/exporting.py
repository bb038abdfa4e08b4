"""``export_onnx``: checkpoint to ONNX file, compared with PyTorch before it gets its name."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.export.options import DEFAULT_OPSET, ExportOptions, check_decode, parse_size
from hhrnet_deploy.export.samples import parity_shapes, sample_batches
from hhrnet_deploy.export.triton import TritonModel, check_batch, write_repository
from hhrnet_deploy.files import replacing, sha256_of
from hhrnet_deploy.targets.bundle import tool_version
from hhrnet_deploy.targets.graph import GraphMetadata, graph_of, read_graph
from hhrnet_deploy.targets.parity import TOLERANCES, Parity, check, compare
from hhrnet_deploy.targets.target import RunOptions
from hhrnet_deploy.targets.trt_options import TensorRtOptions

if TYPE_CHECKING:
    import onnx
    import torch

    from hhrnet_deploy.model.presets import Preset

Note = Callable[[str], None]


class ExportReport(BaseModel):
    """What was exported.

    Attributes:
        path: the ONNX file.
        sha256, bytes: of the file.
        preset: of the network.
        options: the conventions of the graph.
        nodes: how many the graph has.
        parity: the difference of the heads from PyTorch, measured in ONNX Runtime.
        triton: the model that was written into a repository.
        seconds: how long it took, comparison included.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    sha256: str
    bytes: int
    preset: str
    options: ExportOptions
    nodes: int
    parity: Parity
    triton: TritonModel | None = None
    seconds: float


@dataclass(frozen=True)
class Source:
    """The network to export, with what its graph says about it."""

    network: torch.nn.Module
    preset: Preset
    checkpoint_sha256: str | None


def export_onnx(
    model: torch.nn.Module | str | Path,
    path: str | Path,
    *,
    preset: str | Path | Preset | None = None,
    size: int | tuple[int, int] | str | None = None,
    dynamic: bool | None = None,
    batch: int | Literal["dynamic"] | None = None,
    flip: bool = False,
    input: Literal["uint8", "float"] = "uint8",  # noqa: A002
    opset: int = DEFAULT_OPSET,
    simplify: bool = True,
    decode: DecodeConfig | None = None,
    triton: str | Path | None = None,
    triton_options: TensorRtOptions | None = None,
    images: str | Path | None = None,
    progress: Note | None = None,
) -> ExportReport:
    """Export a network to ONNX and compare the file with PyTorch in ONNX Runtime.

    Args:
        model: a network of `load_model`, a checkpoint file, or ``"default"`` for the model that ships.
        path: the file to write; it is replaced only by a graph that passed.
        preset: of a checkpoint that does not say what it is.
        size: S or (H, W) in pixels, or text as ``512x704`` (height x width), for a graph of that size only.
        dynamic: any H and W; the default when no ``size`` is given.
        batch: N, or ``"dynamic"``; default 1 for a fixed size, else dynamic.
        flip: run the mirrored images in the same batch; adds ``coarse_flipped`` and ``fine_flipped``.
        input: ``uint8`` pixels (N, H, W, 3) RGB, or normalised ``float`` (N, 3, H, W).
        opset: 15 to 20.
        simplify: run onnxsim.
        decode: append the decode ops with these settings, after simplifying and comparing: the graph returns people and
            runs in TensorRT alone. ``flip`` follows the argument above.
        triton: model repository of Triton to write the model's configuration into; see `write_repository`.
        triton_options: shapes and largest batch of its plan.
        images: folder of photos to compare on; default synthetic people.
        progress: called with a line per step.

    Raises:
        InputError: an option that does not exist or contradicts another; see `load_model` for checkpoints.
        GateFailedError: the graph differs from PyTorch; an earlier file at ``path`` stays as it was.
    """
    started = time.perf_counter()
    note = progress or (lambda _: None)
    options = _options(size, dynamic, batch, flip=flip, input=input, opset=opset, simplify=simplify, decode=decode)
    if triton is not None:
        check_batch(options.batch)
    _require_free(path, model)
    source = _load(model, preset, note)
    note(f"tracing {source.preset.name}")
    graph = _graph(source, options)
    with replacing(path) as temporary:
        _save(graph, temporary)
        note("comparing with PyTorch in ONNX Runtime")
        parity = _parity(source, graph, temporary, options, images)
        check(parity, TOLERANCES["fp32"], what=f"Export of {source.preset.name}")
        if options.decode is not None:
            note("appending the decode ops")
            graph = _decoding(graph, options.decode)
            _save(graph, temporary)
    served = None if triton is None else write_repository(triton, read_graph(path), triton_options)
    return ExportReport(
        path=str(path),
        sha256=sha256_of(path),
        bytes=Path(path).stat().st_size,
        preset=source.preset.name,
        options=options,
        nodes=len(graph.graph.node),
        parity=parity,
        triton=served,
        seconds=round(time.perf_counter() - started, 2),
    )


def _options(
    size: int | tuple[int, int] | str | None,
    dynamic: bool | None,
    batch: int | Literal["dynamic"] | None,
    **conventions: Any,
) -> ExportOptions:
    if size is not None and dynamic:
        raise InputError("A graph has either a fixed size or dynamic ones; both were asked for.")
    if size is None and dynamic is False:
        raise InputError("A graph that is not dynamic needs a size.", hint="Give size=512 or size=(512, 704).")
    if isinstance(size, str):
        size = parse_size(size)
    fixed = (size, size) if isinstance(size, int) else size
    images = None if batch == "dynamic" else batch
    if batch is None and fixed is not None:
        images = 1
    decode: DecodeConfig | None = conventions["decode"]
    if decode is not None:
        check_decode(decode)
    try:
        return ExportOptions(size=fixed, batch=images, **conventions)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][:1]))
        own = first.get("ctx", {}).get("error")  # of our own validators, which name the value themselves
        problem = f"{first['msg']}, got {first['input']!r}" if own is None else str(own)
        raise InputError(f"Export option {where}: {problem}.") from error


def _require_free(path: str | os.PathLike[str], model: object) -> None:
    """Say before any work that the graph would replace a folder or the checkpoint it is made from."""
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder.", hint="Give the ONNX file a name, such as heads.onnx.")
    if isinstance(model, str | os.PathLike) and Path(path).resolve() == Path(model).resolve():
        raise InputError(f"{path} is the checkpoint itself.", hint="Give the ONNX file another name.")


def _load(model: torch.nn.Module | str | Path, preset: str | Path | Preset | None, note: Note) -> Source:
    from hhrnet_deploy.model.checkpoint import LoadedModel, load_model
    from hhrnet_deploy.model.presets import Preset, find_preset

    network = load_model(preset, model) if isinstance(model, str | Path) else model
    if isinstance(network, LoadedModel):
        for line in network.source.notes:
            note(line)
        return Source(_for_export(network), network.preset, network.source.sha256)
    if preset is None:
        raise InputError("The network does not say which preset it is.", hint="Give preset=..., or use load_model.")
    return Source(_for_export(network), preset if isinstance(preset, Preset) else find_preset(preset), None)


def _for_export(network: torch.nn.Module) -> torch.nn.Module:
    """The network in eval mode and float32 on the CPU; a copy where it is not, so that training goes on as it was."""
    import torch

    ready = all(value.device.type == "cpu" and value.dtype == torch.float32 for value in network.parameters())
    if ready and not network.training:
        return network
    return copy.deepcopy(network).cpu().float().eval()


def _graph(source: Source, options: ExportOptions) -> onnx.ModelProto:
    from hhrnet_deploy.export.graph import build_graph

    graph = build_graph(source.network, options)
    metadata = GraphMetadata(
        preset=source.preset.name,
        skeleton=source.preset.skeleton,
        short_side=source.preset.short_side,
        input=options.input,
        flip=options.flip,
        checkpoint_sha256=source.checkpoint_sha256,
        tool_version=tool_version(),
    )
    metadata.write(graph)
    return graph


def _decoding(graph: onnx.ModelProto, config: DecodeConfig) -> onnx.ModelProto:
    from hhrnet_deploy.export.decode_ops import with_decode

    return with_decode(graph, config)


def _save(model: onnx.ModelProto, path: Path) -> None:
    import onnx

    onnx.save(model, str(path))


def _parity(
    source: Source, model: onnx.ModelProto, path: Path, options: ExportOptions, images: str | Path | None
) -> Parity:
    from hhrnet_deploy.targets.onnxruntime import OnnxRuntimeRunner
    from hhrnet_deploy.targets.torch import TorchRunner

    shapes = parity_shapes(source.preset.short_side, options.size, options.batch)
    batches, origin = sample_batches(shapes, images)
    metadata = GraphMetadata.from_props({e.key: e.value for e in model.metadata_props}, source=str(path))
    info = graph_of(model, metadata, path).info("the exported graph", "onnxruntime", "fp32")
    with TorchRunner(source.network, source.preset, device="cpu") as reference:
        expected = [reference.heads_with_flip(batch, options.flip) for batch in batches]
    with OnnxRuntimeRunner(path, info, RunOptions()) as exported:
        pairs = [(heads, exported.heads(batch)) for heads, batch in zip(expected, batches, strict=True)]
    return Parity(reference="torch", images=origin, shapes=tuple(shapes), outputs=compare(pairs))
