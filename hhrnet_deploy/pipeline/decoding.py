"""The step of a build around number types: a graph that decodes gives up its ops, is typed, and gets them back."""

from __future__ import annotations

from pathlib import Path

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.targets.graph import Graph, read_graph


def heads_graph(graph: Graph, scratch: Path) -> Graph:
    """The same graph with heads as outputs, written into ``scratch``; itself where they are already.

    Raises:
        InputError: a graph with people as outputs is typed fp16 or int8.
    """
    if graph.metadata.outputs == "heads":
        return graph
    import onnx

    from hhrnet_deploy.export.decode_ops import without_decode

    path = scratch / "without_decode.onnx"
    onnx.save(without_decode(onnx.load(str(graph.path))), str(path))
    return read_graph(path)


def people_graph(graph: Graph, decode: DecodeConfig | None, scratch: Path) -> Graph:
    """A heads graph of any precision with the decode ops, written into ``scratch``; itself without settings."""
    if decode is None:
        return graph
    import onnx

    from hhrnet_deploy.export.decode_ops import with_decode

    path = scratch / "with_decode.onnx"
    onnx.save(with_decode(onnx.load(str(graph.path)), decode), str(path))
    return read_graph(path)
