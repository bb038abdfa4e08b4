"""Reading weight files safely: every known wrapping undone, every other file named for what it is.

Nothing here runs code from a file: pickles are read with ``weights_only=True`` plus NumPy's plain scalar and array
types, which the official training stores as ``perf``.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hhrnet_deploy.errors import CheckpointError

METADATA_KEY = "hhrnet"
"""The one metadata entry of this project's safetensors files: JSON (a single entry keeps the bytes reproducible)."""

# Where a training checkpoint keeps its weights; the official code and mmpose use the first.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
# DistributedDataParallel, the official fp16 wrapper (a Sequential whose entry 1 is the network), torch.compile.
_WRAPPERS = ("module.", "1.", "_orig_mod.", "model.")
_MMPOSE_PARTS = ("backbone.", "keypoint_head.", "head.")
_EXPECTED = "Expected a HigherHRNet checkpoint: .pth or .pth.tar (official, mmpose 0.x) or .safetensors."


@dataclass(frozen=True)
class Weights:
    """The tensors of a file under the official parameter names.

    Attributes:
        path: the file.
        tensors: name -> tensor on the CPU, in the file's own dtype.
        wrapping: how the file wraps them, for messages: ``"state dict"``, ``"mmpose"``, ``"safetensors"``...
        metadata: what this project wrote beside the weights; empty for other files.
    """

    path: Path
    tensors: dict[str, Tensor]
    wrapping: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read the tensors of a weight file, whatever wraps them.

    Raises:
        CheckpointError: no such file, or it is no readable set of named tensors; says what was found instead.
    """
    file = Path(path)
    head = _first_bytes(file)
    _refuse_foreign(file, head)
    if _is_safetensors(file, head):
        tensors, metadata = _read_safetensors(file)
        named, wrapping = _official_names(tensors)
        return Weights(file, named, ", ".join(["safetensors", *wrapping]), metadata)
    tensors, kind = _state_dict(file, _unpickle(file, head))
    named, wrapping = _official_names(tensors)
    return Weights(file, named, ", ".join([kind, *wrapping]))


def _first_bytes(file: Path) -> bytes:
    if not file.exists():
        raise CheckpointError(f"Checkpoint {file} does not exist.", hint=_EXPECTED)
    if file.is_dir():
        raise CheckpointError(f"Checkpoint {file} is a directory, not a file.", hint=_EXPECTED)
    with file.open("rb") as stream:
        head = stream.read(1024)
    if not head:
        raise CheckpointError(f"Checkpoint {file} is empty (0 bytes).", hint="Download or copy it again.")
    return head


def _refuse_foreign(file: Path, head: bytes) -> None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise CheckpointError(
            f"Checkpoint {file} is a web page (HTML or XML) saved under that name, not weights.",
            hint="The download was answered with a page (a sign-in or a quota notice); download the file itself again.",
        )
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"Checkpoint {file} is a Git LFS pointer, not the weights themselves.",
            hint="Fetch the content with: git lfs pull",
        )
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        raise CheckpointError(f"Checkpoint {file} is a compressed archive.", hint=f"Unpack it first. {_EXPECTED}")
    if head.startswith(b"\x89HDF"):
        raise CheckpointError(f"Checkpoint {file} is an HDF5 file (Keras or MATLAB).", hint=_EXPECTED)
    if file.suffix.lower() == ".onnx":
        raise CheckpointError(f"{file} is an ONNX graph; here a checkpoint is needed.", hint=_EXPECTED)


def _is_safetensors(file: Path, head: bytes) -> bool:
    # 8 bytes of header length, then a JSON object: https://huggingface.co/docs/safetensors
    return head[8:9] == b"{" or file.suffix.lower() == ".safetensors"


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            noted = (opened.metadata() or {}).get(METADATA_KEY, "{}")
    except SafetensorError as error:
        raise CheckpointError(
            f"Checkpoint {file} is not a complete safetensors file ({error}).", hint="Download or copy it again."
        ) from error
    try:
        metadata = json.loads(noted)
    except json.JSONDecodeError:
        metadata = None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"Checkpoint {file}: its metadata entry {METADATA_KEY!r} is not a JSON object.")
    return tensors, metadata


def _harmless_globals() -> list[Any]:
    """NumPy scalars and arrays, under the names of NumPy 1 and 2, for PyTorch's restricted unpickler."""
    from _codecs import encode  # how protocol-2 pickles spell bytes

    # Asked of values, because NumPy 2 moved these functions; files name the old place or the new one.
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    dtypes = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [
        encode,
        np.dtype,
        np.ndarray,
        *dtypes,
        *(
            (function, f"{place}.{name}")
            for place in ("numpy.core.multiarray", "numpy._core.multiarray")
            for function, name in ((scalar, "scalar"), (reconstruct, "_reconstruct"))
        ),
    ]


