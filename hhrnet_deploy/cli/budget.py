"""Tables of an accuracy budget: what was measured, and how sensitive the layers are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hhrnet_deploy.cli import console

if TYPE_CHECKING:
    from hhrnet_deploy.targets.quantization import Budget

_LISTED = 10


def print_budget(budget: Budget) -> None:
    """Print the steps of the search, the engine's last, and the most sensitive layers."""
    reference = "-" if budget.reference_ap is None else f"{budget.reference_ap:.4f}"
    steps = [
        [str(len(step.layers)), _figure(step.ap), _figure(step.drop), f"{100 * step.int8_share:.2f} %"]
        for step in budget.steps
    ]
    console.table(
        ["layers in higher precision", "AP", "drop", "multiply-adds in int8"],
        steps,
        title=f"drop of at most {budget.max_ap_drop} on {budget.data}, float32 AP {reference}",
    )
    kept = set(budget.steps[-1].layers) if budget.steps else set()
    listed = budget.sensitivity[:_LISTED]
    if listed:
        total = len(budget.sensitivity)
        console.out.print(f"the {len(listed)} most sensitive of {total} layers (noise of the heads, multiply-adds):")
    for layer in listed:  # no table: names are long, and it would cut them
        precision = "higher" if layer.name in kept else "int8"
        console.out.print(
            f"  {layer.noise:.2e} {layer.multiply_adds:8.1f} M  {precision:6}  {layer.name}",
            markup=False,
            soft_wrap=True,
        )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
