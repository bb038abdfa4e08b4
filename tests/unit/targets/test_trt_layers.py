from __future__ import annotations

import json

from hhrnet_deploy.targets.trt_layers import layers_of_inspector, layers_of_log

TENSOR = (
    "{{ Name: t, Dimensions: [1,8,16,16], Strides: [1,1,1,1], StrideOrder: [3,0,2,1], Datatype: {}, Format: (NHWC) }}"
)


def line(name: str, kind: str, inputs: list[str], outputs: list[str], metadata: str = "") -> str:
    given, made = (", ".join(TENSOR.format(t) for t in types) for types in (inputs, outputs))
    constants = f"Constants: [ {TENSOR.format('Int8')}], "
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {given}], {constants}Outputs: [ {made}], TacticName: x, "
        f"StreamId: 0, Metadata: {metadata}"
    )


def test_a_log_line_tells_types_and_nodes() -> None:
    text = line(
        "/a/Conv_myl0_2", "correlation", ["Int8", "Half"], ["Int8"], "[ONNX Layer: /a/Conv][ONNX Layer: /a/Relu]"
    )
    (layer,) = layers_of_log([text])
    assert (layer.name, layer.type, layer.precision) == ("/a/Conv_myl0_2", "correlation", "int8")
    assert (layer.inputs, layer.outputs) == (("int8", "fp16"), ("int8",))
    assert layer.nodes == ("/a/Conv", "/a/Relu")


def test_the_image_is_no_precision() -> None:
    (layer,) = layers_of_log([line("first", "kgen", ["UInt8"], ["Half"])])
    assert layer.precision == "fp16"


def test_a_layer_without_tensors_is_listed() -> None:
    text = "Name: s_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , Metadata: "
    (layer,) = layers_of_log([text])
    assert (layer.type, layer.precision) == ("shape_call", "none")


def test_later_profiles_are_left_out_whole() -> None:
    lines = [
        line("/a/Conv_myl0_1", "correlation", ["Float"], ["Float"]),
        line("__glue_myl1_1", "kgen", ["Float"], ["Float"]),
        line("/a/Conv [profile 1]_myl1_2", "correlation", ["Float"], ["Float"]),
        line("__other_myl2_1", "kgen", ["Float"], ["Float"]),
    ]
    assert [layer.name for layer in layers_of_log(lines)] == ["/a/Conv_myl0_1", "__other_myl2_1"]


def test_the_inspectors_document_of_both_major_versions() -> None:
    old = {
        "Name": "conv1 + relu",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
        "Outputs": [{"Name": "y", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        "Metadata": "[ONNX Layer: conv1]\u001e[ONNX Layer: relu]",
    }
    new = {
        "Name": "conv2",
        "LayerType": "correlation",
        "Inputs": [{"Name": "x", "Datatype": "BFloat16"}],
        "Outputs": [],
    }
    later = {**old, "Name": "conv1 + relu [profile 1]"}
    layers = layers_of_inspector(json.dumps({"Layers": [old, new, later, "names only"], "Bindings": []}))
    assert [layer.name for layer in layers] == ["conv1 + relu", "conv2", "names only"]
    assert [layer.precision for layer in layers] == ["int8", "bf16", "none"]
    assert (layers[0].outputs, layers[0].nodes) == (("fp16",), ("conv1", "relu"))
