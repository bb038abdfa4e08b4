from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quantize_blocks import run

from hhrnet_deploy.errors import GateFailedError
from hhrnet_deploy.quantize.budget import Limit, by_loss_of_speed, meet_budget
from hhrnet_deploy.quantize.calibration_set import open_calibration
from hhrnet_deploy.quantize.family import OPENVINO, TENSORRT
from hhrnet_deploy.quantize.plan import make_plan
from hhrnet_deploy.quantize.sensitivity import measure_sensitivity, plot_sensitivity
from hhrnet_deploy.quantize.typed import Source, TypedGraph, measured_source, type_graph
from hhrnet_deploy.targets.graph import read_graph
from hhrnet_deploy.targets.quantization import LayerSensitivity


@pytest.fixture(scope="module")
def source(tiny_onnx: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("ranges") / "r.npz"
    return measured_source(read_graph(tiny_onnx), calibration=open_calibration(str(photos)), ranges=path)


@pytest.fixture(scope="module")
def pixels() -> Any:
    return np.random.default_rng(4).integers(0, 256, (1, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def sensitivity(source: Source, pixels: Any) -> tuple[LayerSensitivity, ...]:
    return measure_sensitivity(source, OPENVINO, pixels)


def test_sensitivity_is_the_noise_of_that_layer_alone(
    source: Source, sensitivity: tuple[LayerSensitivity, ...], pixels: Any
) -> None:
    from hhrnet_deploy.quantize.emit import emit
    from hhrnet_deploy.quantize.plan import Role

    topology, plan = source.topology, make_plan(source.topology)
    assert {layer.name for layer in sensitivity} == set(plan.quantized)
    assert [layer.noise for layer in sensitivity] == sorted((layer.noise for layer in sensitivity), reverse=True)
    reference = run(topology.model, pixels)
    # The deconvolution's part of coarse reads the features with their errors, too.
    assert plan.split is not None
    deconvolution = next(layer for layer in sensitivity if layer.name == plan.split.node)
    for chosen in (sensitivity[0], sensitivity[-1], deconvolution):
        alone = replace(
            plan,
            quantized=(chosen.name,),
            reads=tuple(r for r in plan.reads if r.node == chosen.name and r.role is Role.CONVOLUTION),
            split=plan.split if plan.split and plan.split.node == chosen.name else None,
        )
        got = run(emit(topology, alone, source.statistics, OPENVINO), pixels)
        noises = [
            np.square(b.astype(np.float64) - a).sum() / np.square(a.astype(np.float64)).sum()
            for a, b in zip(reference, got, strict=True)
        ]
        assert chosen.noise == pytest.approx(float(np.mean(noises)), rel=0.02, abs=1e-9)


def test_sensitivity_is_deterministic_and_can_be_drawn(
    source: Source, sensitivity: tuple[LayerSensitivity, ...], pixels: Any, tmp_path: Path
) -> None:
    assert measure_sensitivity(source, OPENVINO, pixels) == sensitivity
    for name in ("a.png", "b.png"):
        plot_sensitivity(sensitivity, frozenset({sensitivity[0].name}), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_layers_leave_by_noise_removed_per_work_given_back() -> None:
    layers = [
        LayerSensitivity(name="cheap", noise=0.1, multiply_adds=1),
        LayerSensitivity(name="dear", noise=0.5, multiply_adds=100),
        LayerSensitivity(name="silent", noise=0.0, multiply_adds=1),
    ]
    assert by_loss_of_speed(layers) == ["cheap", "dear"]


def budget(
    source: Source, sensitivity: tuple[LayerSensitivity, ...], needed: int, *, most: float = 0.01
) -> tuple[TypedGraph, list[int]]:
    """A search in which the drop is 0.05 until ``needed`` layers are kept, then 0."""
    counts: list[int] = []

    def validate(typed: TypedGraph) -> float | None:
        counts.append(len(typed.quantization.kept) - 2)
        return 0.5 if counts[-1] >= needed else 0.45

    limit = Limit(max_ap_drop=most, reference_ap=0.5, data="test")
    return meet_budget(source, OPENVINO, limit, sensitivity, validate), counts


def test_nothing_is_given_back_when_int8_fits(source: Source, sensitivity: tuple[LayerSensitivity, ...]) -> None:
    typed, counts = budget(source, sensitivity, 0)
    assert counts == [0]
    expected = type_graph(source, "int8", OPENVINO)
    assert typed.model.SerializeToString(deterministic=True) == expected.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("needed", [1, 2, 3, 6, 11])
def test_the_fewest_layers_are_given_back_and_every_step_is_kept(
    source: Source, sensitivity: tuple[LayerSensitivity, ...], needed: int
) -> None:
    typed, counts = budget(source, sensitivity, needed)
    record = typed.quantization.budget
    assert record is not None
    assert len(record.steps[-1].layers) == needed
    assert record.steps[-1].layers == tuple(by_loss_of_speed(sensitivity)[:needed])
    assert len(record.steps) == len(counts) == len(set(counts))
    assert record.steps[-1].drop == 0
    assert typed.quantization.int8_share < type_graph(source, "int8", OPENVINO).quantization.int8_share
    assert set(record.steps[-1].layers) <= set(typed.quantization.kept)


@pytest.mark.parametrize("ap", [0.1, None, float("nan")])
def test_a_drop_that_never_fits_fails(
    source: Source, sensitivity: tuple[LayerSensitivity, ...], ap: float | None
) -> None:
    limit = Limit(max_ap_drop=0.001, reference_ap=0.5, data="test")
    few = sensitivity[:3]
    with pytest.raises(GateFailedError, match="even with every layer"):
        meet_budget(source, OPENVINO, limit, few, lambda typed: ap)


def test_typed_graphs_say_what_they_are(source: Source) -> None:
    int8 = type_graph(source, "int8", TENSORRT)
    props = {entry.key: entry.value for entry in int8.model.metadata_props}
    assert props["precision"] == "int8"
    assert props["preset"] == "tiny_coco"
    assert int8.quantization.calibration.images == 5
    assert 0.5 < int8.quantization.int8_share < 1
    onnx.checker.check_model(int8.model, full_check=True)
    half = type_graph(source, "fp16", OPENVINO)
    assert half.quantization.note is not None
    assert "weights only" in half.quantization.note
    assert type_graph(source, "fp16", TENSORRT).quantization.note is None
