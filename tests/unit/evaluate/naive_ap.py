"""OKS and AP from COCO's definition (cocodataset.org, keypoints evaluation), one person at a time, without arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

ALL, MEDIUM, LARGE = (0.0, 1e10), (32.0**2, 96.0**2), (96.0**2, 1e10)
THRESHOLDS = [0.5 + 0.05 * step for step in range(10)]


@dataclass
class Annotated:
    points: list[tuple[float, float, int]]
    box: tuple[float, float, float, float]
    area: float
    crowd: bool = False
    labelled: int = field(init=False)

    def __post_init__(self) -> None:
        self.labelled = sum(1 for point in self.points if point[2] > 0)


@dataclass
class Found:
    points: list[tuple[float, float]]
    score: float

    @property
    def area(self) -> float:
        xs, ys = [x for x, _ in self.points], [y for _, y in self.points]
        return (max(xs) - min(xs)) * (max(ys) - min(ys))


def oks(found: Found, truth: Annotated, sigmas: list[float]) -> float:
    terms = []
    for (x, y), (tx, ty, visible), sigma in zip(found.points, truth.points, sigmas, strict=True):
        if truth.labelled:
            if not visible:
                continue
            squared = (x - tx) ** 2 + (y - ty) ** 2
        else:
            left, top, width, height = truth.box
            dx = max(0.0, left - width - x, x - (left + 2 * width))
            dy = max(0.0, top - height - y, y - (top + 2 * height))
            squared = dx**2 + dy**2
        terms.append(math.exp(-squared / (2 * sigma) ** 2 / (truth.area + 2.2e-16) / 2))
    return sum(terms) / len(terms)


def _judge(found: list[Found], truth: list[Annotated], sigmas: list[float], threshold: float, area: tuple) -> tuple:
    """(score, verdict) of the 20 best people, verdict True, False or None (counts neither way), and the positives."""
    ignored = [t.crowd or t.labelled == 0 or not area[0] <= t.area <= area[1] for t in truth]
    best = sorted(found, key=lambda person: -person.score)[:20]
    taken: set[int] = set()
    verdicts = []
    for person in best:
        choice = None
        for wanted in (False, True):
            candidates = [
                (oks(person, t, sigmas), index)
                for index, t in enumerate(truth)
                if ignored[index] is wanted and (index not in taken or t.crowd)
            ]
            candidates = [item for item in candidates if item[0] >= min(threshold, 1 - 1e-10)]
            if candidates:
                choice = max(candidates)[1]
                break
        if choice is not None:
            taken.add(choice)
            verdicts.append((person.score, None if ignored[choice] else True))
        else:
            verdicts.append((person.score, False if area[0] <= person.area <= area[1] else None))
    return verdicts, ignored.count(False)


def precision_recall(images: list, sigmas: list[float], threshold: float, area: tuple) -> tuple[float, float] | None:
    """(average precision over 101 recall levels, highest recall); None without positives."""
    verdicts, positives = [], 0
    for found, truth in images:
        judged, count = _judge(found, truth, sigmas, threshold, area)
        verdicts += judged
        positives += count
    if not positives:
        return None
    curve, hits, misses = [], 0, 0
    for _, verdict in sorted(verdicts, key=lambda item: -item[0]):
        hits += verdict is True
        misses += verdict is False
        curve.append((hits / positives, hits / (hits + misses) if hits + misses else 0.0))
    levels = [step * 0.01 for step in range(101)]
    best = [max((precision for recall, precision in curve if recall >= level), default=0.0) for level in levels]
    return sum(best) / 101, hits / positives


def ten_figures(images: list, sigmas: list[float]) -> dict[str, float | None]:
    def mean(part: int, area: tuple, thresholds: list[float]) -> float | None:
        values = [precision_recall(images, sigmas, threshold, area) for threshold in thresholds]
        return None if values[0] is None else sum(value[part] for value in values) / len(values)

    return {
        name + suffix: mean(part, area, thresholds)
        for part, name in enumerate(("AP", "AR"))
        for suffix, area, thresholds in (
            ("", ALL, THRESHOLDS),
            ("50", ALL, [0.5]),
            ("75", ALL, [0.75]),
            ("M", MEDIUM, THRESHOLDS),
            ("L", LARGE, THRESHOLDS),
        )
    }
