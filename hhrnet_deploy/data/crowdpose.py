"""What is particular to CrowdPose."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import write_text


def image_id_of(file_name: str) -> int:
    """The image id of CrowdPose's results: the number that the file is named with (CrowdPoseDataset.py:166-180).

    Raises:
        InputError: the file is not named with a number.
    """
    stem = PurePosixPath(file_name).name.split(".")[0]
    if not (stem.isascii() and stem.isdigit()):
        raise InputError(f"CrowdPose names images with numbers, got {file_name!r}.")
    return int(stem)


def concat_trainval(root: str | Path) -> Path:
    """Write ``crowdpose_trainval.json``: the images and annotations of train, then those of val.

    Source: tools/crowdpose_concat_train_val.py of the official code, whose recipes train on it.

    Args:
        root: the data set's folder (with ``json/``), or the folder of the JSON files itself.

    Returns:
        The file written; an earlier one is replaced only when everything went well.

    Raises:
        InputError: a file is missing or broken, the categories differ, or an id occurs twice.
    """
    folder = Path(root) / "json" if (Path(root) / "json").is_dir() else Path(root)
    train, val = (_read(folder / f"crowdpose_{split}.json") for split in ("train", "val"))
    if train["categories"] != val["categories"]:
        raise InputError(f"The categories of train and val in {folder} differ.", hint="Fetch both files again.")
    joined = {"categories": train["categories"]}
    for key in ("images", "annotations"):
        joined[key] = train[key] + val[key]
        _require_unique(joined[key], key, folder)
    target = folder / "crowdpose_trainval.json"
    write_text(target, json.dumps(joined))
    return target


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; trainval needs crowdpose_train.json and crowdpose_val.json.",
            hint="Give the CrowdPose folder, with json/crowdpose_train.json and json/crowdpose_val.json.",
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}.", hint="Fetch it again.") from error
    for key in ("categories", "images", "annotations"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise InputError(f"{path} needs a list named {key!r}.", hint="Fetch it again.")
    return dict(document)


def _require_unique(entries: list[Any], key: str, folder: Path) -> None:
    seen: set[Any] = set()
    for entry in entries:
        identity = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(identity, int):
            raise InputError(f"{key} in {folder} have an entry without a whole number as id.")
        if identity in seen:
            raise InputError(
                f"The id {identity} occurs twice among the {key} of train and val in {folder}.",
                hint="Is one of the two files a copy of the other?",
            )
        seen.add(identity)
