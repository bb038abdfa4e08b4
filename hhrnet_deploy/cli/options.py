"""Options that several commands share, and the settings they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from hhrnet_deploy.cli import console
from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.errors import InputError

if TYPE_CHECKING:
    from hhrnet_deploy.targets.runner import RunnerInfo

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Preset = Annotated[
    str | None, typer.Option(help="Preset or official YAML of a checkpoint; found from the file when left out.")
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Flip test: the mirrored image too; default on, as published."),
]
Scales = Annotated[str, typer.Option(help="Scales of a multi-scale test, for example 0.5,1,2.")]
Size = Annotated[
    int | None, typer.Option(help="Short side of the network input in pixels; default the model's.", min=1)
]
MaxLongSide = Annotated[int, typer.Option(help="Longest network input allowed, in pixels.")]
Batch = Annotated[int, typer.Option(help="Images of one shape that go through the engine at once.", min=1)]

DetectionThreshold = Annotated[float | None, typer.Option(help="Heat above which a joint counts (default 0.1).")]
TagThreshold = Annotated[float | None, typer.Option(help="Tag distance below which joints match (default 1.0).")]
NmsKernel = Annotated[int | None, typer.Option(help="Side of the max-pool that marks peaks, odd (default 5).")]
MaxPeople = Annotated[int | None, typer.Option(help="Candidates per joint type (default 30).")]
Adjust = Annotated[bool | None, typer.Option("--adjust/--no-adjust", help="Quarter-pixel adjustment (default on).")]
Refine = Annotated[bool | None, typer.Option("--refine/--no-refine", help="Fill in missing joints (default on).")]
Project = Annotated[
    bool | None, typer.Option("--project/--no-project", help="Look for peaks at the size of the input (default on).")
]
UseDetectionVal = Annotated[
    bool | None,
    typer.Option(
        "--use-detection-val/--no-use-detection-val", help="Heat counts when joints are matched (default on)."
    ),
]
IgnoreTooMuch = Annotated[
    bool | None,
    typer.Option(
        "--ignore-too-much/--no-ignore-too-much", help="Skip joint types once all people exist (default off)."
    ),
]


# Options whose setting has another name.
_OPTION_OF = {"short_side": "size"}


def decode_settings(info: RunnerInfo, given: dict[str, Any]) -> dict[str, Any]:
    """What was typed, over what an engine that decodes itself was built with."""
    built_in = {} if info.decode is None else dict(info.decode)
    return built_in | {name: value for name, value in given.items() if value is not None}


def tell_unused_settings(preset: str | None, *, has_checkpoint: bool) -> None:
    """Name what of ``--preset`` is not used.

    It is for checkpoints: engines and ONNX files say themselves what they are. An experiment file's TEST section may
    ask for more than the published settings; options decide, not it.
    """
    from hhrnet_deploy.model.presets import find_preset

    if preset is None:
        return
    if not has_checkpoint:
        console.info(f"--preset {preset} is not used: it says what a checkpoint is, and no checkpoint was given")
    asked = find_preset(preset).settings
    if asked is None:
        return
    changed = asked.decode.model_dump(exclude_defaults=True)
    words = [f"{name} {value}" for name, value in changed.items()]
    if asked.scales != (1.0,):
        words.append(f"scales {', '.join(f'{scale:g}' for scale in asked.scales)}")
    if words:
        console.info(f"TEST in {preset} asks for {'; '.join(words)}: not used; the options of this command decide")


def decode_config(given: dict[str, Any]) -> DecodeConfig:
    """Decode settings from what was typed; None keeps the default.

    Raises:
        InputError: a value out of range, with the option it came from.
    """
    try:
        return DecodeConfig(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        details = "; ".join(_explain(dict(item)) for item in error.errors())
        raise InputError(f"The decode settings do not fit: {details}.") from error


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
    name = str(item["loc"][0]) if item["loc"] else ""
    option = "--" + _OPTION_OF.get(name, name).replace("_", "-") if name else ""
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{option} {message} (got {item['input']!r})" if option else message


def _parse_scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"--scales takes numbers separated by commas, got {text!r}.") from error
