"""What an evaluation says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hhrnet_deploy.errors import GateFailedError, InputError
from hhrnet_deploy.evaluate.agreement import Agreement
from hhrnet_deploy.evaluate.bootstrap import Interval
from hhrnet_deploy.evaluate.metrics import Metrics


@dataclass(frozen=True)
class ModelReport:
    """The figures of one model.

    Attributes:
        name: engine, checkpoint or file.
        kind: whether it is an engine or the PyTorch module.
        metrics: AP, AP50, ... from 0 to 1; None where undefined, empty without annotations.
        people: people found, all scores.
        broken_people: people with NaN or infinity among their numbers.
    """

    name: str
    kind: Literal["engine", "checkpoint"]
    metrics: Metrics
    people: int
    broken_people: int = 0


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation of a subject, alone or against a reference on the same images.

    Attributes:
        subject, reference: their figures.
        interval: of the drop in AP; None without a reference or where undefined.
        agreement: None without a reference.
        images: how many were evaluated.
        data: which, for people.
        results_file: the official results of the subject, where one was written.
    """

    subject: ModelReport
    reference: ModelReport | None
    interval: Interval | None
    agreement: Agreement | None
    images: int
    data: str
    results_file: Path | None = None

    @property
    def drop(self) -> Metrics | None:
        """Reference minus subject for each figure, None where either is undefined; None without a reference."""
        if self.reference is None or not self.reference.metrics:
            return None
        return {name: _minus(before, self.subject.metrics.get(name)) for name, before in self.reference.metrics.items()}

    def as_document(self) -> dict[str, Any]:
        """The JSON document of ``hhrnet eval --json``."""
        drop = self.drop
        return {
            self.subject.kind: _model(self.subject),
            "reference": None if self.reference is None else _model(self.reference),
            "drop": None if drop is None else {**drop, "interval": _interval(self.interval)},
            "agreement": None
            if self.agreement is None
            else {
                "AP": self.agreement.ap,
                "images_with_different_people": self.agreement.images_with_different_people,
            },
            "images": self.images,
        }


def check_gate(report: EvaluationReport, max_ap_drop: float) -> None:
    """Fail when the subject's AP is more than ``max_ap_drop`` below the reference's; an undefined drop never passes.

    Args:
        report: with a reference.
        max_ap_drop: in AP from 0 to 1.

    Raises:
        InputError: the report has no reference.
        GateFailedError: the drop is larger, undefined, or the subject returned NaN.
    """
    if report.reference is None:
        raise InputError("A limit on the AP drop needs a reference.", hint="Give one with --reference.")
    drop = (report.drop or {}).get("AP")
    if drop is None:
        raise GateFailedError(
            f"The AP drop of {report.subject.name} is undefined on these {report.images} images, so it cannot be "
            f"shown to be at most {max_ap_drop:g}.",
            hint="Use images with annotated people.",
        )
    if report.subject.broken_people:
        raise GateFailedError(
            f"{report.subject.name} returned NaN or infinity in {report.subject.broken_people} people.",
            hint="Build the engine with a wider precision.",
        )
    if not drop <= max_ap_drop:
        raise GateFailedError(
            f"AP of {report.subject.name} is {drop:.4f} below that of {report.reference.name}; allowed are "
            f"{max_ap_drop:g}."
        )


def _minus(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _model(model: ModelReport) -> dict[str, Any]:
    return {"name": model.name, "metrics": model.metrics}


def _interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
