"""``hhrnet inspect``: what an engine bundle or an ONNX file is, and what differs between two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hhrnet_deploy.cli import console, options
from hhrnet_deploy.cli.budget import print_budget

if TYPE_CHECKING:
    from hhrnet_deploy.pipeline.inspect import Change, Convolution, Difference, Inspection

_LONGEST = 60  # characters of a value in a table


def inspect(
    path: Annotated[Path | None, typer.Argument(help="Engine bundle or ONNX file.")] = None,
    diff: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two of them: print what differs.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List all layers with weights, not only exceptions.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show precision, cost, shapes, hashes and origin of an engine or graph.

    Needs neither the engine's library nor its device. Multiply-adds are counted for one image of the size named.

    Examples:

      hhrnet inspect engines/small_256-openvino-int8

      hhrnet inspect heads.onnx --layers

      hhrnet inspect --diff engines/small_256-openvino-fp32 engines/small_256-openvino-int8
    """
    from hhrnet_deploy.pipeline.inspect import compare
    from hhrnet_deploy.pipeline.inspect import inspect as look

    if (path is None) == (diff is None):
        raise typer.BadParameter("give one engine bundle or ONNX file, or --diff with two")
    if diff is not None:
        difference = compare(look(diff[0]), look(diff[1]))
        if as_json:
            console.emit_json(difference.model_dump(mode="json"))
        else:
            _print_difference(difference)
    elif path is not None:
        report = look(path)
        if as_json:
            console.emit_json(report.model_dump(mode="json"))
        else:
            _print(report, layers=layers)


def _print(report: Inspection, *, layers: bool) -> None:
    console.out.print(f"{report.path}: {report.kind}, {_megabytes(report.bytes)}", markup=False)
    _print_about(report)
    console.table(["file", "SHA-256"], list(report.sha256.items()))
    _print_cost(report)
    usual = report.shares[0].precision if report.shares else None
    shown = [item for item in report.convolutions if layers or item.precision != usual]
    if shown:
        title = "layers with weights" if layers else f"layers with weights that are not {usual}"
        _print_convolutions(shown, title)
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.layers.items())
    console.out.print(f"layers: {kinds}", markup=False)
    budget = (report.about.get("quantization") or {}).get("budget")
    if budget is not None:
        from hhrnet_deploy.targets.quantization import Budget

        print_budget(Budget.model_validate(budget))


def _print_about(report: Inspection) -> None:
    rows = []
    for key, value in report.about.items():
        if key in ("parity", "quantization"):
            continue
        if isinstance(value, dict):
            rows += [(f"{key} {name}", _text(item)) for name, item in value.items() if item not in (None, [], {})]
        else:
            rows.append((key, _text(value)))
    quantization = report.about.get("quantization")
    if quantization is not None:
        rows.append(("quantization", _text(quantization.get("calibration"))))
    for name, values in (report.about.get("parity") or {}).get("outputs", {}).items():
        rows.append((f"difference from the graph, {name}", f"mean {values['mean']:.2e}, max {values['max']:.2e}"))
    for name, value in rows:
        console.out.print(f"  {name}: {value}", markup=False)


def _print_cost(report: Inspection) -> None:
    cost = report.cost
    if cost is not None:
        activations = "unknown" if cost.activations_bytes is None else _megabytes(cost.activations_bytes)
        console.out.print(
            f"one image of {cost.height}x{cost.width} (height x width): {cost.multiply_adds / 1e9:.3g} G "
            f"multiply-adds, weights {_megabytes(cost.weights_bytes)}, activations {activations} (unfused estimate)",
            markup=False,
        )
    rows = [
        [item.precision, str(item.convolutions), f"{item.multiply_adds / 1e6:.1f} M", f"{100 * item.share:.2f} %"]
        for item in report.shares
    ]
    console.table(["precision", "layers with weights", "multiply-adds", "share"], rows)


def _print_convolutions(items: list[Convolution], title: str) -> None:
    rows = [[item.name, item.precision, f"{item.multiply_adds / 1e6:.2f} M"] for item in items]
    console.table(["layer", "precision", "multiply-adds"], rows, title=title)


def _print_difference(difference: Difference) -> None:
    a, b = difference.a.path, difference.b.path
    if not difference.changes and not difference.convolutions:
        console.out.print(f"{a} and {b} are the same.", markup=False)
        return
    console.table(["what", a, b], _rows(difference.changes))
    if difference.convolutions:
        console.table(["layer with weights", a, b], _rows(difference.convolutions))


def _rows(changes: tuple[Change, ...]) -> list[list[str]]:
    return [[change.name, _short(change.a), _short(change.b)] for change in changes]


def _short(value: Any) -> str:
    text = "-" if value is None else _text(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
