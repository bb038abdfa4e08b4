"""How the number types of an engine were chosen: calibration, layers in higher precision, sensitivity, budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hhrnet_deploy.pipeline.report_html import Html, element, joined, section, table
from hhrnet_deploy.targets.quantization import Budget, LayerSensitivity, Quantization

_BARS = 40  # the most sensitive layers; the others are flat
_LEAST_NOISE = 1e-12


def quantization_sections(quantization: Quantization | None) -> list[Html]:
    """Number types, and with a budget the sensitivity plot and its steps; nothing for an engine that was not typed."""
    if quantization is None:
        return []
    sections = [section("Number types", *_number_types(quantization), key="types")]
    if quantization.budget is not None:
        kept = set(quantization.budget.steps[-1].layers) if quantization.budget.steps else set()
        sections.append(
            section(
                "Sensitivity and accuracy budget",
                _sensitivity_plot(quantization.budget.sensitivity, kept),
                *_steps(quantization.budget),
                key="sensitivity",
            )
        )
    return sections


def _number_types(quantization: Quantization) -> list[Html]:
    calibration = quantization.calibration
    method = "" if calibration.method is None else f", thresholds by {calibration.method}"
    parts = [element("p", f"Calibrated on {calibration.images} images of {calibration.name}{method}.")]
    if quantization.note is not None:
        parts.append(element("p", quantization.note))
    if quantization.kept:
        parts += [element("h3", "Convolutions in higher precision"), _table(("layer", "reason"), quantization.kept)]
    if quantization.float32_tensors:
        largest = {name: f"{value:.4g}" for name, value in quantization.float32_tensors.items()}
        parts += [element("h3", "Tensors beyond half precision, in float32"), _table(("tensor", "largest"), largest)]
    return parts


def _table(head: Sequence[str], rows: Mapping[str, str]) -> Html:
    return table(head, [list(row) for row in rows.items()])


def _sensitivity_plot(sensitivity: Sequence[LayerSensitivity], kept: set[str]) -> Html:
    """Bars on a logarithmic scale, the most sensitive layer on top."""
    shown = sorted(sensitivity, key=lambda layer: -layer.noise)[:_BARS]
    if not shown:
        return element("p", "No layer was measured: the engine kept the limit at once.")
    logs = [math.log10(max(layer.noise, _LEAST_NOISE)) for layer in shown]
    low, high = math.floor(min(logs)), max(logs)
    span = max(high - low, 1e-9)
    rows = [_bar(layer, (log - low) / span, layer.name in kept) for layer, log in zip(shown, logs, strict=True)]
    caption = element(
        "p",
        f"Noise of the heads when one convolution alone computes in INT8 ({len(shown)} most sensitive of "
        f"{len(sensitivity)}; logarithmic scale from 1e{low}). Orange layers were returned to higher precision.",
        class_="note",
    )
    return joined([caption, *rows])


def _bar(layer: LayerSensitivity, share: float, kept: bool) -> Html:
    name = f"{layer.name}: {layer.noise:.2e}, {layer.multiply_adds:.0f} M multiply-adds"
    width = f"width:{max(100 * share, 0.5):.2f}%"
    piece = element("span", class_=f"piece {'sensitive' if kept else 'kept'}", style=width, title=name)
    return element(
        "div", element("span", name, class_="bar-name"), element("div", piece, class_="bar thin"), class_="bar-row"
    )


def _steps(budget: Budget) -> list[Html]:
    rows = [
        [
            str(number + 1),
            str(len(step.layers)),
            "–" if step.ap is None else f"{step.ap:.4f}",
            "–" if step.drop is None else f"{step.drop:+.4f}",
            f"{step.int8_share:.1%}",
        ]
        for number, step in enumerate(budget.steps)
    ]
    reference = "undefined" if budget.reference_ap is None else f"{budget.reference_ap:.4f}"
    note = f"Limit {budget.max_ap_drop:g} on {budget.data}; AP of the float32 network {reference}."
    head = ["step", "layers in higher precision", "AP", "drop", "multiply-adds in INT8"]
    return [element("h3", "Steps of the budget"), table(head, rows), element("p", note)]
