"""What the stages of a compilation depend on, as hashes and versions."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hhrnet_deploy.data.coco import KeypointDataset
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import sha256_of
from hhrnet_deploy.pipeline.cache import digest_of
from hhrnet_deploy.pipeline.spec import EngineSpec

_PACKAGES = ("torch", "onnx", "onnxsim", "onnxruntime", "openvino", "opencv-python-headless", "pycocotools", "numpy")


def data_identity(data: KeypointDataset) -> dict[str, Any]:
    """What the images and annotations are, whatever the folder is called."""
    missing = [sample.path for sample in data if not sample.path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(data)} photos are missing, the first is {missing[0]}.",
            hint="`hhrnet data check` lists them.",
        )
    return {
        "split": data.split,
        "annotations": sha256_of(data.annotation_file),
        "images": len(data),
        "photos": digest_of([[sample.image_id, sha256_of(sample.path)] for sample in data]),
        "skeleton": data.skeleton.model_dump(mode="json"),
    }


def calibration_identity(spec: EngineSpec) -> str | None:
    """What the ranges of an engine come from; None for one that takes none."""
    if spec.precision not in ("fp16", "int8"):
        return None
    from hhrnet_deploy.quantize.calibration_set import open_calibration

    if spec.ranges is not None and spec.calibration is None:
        if not spec.ranges.is_file():
            raise InputError(f"There is no calibration file {spec.ranges}.", hint="Make it with hhrnet calibrate.")
        return sha256_of(spec.ranges)
    return open_calibration(spec.calibration).digest


def preset_identity(preset: str | None) -> str | None:
    """The name, or the hash of an experiment file."""
    return sha256_of(preset) if preset is not None and Path(preset).is_file() else preset


def package_versions() -> dict[str, str]:
    """Versions of what computes; another one may compute something else."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor and number of cores: times are of this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} cores"
