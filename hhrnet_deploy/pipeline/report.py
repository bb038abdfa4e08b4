"""``report.html``: a compilation on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from hhrnet_deploy.data.coco import KeypointDataset
from hhrnet_deploy.evaluate.partial import PartialResults
from hhrnet_deploy.evaluate.report import EvaluationReport, ModelReport
from hhrnet_deploy.pipeline.bench import STAGES, BenchReport, Row
from hhrnet_deploy.pipeline.report_html import Html, element, joined, section, table
from hhrnet_deploy.pipeline.report_layers import precision_map
from hhrnet_deploy.pipeline.report_quantization import quantization_sections
from hhrnet_deploy.pipeline.report_worst import find_worst, worst_pictures
from hhrnet_deploy.targets.bundle import Bundle, read_layers
from hhrnet_deploy.targets.manifest import Manifest

_TEMPLATE = Path(__file__).with_name("report_template.html")
_NONE = "–"


@dataclass(frozen=True)
class ReportInput:
    """Everything a report shows.

    Attributes:
        bundle: the engine.
        evaluation: of engine and reference on ``data``.
        bench: of engine (first) and reference; None when they were not timed.
        data: the images that were evaluated.
        people: the people of both models, as `PartialResults` keeps them.
        commands: that make everything again; the first makes all of it.
        versions, hashes: what it ran with and on, by name.
        max_ap_drop: the largest AP drop allowed, when there was a limit.
        pictures: how many photos are shown.
    """

    bundle: Bundle
    evaluation: EvaluationReport
    bench: BenchReport | None
    data: KeypointDataset
    people: Path
    commands: list[str]
    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    max_ap_drop: float | None = None
    pictures: int = 6


def render(given: ReportInput) -> str:
    """The page, complete with styles and pictures."""
    manifest = given.bundle.manifest
    title = f"{manifest.preset}, {manifest.target} {manifest.precision}"
    parts = [
        _header(given, title),
        _accuracy(given),
        _latency(given.bench),
        section("Precision of every layer", precision_map(read_layers(given.bundle)), key="precision"),
        *quantization_sections(manifest.quantization),
        _worst(given),
        _reproduce(given),
    ]
    page = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=element("title", title), body=joined(parts))


def _header(given: ReportInput, title: str) -> Html:
    evaluation, manifest = given.evaluation, given.bundle.manifest
    drop, interval = (evaluation.drop or {}).get("AP"), evaluation.interval
    tiles = [
        _tile("AP of the engine", _number(evaluation.subject.metrics.get("AP"))),
        _tile("AP of the reference", _number(evaluation.reference.metrics.get("AP") if evaluation.reference else None)),
        _tile(
            "AP drop",
            _number(drop, sign=True),
            ""
            if interval is None
            else f"{interval.confidence:.0%} interval {interval.low:+.4f} to {interval.high:+.4f}",
        ),
    ]
    if given.bench is not None and len(given.bench.rows) > 1:
        engine, reference = given.bench.rows
        tiles.append(
            _tile(
                "network",
                f"{engine.stages['network'].p50:.1f} ms",
                f"PyTorch {reference.stages['network'].p50:.1f} ms; median ratio {reference.ratio_network:.2f}",
            )
        )
    if manifest.quantization is not None and manifest.precision == "int8":
        tiles.append(_tile("multiply-adds in INT8", f"{manifest.quantization.int8_share:.1%}"))
    size = sum(entry.bytes for entry in manifest.files.values())
    tiles.append(_tile("engine files", f"{size / 1e6:.1f} MB"))
    line = f"{evaluation.images} images, {evaluation.data}"
    return element("header", element("h1", title), element("p", line), element("div", *tiles, class_="tiles"))


def _tile(name: str, value: str, detail: str = "") -> Html:
    parts = [element("dt", name), element("dd", value)]
    if detail:
        parts.append(element("dd", detail, class_="note"))
    return element("dl", *parts, class_="tile")


def _accuracy(given: ReportInput) -> Html:
    report = given.evaluation
    models = [report.reference, report.subject] if report.reference else [report.subject]
    names = list(report.subject.metrics)
    if not names:
        return section("Accuracy", element("p", "The split has no annotations: there is no AP."), key="accuracy")
    rows = [[_model_name(model), *(_number(model.metrics.get(name)) for name in names)] for model in models]
    if report.drop is not None:
        rows.append(["difference", *(_number(report.drop[name], sign=True) for name in names)])
    return section("Accuracy", table(["model", *names], rows), *_accuracy_notes(given), key="accuracy")


def _accuracy_notes(given: ReportInput) -> list[Html]:
    report, notes = given.evaluation, []
    if report.interval is not None:
        low, high = report.interval.low, report.interval.high
        notes.append(
            f"AP drop, {report.interval.confidence:.0%} interval: {low:+.4f} to {high:+.4f} "
            f"({report.interval.resamples} paired bootstrap resamples of the images). A difference is reference minus "
            "engine: above zero the engine is worse."
        )
    if report.agreement is not None:
        notes.append(
            f"Agreement: AP {_number(report.agreement.ap)} with the reference's people taken as ground truth; "
            f"{report.agreement.images_with_different_people} of {report.images} images have different people (a "
            "joint further than 1 px of network input or 0.02 in score apart, or found by one of the two only)."
        )
    if given.max_ap_drop is not None:
        drop = (report.drop or {}).get("AP")
        kept = drop is not None and drop <= given.max_ap_drop
        notes.append(f"Limit on the AP drop: {given.max_ap_drop:g}, {'kept' if kept else 'NOT kept'}.")
    broken = report.subject.broken_people
    if broken:
        notes.append(f"{broken} people of the engine have NaN or infinity among their numbers.")
    return [element("p", note) for note in notes]


def _model_name(model: ModelReport) -> str:
    return f"{model.name} ({'PyTorch' if model.kind == 'checkpoint' else 'engine'})"


def _latency(bench: BenchReport | None) -> Html:
    if bench is None:
        return section("Latency", element("p", "Not timed (--pairs 0)."), key="latency")
    longest = max(sum(row.stages[stage].p50 for stage in STAGES) for row in bench.rows)
    bars = [_bar(row, longest) for row in bench.rows]
    legend = element(
        "ul",
        *(element("li", element("span", class_=f"swatch {stage}"), f" {stage}") for stage in STAGES),
        class_="legend",
    )
    head = ["model", *(f"{stage}, ms" for stage in STAGES), "total p50 / p90 / p99, ms", "images/s", "peak MiB"]
    rows = [_latency_row(row) for row in bench.rows]
    sizes = ", ".join(f"{width}x{height}" for width, height in bench.network_sizes)
    note = (
        f"Medians over {bench.pairs} pairs on {bench.photos} photos; network input {sizes}; flip test "
        f"{'on' if bench.flip else 'off'}. Images per second are end to end with the stages overlapping."
    )
    return section("Latency per stage", legend, *bars, table(head, rows), element("p", note), key="latency")


def _bar(row: Row, longest: float) -> Html:
    """A bar whose length is the share of the slowest model's total."""
    pieces = [
        element(
            "span",
            class_=f"piece {stage}",
            style=f"width:{100 * row.stages[stage].p50 / longest:.3f}%",
            title=f"{stage}: {row.stages[stage].p50:.2f} ms",
        )
        for stage in STAGES
    ]
    total = sum(row.stages[stage].p50 for stage in STAGES)
    name = element("span", f"{row.label} ({row.target} {row.precision}): {total:.1f} ms", class_="bar-name")
    return element("div", name, element("div", *pieces, class_="bar"), class_="bar-row")


