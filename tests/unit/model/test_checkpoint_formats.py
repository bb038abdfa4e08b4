"""Every wrapping of the same weights gives the same network; every other file is named for what it is."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from model_samples import TINY, TINY_PRESET, patterned_state
from torch import Tensor

from hhrnet_deploy.errors import CheckpointError
from hhrnet_deploy.model.checkpoint import load_model, save_weights
from hhrnet_deploy.model.formats import read_weights
from hhrnet_deploy.model.network import HigherHRNet

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return patterned_state(HigherHRNet(TINY, 17).state_dict())


def _prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _mmpose(state: State, head: str = "keypoint_head.") -> State:
    heads = ("final_layers.", "deconv_layers.")
    return {(head if name.startswith(heads) else "backbone.") + name: tensor for name, tensor in state.items()}


def _mmpose_file(state: State) -> dict[str, Any]:
    meta = {"mmpose_version": "0.8.0", "config": "model = dict(type='BottomUp')", "epoch": 300, "CLASSES": ("person",)}
    return {"meta": meta, "state_dict": OrderedDict(_mmpose(state)), "optimizer": {"state": {}, "param_groups": []}}


def _official_training_file(state: State) -> dict[str, Any]:
    return {
        "epoch": 300,
        "model": "pose_higher_hrnet",
        "state_dict": _prefixed(state, "module.1."),
        "best_state_dict": _prefixed(state, "1."),
        "perf": np.float64(0.671),
        "history": np.arange(3),
        "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
    }


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "plain": dict,
    "ordered": OrderedDict,
    "DDP": lambda state: _prefixed(state, "module."),
    "fp16 wrapper": lambda state: _prefixed(state, "1."),
    "both": lambda state: _prefixed(state, "1.module."),
    "compiled": lambda state: _prefixed(state, "_orig_mod.module."),
    "pth.tar": _official_training_file,
    "mmpose": _mmpose_file,
    "mmpose in DDP": lambda state: {"state_dict": _prefixed(_mmpose(state), "module.")},
    "mmpose 1.x names": lambda state: {"state_dict": _mmpose(state, "head.")},
    "parameters": lambda state: {k: torch.nn.Parameter(v, v.is_floating_point()) for k, v in state.items()},
    "double precision": lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
    "no counters": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_the_same_weights(wrapping: str, legacy: bool, state: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth.tar"
    torch.save(WRAPPINGS[wrapping](state), file, _use_new_zipfile_serialization=not legacy)
    model = load_model(TINY_PRESET, file)
    assert not model.training
    for name, tensor in model.state_dict().items():
        if wrapping != "no counters" or not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, state[name]), name
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())


def test_half_precision_is_widened(state: State, tmp_path: Path) -> None:
    file = tmp_path / "half.pth"
    torch.save({name: tensor.half() for name, tensor in state.items()}, file)
    loaded = load_model(TINY_PRESET, file).state_dict()
    assert loaded["conv1.weight"].dtype == torch.float32
    assert torch.equal(loaded["conv1.weight"], state["conv1.weight"].half().float())


def test_numpy_1_scalars_are_read(state: State, tmp_path: Path) -> None:
    """Files written with NumPy 1 name ``numpy.core.multiarray``, which NumPy 2 moved."""
    file = tmp_path / "old.pth"
    torch.save({"state_dict": state, "perf": np.float64(0.5)}, file, _use_new_zipfile_serialization=False)
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert new not in file.read_bytes() or old in file.read_bytes()
    assert len(read_weights(file).tensors) == len(state)


def test_foreign_safetensors_are_read(state: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(_prefixed(state, "module."), file, metadata={"format": "pt"})
    assert torch.equal(load_model(TINY_PRESET, file).conv1.weight, state["conv1.weight"])


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harmed"),))


def _written(file: Path, content: bytes) -> None:
    file.write_bytes(content)


HTML = b"\n<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head></html>"
XML = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code></Error>'
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 115276331\n"


def _zip_of(file: Path, member: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, "x")


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda f: _written(f, b""), "is empty"),
    "html": (lambda f: _written(f, HTML), "web page"),
    "xml": (lambda f: _written(f, XML), "web page"),
    "lfs": (lambda f: _written(f, LFS), "Git LFS pointer"),
    "gzip": (lambda f: _written(f, b"\x1f\x8b\x08" + b"0" * 50), "compressed archive"),
    "text": (lambda f: _written(f, b"not found"), "not a PyTorch file.*not found"),
    "json": (lambda f: _written(f, b'{"a": 1}'), "not a PyTorch file"),
    "hdf5": (lambda f: _written(f, b"\x89HDF\r\n\x1a\n"), "HDF5"),
    "npz": (lambda f: np.savez(f.open("wb"), a=np.zeros(3)), "zip archive that torch.save did not write.*a.npy"),
    "zip": (lambda f: _zip_of(f, "readme.txt"), "zip archive that torch.save did not write.*readme.txt"),
    "plain pickle": (lambda f: _written(f, pickle.dumps({"a": 1})), "pickle that torch.save did not write"),
    "tensor": (lambda f: torch.save(torch.zeros(2, 3), f), r"a single tensor of shape \(2, 3\)"),
    "list": (lambda f: torch.save([1, 2], f), "holds a list"),
    "empty dict": (lambda f: torch.save({}, f), "an empty dictionary"),
    "numbers": (lambda f: torch.save({"lr": 0.1, "epoch": 3}, f), r"not of named tensors.*'lr': float"),
    "detector": (lambda f: torch.save({"state_dict": {"yolo.0": torch.zeros(3)}}, f), "1 tensors of another network"),
    "code": (lambda f: torch.save({"state_dict": _Harmful()}, f), "refused"),
    "module": (lambda f: torch.save(torch.nn.Conv2d(1, 1, 1), f), "torch.nn.modules.conv.Conv2d.*refused"),
    "onnx": (lambda f: _written(f.with_suffix(".onnx"), b"\x08\x07"), "ONNX graph"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.pth"
    write, message = FOREIGN[kind]
    write(file)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(TINY_PRESET, file if file.exists() else file.with_suffix(".onnx"))
    assert "weights" in str(caught.value)
    assert caught.value.hint
    assert not Path("harmed").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_named(tmp_path: Path) -> None:
    file = tmp_path / "scripted.pth"
    torch.jit.save(torch.jit.trace(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)), file)
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_model(TINY_PRESET, file)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
        read_weights(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="is a directory"):
        read_weights(tmp_path)


def _save_zip(state: State, file: Path) -> None:
    torch.save(state, file)


def _save_legacy(state: State, file: Path) -> None:
    torch.save(state, file, _use_new_zipfile_serialization=False)


def _save_safetensors(state: State, file: Path) -> None:
    safetensors.torch.save_file(state, file)


@pytest.mark.parametrize("save", [_save_zip, _save_legacy, _save_safetensors])
@pytest.mark.parametrize("kept", [0.001, 0.3, 0.9, 0.9999])
def test_truncated_files_are_named(
    save: Callable[[State, Path], None], kept: float, state: State, tmp_path: Path
) -> None:
    file = tmp_path / f"cut{'.safetensors' if save is _save_safetensors else '.pth'}"
    save(state, file)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    with pytest.raises(CheckpointError, match=r"truncated or damaged|not a complete safetensors"):
        load_model(TINY_PRESET, file)


def test_integer_and_broken_weights_are_refused(state: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({**state, "conv1.weight": state["conv1.weight"].to(torch.int8)}, file)
    with pytest.raises(CheckpointError, match=r"conv1\.weight is torch\.int8"):
        load_model(TINY_PRESET, file)
    spoilt = state["bn1.running_var"].clone()
    spoilt[0] = float("nan")
    torch.save({**state, "bn1.running_var": spoilt}, file)
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in 1 of \d+ tensors \(bn1\.running_var\)"):
        load_model(TINY_PRESET, file)


def test_counters_do_not_matter(state: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    odd = {"bn1.num_batches_tracked": torch.tensor(float("nan")), "foo.num_batches_tracked": torch.tensor(1)}
    torch.save({**state, **odd}, file)
    network = load_model(TINY_PRESET, file)
    assert int(network.bn1.num_batches_tracked) == 0  # type: ignore[arg-type]
    assert torch.equal(network.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize(
    ("odd", "said"),
    [(torch.empty(4, 3, 3, 3, device="meta"), "without values"), (torch.zeros(4, 3, 3, 3).to_sparse(), "is sparse")],
)
def test_weights_that_are_no_plain_tensors_are_named(odd: Tensor, said: str, state: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    shape = state["conv1.weight"].shape
    torch.save({**state, "conv1.weight": odd.new_empty(shape) if odd.is_meta else torch.zeros(shape).to_sparse()}, file)
    with pytest.raises(CheckpointError, match=said):
        load_model(TINY_PRESET, file)


def test_a_name_that_leads_elsewhere_is_refused(state: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_weights(load_model(TINY_PRESET), file)
    with safetensors.safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()["hhrnet"])
    facts["preset"]["name"] = "../../escaped"
    safetensors.torch.save_file(state, file, metadata={"hhrnet": json.dumps(facts)})
    with pytest.raises(CheckpointError, match="metadata"):
        load_model(None, file)


def test_edited_metadata_is_refused(state: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    for text in ("[1]", "{", json.dumps({"preset": {"name": "tiny"}})):
        safetensors.torch.save_file(state, file, metadata={"hhrnet": text})
        with pytest.raises(CheckpointError, match="metadata"):
            load_model(None, file)
