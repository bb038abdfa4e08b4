"""Official experiment files (``experiments/**/*.yaml``) to this project's terms and back, without torch.

Keys that change nothing about the deployed network (optimiser, workers, STEM_INPLANES, which the official code ignores
too) are passed over; keys that ask for a network or an inference this project cannot give are named in an error.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hhrnet_deploy.config import DecodeConfig, InferenceConfig
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.model.architecture import STEM_CHANNELS, Architecture
from hhrnet_deploy.skeletons import COCO, CROWDPOSE, Skeleton, default_skeleton, find_skeleton

MODEL_NAME = "pose_higher_hrnet"
_DATASETS = {"coco_kpt": COCO, "crowd_pose_kpt": CROWDPOSE}
_STAGES = ("STAGE2", "STAGE3", "STAGE4")


@dataclass(frozen=True)
class Experiment:
    """What an experiment file says about the network and its use.

    Attributes:
        architecture: MODEL.EXTRA.
        skeleton: from DATASET.DATASET, or a skeleton file named by DATASET.SKELETON (this project's own key).
        inference: DATASET.INPUT_SIZE and TEST; keys that are absent take this project's defaults.
        imagenet: file name of MODEL.PRETRAINED, empty when there is none.
    """

    architecture: Architecture
    skeleton: Skeleton
    inference: InferenceConfig
    imagenet: str


class _Keys:
    """The file's nested mapping, looked up by dotted key, with the file's name in every error."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self._values = values

    def get(self, key: str, default: Any = None) -> Any:
        value: Any = self._values
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return _literal(value)

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise InputError(f"{self.path} has no {key}; a HigherHRNet experiment file needs it.")
        return value

    def single(self, key: str) -> Any:
        """The one entry of a list such as DECONV.NUM_CHANNELS."""
        value = self.need(key)
        if not isinstance(value, list) or len(value) != 1:
            raise self.refuse(key, value, "a list with one entry, for the one deconvolution module")
        return value[0]

    def refuse(self, key: str, value: Any, expected: str) -> InputError:
        return InputError(f"{self.path}: {key} is {value!r}; expected {expected}.")

    def only(self, key: str, expected: Any, why: str) -> None:
        value = self.get(key, expected)
        if value != expected:
            raise InputError(f"{self.path}: {key} is {value!r}; only {expected!r} can be deployed.", hint=why)


def _literal(value: Any) -> Any:
    """YAML leaves Python tuples such as ``(True, False)`` as text; yacs evaluates them, so does this."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError):
            return value
    return list(value) if isinstance(value, tuple) else value


def read_experiment(path: str | Path, skeleton: Skeleton | None = None) -> Experiment:
    """Read an official experiment file.

    Args:
        path: the YAML file.
        skeleton: the joints, where the file's dataset is neither COCO nor CrowdPose.

    Raises:
        InputError: unreadable, no experiment file, a wrong value, or a network that cannot be deployed; names the key.
    """
    keys = _Keys(Path(path), _read_mapping(Path(path)))
    _refuse_other_networks(keys)
    return Experiment(
        architecture=_architecture(keys),
        skeleton=skeleton or _skeleton(keys),
        inference=_inference(keys),
        imagenet=Path(str(keys.get("MODEL.PRETRAINED") or "")).name,
    )


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Experiment file {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"Experiment file {path} is not YAML: {error}.") from error
    if not isinstance(values, dict) or not isinstance(values.get("MODEL"), dict):
        raise InputError(
            f"{path} is not an official experiment file: it has no MODEL section.",
            hint="Expected one like experiments/coco/higher_hrnet/w32_512_adam_lr1e-3.yaml of the official code.",
        )
    return values


def _refuse_other_networks(keys: _Keys) -> None:
    keys.only("MODEL.NAME", MODEL_NAME, "Other networks than HigherHRNet are not supported.")
    keys.only("MODEL.EXTRA.DECONV.NUM_DECONVS", 1, "Every published model has one deconvolution module.")
    keys.only("MODEL.TAG_PER_JOINT", True, "Grouping reads one tag per joint.")
    keys.only("LOSS.WITH_AE_LOSS", [True, False], "Tags come from the 1/4 head alone, as in every published model.")
    keys.only("TEST.WITH_AE", [True, False], "Tags come from the 1/4 head alone, as in every published model.")
    keys.only("TEST.WITH_HEATMAPS", [True, True], "Heat maps of both heads are averaged.")
    keys.only("DATASET.WITH_CENTER", False, "A centre joint is not part of the published models.")
    for stage in _STAGES:
        keys.only(f"MODEL.EXTRA.{stage}.FUSE_METHOD", "SUM", "The official code implements no other either.")


def _architecture(keys: _Keys) -> Architecture:
    extra = "MODEL.EXTRA"
    values: dict[str, Any] = {stage.lower(): _stage(keys, f"{extra}.{stage}") for stage in _STAGES}
    values["deconv"] = {
        "channels": keys.single(f"{extra}.DECONV.NUM_CHANNELS"),
        "kernel": keys.single(f"{extra}.DECONV.KERNEL_SIZE"),
        "blocks": keys.need(f"{extra}.DECONV.NUM_BASIC_BLOCKS"),
        "cat_output": keys.single(f"{extra}.DECONV.CAT_OUTPUT"),
    }
    values["final_kernel"] = keys.need(f"{extra}.FINAL_CONV_KERNEL")
    try:
        return Architecture.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{keys.path}: {_details(error)}.") from error


def _stage(keys: _Keys, key: str) -> dict[str, Any]:
    channels = keys.need(f"{key}.NUM_CHANNELS")
    branches = keys.need(f"{key}.NUM_BRANCHES")
    if not isinstance(channels, list) or len(channels) != branches:
        raise keys.refuse(f"{key}.NUM_CHANNELS", channels, f"NUM_BRANCHES = {branches} entries")
    return {
        "modules": keys.need(f"{key}.NUM_MODULES"),
        "block": keys.need(f"{key}.BLOCK"),
        "blocks": keys.need(f"{key}.NUM_BLOCKS"),
        "channels": channels,
    }


# Field of ``Architecture`` -> key under MODEL.EXTRA, for messages.
_KEY_OF = {
    "modules": "NUM_MODULES",
    "block": "BLOCK",
    "blocks": "NUM_BLOCKS",
    "channels": "NUM_CHANNELS",
    "kernel": "KERNEL_SIZE",
    "cat_output": "CAT_OUTPUT",
    "final_kernel": "FINAL_CONV_KERNEL",
}


def _details(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        names = [str(part) for part in item["loc"]]
        if names[:2] == ["deconv", "blocks"]:
            names[1] = "NUM_BASIC_BLOCKS"
        key = ".".join(["MODEL.EXTRA", *(_KEY_OF.get(name, name.upper()) for name in names)])
        lines.append(f"{key}: {item['msg']} (got {item['input']!r})" if names else item["msg"])
    return "; ".join(lines)


def _skeleton(keys: _Keys) -> Skeleton:
    joints = keys.get("MODEL.NUM_JOINTS", 17)
    declared = keys.get("DATASET.NUM_JOINTS", joints)
    if declared != joints:
        raise InputError(f"{keys.path}: MODEL.NUM_JOINTS is {joints!r}, but DATASET.NUM_JOINTS is {declared!r}.")
    named = keys.get("DATASET.SKELETON")
    if named is not None:
        beside = keys.path.parent / str(named)
        found = find_skeleton(beside if beside.is_file() else str(named))
    else:
        known = _DATASETS.get(str(keys.get("DATASET.DATASET")))
        matching = known if known is not None and known.num_joints == joints else default_skeleton(joints)
        if matching is None:
            raise InputError(
                f"{keys.path}: MODEL.NUM_JOINTS is {joints!r}, which is neither COCO's 17 nor CrowdPose's 14.",
                hint="Name a skeleton file in the key DATASET.SKELETON (joint names, flip pairs, sigmas).",
            )
        found = matching
    if found.num_joints != joints:
        raise InputError(
            f"{keys.path}: MODEL.NUM_JOINTS is {joints!r}, but the skeleton {found.name} has {found.num_joints} joints."
        )
    return found


_DECODE_KEYS = {
    "DETECTION_THRESHOLD": "detection_threshold",
    "TAG_THRESHOLD": "tag_threshold",
    "NMS_KERNEL": "nms_kernel",
    "FLIP_TEST": "flip",
    "ADJUST": "adjust",
    "REFINE": "refine",
    "PROJECT2IMAGE": "project",
    "USE_DETECTION_VAL": "use_detection_val",
    "IGNORE_TOO_MUCH": "ignore_too_much",
}


def _inference(keys: _Keys) -> InferenceConfig:
    found = {field: keys.get(f"TEST.{key}") for key, field in _DECODE_KEYS.items()}
    found["max_people"] = keys.get("DATASET.MAX_NUM_PEOPLE")
    scales = keys.get("TEST.SCALE_FACTOR", [1])
    kernel, padding = keys.get("TEST.NMS_KERNEL", 5), keys.get("TEST.NMS_PADDING")
    if isinstance(kernel, int) and padding not in (None, kernel // 2):
        raise keys.refuse("TEST.NMS_PADDING", padding, f"{kernel // 2}, half of NMS_KERNEL {kernel}")
    try:
        decode = DecodeConfig.model_validate({field: value for field, value in found.items() if value is not None})
        return InferenceConfig.model_validate(
            {
                "short_side": keys.get("DATASET.INPUT_SIZE", 512),
                "scales": scales if isinstance(scales, list) else [scales],
                "decode": decode,
            }
        )
    except ValidationError as error:
        details = "; ".join(_inference_detail(item["loc"], item["msg"], item["input"]) for item in error.errors())
        raise InputError(f"{keys.path}: {details}.") from error


# Field of the inference settings -> key of the file, for messages.
_INFERENCE_KEY_OF = {field: f"TEST.{key}" for key, field in _DECODE_KEYS.items()} | {
    "max_people": "DATASET.MAX_NUM_PEOPLE",
    "short_side": "DATASET.INPUT_SIZE",
    "scales": "TEST.SCALE_FACTOR",
}


def _inference_detail(place: tuple[int | str, ...], message: str, value: Any) -> str:
    if not place:  # the only condition on several settings at once is about the scales
        return f"TEST.SCALE_FACTOR: {message}"
    return f"{_INFERENCE_KEY_OF.get(str(place[0]), str(place[0]))}: {message} (got {value!r})"


def official_config(architecture: Architecture, skeleton: Skeleton, inference: InferenceConfig) -> dict[str, Any]:
    """The same network under the official configuration's key names; ``read_experiment`` reads it back."""
    extra: dict[str, Any] = {
        "FINAL_CONV_KERNEL": architecture.final_kernel,
        "PRETRAINED_LAYERS": ["*"],
        "STEM_INPLANES": STEM_CHANNELS,
    }
    for name, stage in zip(_STAGES, architecture.stages, strict=True):
        extra[name] = {
            "NUM_MODULES": stage.modules,
            "NUM_BRANCHES": stage.branches,
            "BLOCK": stage.block,
            "NUM_BLOCKS": list(stage.blocks),
            "NUM_CHANNELS": list(stage.channels),
            "FUSE_METHOD": "SUM",
        }
    deconv = architecture.deconv
    extra["DECONV"] = {
        "NUM_DECONVS": 1,
        "NUM_CHANNELS": [deconv.channels],
        "KERNEL_SIZE": [deconv.kernel],
        "NUM_BASIC_BLOCKS": deconv.blocks,
        "CAT_OUTPUT": [deconv.cat_output],
    }
    side = inference.short_side
    dataset: dict[str, Any] = {
        "NUM_JOINTS": skeleton.num_joints,
        "INPUT_SIZE": side,
        "OUTPUT_SIZE": [side // 4, side // 2],
    }
    official = next((key for key, known in _DATASETS.items() if known == skeleton), None)
    if official is not None:
        dataset["DATASET"] = official
    return {
        "MODEL": {"NAME": MODEL_NAME, "NUM_JOINTS": skeleton.num_joints, "TAG_PER_JOINT": True, "EXTRA": extra},
        "LOSS": {"NUM_STAGES": 2, "WITH_HEATMAPS_LOSS": [True, True], "WITH_AE_LOSS": [True, False]},
        "DATASET": dataset,
        "TEST": _test_section(inference),
    }


def _test_section(inference: InferenceConfig) -> dict[str, Any]:
    decode = inference.decode
    return {
        "SCALE_FACTOR": list(inference.scales),
        **{key: getattr(decode, field) for key, field in _DECODE_KEYS.items()},
        "NMS_PADDING": decode.nms_kernel // 2,
        "WITH_HEATMAPS": [True, True],
        "WITH_AE": [True, False],
    }
