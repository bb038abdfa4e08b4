"""Every TensorRT name the targets use, held against the real bindings of several releases.

The bindings need nine C symbols of three libraries, which come from NVIDIA's own index: three stub libraries stand in
for them. HHRNET_REQUIRE_TRT_CONTRACT=1 turns every skip into a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trt_names

from hhrnet_deploy.data.synth_cache import cache_folder

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
# 10.3 is the release of JetPack 6, for Orin; 10.9 the first with ahead-of-time plugins; then the newest of 10 and 11.
RELEASES = {
    "10.3.0": "tensorrt_cu12_bindings",
    "10.9.0.34": "tensorrt_cu12_bindings",
    "10.16.1.11": "tensorrt_cu13_bindings",
    "11.4.0.106": "tensorrt_cu13_bindings",
}
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
)
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
# Only TensorRT-RTX has these: building for several cards, and keeping what it compiles on the card.
RTX_ONLY = {
    *("no IBuilderConfig.num_compute_capabilities", "no IBuilderConfig.set_compute_capability"),
    *("no ICudaEngine.create_runtime_config", "no IRuntimeConfig.create_runtime_cache"),
    "no IExecutionContext.is_stream_capturable",
    "no IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    *("no IRuntimeConfig.set_runtime_cache", "no IRuntimeCache.serialize", "no IRuntimeCache.deserialize"),
}


def missing(reason: str) -> NoReturn:
    if os.environ.get("HHRNET_REQUIRE_TRT_CONTRACT") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def stub_libraries(folder: Path, major: str) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        missing("g++ is not installed")
    source = folder / "stub.cpp"
    source.write_text("".join(f'extern "C" void* {name}() {{ return nullptr; }}\n' for name in SYMBOLS))
    for name in LIBRARIES:
        library = f"lib{name}.so.{major}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library)]
        subprocess.run([compiler, str(source), *options], check=True)
    return folder


def bindings(version: str) -> Path:
    """The folder with ``tensorrt_bindings`` of that release, downloaded once."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folder = cache_folder() / "tensorrt-bindings" / f"{version}-{tag}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        package = f"{RELEASES[version]}=={version}"
        command = [*(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:")]
        done = subprocess.run(
            [*command, "--target", str(temporary), package], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            shutil.rmtree(temporary, ignore_errors=True)
            missing(f"{package} cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def used() -> dict[str, Any]:
    document = asdict(trt_names.used_names())
    calls = {name: sorted(counts) for name, counts in document.pop("calls").items()}
    bases = {name: sorted(methods) for name, methods in document.pop("bases").items()}
    return {**{key: sorted(value) for key, value in document.items()}, "calls": calls, "bases": bases}


def probe(module: str, *, stubs: bool, names: dict[str, Any] | None = None, **environment: str) -> dict[str, Any]:
    path = os.pathsep.join([environment.pop("PYTHONPATH", ""), str(ROOT)]).strip(os.pathsep)
    done = subprocess.run(
        [sys.executable, str(HERE / "trt_probe.py"), module, "stubs" if stubs else "libraries"],
        input=json.dumps(names or used()),
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def probe_release(version: str, folder: Path, names: dict[str, Any] | None = None) -> dict[str, Any]:
    stubs = stub_libraries(folder, version.partition(".")[0])
    return probe(
        "tensorrt_bindings", stubs=True, names=names, PYTHONPATH=str(bindings(version)), LD_LIBRARY_PATH=str(stubs)
    )


@pytest.mark.parametrize("version", RELEASES)
def test_every_name_exists_in_the_release(version: str, tmp_path: Path) -> None:
    report = probe_release(version, tmp_path)
    assert report["version"].startswith(version)
    assert set(report["problems"]) - RTX_ONLY == set()


def test_names_that_do_not_exist_are_found(tmp_path: Path) -> None:
    names = used()
    names["chains"] = [*names["chains"], "BuilderFlag.FP16", "IBuilder"]
    names["written"] = [*names["written"], "IBuilderConfig.set_flag"]
    names["calls"]["IOptimizationProfile.set_shape"] = [3, 4]
    names["bases"]["IProgressMonitor"] = ["phase_begin"]
    report = probe_release("11.4.0.106", tmp_path, names)
    assert set(report["problems"]) - RTX_ONLY == {
        "no BuilderFlag.FP16",
        "no IBuilder",
        "IBuilderConfig.set_flag cannot be set",
        "IOptimizationProfile.set_shape takes 4 to 4 arguments, gets 3",
        "IProgressMonitor has no method phase_begin",
    }


def test_tensorrt_rtx_has_every_name_too() -> None:
    assert probe("tensorrt_rtx", stubs=False)["problems"] == []


def test_the_table_of_objects_is_complete() -> None:
    assert trt_names.unknown_objects() == set()
    names = trt_names.used_names()
    assert {"BuilderFlag.STRIP_PLAN", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"} <= names.chains
    assert {"Builder.build_serialized_network", "EngineInspector.get_engine_information"} <= names.read
    assert "IBuilderConfig.progress_monitor" in names.written
    assert {"IExecutionContext.execute_async_v3", "IRuntimeCache.deserialize"} <= names.read
    assert names.bases.keys() == {"ILogger", "IProgressMonitor"}
