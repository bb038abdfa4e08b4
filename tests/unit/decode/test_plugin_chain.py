"""The ops that ``hhrnet export --decode plugin`` appends find the people that the CPU decoder finds, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fields import Field, stack
from onnx import TensorProto, helper
from plugin_evaluator import HostKernels, evaluate, host_kernels, run_op

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode import decode_heads
from hhrnet_deploy.decode.launch_table import Dims
from hhrnet_deploy.decode.plugin_ops import DOMAIN, OPS, PEOPLE
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.export.decode_ops import metadata_of, with_decode, without_decode
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import COCO, CROWDPOSE, Skeleton
from hhrnet_deploy.targets.graph import GraphMetadata, graph_of, read_graph

# Odd joints, an order of its own, a joint without a partner.
SNAKE = Skeleton(
    name="snake",
    joints=("head", "left", "right", "middle", "tail"),
    flip_pairs=((1, 2),),
    sigmas=(0.05,) * 5,
    joint_order=(3, 0, 4, 2, 1),
)


@pytest.fixture(scope="session")
def kernels() -> HostKernels:
    return host_kernels()


def heads_model(skeleton: Skeleton, *, flip: bool, half: bool = False) -> onnx.ModelProto:
    """A graph with the exported one's input, outputs and metadata, and with one node for each head."""
    joints = skeleton.num_joints
    names = ("coarse", "fine", "coarse_flipped", "fine_flipped")[: 4 if flip else 2]
    pixels = helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT)
    nodes, outputs = [pixels], []
    for name in names:
        channels, stride = (2 * joints, 4) if "coarse" in name else (joints, 2)
        last = f"{name}/typed" if half else name
        nodes.append(helper.make_node("Cast", ["pixels"], [last], to=TensorProto.FLOAT16) if half else _same(last))
        if half:
            nodes.append(helper.make_node("Cast", [last], [name], name=f"{name}/to_wire", to=TensorProto.FLOAT))
        shape = ["batch", channels, f"height_{stride}", f"width_{stride}"]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])
    model = helper.make_model(helper.make_graph(nodes, "heads", [image], outputs), opset_imports=[_opset()])
    metadata = GraphMetadata(
        preset="p", skeleton=skeleton, short_side=64, input="uint8", flip=flip, tool_version="0",
        precision="fp16" if half else "fp32",
    )  # fmt: skip
    metadata.write(model)
    return model


def _same(name: str) -> onnx.NodeProto:
    return helper.make_node("Identity", ["pixels"], [name])


def _opset() -> onnx.OperatorSetIdProto:
    return helper.make_opsetid("", 17)


def people_of(outputs: dict[str, Any], image: int) -> People:
    count = int(outputs["count"][image])
    names = ("keypoints", "scores", "joint_tags")
    return People(*(outputs[name][image, :count] for name in names))


def compare(arrays: tuple[Any, ...], skeleton: Skeleton, config: DecodeConfig, kernels: HostKernels) -> int:
    """Both decoders on the same heads; how many people there were."""
    flip = len(arrays) == 4
    half = arrays[0].dtype == np.float16
    model = with_decode(heads_model(skeleton, flip=flip, half=half), config)
    names = [f"{name}/typed" if half else name for name in ("coarse", "fine", "coarse_flipped", "fine_flipped")]
    outputs = evaluate(model, dict(zip(names, arrays, strict=False)), kernels)
    assert tuple(outputs) == PEOPLE
    expected = decode_heads(arrays, config=config.model_copy(update={"skeleton": skeleton}))
    for image, people in enumerate(expected):
        found = people_of(outputs, image)
        for name in ("keypoints", "scores", "tags"):
            np.testing.assert_array_equal(getattr(found, name), getattr(people, name), err_msg=name)
        if not config.refine:  # a joint that refine filled in has no tag in the mean
            assert outputs["person_tags"][image, : len(people.scores)] == pytest.approx(_mean_tags(people), abs=1e-5)
    return sum(len(people.scores) for people in expected)


def _mean_tags(people: People) -> Any:
    """The mean tag over the joints that a person has."""
    found = people.keypoints[:, :, 2] > 0
    return np.stack([tags[mask].mean(axis=0) for tags, mask in zip(people.tags, found, strict=True)])


CONFIGS = (
    DecodeConfig(),
    DecodeConfig(refine=False, detection_threshold=0.25),
    DecodeConfig(adjust=False, project=False, tag_threshold=0.3, nms_kernel=7),
    DecodeConfig(max_people=4, use_detection_val=False, ignore_too_much=True),
)


@pytest.mark.parametrize("config", range(len(CONFIGS)))
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE, SNAKE], ids=lambda one: one.name)
def test_the_chain_finds_the_people_of_the_cpu_decoder(
    skeleton: Skeleton, flip: bool, config: int, kernels: HostKernels
) -> None:
    field = Field(
        people=6, joints=skeleton.num_joints, width=80, height=48, tag_step=0.5 * (config % 2), duplicates=0.2
    )
    images = [field.draw(100 * config + seed, flip=flip) for seed in range(2)]
    assert compare(stack(images), skeleton, CONFIGS[config], kernels) > 0


@pytest.mark.parametrize("flip", [True, False])
def test_float16_heads_go_into_the_ops_uncast(flip: bool, kernels: HostKernels) -> None:
    arrays = Field(people=5).draw(7, flip=flip, dtype=np.float16)
    assert compare(arrays, COCO, DecodeConfig(), kernels) > 0
    model = with_decode(heads_model(COCO, flip=flip, half=True), DecodeConfig())
    assert not [node for node in model.graph.node if node.name.endswith("to_wire")]


