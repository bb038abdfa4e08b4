from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.model.cost import cost_of
from hhrnet_deploy.model.presets import PRESETS, find_preset
from hhrnet_deploy.skeletons import COCO, CROWDPOSE


def test_presets_load_without_torch() -> None:
    code = "import sys, hhrnet_deploy.model.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["w32_512", "w32_640", "w48_640"])
def test_published_sizes_are_those_of_the_networks(name: str) -> None:
    preset = PRESETS[name]
    cost = cost_of(preset.architecture, preset.num_joints, preset.short_side)
    assert round(cost.parameters / 1e6, 1) == preset.published.parameters_m
    assert round(cost.multiply_adds_as_published / 1e9, 1) == preset.published.multiply_adds_g
    assert cost.multiply_adds < cost.multiply_adds_as_published


def test_true_multiply_adds_of_w32_512() -> None:
    # Seen on shapes by an independent counter of the official network: 46.2 G (the deconvolution at its input).
    cost = cost_of(PRESETS["w32_512"].architecture, 17, 512)
    assert cost.multiply_adds == 46_203_404_288
    deconv = (32 + 34) * 32 * 4 * 4 * 128 * 128
    assert cost.multiply_adds_as_published - cost.multiply_adds == 3 * deconv


def test_small_preset_is_small() -> None:
    preset = PRESETS["small_256"]
    assert 1.5e6 < cost_of(preset.architecture, preset.num_joints, 256).parameters < 3.0e6


def test_crowdpose_presets_have_14_joints() -> None:
    assert {name: preset.num_joints for name, preset in PRESETS.items() if preset.num_joints != 17} == dict.fromkeys(
        ("crowdpose_w32_512", "crowdpose_w32_640", "crowdpose_w48_640"), 14
    )


@pytest.mark.parametrize("name", PRESETS)
def test_official_keys_lead_back_to_the_preset(name: str, tmp_path: Path) -> None:
    preset = PRESETS[name]
    file = tmp_path / "any_name.yaml"
    file.write_text(yaml.safe_dump(preset.official_config()))
    assert find_preset(file) is preset


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'w64_512' is unknown(.|\n)*w32_512, w32_640, w48_640"):
        find_preset("w64_512")


def test_other_skeleton_drops_published_figures() -> None:
    preset = find_preset("w48_640", CROWDPOSE)
    assert preset.num_joints == 14
    assert preset.published.results == ()
    assert find_preset("w48_640", COCO) is PRESETS["w48_640"]


# An experiment file as the official ones are written: Python tuples as text, many keys of no concern here.
def _official_file() -> dict[str, Any]:
    config = copy.deepcopy(PRESETS["w32_512"].official_config())
    config |= {"AUTO_RESUME": True, "GPUS": "(0,1,2,3)", "CUDNN": {"BENCHMARK": True}, "WORKERS": 4}
    config["DATASET"] |= {"DATASET": "coco_kpt", "MAX_NUM_PEOPLE": 30, "ROOT": "data/coco"}
    config["MODEL"] |= {"INIT_WEIGHTS": True, "PRETRAINED": "models/pytorch/imagenet/hrnet_w32-36af842e.pth"}
    config["TEST"] |= {"WITH_HEATMAPS": "(True, True)", "WITH_AE": "(True, False)", "MODEL_FILE": ""}
    config["TRAIN"] = {"LR": 0.001, "OPTIMIZER": "adam"}
    return config


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        config = config[parent]
    if value is None:
        del config[last]
    else:
        config[last] = value


def _read(tmp_path: Path, **changes: Any) -> Any:
    config = _official_file()
    for key, value in changes.items():
        _set(config, key.replace("__", "."), value)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(config))
    return find_preset(file)


def test_the_name_of_an_experiment_file_becomes_a_plain_one(tmp_path: Path) -> None:
    config = _official_file()
    _set(config, "DATASET.INPUT_SIZE", 384)
    for stem, name in (("w32_lr1e-3.v2", "w32_lr1e-3.v2"), ("mine of us", "mine_of_us"), ("-ä", "__")):
        (tmp_path / f"{stem}.yaml").write_text(yaml.safe_dump(config))
        assert find_preset(tmp_path / f"{stem}.yaml").name == name


def test_experiment_file_keeps_its_test_settings(tmp_path: Path) -> None:
    preset = _read(
        tmp_path,
        TEST__FLIP_TEST=False,
        TEST__SCALE_FACTOR=[0.5, 1, 2],
        TEST__NMS_KERNEL=3,
        TEST__NMS_PADDING=1,
        TEST__PROJECT2IMAGE=False,
        TEST__DETECTION_THRESHOLD=0.2,
        DATASET__INPUT_SIZE=384,
    )
    assert preset.name == "mine"
    assert preset.short_side == preset.inference.short_side == 384
    assert preset.inference.scales == (0.5, 1.0, 2.0)
    assert preset.inference.decode == DecodeConfig(flip=False, nms_kernel=3, project=False, detection_threshold=0.2)
    assert preset.published.imagenet == "hrnet_w32-36af842e.pth"


