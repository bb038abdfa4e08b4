"""The accuracy budget: as few layers as possible go back to higher precision until the measured drop fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hhrnet_deploy.errors import GateFailedError
from hhrnet_deploy.quantize.family import Family
from hhrnet_deploy.quantize.typed import Source, TypedGraph, type_graph
from hhrnet_deploy.targets.quantization import Budget, BudgetStep, LayerSensitivity

# AP of a typed graph on the budget's data; None when there is nothing to score.
Validate = Callable[[TypedGraph], float | None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Limit:
    """What has to be kept: AP at most ``max_ap_drop`` below ``reference_ap``, measured on ``data``."""

    max_ap_drop: float
    reference_ap: float
    data: str


def by_loss_of_speed(layers: Sequence[LayerSensitivity]) -> list[str]:
    """Layers in the order they leave int8: the most noise removed per multiply-add given back first."""
    ranked = sorted(layers, key=lambda layer: (-layer.noise / max(layer.multiply_adds, 1e-6), layer.name))
    return [layer.name for layer in ranked if layer.noise > 0]


def meet_budget(
    source: Source,
    family: Family,
    limit: Limit,
    sensitivity: Sequence[LayerSensitivity],
    validate: Validate,
    *,
    note: Note = lambda _: None,
) -> TypedGraph:
    """The int8 graph with the fewest layers in higher precision whose drop fits.

    The number of layers doubles until the drop fits, then it is narrowed down; AP is measured at each step.

    Args:
        source: graph and figures.
        family: for whom.
        limit: the drop allowed.
        sensitivity: of every layer, from `measure_sensitivity`.
        validate: measures AP.
        note: called with a line per measurement.

    Raises:
        GateFailedError: the drop does not fit even with every layer in higher precision, or AP cannot be measured.
    """
    order = by_loss_of_speed(sensitivity)
    steps: list[BudgetStep] = []
    graphs: dict[int, TypedGraph] = {}

    def fits(count: int) -> bool:
        graphs[count] = type_graph(source, "int8", family, keep=order[:count])
        step = _measured(graphs[count], order[:count], limit, validate)
        steps.append(step)
        note(f"{count} layers in higher precision: AP {_text(step.ap)}, drop {_text(step.drop)}")
        return step.drop is not None and step.drop <= limit.max_ap_drop

    count = _smallest(fits, len(order))
    if count is None:
        raise GateFailedError(
            f"The AP drop stays above {limit.max_ap_drop} on {limit.data} even with every layer in higher precision "
            f"(reference {limit.reference_ap:.4f}).",
            hint="Calibrate on images like those of the data, allow a larger drop, or build --precision fp16.",
        )
    chosen = graphs[count]
    budget = Budget(
        max_ap_drop=limit.max_ap_drop,
        data=limit.data,
        reference_ap=limit.reference_ap,
        steps=_ending_with(steps, order[:count]),
        sensitivity=tuple(sensitivity),
    )
    return TypedGraph(chosen.model, chosen.quantization.model_copy(update={"budget": budget}))


def _smallest(fits: Callable[[int], bool], most: int) -> int | None:
    """The smallest count that fits, if more never hurts: doubling, then halving the gap."""
    if fits(0):
        return 0
    failed, count = 0, 1
    while count < most and not fits(count):
        failed, count = count, count * 2
    if count >= most:
        count = most
        if not most or not fits(most):
            return None
    while count - failed > 1:
        middle = (failed + count) // 2
        if fits(middle):
            count = middle
        else:
            failed = middle
    return count


def _measured(typed: TypedGraph, layers: Sequence[str], limit: Limit, validate: Validate) -> BudgetStep:
    ap = validate(typed)
    drop = None if ap is None else limit.reference_ap - ap
    return BudgetStep(layers=tuple(layers), ap=ap, drop=drop, int8_share=typed.quantization.int8_share)


def _ending_with(steps: list[BudgetStep], layers: Sequence[str]) -> tuple[BudgetStep, ...]:
    """The steps in order, the chosen one moved to the end."""
    chosen = next(step for step in steps if step.layers == tuple(layers))
    return (*(step for step in steps if step is not chosen), chosen)


def _text(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
