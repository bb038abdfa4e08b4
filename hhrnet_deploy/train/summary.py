"""One page about a run: the learning curve, the loss parts, the rate, and the last validation picture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hhrnet_deploy.files import replacing
from hhrnet_deploy.train.records import METRICS_FILE, read_metrics

SUMMARY_FILE = "summary.png"
_log = logging.getLogger(__name__)
_PARTS = ("coarse_heat", "fine_heat", "push", "pull")


def write_summary(folder: Path, title: str, picture: Path | None = None) -> Path | None:
    """Draw ``summary.png`` from the run's ``metrics.jsonl``.

    Args:
        folder: the run's folder.
        title: the headline.
        picture: an image to show below the curves.

    Returns:
        The file, or None (with a warning) where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        _log.warning("No summary.png: matplotlib is not installed (pip install 'hhrnet-deploy[train]').")
        return None
    lines = read_metrics(folder / METRICS_FILE)
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "ap" in line]
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplot_mosaic([["ap", "loss"], ["picture", "picture"]] if picture else [["ap", "loss"]])
    _draw_ap(panels["ap"], validations)
    _draw_losses(panels["loss"], steps)
    if picture is not None:
        panels["picture"].imshow(_pixels(picture))
        panels["picture"].set_axis_off()
    path = folder / SUMMARY_FILE
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path


def _draw_ap(axes: Any, validations: list[dict[str, Any]]) -> None:
    axes.plot([line["images"] for line in validations], [100 * line["ap"] for line in validations], marker="o")
    axes.set(title="Validation", xlabel="images seen", ylabel="AP (%)", ylim=(0, None))
    axes.grid(alpha=0.3)
    if validations:
        best = max(validations, key=lambda line: float(line["ap"]))
        axes.annotate(f"{100 * best['ap']:.1f}", (best["images"], 100 * best["ap"]))


def _draw_losses(axes: Any, steps: list[dict[str, Any]]) -> None:
    images = [line["images"] for line in steps]
    for part in _PARTS:
        axes.plot(images, [line[part] for line in steps], label=part.replace("_", " "), linewidth=1)
    axes.set(title="Loss parts", xlabel="images seen", yscale="log")
    axes.grid(alpha=0.3)
    if steps:
        axes.legend(loc="lower left")
        rate = axes.twinx()
        rate.plot(images, [line["lr"] for line in steps], color="grey", linestyle=":", linewidth=1)
        rate.set_ylabel("learning rate (dotted)")


def _pixels(picture: Path) -> Any:
    from hhrnet_deploy.data.images import read_image

    return read_image(picture)