def _latency_row(row: Row) -> list[str]:
    total = row.stages["total"]
    return [
        f"{row.label} ({row.target} {row.precision})",
        *(f"{row.stages[stage].p50:.2f}" for stage in STAGES),
        f"{total.p50:.1f} / {total.p90:.1f} / {total.p99:.1f}",
        ", ".join(f"{rate:.2f}" for rate in row.images_per_second.values()),
        f"{row.peak_memory_mib:.0f}",
    ]


def _worst(given: ReportInput) -> Html:
    records = PartialResults(given.people, {}, resume=True).records()
    worst = find_worst(records, given.pictures, given.data.skeleton)
    note = (
        "The photos in which engine and reference differ most. The difference adds up the scores of people whom only "
        "one of them found and, for the others, score times (1 - keypoint similarity); 0 means the same people. "
        "People with a score from 0.1 are drawn; left limbs are orange, right ones blue."
    )
    return section("Worst images", element("p", note), worst_pictures(worst, given.data), key="worst")


def _reproduce(given: ReportInput) -> Html:
    manifest = given.bundle.manifest
    everything, *steps = given.commands
    return section(
        "How to reproduce",
        element("p", "In one command:"),
        element("pre", everything, tabindex="0"),
        element("p", "Step by step:"),
        element("pre", "\n".join(steps), tabindex="0"),
        element("h3", "SHA-256"),
        table(["what", "digest"], [[name, element("code", digest)] for name, digest in _digests(manifest, given)]),
        element("h3", "Versions"),
        table(["what", "version"], [[name, value] for name, value in _versions(manifest, given)]),
        key="reproduce",
    )


def _digests(manifest: Manifest, given: ReportInput) -> list[tuple[str, str]]:
    sources = [(name, value) for name, value in manifest.sources.model_dump().items() if value is not None]
    files = [(f"engine/{name}", entry.sha256) for name, entry in manifest.files.items()]
    return [*sources, *files, *given.hashes.items()]


def _versions(manifest: Manifest, given: ReportInput) -> list[tuple[str, str]]:
    return [("hhrnet-deploy", manifest.tool_version), ("device", manifest.device), *given.versions.items()]


def _number(value: float | None, *, sign: bool = False) -> str:
    # Adding 0.0 to the rounded value turns -0.0000 into +0.0000.
    return _NONE if value is None else f"{round(value, 4) + 0.0:{'+' if sign else ''}.4f}"
