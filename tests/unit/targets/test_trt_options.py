from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hhrnet_deploy.errors import HHRNetError, InputError, MissingDependencyError
from hhrnet_deploy.pipeline.spec import EngineSpec
from hhrnet_deploy.targets import registry, tensorrt, tensorrt_rtx, trt_target
from hhrnet_deploy.targets.graph import Graph, read_graph
from hhrnet_deploy.targets.registry import default_target, find_target
from hhrnet_deploy.targets.trt_options import TensorRtOptions, default_ranges, parse_range, plan_profiles

TENSORRT, RTX = tensorrt.TARGET, tensorrt_rtx.TARGET


@pytest.fixture
def dynamic(tiny_onnx: Path) -> Graph:
    return read_graph(tiny_onnx)


@pytest.fixture
def fixed(tiny_onnx_fixed: Path) -> Graph:
    return read_graph(tiny_onnx_fixed)


def card(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    for module in (registry, tensorrt, tensorrt_rtx, trt_target):
        monkeypatch.setattr(module, "compute_capability", lambda: name)


def test_default_profiles_follow_the_size_rule() -> None:
    landscape, portrait = default_ranges(512)
    assert landscape == ((512, 512), (512, 704), (512, 2048))
    assert portrait == ((512, 512), (704, 512), (2048, 512))


def test_shapes_become_one_profile_each(dynamic: Graph) -> None:
    options = TensorRtOptions(shapes=("64x96", "32x64:64x96:96x128"), max_batch=3)
    first, second = plan_profiles(dynamic, options)
    assert (first.min, first.opt, first.max) == ((1, 64, 96), (3, 64, 96), (3, 64, 96))
    assert (second.min, second.opt, second.max) == ((1, 32, 64), (3, 64, 96), (3, 96, 128))


def test_a_graph_of_one_shape_has_no_profile(fixed: Graph) -> None:
    assert plan_profiles(fixed, TensorRtOptions()) == ()
    assert plan_profiles(fixed, TensorRtOptions(max_batch=2)) == ()


@pytest.mark.parametrize(("options", "message"), [({"shapes": "64x96"}, "64x96"), ({"max_batch": 3}, "exactly 2")])
def test_what_a_fixed_graph_cannot_do_is_refused(fixed: Graph, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_profiles(fixed, TensorRtOptions(**options))


def test_a_fixed_size_with_any_batch_has_one_profile(fixed: Graph) -> None:
    from dataclasses import replace

    (profile,) = plan_profiles(replace(fixed, batch=None), TensorRtOptions(max_batch=5))
    assert (profile.min, profile.max) == ((1, 64, 96), (5, 64, 96))


@pytest.mark.parametrize(
    "text", ["", "64", "64x", "65x64", "0x64", "64x96:64x96", "64x96:64x64:64x128", "96x64:64x64:96x64", "64x96x3"]
)
def test_shapes_with_a_mistake_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"shape|sides|sizes"):
        parse_range(text)


def test_lists_come_as_text_too() -> None:
    options = TensorRtOptions.model_validate({"shapes": "64x96, 96x64", "compute_capabilities": 8.9})
    assert (options.shapes, options.compute_capabilities) == (("64x96", "96x64"), ("8.9",))


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch": 0},
        {"optimization_level": 6},
        {"hardware_compatible": "all"},
        {"refit": True, "strip": True},
        {"compute_capabilities": "8.9,8.9"},
        {"compute_capabilities": "sm_89"},
        {"fp16": True},
    ],
)
def test_options_with_a_mistake_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TensorRtOptions.model_validate(options)


def test_words_build_the_same_options_again() -> None:
    from typer.testing import CliRunner

    from hhrnet_deploy.cli import build as command
    from hhrnet_deploy.pipeline import build as library

    options = TensorRtOptions(
        shapes=("64x96", "32x64:64x96:96x128"),
        max_batch=4,
        workspace_mib=64,
        optimization_level=1,
        strip=True,
        tf32=True,
        compute_capabilities=("8.6", "8.9"),
    )
    seen: list[EngineSpec] = []

    def capture(*_: Any, spec: Any, **changes: Any) -> None:
        images = {"preset", "images", "progress", "bar", "validate"}
        seen.append(EngineSpec().with_changes(**{k: v for k, v in changes.items() if k not in images}))
        raise HHRNetError("enough")

    import typer

    app = typer.Typer()
    app.command()(command.build)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "build_engine", capture)
        CliRunner().invoke(app, ["heads.onnx", "--target", "tensorrt-rtx", *options.words()])
    assert [spec.tensorrt for spec in seen] == [options]


