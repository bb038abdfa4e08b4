"""``hhrnet doctor`` reports what is there, not what it hopes for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app
from hhrnet_deploy.pipeline import doctor
from hhrnet_deploy.pipeline.doctor import diagnose


def _fake_tool(folder: Path, name: str, output: str) -> None:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    tool.chmod(0o755)


def _ability(name: str) -> bool:
    return next(ability.works for ability in diagnose().abilities if ability.name == name)


def test_cards_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_tool(tmp_path, "nvidia-smi", "NVIDIA L4, 8.9, 23034, 580.65.06\nTesla T4, 7.5, 15360, 580.65.06")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    gpus = diagnose().gpus
    assert [(gpu.name, gpu.compute_capability, gpu.memory_mib) for gpu in gpus] == [
        ("NVIDIA L4", "8.9", 23034),
        ("Tesla T4", "7.5", 15360),
    ]


def test_without_cards_nothing_runs_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert diagnose().gpus == []
    assert not _ability("run engines on a GPU")


def test_a_missing_compiler_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    kernels = next(a for a in diagnose().abilities if a.name == "compile CUDA kernels")
    assert not kernels.works
    assert kernels.remedy is not None


def test_the_installed_cpu_engines_are_seen() -> None:
    assert _ability("target openvino")
    assert _ability("target onnxruntime")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 fma\n", {"fast int8 on this CPU": False, "bf16 on this CPU": False}),
        ("flags : avx2 avx_vnni\n", {"fast int8 on this CPU": True, "bf16 on this CPU": False}),
        ("flags : avx512_vnni avx512_bf16\n", {"fast int8 on this CPU": True, "bf16 on this CPU": True}),
        ("Features : asimd\n", {}),
        (None, {}),
    ],
)
def test_the_processors_arithmetic_is_told_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: dict[str, bool]
) -> None:
    facts = tmp_path / "cpuinfo"
    if text is not None:
        facts.write_text(text)
    monkeypatch.setattr(doctor, "_CPU_FACTS", facts)
    assert {a.name: a.works for a in diagnose().abilities if "on this CPU" in a.name} == expected


def test_json_is_one_document() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["packages"]["numpy"]
    assert {"python", "gpus", "abilities", "compilers"} <= set(document)


def test_the_version_of_nvcc_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0/compiler.36424714_0"
    _fake_tool(tmp_path, "nvcc", text)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert diagnose().compilers["nvcc"] == "13.0.88"
