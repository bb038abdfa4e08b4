"""``hhrnet export --decode plugin`` and ``--triton``: what is written, read with Triton's own message definitions."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app
from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.data.synth_cache import cache_folder
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.export.decode_ops import with_decode
from hhrnet_deploy.export.triton import write_repository
from hhrnet_deploy.targets.graph import read_graph
from hhrnet_deploy.targets.trt_options import TensorRtOptions

CLIENT = "tritonclient==2.73.0"


@pytest.fixture(scope="session")
def messages() -> Any:
    """Triton's ``model_config_pb2``, from the wheel of its client, downloaded once."""
    folder = cache_folder() / "triton" / CLIENT.partition("==")[2]
    if not (folder / "model_config_pb2.py").is_file():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(temporary), CLIENT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(temporary, ignore_errors=True)
            reason = f"{CLIENT} cannot be fetched: {done.stderr.strip().splitlines()[-1:]}"
            pytest.fail(reason) if os.environ.get("HHRNET_REQUIRE_TRT_CONTRACT") == "1" else pytest.skip(reason)
        with zipfile.ZipFile(next(temporary.glob("*.whl"))) as wheel:
            text = wheel.read("tritonclient/grpc/model_config_pb2.py")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model_config_pb2.py").write_bytes(text)
        shutil.rmtree(temporary)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("model_config_pb2")
    finally:
        sys.path.remove(str(folder))


def parsed(messages: Any, path: str) -> Any:
    from google.protobuf import text_format

    return text_format.Parse(Path(path).read_text(), messages.ModelConfig())


def dims(tensors: Any) -> dict[str, list[int]]:
    return {one.name: list(one.dims) for one in tensors}


def test_heads_of_any_size(messages: Any, tiny_onnx_flip: Path, tmp_path: Path) -> None:
    model = write_repository(tmp_path / "models", read_graph(tiny_onnx_flip), TensorRtOptions(max_batch=16))
    config = parsed(messages, model.config)
    assert (config.name, config.platform, config.max_batch_size) == ("tiny_coco", "tensorrt_plan", 16)
    assert Path(model.config) == tmp_path / "models" / "tiny_coco" / "config.pbtxt"
    assert config.default_model_filename == Path(model.plan).name
    assert Path(model.plan).parent.is_dir()
    assert dims(config.input) == {"image": [-1, -1, 3]}
    assert config.input[0].data_type == messages.TYPE_UINT8
    coarse, fine = [34, -1, -1], [17, -1, -1]
    assert dims(config.output) == {"coarse": coarse, "fine": fine, "coarse_flipped": coarse, "fine_flipped": fine}
    assert {one.data_type for one in config.output} == {messages.TYPE_FP32}
    assert config.HasField("dynamic_batching")
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert config.instance_group[0].kind == messages.ModelInstanceGroup.KIND_GPU
    build, run = (shlex.split(command) for command in model.commands)
    assert build == [
        "trtexec", f"--onnx={tiny_onnx_flip}", f"--saveEngine={model.plan}",
        "--profile=0", "--minShapes=image:1x64x64x3", "--optShapes=image:16x64x128x3",
        "--maxShapes=image:16x64x256x3",
        "--profile=1", "--minShapes=image:1x64x64x3", "--optShapes=image:16x128x64x3",
        "--maxShapes=image:16x256x64x3",
    ]  # fmt: skip
    assert run == ["trtexec", f"--loadEngine={model.plan}", "--shapes=image:16x64x128x3"]
    script = Path(model.config).with_name("build_plan.sh").read_text().splitlines()
    assert script == ["#!/bin/sh -e", f"cd {Path.cwd()}", *model.commands]


def test_people_with_a_fixed_capacity(messages: Any, tiny_onnx_flip: Path, tmp_path: Path) -> None:
    path = tmp_path / "people.onnx"
    onnx.save(with_decode(onnx.load(str(tiny_onnx_flip)), DecodeConfig(max_people=20)), str(path))
    model = write_repository(tmp_path, read_graph(path), TensorRtOptions(shapes=("64x96",)))
    config = parsed(messages, model.config)
    assert config.name == "tiny_coco_people"
    assert dims(config.output) == {
        "keypoints": [340, 17, 3], "scores": [340], "count": [1], "joint_tags": [340, 17, 2], "person_tags": [340, 2],
    }  # fmt: skip
    count = next(one for one in config.output if one.name == "count")
    assert count.data_type == messages.TYPE_INT32
    assert count.HasField("reshape")
    assert list(count.reshape.shape) == []
    build, copy, run = (shlex.split(command) for command in model.commands)
    assert build == [
        *("hhrnet", "build", str(path), "--target", "tensorrt", "--shapes", "64x96"),
        *("-o", "engines/tiny_coco_people"),
    ]
    assert copy == ["cp", "engines/tiny_coco_people/model.plan", model.plan]
    assert run[-1] == "--shapes=image:8x64x96x3"


def test_one_size_and_float_input(messages: Any, tiny_model: Any, tmp_path: Path) -> None:
    from hhrnet_deploy.export.exporting import export_onnx

    report = export_onnx(
        tiny_model, tmp_path / "h.onnx", size=(64, 96), batch="dynamic", input="float", simplify=False,
        triton=tmp_path / "models",
    )  # fmt: skip
    assert report.triton is not None
    config = parsed(messages, report.triton.config)
    assert dims(config.input) == {"image": [3, 64, 96]}
    assert config.input[0].data_type == messages.TYPE_FP32
    assert dims(config.output) == {"coarse": [34, 16, 24], "fine": [17, 32, 48]}
    assert list(config.instance_group[0].profile) == ["0"]
    assert "--optShapes=image:8x3x64x96" in report.triton.commands[0]
    assert "--profile" not in report.triton.commands[0]


def test_a_fixed_batch_is_refused_before_the_export(tiny_model: Any, tmp_path: Path) -> None:
    from hhrnet_deploy.export.exporting import export_onnx

    with pytest.raises(InputError, match="takes exactly 1 images"):
        export_onnx(tiny_model, tmp_path / "h.onnx", size=64, triton=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_people_and_a_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "p.onnx"), "--decode", "plugin", "--flip", "--json"]
    words += ["--no-refine", "--detection-threshold", "0.2", "--triton", str(tmp_path / "models"), "--max-batch", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["triton"]["plan"] == str(tmp_path / "models" / f"{report['preset']}_people" / "1" / "model.plan")
    assert {"coarse.heat", "fine", "fine_flipped"} <= report["parity"]["outputs"].keys()
    decode = read_graph(tmp_path / "p.onnx").metadata.decode
    assert decode == DecodeConfig(refine=False, detection_threshold=0.2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no-refine"], "--refine is fixed in a graph that decodes"),
        (["--decode", "plugin", "--nms-kernel", "4"], "--nms-kernel nms_kernel has to be odd"),
        (["--max-batch", "4"], "belong to the plan of --triton"),
        (["--triton", "models", "--shapes", "60x60"], "--shapes: sides have to be multiples of 32"),
    ],
)
def test_options_that_do_not_fit(words: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "-o", str(tmp_path / "h.onnx"), *words])
    assert done.exit_code != 0
    assert message in " ".join(str(done.exception).split())
