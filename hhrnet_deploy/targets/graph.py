"""What an exported graph says about itself: the metadata it carries and the shapes it takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hhrnet_deploy.config import IMAGE_MEAN, IMAGE_STD, DecodeConfig, PlainName
from hhrnet_deploy.decode.plugin_ops import PEOPLE
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.skeletons import Skeleton
from hhrnet_deploy.targets.runner import MULTIPLE, RunnerInfo, Size

if TYPE_CHECKING:
    import onnx

INPUT = "image"
OUTPUTS = ("coarse", "fine", "coarse_flipped", "fine_flipped")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Sha256 = str


class GraphMetadata(BaseModel):
    """The ``metadata_props`` of an exported graph.

    Attributes:
        preset: name of the network's preset.
        skeleton: its joints.
        short_side: S, the short side of the network input that the model was made for, in pixels.
        input: ``uint8``: (N, H, W, 3) RGB pixels; ``float``: (N, 3, H, W), /255, minus ``mean``, over ``std``.
        flip: the graph also runs the mirrored images and returns their heads.
        outputs: ``heads``, or ``people`` where decoding is part of the graph.
        decode: the settings of a graph with people as outputs; its skeleton is the one above.
        precision: the types inside the graph.
        checkpoint_sha256: of the checkpoint's file; None for a network that never was one.
        tool_version: of the hhrnet-deploy that exported it.
        mean, std: the normalisation, for other programs; always the one this project trains with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: PlainName
    skeleton: Skeleton
    short_side: int = Field(ge=MULTIPLE)
    input: Literal["uint8", "float"]
    flip: bool
    outputs: Literal["heads", "people"] = "heads"
    decode: DecodeConfig | None = None
    precision: Precision = "fp32"
    checkpoint_sha256: Sha256 | None = Field(None, pattern="^[0-9a-f]{64}$")
    tool_version: str
    mean: tuple[float, float, float] = IMAGE_MEAN
    std: tuple[float, float, float] = IMAGE_STD

    @model_validator(mode="after")
    def _normalisation_is_ours(self) -> GraphMetadata:
        if (self.mean, self.std) != (IMAGE_MEAN, IMAGE_STD):
            raise ValueError(f"only mean {IMAGE_MEAN} and std {IMAGE_STD} are supported")
        return self

    @model_validator(mode="after")
    def _people_have_settings(self) -> GraphMetadata:
        if (self.outputs == "people") != (self.decode is not None):
            raise ValueError("decode settings belong to a graph with people as outputs, and to no other")
        return self

    @property
    def head_names(self) -> tuple[str, ...]:
        """The heads that the network makes, in order."""
        return OUTPUTS if self.flip else OUTPUTS[:2]

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs, in order."""
        return PEOPLE if self.outputs == "people" else self.head_names

    def to_props(self) -> dict[str, str]:
        """Key and value pairs of text, as ONNX stores them; values other than text are JSON."""
        document = self.model_dump(mode="json", exclude_none=True)
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in document.items()}

    def write(self, model: onnx.ModelProto) -> None:
        """Store this in a model, in place of the metadata that was there."""
        del model.metadata_props[:]
        for key, value in self.to_props().items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        model.producer_name, model.producer_version = "hhrnet-deploy", self.tool_version

    @classmethod
    def from_props(cls, props: dict[str, str], *, source: str) -> GraphMetadata:
        """Read what `to_props` wrote; keys of other programs are left alone.

        Raises:
            InputError: the graph was not exported by hhrnet-deploy, or a value is damaged.
        """
        if not {"preset", "skeleton", "input"} <= props.keys():
            raise InputError(
                f"{source} does not say what it is: it was not exported by hhrnet-deploy (no preset, skeleton and "
                "input convention in its metadata).",
                hint="Export the checkpoint: hhrnet export CHECKPOINT -o heads.onnx",
            )
        text = ("preset", "input", "outputs", "precision", "checkpoint_sha256", "tool_version")
        known = {key: value for key, value in props.items() if key in cls.model_fields}
        try:
            return cls.model_validate({key: v if key in text else json.loads(v) for key, v in known.items()})
        except (ValidationError, json.JSONDecodeError) as error:
            raise InputError(
                f"The metadata of {source} is damaged: {_first_problem(error)}.",
                hint="Export the checkpoint again: hhrnet export CHECKPOINT -o heads.onnx",
            ) from error


def _first_problem(error: ValidationError | json.JSONDecodeError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'metadata'}: {first['msg']}"


@dataclass(frozen=True)
class Graph:
    """An exported graph on disk.

    Attributes:
        path: the ONNX file.
        metadata: what it carries.
        size: (W, H) when it takes that size only.
        batch: N when it takes exactly N images.
    """

    path: Path
    metadata: GraphMetadata
    size: Size | None
    batch: int | None

    @property
    def short_side(self) -> int:
        """S of the warp, pixels: the preset's, or what a graph of one size takes."""
        return self.metadata.short_side if self.size is None else min(self.size)

    def info(self, name: str, target: str, precision: str) -> RunnerInfo:
        """What a runner of this graph says about itself."""
        meta = self.metadata
        return RunnerInfo(
            name=name,
            target=target,
            precision=precision,
            preset=meta.preset,
            skeleton=meta.skeleton,
            short_side=self.short_side,
            fixed_size=self.size,
            max_batch=self.batch,
            fixed_batch=self.batch is not None,
            has_flip=meta.flip,
            input=meta.input,
            outputs=meta.outputs,
            decode=meta.decode,
        )


def read_graph(path: str | Path) -> Graph:
    """Read metadata and input shape of an ONNX file that hhrnet-deploy exported.

    Raises:
        InputError: missing, no ONNX, another program's graph, or an input that does not fit its metadata.
    """
    import onnx

    source = Path(path)
    if not source.is_file():
        raise InputError(f"There is no ONNX file {source}.")
    try:
        model = onnx.load(str(source))
    except Exception as error:  # protobuf's and ONNX's own classes share no base with a name.
        raise InputError(f"{source} is not a readable ONNX file: {error}.") from error
    if not model.graph.node:
        raise InputError(f"{source} is not a readable ONNX file: it holds no graph.")
    metadata = GraphMetadata.from_props({entry.key: entry.value for entry in model.metadata_props}, source=str(source))
    return graph_of(model, metadata, source)


def graph_of(model: onnx.ModelProto, metadata: GraphMetadata, path: Path) -> Graph:
    """The `Graph` of a loaded model.

    Raises:
        InputError: inputs or outputs are not the ones its metadata promises.
    """
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    if inputs != [INPUT] or outputs != list(metadata.output_names):
        raise InputError(
            f"{path} has inputs {inputs} and outputs {outputs}; expected {[INPUT]} and {list(metadata.output_names)}."
        )
    dims = [_dim(dim) for dim in model.graph.input[0].type.tensor_type.shape.dim]
    if len(dims) != 4:
        raise InputError(f"{path}: the input {INPUT} has {len(dims)} dimensions, expected 4.")
    height, width = dims[1:3] if metadata.input == "uint8" else dims[2:4]
    if (height is None) != (width is None):
        raise InputError(f"{path}: height and width have to be fixed both or dynamic both, got {height} and {width}.")
    size = None if height is None or width is None else (width, height)
    return Graph(path, metadata, size, dims[0])


def _dim(dim: Any) -> int | None:
    return int(dim.dim_value) if dim.HasField("dim_value") else None
