"""Engine specs: target, precision and shapes of an engine as a file (``engines/specs/*.yaml``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.export.options import parse_batch, parse_size
from hhrnet_deploy.quantize.histogram import Method
from hhrnet_deploy.resources import SPEC, find
from hhrnet_deploy.targets.graph import Precision
from hhrnet_deploy.targets.registry import default_target, find_target
from hhrnet_deploy.targets.trt_options import TensorRtOptions

_OPTIONS = "the options"


class EngineSpec(BaseModel):
    """What engine to build. Every field can be left out.

    Attributes:
        target: the library it is for; default as `default_target`.
        precision: of the engine; default that of the graph.
        size: height x width, as ``512x704``, for an engine of that size only; default any size.
        batch: a number for exactly so many images, or ``dynamic``; default 1 for a fixed size, else dynamic.
        flip: run the mirrored images inside the engine.
        input: ``uint8`` pixels or normalised ``float``.
        calibration: the set for fp16 and int8, as ``hhrnet calibrate`` reads it; default the committed synthetic one.
        ranges: a file of ``hhrnet calibrate`` to take the ranges from, or to keep them in.
        range_method: how int8 thresholds are chosen.
        tensorrt: how TensorRT and TensorRT-RTX build it; see `TensorRtOptions`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = Field(default_factory=default_target)
    precision: Precision | None = None
    size: str | None = None
    batch: int | Literal["dynamic"] | None = None
    flip: bool = False
    input: Literal["uint8", "float"] = "uint8"
    calibration: str | None = None
    ranges: Path | None = None
    range_method: Method | None = None
    tensorrt: TensorRtOptions = Field(default_factory=TensorRtOptions)

    @field_validator("target")
    @classmethod
    def _known(cls, target: str) -> str:
        find_target(target)
        return target

    @field_validator("size", mode="before")
    @classmethod
    def _readable_size(cls, value: Any) -> str | None:
        if value is None:
            return None
        height, width = parse_size(str(value))
        return f"{height}x{width}"

    @field_validator("batch", mode="before")
    @classmethod
    def _readable_batch(cls, value: Any) -> int | str | None:
        return value if value in (None, "dynamic") else parse_batch(str(value))

    @model_validator(mode="after")
    def _belong_to_the_target(self) -> EngineSpec:
        if self.tensorrt != TensorRtOptions() and not find_target(self.target).takes_tensorrt_options:
            words = " ".join(self.tensorrt.words())
            raise ValueError(f"{words} is for the targets tensorrt and tensorrt-rtx, not for {self.target}")
        return self

    def with_changes(self, **changes: Any) -> EngineSpec:
        """This spec with the fields that are not None taken over; validated like a file.

        ``tensorrt`` may be a dictionary with some of its fields; the others stay.

        Raises:
            InputError: a value does not fit.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        document = self.model_dump(exclude_unset=True)
        if isinstance(given.get("tensorrt"), dict):
            asked = {key: value for key, value in given["tensorrt"].items() if value is not None}
            given["tensorrt"] = {**document.get("tensorrt", {}), **asked}
        return _validated({**document, **given}, _OPTIONS)

    def shape_words(self) -> list[str]:
        """The options of ``hhrnet export`` and ``hhrnet build`` that ask for these shapes."""
        words = [] if self.size is None else ["--size", self.size]
        words += [] if self.batch is None else ["--batch", str(self.batch)]
        words += ["--flip"] if self.flip else []
        return words if self.input == "uint8" else [*words, "--input", self.input]


def load_spec(name_or_path: str | Path) -> EngineSpec:
    """A spec by path, or by the bare name of one that ships.

    Raises:
        InputError: not found, no YAML, an unknown key or a value that does not fit.
    """
    import yaml

    path = find(SPEC, name_or_path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"Engine spec {path} cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise InputError(f"Engine spec {path} has to hold keys and values, got {type(document).__name__}.")
    return _validated(document, f"Engine spec {path}")


def _validated(document: dict[str, Any], source: str) -> EngineSpec:
    try:
        return EngineSpec.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "spec"
        problem = str(first["msg"]).removeprefix("Value error, ")
        hint = None if source == _OPTIONS else f"Keys: {', '.join(EngineSpec.model_fields)}."
        place = source if where == "spec" else f"{source}: {where}"
        raise InputError(f"{place}: {problem}.", hint=hint) from error
