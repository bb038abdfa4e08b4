"""``hhrnet models``: the presets and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hhrnet_deploy.cli import console

if TYPE_CHECKING:
    from hhrnet_deploy.model.cost import Cost
    from hhrnet_deploy.model.presets import Preset

_COLUMNS = ("preset", "input", "joints", "params", "GMACs (publ.)", "AP / multi")
_FILE_COLUMNS = ("preset", "official weights", "its ImageNet backbone")


def models(
    preset: Annotated[
        list[str] | None,
        typer.Option("--preset", metavar="NAME|FILE.yaml", help="Only this one; or an official experiment file."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document, with the architectures.")] = False,
) -> None:
    """List the presets: size, cost, published accuracy, official file names.

    GMACs are billions of multiply-adds of one forward pass on a square input; in brackets the authors' figure, which
    counts the deconvolution four times over. AP is the authors', single and multi-scale, on COCO val2017 or CrowdPose
    test, with flip test.

    Examples:

      hhrnet models

      hhrnet models --preset experiments/coco/higher_hrnet/w32_512_adam_lr1e-3.yaml

      hhrnet models --preset w48_640 --json
    """
    from hhrnet_deploy.model.presets import PRESETS, find_preset

    listed = [find_preset(name) for name in preset] if preset else list(PRESETS.values())
    costed = [(item, _cost(item)) for item in listed]
    if json_:
        console.emit_json({"presets": [_document(item, cost) for item, cost in costed]})
        return
    console.table(_COLUMNS, [_row(item, cost) for item, cost in costed])
    files = [_file_row(item) for item in listed if item.published.checkpoint or item.published.imagenet]
    if files:
        console.table(_FILE_COLUMNS, files)


def _cost(preset: Preset) -> Cost:
    from hhrnet_deploy.model.cost import cost_of

    side = (preset.short_side + 63) // 64 * 64  # inference rounds up likewise
    return cost_of(preset.architecture, preset.num_joints, side)


def _row(preset: Preset, cost: Cost) -> tuple[str, ...]:
    published = preset.published
    figure = published.multiply_adds_g
    single, multi = published.ap("single"), published.ap("multi")
    return (
        preset.name,
        str(preset.short_side),
        str(preset.num_joints),
        f"{cost.parameters / 1e6:.1f} M",
        f"{cost.multiply_adds / 1e9:.1f} ({'-' if figure is None else figure})",
        "-" if single is None else f"{single} / {'-' if multi is None else multi}",
    )


def _file_row(preset: Preset) -> tuple[str, ...]:
    return preset.name, preset.published.checkpoint or "-", preset.published.imagenet or "-"


def _document(preset: Preset, cost: Cost) -> dict[str, Any]:
    published = preset.published
    return {
        "name": preset.name,
        "input": preset.short_side,
        "joints": preset.num_joints,
        "skeleton": preset.skeleton.name,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "multiply_adds_counted_as_published": cost.multiply_adds_as_published,
        "published": {
            "parameters_m": published.parameters_m,
            "multiply_adds_g": published.multiply_adds_g,
            "ap_single": published.ap("single"),
            "ap_multi": published.ap("multi"),
            "results": [row.model_dump() for row in published.results],
        },
        "official_files": {
            "checkpoint": published.checkpoint,
            "imagenet": published.imagenet,
            "experiment": None if published.experiment is None else str(Path("experiments") / published.experiment),
        },
        "config": preset.official_config(),
    }
