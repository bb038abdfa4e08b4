"""The layers of a TensorRT engine: from the engine inspector, or from what TensorRT-RTX logs while it builds."""

from __future__ import annotations

import json
import re
from typing import Any

from hhrnet_deploy.targets.target import Layer

# TensorRT's words for a type -> this project's. The inspector of 10.x writes them inside a sentence about the format.
_TYPES = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
    "uint8": "uint8",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}
_TYPE = re.compile(r"\b(" + "|".join(_TYPES) + r")\b", re.IGNORECASE)
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), Inputs: (?P<inputs>.*?), (?:Constants: .*, )?"
    r"Outputs: (?P<outputs>.*), TacticName: .*?Metadata: ?(?P<metadata>.*)",
    re.DOTALL,
)
_DATATYPE = re.compile(r"Datatype: ([^,}]+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
# An engine lists its layers once per optimisation profile; the first is enough to see what runs.
_LATER_PROFILE = re.compile(r"\[profile [1-9]\d*\]")
_SUBGRAPH = re.compile(r"_myl(\d+)_\d+$")


def layers_of_log(lines: list[str]) -> tuple[Layer, ...]:
    """Layers of the lines ``Name: ..., LayerType: ...`` that a detailed, verbose TensorRT-RTX build prints."""
    found = [match for line in lines if (match := _LINE.match(line))]
    later = {_subgraph(match["name"]) for match in found if _LATER_PROFILE.search(match["name"])}
    return tuple(
        _layer(
            match["name"],
            match["type"],
            tuple(map(_type_of, _DATATYPE.findall(match["inputs"]))),
            tuple(map(_type_of, _DATATYPE.findall(match["outputs"]))),
            match["metadata"],
        )
        for match in found
        if _subgraph(match["name"]) not in later
    )


def layers_of_inspector(text: str) -> tuple[Layer, ...]:
    """Layers of the JSON document that ``EngineInspector.get_engine_information`` returns."""
    entries = json.loads(text).get("Layers", [])
    layers = (_inspected(entry) for entry in entries)
    return tuple(layer for layer in layers if not _LATER_PROFILE.search(layer.name))


def _subgraph(name: str) -> str | None:
    """Number of the part of the engine that a layer is in; every profile has its own."""
    found = _SUBGRAPH.search(name)
    return found[1] if found else None


def _inspected(entry: Any) -> Layer:
    if isinstance(entry, str):  # built without detailed verbosity: names only
        return _layer(entry, "", (), (), "")
    inputs, outputs = (tuple(_type_of(_format(tensor)) for tensor in entry.get(key, [])) for key in _TENSORS)
    return _layer(entry.get("Name", ""), entry.get("LayerType", ""), inputs, outputs, entry.get("Metadata", ""))


_TENSORS = ("Inputs", "Outputs")


def _format(tensor: dict[str, Any]) -> str:
    return str(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Format") or "")


def _type_of(text: str) -> str:
    found = _TYPE.search(text)
    return _TYPES[found[1].lower()] if found else text.strip().lower() or "unknown"


def _layer(name: str, kind: str, inputs: tuple[str, ...], outputs: tuple[str, ...], metadata: str) -> Layer:
    # uint8 is the image: nothing computes in it.
    precision = next((kind for kind in (*inputs, *outputs) if kind != "uint8"), "none")
    nodes = tuple(_NODE.findall(metadata)) or tuple(
        part.split("ONNX Layer: ", 1)[1] for part in metadata.split("\x1e") if "ONNX Layer: " in part
    )
    return Layer(name=name.strip(), type=kind.strip(), precision=precision, inputs=inputs, outputs=outputs, nodes=nodes)