@pytest.mark.parametrize("kind", ["bytes", "zeros", "ones", "nan", "huge"])
@pytest.mark.parametrize("name", OPS)
def test_an_op_survives_whatever_the_builder_times_it_on(name: str, kind: str, kernels: HostKernels) -> None:
    """Indices, counts and loops are bounded by shapes, not by data."""
    op, config = OPS[name], DecodeConfig(max_people=9)
    levels = 1 if name == "aggregate" else 2
    dims = Dims(2, 5, levels, 12, 20, 24, 40, 48, 80, 9)
    rng = np.random.default_rng(5)
    inputs = []
    for buffer in op.kernel.inputs:
        dtype = np.int32 if buffer.dtype == "int32" else np.float32
        made = rng.integers(0, 256, (*buffer.shape(dims), 4), np.uint8).view(dtype)[..., 0]
        plain = {"bytes": made, "zeros": 0, "ones": 1, "nan": np.nan, "huge": 3e38}[kind]
        if dtype == np.int32:
            plain = {"nan": -1, "huge": 2**31 - 1}.get(kind, plain)
        inputs.append(np.full(made.shape, plain, dtype) if kind != "bytes" else np.ascontiguousarray(made))
    if name == "group":
        inputs[-1][0] = 0  # an image that is not known to be unusable goes all the way
    outputs = run_op(op, inputs, op.attribute_values(config, 5, levels), kernels)
    if name == "group":
        assert (outputs[4] >= -1).all()
        assert (outputs[4] <= dims.capacity).all()


def test_empty_images_and_unusable_ones(kernels: HostKernels) -> None:
    empty, broken = Field(people=0).draw(1), Field(people=3).draw(2)
    broken[1][0, 5, 7, 7] = np.nan
    model = with_decode(heads_model(COCO, flip=False), DecodeConfig())
    heads = dict(zip(("coarse", "fine"), stack([empty, broken]), strict=True))
    assert evaluate(model, heads, kernels)["count"].tolist() == [0, -1]


def test_a_network_and_its_people_graph_agree(tiny_onnx_flip: Path, tmp_path: Path, kernels: HostKernels) -> None:
    """Real exported nodes: heads from ONNX Runtime, ops from the appended graph."""
    import onnxruntime

    heads = onnx.load(str(tiny_onnx_flip))
    config = DecodeConfig(detection_threshold=0.0, max_people=5)
    model = with_decode(heads, config)
    assert without_decode(model) == heads
    onnx.save(without_decode(model), str(tmp_path / "heads.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "heads.onnx"), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(3).integers(0, 256, (2, 64, 96, 3), np.uint8)
    names = [one.name for one in session.get_outputs()]
    arrays = session.run(names, {"image": pixels})
    outputs = evaluate(model, dict(zip(names, arrays, strict=True)), kernels)
    for image, people in enumerate(decode_heads(tuple(arrays), config=config)):
        np.testing.assert_array_equal(people_of(outputs, image).keypoints, people.keypoints)
        assert len(people.scores) > 0


def test_a_people_graph_says_what_it_is(tiny_onnx_fixed: Path, tmp_path: Path) -> None:
    config = DecodeConfig(detection_threshold=0.1, max_people=20, refine=False)
    model = with_decode(onnx.load(str(tiny_onnx_fixed)), config)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(tmp_path / "people.onnx"))
    graph = read_graph(tmp_path / "people.onnx")
    assert (graph.metadata.outputs, graph.size, graph.batch) == ("people", (96, 64), 2)
    assert graph.metadata.decode == config.model_copy(update={"flip": True})
    assert graph.info("p", "tensorrt", "fp32").decode == graph.metadata.decode
    shapes = {one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in model.graph.output}
    assert shapes == {
        "keypoints": [2, 340, 17, 3], "scores": [2, 340], "count": [2],
        "joint_tags": [2, 340, 17, 2], "person_tags": [2, 340, 2],
    }  # fmt: skip
    ops = [node for node in model.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in ops] == ["aggregate_flip", "peaks", "group"]
    for node in ops:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        expected = {"plugin_namespace": b"hhrnet", "plugin_version": b"1", "aot": 1}
        assert expected.items() <= attributes.items()
        assert all(one.type == onnx.AttributeProto.INT for one in node.attribute[3:])


def test_what_cannot_be_appended_is_refused(tiny_onnx: Path) -> None:
    heads = onnx.load(str(tiny_onnx))
    with pytest.raises(InputError, match="returns all people; at most 10"):
        with_decode(heads, DecodeConfig(max_output=10))
    with pytest.raises(InputError, match="crowdpose has 14 joints, the graph 17"):
        with_decode(heads, DecodeConfig(skeleton=CROWDPOSE))
    with pytest.raises(InputError, match="decodes inside already"):
        with_decode(with_decode(heads, DecodeConfig()), DecodeConfig())
    typed = heads_model(COCO, flip=False, half=True)
    with pytest.raises(InputError, match="typed fp16"):
        without_decode(with_decode(typed, DecodeConfig()))
    model = with_decode(heads, DecodeConfig())
    del model.graph.output[-1]
    with pytest.raises(InputError, match="person_tags"):
        graph_of(model, metadata_of(model), Path("p.onnx"))
