"""What an engine bundle or an ONNX file is: precision of its layers, cost, shapes, hashes, how it was made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import sha256_of
from hhrnet_deploy.pipeline.report_layers import kind_of
from hhrnet_deploy.targets.bundle import Bundle, read_bundle, read_layers
from hhrnet_deploy.targets.graph_cost import GraphCost, read_cost
from hhrnet_deploy.targets.target import Layer

_DEFAULT_SIDE = 512


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Convolution(_Model):
    """One layer with weights: a convolution, a transposed one or a matrix product.

    Attributes:
        name: of the ONNX node.
        precision: what it computes in: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``other``.
        multiply_adds: for one image.
        layer: the engine's layer that computes it; None in an ONNX file.
    """

    name: str
    precision: str
    multiply_adds: int
    layer: str | None = None


class Share(_Model):
    """What is computed in one precision.

    Attributes:
        precision: as in `Convolution`; ``not listed`` for what no layer of the engine names.
        convolutions: how many.
        multiply_adds: for one image.
        share: of all multiply-adds, 0 to 1.
    """

    precision: str
    convolutions: int
    multiply_adds: int
    share: float


class Inspection(_Model):
    """Everything about one file or bundle.

    Attributes:
        path: as given.
        kind: ``engine``, a bundle, or ``onnx``.
        bytes: of all its files.
        sha256: of every file by name.
        about: what it says about itself: the manifest, or the metadata and shapes of the graph.
        cost: of one image; None for a bundle that does not say.
        shares: multiply-adds by precision, largest first.
        convolutions: every layer with weights, in order.
        layers: number of layers of each type.
    """

    path: str
    kind: Literal["engine", "onnx"]
    bytes: int
    sha256: dict[str, str]
    about: dict[str, Any]
    cost: GraphCost | None
    shares: tuple[Share, ...]
    convolutions: tuple[Convolution, ...]
    layers: dict[str, int]


class Change(_Model):
    """One thing that differs; None where it is missing."""

    name: str
    a: Any
    b: Any


class Difference(_Model):
    """What differs between two.

    Attributes:
        a, b: the two.
        changes: of what they say about themselves, cost and hashes.
        convolutions: those of other precision, or that only one has.
    """

    a: Inspection
    b: Inspection
    changes: tuple[Change, ...]
    convolutions: tuple[Change, ...]


def inspect(path: str | Path) -> Inspection:
    """Look at a bundle or an ONNX file; needs neither the target's library nor its device.

    Raises:
        BundleError: the bundle is incomplete or edited.
        InputError: neither a bundle nor an ONNX file.
    """
    source = Path(path)
    if source.is_dir():
        return _inspect_bundle(read_bundle(source), str(path))
    if source.suffix == ".onnx":
        return _inspect_onnx(source, str(path))
    if not source.exists():
        raise InputError(f"There is no engine bundle or ONNX file {source}.")
    raise InputError(
        f"{source} is neither an engine bundle (a folder) nor an ONNX file (*.onnx).",
        hint="A checkpoint becomes one with hhrnet export or hhrnet build.",
    )


def compare(a: Inspection, b: Inspection) -> Difference:
    """What differs between two engines or graphs."""
    first, second = ({c.name: c.precision for c in one.convolutions} for one in (a, b))
    return Difference(
        a=a, b=b, changes=_changes(_flat(_facts(a)), _flat(_facts(b))), convolutions=_changes(first, second)
    )


def _inspect_bundle(bundle: Bundle, path: str) -> Inspection:
    manifest = bundle.manifest
    layers = read_layers(bundle)
    convolutions = tuple(
        Convolution(name=name, precision=kind_of(layer.precision), multiply_adds=work, layer=layer.name)
        for layer in layers
        for name, work in layer.work.items()
    )
    about = manifest.model_dump(mode="json", exclude={"files", "cost", "schema_version", "digest"}, exclude_none=True)
    return Inspection(
        path=path,
        kind="engine",
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        sha256={name: entry.sha256 for name, entry in manifest.files.items()},
        about={**about, "skeleton": manifest.skeleton.name},
        cost=manifest.cost,
        shares=_shares(convolutions, None if manifest.cost is None else manifest.cost.multiply_adds),
        convolutions=convolutions,
        layers=_types(layers),
    )


def _inspect_onnx(source: Path, path: str) -> Inspection:
    import onnx

    if not source.is_file():
        raise InputError(f"There is no ONNX file {source}.")
    about, size = _about_graph(source)
    cost, nodes = read_cost(source, size)
    convolutions = tuple(Convolution(name=n.name, precision=n.precision, multiply_adds=n.multiply_adds) for n in nodes)
    graph = onnx.load(str(source), load_external_data=False).graph
    return Inspection(
        path=path,
        kind="onnx",
        bytes=source.stat().st_size,
        sha256={source.name: sha256_of(source)},
        about=about,
        cost=cost,
        shares=_shares(convolutions, cost.multiply_adds),
        convolutions=convolutions,
        layers=_count(node.op_type for node in graph.node),
    )


def _about_graph(source: Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """Metadata and shapes, and the (H, W) that costs are counted for; graphs of other programs have no metadata."""
    import onnx

    from hhrnet_deploy.targets.graph import read_graph

    try:
        model = onnx.load(str(source), load_external_data=False)
    except Exception as error:  # protobuf's and ONNX's own classes share no base with a name.
        raise InputError(f"{source} is not a readable ONNX file: {error}.") from error
    about: dict[str, Any] = {
        "opset": {item.domain or "ai.onnx": item.version for item in model.opset_import},
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": {value.name: _shape(value) for value in model.graph.input},
        "outputs": {value.name: _shape(value) for value in model.graph.output},
    }
    if not any(entry.key == "preset" for entry in model.metadata_props):
        return about, (_DEFAULT_SIDE, _DEFAULT_SIDE)
    metadata = read_graph(source).metadata
    details = metadata.model_dump(mode="json", exclude={"mean", "std", "outputs", "skeleton"}, exclude_none=True)
    about |= {**details, "decodes": metadata.outputs == "people", "skeleton": metadata.skeleton.name}
    return about, (metadata.short_side, metadata.short_side)


def _shape(value: Any) -> str:
    """``float16 (N, 3, height, 512)``."""
    import onnx

    kind = value.type.tensor_type
    dims = (str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim)
    return f"{str(onnx.TensorProto.DataType.Name(kind.elem_type)).lower()} ({', '.join(dims)})"


def _shares(convolutions: tuple[Convolution, ...], total: int | None) -> tuple[Share, ...]:
    listed = sum(item.multiply_adds for item in convolutions)
    whole = max(total or 0, listed)
    groups: dict[str, list[int]] = {}
    for item in convolutions:
        groups.setdefault(item.precision, []).append(item.multiply_adds)
    shares = [
        Share(precision=name, convolutions=len(work), multiply_adds=sum(work), share=sum(work) / max(1, whole))
        for name, work in groups.items()
    ]
    if whole > listed:
        rest = whole - listed
        shares.append(Share(precision="not listed", convolutions=0, multiply_adds=rest, share=rest / whole))
    return tuple(sorted(shares, key=lambda share: -share.multiply_adds))


def _types(layers: Iterable[Layer]) -> dict[str, int]:
    return _count(layer.type for layer in layers)


def _count(names: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _facts(one: Inspection) -> dict[str, Any]:
    """What is compared: everything but the path and the layers, which have lists of their own."""
    shares = {share.precision: round(share.share, 4) for share in one.shares}
    cost = None if one.cost is None else one.cost.model_dump()
    return {"bytes": one.bytes, **one.about, "cost": cost, "share of multiply-adds": shares, "sha256": one.sha256}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as ``a.b.c``; lists stay whole."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def _changes(a: dict[str, Any], b: dict[str, Any]) -> tuple[Change, ...]:
    names = [*a, *(name for name in b if name not in a)]
    return tuple(Change(name=name, a=a.get(name), b=b.get(name)) for name in names if a.get(name) != b.get(name))
