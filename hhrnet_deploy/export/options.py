"""What kind of graph is asked for, validated once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.targets.runner import MULTIPLE

OPSETS = (15, 20)
DEFAULT_OPSET = 17


class ExportOptions(BaseModel):
    """The conventions of an exported graph.

    Attributes:
        size: (H, W) in pixels for a graph of that size only, None for any multiples of 32.
        batch: N for a graph of exactly N images, None for any number.
        flip: run the mirrored images inside the graph too.
        input: ``uint8``: (N, H, W, 3) RGB pixels; ``float``: (N, 3, H, W), normalised.
        opset: version of the ONNX operators.
        simplify: fold and fuse with onnxsim.
        decode: settings of the ops that make people of the heads, for TensorRT alone; None for a graph of heads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[int, int] | None = None
    batch: int | None = Field(None, ge=1)
    flip: bool = False
    input: Literal["uint8", "float"] = "uint8"
    opset: int = Field(DEFAULT_OPSET, ge=OPSETS[0], le=OPSETS[1])
    simplify: bool = True
    decode: DecodeConfig | None = None

    @field_validator("size")
    @classmethod
    def _network_takes_it(cls, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if size is not None and any(side < MULTIPLE or side % MULTIPLE for side in size):
            raise ValueError(f"height and width have to be multiples of {MULTIPLE}, got {size[0]}x{size[1]}")
        return size


def parse_size(text: str) -> tuple[int, int]:
    """``512`` or ``512x704`` (height x width) as (H, W).

    Raises:
        InputError: not such a text.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"Expected a size as 512 or 512x704 (height x width), got {text!r}.")
    return int(parts[0]), int(parts[-1])


def parse_batch(text: str) -> int | None:
    """A number of images, or ``dynamic`` as None.

    Raises:
        InputError: neither.
    """
    if text == "dynamic":
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise InputError(f"Expected a batch as a number from 1 or dynamic, got {text!r}.")
    return int(text)


def check_decode(config: DecodeConfig) -> None:
    """Refuse settings that a graph cannot decode with.

    Raises:
        InputError: ``max_output``, which belongs to the caller of an engine.
    """
    if config.max_output is not None:
        raise InputError(
            f"A graph that decodes inside returns all people; at most {config.max_output} were asked for.",
            hint="Keep the highest scores afterwards: People.highest(n), or the first of the sorted `scores`.",
        )
