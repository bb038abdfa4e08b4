"""Options that several commands share, and the settings they become."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.errors import InputError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Preset = Annotated[
    str | None, typer.Option(help="Preset or official YAML of a checkpoint; found from the file when left out.")
]
Flip = Annotated[bool, typer.Option("--flip/--no-flip", help="Flip test: the mirrored image too, as published.")]
Scales = Annotated[str, typer.Option(help="Scales of a multi-scale test, for example 0.5,1,2.")]
Size = Annotated[int | None, typer.Option(help="Short side of the network input in pixels; default the model's.")]
MaxLongSide = Annotated[int, typer.Option(help="Longest network input allowed, in pixels.")]
Batch = Annotated[int, typer.Option(help="Images of one shape that go through the engine at once.", min=1)]


def inference_config(
    short_side: int, *, scales: str = "1", max_long_side: int = 4096, decode: dict[str, Any] | None = None
) -> InferenceConfig:
    """Settings from what was typed.

    Raises:
        InputError: a value out of range, with the option it came from.
    """
    try:
        return InferenceConfig(
            short_side=short_side,
            scales=_parse_scales(scales),
            max_long_side=max_long_side,
            decode=DecodeConfig(**(decode or {})),
        )
    except ValidationError as error:
        details = "; ".join(_explain(dict(item)) for item in error.errors())
        raise InputError(f"The settings do not fit: {details}.") from error


def _explain(item: dict[str, Any]) -> str:
    option = "--" + str(item["loc"][0]).replace("_", "-") if item["loc"] else ""
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{option} {message} (got {item['input']!r})" if option else message


def _parse_scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"--scales takes numbers separated by commas, got {text!r}.") from error
