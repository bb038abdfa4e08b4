"""The comparison of ``hhrnet bench`` as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hhrnet_deploy.files import replacing

_COLOURS = ("#4c9ed9", "#8bc34a", "#f4a340", "#c678dd")


def plot_stages(path: Path, stages: Sequence[str], rows: Mapping[str, Sequence[float]]) -> None:
    """Stacked bars, one per contestant.

    Args:
        path: a PNG file; replaced when there.
        stages: names in the order they are run.
        rows: contestant -> median milliseconds per stage.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.6 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left = [0.0] * len(rows)
    labels = list(rows)
    for number, stage in enumerate(stages):
        widths = [rows[label][number] for label in labels]
        axes.barh(labels, widths, left=left, label=stage, color=_COLOURS[number % len(_COLOURS)])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for position, total in enumerate(left):
        axes.text(total, position, f" {total:.1f} ms", va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, max(left) * 1.15)
    axes.set_xlabel("milliseconds per image, medians")
    axes.legend(loc="lower right", frameon=False, ncols=len(stages))
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