def test_experiment_file_without_a_start(tmp_path: Path) -> None:
    config = _official_file()
    config["MODEL"]["PRETRAINED"] = None
    config["DATASET"]["INPUT_SIZE"] = 384
    file = tmp_path / "fresh.yaml"
    file.write_text(yaml.safe_dump(config))
    assert find_preset(file).published.imagenet is None


def test_experiment_file_with_other_layout(tmp_path: Path) -> None:
    preset = _read(
        tmp_path,
        MODEL__EXTRA__STAGE2__BLOCK="BOTTLENECK",
        MODEL__EXTRA__STAGE2__NUM_CHANNELS=[8, 16],
        MODEL__EXTRA__DECONV__KERNEL_SIZE=[2],
        MODEL__EXTRA__DECONV__CAT_OUTPUT=[False],
        MODEL__EXTRA__FINAL_CONV_KERNEL=3,
    )
    assert preset.architecture.stage2.widths == (32, 64)
    assert preset.architecture.deconv.kernel == 2
    assert not preset.architecture.deconv.cat_output
    assert preset.architecture.final_kernel == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.NAME", "pose_hrnet"),
        ("MODEL.TAG_PER_JOINT", False),
        ("LOSS.WITH_AE_LOSS", [True, True]),
        ("LOSS.WITH_AE_LOSS", [False, False]),
        ("DATASET.WITH_CENTER", True),
        ("TEST.WITH_AE", [True, True]),
        ("TEST.WITH_HEATMAPS", [False, True]),
        ("TEST.NMS_PADDING", 1),
        ("TEST.NMS_KERNEL", 4),
        ("TEST.SCALE_FACTOR", [0.5, 2]),
        ("TEST.DETECTION_THRESHOLD", "high"),
        ("DATASET.INPUT_SIZE", 0),
        ("MODEL.NUM_JOINTS", 14),
        ("MODEL.EXTRA.DECONV.NUM_DECONVS", 2),
        ("MODEL.EXTRA.DECONV.NUM_CHANNELS", [32, 32]),
        ("MODEL.EXTRA.DECONV.NUM_CHANNELS", 32),
        ("MODEL.EXTRA.DECONV.KERNEL_SIZE", [5]),
        ("MODEL.EXTRA.DECONV.NUM_BASIC_BLOCKS", -1),
        ("MODEL.EXTRA.DECONV.NUM_BASIC_BLOCKS", None),
        ("MODEL.EXTRA.FINAL_CONV_KERNEL", 5),
        ("MODEL.EXTRA.FINAL_CONV_KERNEL", None),
        ("MODEL.EXTRA.STAGE2.FUSE_METHOD", "CAT"),
        ("MODEL.EXTRA.STAGE3.BLOCK", "CONVNEXT"),
        ("MODEL.EXTRA.STAGE3.NUM_MODULES", 0),
        ("MODEL.EXTRA.STAGE3.NUM_BRANCHES", 2),
        ("MODEL.EXTRA.STAGE3.NUM_CHANNELS", None),
        ("MODEL.EXTRA.STAGE4.NUM_BLOCKS", [4, 4, 4]),
    ],
)
def test_what_cannot_be_deployed_is_named(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _read(tmp_path, **{key.replace(".", "__"): value})
    assert key.rsplit(".", maxsplit=1)[-1] in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_other_joints_need_a_skeleton_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"NUM_JOINTS is 5(.|\n)*DATASET.SKELETON"):
        _read(tmp_path, MODEL__NUM_JOINTS=5, DATASET__NUM_JOINTS=5)
    skeleton = COCO.model_copy(
        update={
            "name": "hands",
            "joints": COCO.joints[:5],
            "sigmas": COCO.sigmas[:5],
            "flip_pairs": (),
            "limbs": (),
            "joint_order": (),
        }
    )
    (tmp_path / "hands.json").write_text(skeleton.model_dump_json())
    preset = _read(tmp_path, MODEL__NUM_JOINTS=5, DATASET__NUM_JOINTS=5, DATASET__SKELETON="hands.json")
    assert preset.skeleton == skeleton


@pytest.mark.parametrize("text", ["", "just text", "- 1\n- 2", "MODEL: 3", "a: [1", "\x00"])
def test_files_that_are_no_experiment(text: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"broken\.yaml"):
        find_preset(file)


def test_missing_experiment_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml cannot be read"):
        find_preset(tmp_path / "nowhere.yaml")