def _unpickle(file: Path, head: bytes) -> object:
    if head.startswith(b"PK\x03\x04"):
        _require_torch_archive(file)
    elif not head.startswith(b"\x80"):
        raise CheckpointError(f"Checkpoint {file} is not a PyTorch file; it starts with {head[:16]!r}.", hint=_EXPECTED)
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged pickle can fail in any way: IndexError, struct.error, UnicodeDecodeError, even MemoryError.
        raise _unreadable(file, str(error)) from error


def _require_torch_archive(file: Path) -> None:
    """torch.save writes a zip archive with ``<name>/data.pkl``; its directory is at the end, so truncation shows."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception as error:
        # BadZipFile, but also UnicodeDecodeError, NotImplementedError... from a damaged directory.
        raise _damaged(file, f"the directory at its end cannot be read ({error})") from error
    if any("/code/" in name for name in names) and any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"Checkpoint {file} is a TorchScript program, not a state dict.",
            hint="Save the weights alone: torch.save(module.state_dict(), 'weights.pth')",
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(
            f"Checkpoint {file} is a zip archive that torch.save did not write; it holds {', '.join(names[:3])}...",
            hint=_EXPECTED,
        )


def _damaged(file: Path, cause: str) -> CheckpointError:
    return CheckpointError(
        f"Checkpoint {file} is truncated or damaged: {file.stat().st_size} bytes, {cause}.",
        hint="Download or copy it again.",
    )


def _unreadable(file: Path, message: str) -> CheckpointError:
    """What PyTorch's restricted unpickler objected to, in our words."""
    if "GLOBAL " in message:
        blamed = message.partition("GLOBAL ")[2].split()[0]
        return CheckpointError(
            f"Checkpoint {file} holds {blamed}, which only running code named by the file could load; that is refused.",
            hint="Where you trust the file, save the weights alone: torch.save(content['state_dict'], 'weights.pth')",
        )
    if "magic number" in message or "Unsupported operand" in message:
        return CheckpointError(f"Checkpoint {file} is a pickle that torch.save did not write.", hint=_EXPECTED)
    return _damaged(file, message.splitlines()[0] if message else "its content ends too early")


def _state_dict(file: Path, content: object) -> tuple[dict[str, Tensor], str]:
    if isinstance(content, Mapping):
        for key in _STATE_KEYS:
            inner = content.get(key)
            if isinstance(inner, Mapping) and inner:
                return _only_tensors(file, inner), f"training checkpoint ({key})"
        if content:
            return _only_tensors(file, content), "state dict"
    raise CheckpointError(
        f"Checkpoint {file} holds {_described(content)}, not a dictionary of named tensors.", hint=_EXPECTED
    )


def _described(content: object) -> str:
    if isinstance(content, Tensor):
        return f"a single tensor of shape {tuple(content.shape)}"
    if isinstance(content, Mapping):
        return "an empty dictionary"
    return f"a {type(content).__name__}"


def _only_tensors(file: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    strangers = [f"{key!r}: {type(value).__name__}" for key, value in state.items() if not _is_named_tensor(key, value)]
    if strangers:
        raise CheckpointError(
            f"Checkpoint {file} is a dictionary, but not of named tensors: it holds {', '.join(strangers[:4])}"
            f"{' and more' if len(strangers) > 4 else ''}.",
            hint=f"{_EXPECTED} Known wrappings: {', '.join(_STATE_KEYS)}.",
        )
    return dict(state)


def _is_named_tensor(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _official_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Undo wrappers around the network; returns the tensors under official names and what was undone."""
    undone: list[str] = []
    while wrapper := next((prefix for prefix in _WRAPPERS if tensors and _all_start(tensors, prefix)), None):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
        undone.append(f"prefix {wrapper}")
    if any(name.startswith("backbone.") for name in tensors):
        tensors = {_without_part(name): tensor for name, tensor in tensors.items()}
        undone.append("mmpose names")
    return tensors, undone


def _all_start(tensors: dict[str, Tensor], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in tensors)


def _without_part(name: str) -> str:
    """mmpose 0.x splits the same network in ``backbone`` and ``keypoint_head`` (ae_higher_resolution_head.py)."""
    part = next((part for part in _MMPOSE_PARTS if name.startswith(part)), "")
    return name.removeprefix(part)
