"""``manifest.json``: what an engine bundle is, was made from and has been measured at."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.skeletons import Skeleton
from hhrnet_deploy.targets.graph import Precision
from hhrnet_deploy.targets.graph_cost import GraphCost
from hhrnet_deploy.targets.parity import Parity
from hhrnet_deploy.targets.quantization import Quantization
from hhrnet_deploy.targets.runner import MULTIPLE, RunnerInfo
from hhrnet_deploy.targets.trt_options import Profile

SCHEMA_VERSION: Final = 1
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=MULTIPLE, multiple_of=MULTIPLE)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shapes(_Model):
    """What the engine's input takes.

    Attributes:
        batch: N when it runs exactly N images; None takes any number up to ``max_batch``.
        height, width: when it takes that size only, both or neither.
        max_batch: the largest batch of an engine with a dynamic one; None without a limit.
        profiles: the optimisation profiles of a TensorRT engine; other inputs than theirs are refused.
    """

    batch: int | None = Field(None, ge=1)
    height: Side | None = None
    width: Side | None = None
    max_batch: int | None = Field(None, ge=1)
    profiles: tuple[Profile, ...] = ()


class Sources(_Model):
    """SHA-256 of what the engine was made from; None where there was no such file."""

    onnx: Digest
    checkpoint: Digest | None = None
    calibration: Digest | None = None


class FileEntry(_Model):
    """One file of the bundle."""

    sha256: Digest
    bytes: int = Field(ge=0)


class Manifest(_Model):
    """Everything about an engine but the engine.

    Attributes:
        schema_version: of this file.
        tool_version: of the hhrnet-deploy that built the bundle.
        target, target_version, device: the library, its version, and what the engine runs on.
        precision: of the engine.
        preset, skeleton, short_side: of the network.
        input, outputs, flip: the conventions of the exported graph.
        shapes: what the input takes.
        hints: run-time settings that are set, and read back, on opening.
        decode: the settings of an engine with people as outputs.
        sources: what it was made from.
        cost: what one image costs, counted on the graph it was made from.
        files: every file of the bundle but the manifest, by name.
        quantization: what was decided about number types; None for a float32 or bf16 engine, and for one made from a
            graph that was typed before.
        parity: the difference from its ONNX graph, measured when it was built; None where it could not run there.
        parity_missing: why not.
        rebuild: the command that builds it again.
        digest: SHA-256 of this document without this field, so that an edit shows.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    tool_version: str
    target: str
    target_version: str
    device: str
    precision: Precision
    preset: str
    skeleton: Skeleton
    short_side: int = Field(ge=MULTIPLE)
    input: Literal["uint8", "float"]
    outputs: Literal["heads", "people"]
    flip: bool
    shapes: Shapes
    hints: dict[str, str] = {}
    decode: DecodeConfig | None = None
    sources: Sources
    cost: GraphCost | None = None
    files: dict[str, FileEntry]
    quantization: Quantization | None = None
    parity: Parity | None = None
    parity_missing: str | None = None
    rebuild: str
    digest: str = ""

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            if not _is_plain_name(name):
                raise ValueError(f"{name!r} is not the name of a file inside the bundle")
        return files

    def sealed(self) -> Manifest:
        """The same manifest with its digest filled in."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(mode="json"))})

    def info(self, name: str) -> RunnerInfo:
        """What a runner of the bundle says about itself."""
        shapes = self.shapes
        size = None if shapes.width is None or shapes.height is None else (shapes.width, shapes.height)
        return RunnerInfo(
            name=name,
            target=self.target,
            precision=self.precision,
            preset=self.preset,
            skeleton=self.skeleton,
            short_side=self.short_side,
            fixed_size=size,
            max_batch=shapes.batch or shapes.max_batch,
            fixed_batch=shapes.batch is not None,
            has_flip=self.flip,
            input=self.input,
            outputs=self.outputs,
            decode=self.decode,
        )


def digest_of(document: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content, whatever its spacing and order, without its ``digest``."""
    content = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_plain_name(name: str) -> bool:
    """Whether it names a file directly in a folder, on any operating system."""
    return (
        name not in ("", ".", "..", "manifest.json")
        and "\0" not in name
        and PurePosixPath(name).name == name
        and PureWindowsPath(name).name == name
        and not PureWindowsPath(name).drive
    )
