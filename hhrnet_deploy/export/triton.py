"""A Triton model repository for an exported graph: ``config.pbtxt``, the folder of the plan, and the commands for it.

The plan itself belongs to the card that serves it, so it is built there, by the commands that are written beside the
configuration. Fields as in Triton's ``model_config.proto``.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hhrnet_deploy.decode.launch_table import COUNT, JOINT_TAGS, KEYPOINTS, PERSON_TAGS, SCORES, Dims
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import write_text
from hhrnet_deploy.targets.graph import INPUT, Graph
from hhrnet_deploy.targets.trt_options import Profile, TensorRtOptions, plan_profiles

CONFIG, PLAN, SCRIPT = "config.pbtxt", "model.plan", "build_plan.sh"
_VERSION = "1"
_QUEUE_MICROSECONDS = 1000
_PEOPLE = {one.name: one for one in (KEYPOINTS, SCORES, COUNT, JOINT_TAGS, PERSON_TAGS)}
_TYPES = {"float32": "TYPE_FP32", "int32": "TYPE_INT32"}


class TritonModel(BaseModel):
    """A model of a repository.

    Attributes:
        name: of the model.
        config: its ``config.pbtxt``.
        plan: where the engine has to be put.
        commands: what builds the plan there and tries it, one per line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    config: str
    plan: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class _Tensor:
    name: str
    kind: str
    dims: tuple[int, ...]


def write_repository(repository: str | Path, graph: Graph, options: TensorRtOptions | None = None) -> TritonModel:
    """Write ``<repository>/<model>/`` with its configuration, its empty version folder and the commands.

    The model is named after the preset, with ``_people`` where the graph decodes. The plan goes to
    ``<model>/1/model.plan``.

    Args:
        repository: made where it is missing; other models in it are left alone.
        graph: the exported ONNX file; its batch has to be dynamic.
        options: shapes and largest batch of the plan; default those of ``hhrnet build --target tensorrt``.

    Raises:
        InputError: a graph with a fixed batch, or shapes that it does not take.
    """
    check_batch(graph.batch)
    profiles = plan_profiles(graph, options or TensorRtOptions())
    meta = graph.metadata
    name = f"{meta.preset}_people" if meta.outputs == "people" else meta.preset
    folder = Path(repository) / name
    plan = folder / _VERSION / PLAN
    plan.parent.mkdir(parents=True, exist_ok=True)
    commands = _commands(graph, profiles, options or TensorRtOptions(), plan)
    write_text(folder / CONFIG, _config(name, graph, profiles))
    lines = ["#!/bin/sh -e", shlex.join(["cd", str(Path.cwd())]), *commands]
    write_text(folder / SCRIPT, "\n".join(lines) + "\n")
    return TritonModel(name=name, config=str(folder / CONFIG), plan=str(plan), commands=commands)


def check_batch(batch: int | None) -> None:
    """Refuse a graph that cannot be batched.

    Raises:
        InputError: its batch is fixed.
    """
    if batch is not None:
        raise InputError(
            f"Triton joins requests to batches of any size; the graph takes exactly {batch} images.",
            hint="Export with --batch dynamic.",
        )


def _config(name: str, graph: Graph, profiles: tuple[Profile, ...]) -> str:
    largest = min(profile.max[0] for profile in profiles)
    return "\n".join(
        [
            f'name: "{name}"',
            'platform: "tensorrt_plan"',
            f'default_model_filename: "{PLAN}"',
            f"max_batch_size: {largest}",
            _tensors("input", [_input(graph)]),
            _tensors("output", _outputs(graph)),
            f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_MICROSECONDS} }}",
            "instance_group [ { count: 1 kind: KIND_GPU profile: ["
            + ", ".join(f'"{number}"' for number in range(len(profiles)))
            + "] } ]",
            "",
        ]
    )


def _tensors(field: str, tensors: list[_Tensor]) -> str:
    lines = [f"{field} ["]
    for place, one in enumerate(tensors):
        comma = "," if place < len(tensors) - 1 else ""
        # A tensor with nothing but the batch is declared with one element, and reshaped.
        shape = f"dims: [{', '.join(map(str, one.dims))}]" if one.dims else "dims: [1] reshape: { shape: [] }"
        lines.append(f'  {{ name: "{one.name}" data_type: {one.kind} {shape} }}{comma}')
    return "\n".join([*lines, "]"])


def _sides(graph: Graph, stride: int) -> tuple[int, int]:
    if graph.size is None:
        return -1, -1
    width, height = graph.size
    return height // stride, width // stride


def _input(graph: Graph) -> _Tensor:
    sides = _sides(graph, 1)
    if graph.metadata.input == "uint8":
        return _Tensor(INPUT, "TYPE_UINT8", (*sides, 3))
    return _Tensor(INPUT, "TYPE_FP32", (3, *sides))


def _outputs(graph: Graph) -> list[_Tensor]:
    meta = graph.metadata
    joints = meta.skeleton.num_joints
    if meta.decode is None:
        strides = {"coarse": (2 * joints, 4), "fine": (joints, 2)}
        found = [(name, *strides[name.partition("_")[0]]) for name in meta.output_names]
        return [_Tensor(name, "TYPE_FP32", (channels, *_sides(graph, stride))) for name, channels, stride in found]
    dims = Dims(1, joints, 2 if meta.flip else 1, 0, 0, 0, 0, 0, 0, meta.decode.max_people)
    buffers = [_PEOPLE[name] for name in meta.output_names]
    return [_Tensor(one.name, _TYPES[one.dtype], tuple(one.shape(dims)[1:])) for one in buffers]


def _commands(graph: Graph, profiles: tuple[Profile, ...], options: TensorRtOptions, plan: Path) -> tuple[str, ...]:
    shape = _shape(graph, profiles[0].opt)
    run = ["trtexec", f"--loadEngine={plan}", f"--shapes={INPUT}:{shape}"]
    if graph.metadata.outputs == "heads":
        build = ["trtexec", f"--onnx={graph.path}", f"--saveEngine={plan}"]
        for number, profile in enumerate(profiles):
            build += [f"--profile={number}"] if len(profiles) > 1 else []
            build += [
                f"--{end}Shapes={INPUT}:{_shape(graph, size)}"
                for end, size in (("min", profile.min), ("opt", profile.opt), ("max", profile.max))
            ]
        return shlex.join(build), shlex.join(run)
    # The ops are registered from Python, so the plan is built by hhrnet; trtexec and Triton then run it as it is.
    bundle = Path("engines", plan.parent.parent.name)
    made = ["hhrnet", "build", str(graph.path), "--target", "tensorrt", *options.words(), "-o", str(bundle)]
    copied = ["cp", str(bundle / PLAN), str(plan)]
    return shlex.join(made), shlex.join(copied), shlex.join(run)


def _shape(graph: Graph, size: tuple[int, int, int]) -> str:
    count, height, width = size
    sides = (count, height, width, 3) if graph.metadata.input == "uint8" else (count, 3, height, width)
    return "x".join(map(str, sides))
