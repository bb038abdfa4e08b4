"""The precision map: which part of the network computes in which type, from a bundle's ``layers.json``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hhrnet_deploy.pipeline.report_html import Html, element, joined
from hhrnet_deploy.targets.target import Layer

COLUMNS = ("branch 1/4", "branch 1/8", "branch 1/16", "branch 1/32", "fuse")
_FUSE = len(COLUMNS) - 1
_TITLES = {"int8": "INT8", "bf16": "BF16", "fp16": "FP16", "fp32": "FP32", "other": "other"}
# Moves data without arithmetic of its own; counted, not drawn.
_GLUE = re.compile(r"input|output|reorder|reshape|transpose|convert|parameter|result", re.IGNORECASE)
# Parts without branches: what their layers' name and type look like.
_PARTS = (
    ("deconvolution", r"deconv|ConvolutionBackprop"),
    ("heads (final layers)", r"^(coarse|fine) |final_layers"),
    ("layer 1", r"layer1"),
    ("stem", r"(^|/)(conv|bn)[12][/ ]"),
)
_WEIGHTS = re.compile(r"conv|correlation|gemm", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where a layer sits: the row (a module, or a part without branches) and the column, None for the whole row."""

    row: str
    column: int | None


def place_of(layer: Layer) -> Place | None:
    """The place of a layer by its name; None for layers that move data or whose name says nothing."""
    if _GLUE.fullmatch(layer.type):
        return None
    name = layer.name
    if found := re.search(r"stage(\d)\.(\d+)[/.](?:branches\.(\d+)|fuse_layers|Add|Relu)", name):
        stage, module, branch = found.groups()
        return Place(f"stage {stage}, module {int(module) + 1}", _FUSE if branch is None else min(int(branch), _FUSE))
    if found := re.search(r"transition(\d)", name):
        return Place(f"transition {found.group(1)}", None)
    row = next((row for row, pattern in _PARTS if re.search(pattern, f"{name} {layer.type}", re.IGNORECASE)), None)
    return None if row is None else Place(row, None)


def kind_of(precision: str) -> str:
    """``int8``, ``bf16``, ``fp16``, ``fp32`` or ``other`` of a target's own word for it."""
    word = precision.lower()
    if re.search(r"(?<!\d)(int|i|u|uint)8", word):
        return "int8"
    if "bf16" in word or "bfloat16" in word:
        return "bf16"
    if re.search(r"16|half", word):
        return "fp16"
    return "fp32" if re.search(r"32|float", word) else "other"


def precision_map(layers: Iterable[Layer]) -> Html:
    """A grid of the network with one square per layer, coloured by its precision, and the counts."""
    placed = [(place, layer) for layer in layers if (place := place_of(layer)) is not None]
    if not placed:
        return element("p", "The engine does not name its layers.")
    rows: dict[str, list[tuple[Place, Layer]]] = {}
    for place, layer in placed:
        rows.setdefault(place.row, []).append((place, layer))
    ordered = sorted(rows, key=_order)
    head = element("tr", element("th", "part", scope="col"), *(element("th", name, scope="col") for name in COLUMNS))
    body = [element("tr", element("th", name, scope="row"), *_cells(rows[name])) for name in ordered]
    grid = element("div", element("table", element("thead", head), element("tbody", *body), class_="map"))
    return joined([_legend([layer for _, layer in placed]), element("div", grid, class_="scroll", tabindex="0")])


def _order(row: str) -> tuple[float, str]:
    """As the data flows: stem, layer 1, transition n before stage n + 1, heads, deconvolution."""
    if row == "stem":
        return 0.0, row
    if row == "layer 1":
        return 1.0, row
    if found := re.match(r"(transition|stage) (\d)", row):
        stage = int(found.group(2))
        return (stage + 1.5 if found.group(1) == "transition" else stage + 1.0), row
    return (90.0 if row.startswith("heads") else 91.0), row


def _cells(items: list[tuple[Place, Layer]]) -> list[Html]:
    if items[0][0].column is None:
        return [element("td", *(_square(layer) for _, layer in items), colspan=len(COLUMNS))]
    columns: list[list[Layer]] = [[] for _ in COLUMNS]
    for place, layer in items:
        columns[place.column or 0].append(layer)
    return [element("td", *(_square(layer) for layer in column)) for column in columns]


def _square(layer: Layer) -> Html:
    shape = "cell conv" if _WEIGHTS.search(layer.type) else "cell"
    kind = kind_of(layer.precision)
    return element("span", class_=f"{shape} {kind}", title=f"{layer.name}: {layer.type}, {layer.precision}")


def _legend(layers: list[Layer]) -> Html:
    every = Counter(kind_of(layer.precision) for layer in layers)
    weighted = Counter(kind_of(layer.precision) for layer in layers if _WEIGHTS.search(layer.type))
    total = sum(weighted.values())
    entries = [
        element(
            "li",
            element("span", class_=f"cell conv {kind}"),
            f" {_TITLES[kind]}: {weighted[kind]} of {total} convolutions, {count - weighted[kind]} other layers",
        )
        for kind, count in sorted(every.items(), key=lambda item: list(_TITLES).index(item[0]))
    ]
    note = element("p", "Large squares are convolutions, small ones other layers.", class_="note")
    return joined([element("ul", *entries, class_="legend"), note])