def test_other_targets_refuse_these_options() -> None:
    with pytest.raises(
        InputError, match="--max-batch 2 is for the targets tensorrt and tensorrt-rtx, not for openvino"
    ):
        EngineSpec(target="openvino").with_changes(tensorrt={"max_batch": 2})


def test_options_are_added_to_those_of_the_spec() -> None:
    spec = EngineSpec(target="tensorrt-rtx", tensorrt=TensorRtOptions(max_batch=4, refit=True))
    changed = spec.with_changes(tensorrt={"max_batch": 2, "strip": None, "shapes": None})
    assert changed.tensorrt == TensorRtOptions(max_batch=2, refit=True)


def test_the_default_target_is_tensorrt_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, "sm_89")
    found: list[str] = []
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: found.append(name) or object())
    assert (default_target(), found) == ("tensorrt", ["tensorrt"])
    card(monkeypatch, None)
    assert default_target() == "openvino"
    card(monkeypatch, "sm_89")
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda _: None)
    assert default_target() == "openvino"


@pytest.mark.parametrize(("target", "module", "extra"), [
    ("tensorrt", "tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx", "rtx"),
])  # fmt: skip
def test_a_missing_library_names_the_extra_and_the_way_without(
    target: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingDependencyError) as error:
        find_target(target).check_ready(TensorRtOptions())
    assert f"hhrnet-deploy[{extra}]" in str(error.value)
    assert "--target openvino" in str(error.value)


def test_tensorrt_builds_for_the_card_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, "sm_86")
    assert TENSORRT._cards(TensorRtOptions()).device == "sm_86"
    assert TENSORRT._cards(TensorRtOptions(hardware_compatible="ampere+")).device == "sm_80+"
    with pytest.raises(InputError, match="tensorrt-rtx"):
        TENSORRT._cards(TensorRtOptions(compute_capabilities=("8.9",)))
    card(monkeypatch, "sm_75")
    with pytest.raises(InputError, match="this one is sm_75"):
        TENSORRT._cards(TensorRtOptions(hardware_compatible="ampere+"))
    card(monkeypatch, None)
    with pytest.raises(HHRNetError, match="no NVIDIA GPU"):
        TENSORRT._cards(TensorRtOptions())


@pytest.mark.parametrize(
    ("built", "here", "runs"),
    [
        ("sm_86", "sm_86", True),
        ("sm_86", "sm_89", False),
        ("sm_80+", "sm_89", True),
        ("sm_80+", "sm_120", True),
        ("sm_80+", "sm_75", False),
        ("sm_80+", "no GPU", False),
    ],
)
def test_a_tensorrt_engine_runs_on_its_cards(built: str, here: str, runs: bool) -> None:
    assert TENSORRT.runs_on(built, here) is runs


def test_an_rtx_engine_runs_on_every_card_it_names() -> None:
    assert RTX.runs_on("sm_86 sm_89", "sm_89")
    assert not RTX.runs_on("sm_86 sm_89", "sm_8")
    assert not RTX.runs_on("sm_86 sm_89", "no GPU")


@pytest.mark.parametrize(
    ("built", "here", "compatible", "opens"),
    [
        ("10.9.0", "10.9.0", False, True),
        ("10.9.0", "10.16.1", False, False),
        ("10.9.0", "10.16.1", True, True),
        ("10.16.1", "10.9.0", True, False),
        ("10.9.0", "11.4.0", True, False),
    ],
)
def test_version_compatible_engines_open_in_later_releases(
    built: str, here: str, compatible: bool, opens: bool
) -> None:
    assert TENSORRT.opens_version(built, here, {"version_compatible": "yes"} if compatible else {}) is opens
