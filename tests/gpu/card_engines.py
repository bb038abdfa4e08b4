"""Engines for the tests on a card: TensorRT, TensorRT-RTX, and PyTorch in their place where the card takes neither."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hhrnet_deploy.errors import GateFailedError
from hhrnet_deploy.targets.cuda_facts import EngineFacts, Range
from hhrnet_deploy.targets.cuda_ops import Infer
from hhrnet_deploy.targets.cuda_runner import CudaRunner
from hhrnet_deploy.targets.cuda_session import Opening
from hhrnet_deploy.targets.runner import RunnerInfo
from hhrnet_deploy.targets.torch import exact_convolutions

TARGETS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def installed(target: str) -> bool:
    """Whether the target's library can be imported."""
    return importlib.util.find_spec(TARGETS[target]) is not None


class TorchEngine:
    """PyTorch on the stream and memory of the runtime: what `PlanEngine` is, without TensorRT."""

    def __init__(self, network: Any, name: str, joints: int, largest: int, half: bool) -> None:
        import torch

        # Tests compare two runs bit by bit; cuDNN may add up in another order each time otherwise.
        torch.backends.cudnn.deterministic = True
        self._dtype = torch.float16 if half else torch.float32
        self._network = network.to("cuda:0", self._dtype, memory_format=torch.channels_last).eval()
        # Kept: memory that PyTorch gets back may be given to another stream while this one still reads it.
        self._mean = torch.tensor((0.485, 0.456, 0.406), device="cuda:0").view(1, 3, 1, 1)
        self._std = torch.tensor((0.229, 0.224, 0.225), device="cuda:0").view(1, 3, 1, 1)
        torch.cuda.synchronize()
        ranges = (Range((1, 32, 32), (largest, 4096, 4096)),)
        self.facts = EngineFacts(name, joints, "uint8", {"coarse": "float32", "fine": "float32"}, ranges)

    def context(self, profile: int, stream: int) -> TorchEngine:
        return self

    def enqueue(self, infer: Infer, addresses: Mapping[str, int], stream: int) -> None:
        import torch

        with torch.inference_mode(), exact_convolutions, torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            pixels = _view(addresses["image"], infer.shape, "|u1")
            planes = ((pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std).to(self._dtype)
            for name, value in zip(("coarse", "fine"), self._network(planes), strict=True):
                _view(addresses[name], tuple(value.shape), "<f4").copy_(value)

    def save_kernels(self) -> None: ...

    def close(self) -> None:
        self._network = None


class _Memory:
    def __init__(self, address: int, shape: tuple[int, ...], kind: str) -> None:
        fields = {"shape": shape, "typestr": kind, "data": (address, False), "version": 2}
        self.__cuda_array_interface__ = fields


def _view(address: int, shape: tuple[int, ...], kind: str) -> Any:
    import torch

    return torch.as_tensor(_Memory(address, shape, kind), device="cuda:0")


class TorchSession:
    """A `Session` around a `TorchEngine`."""

    def __init__(self, engine: TorchEngine) -> None:
        from hhrnet_deploy.decode.kernel_files import fatbin_file
        from hhrnet_deploy.targets.cuda_driver import open_driver
        from hhrnet_deploy.targets.cuda_pipeline import Pipeline

        self.driver = open_driver()
        with self.driver.current("opening"):
            self.kernels = self.driver.kernels(fatbin_file())
            stand_in: Any = engine
            self.pipeline = Pipeline(self.driver, stand_in, self.kernels)

    @property
    def facts(self) -> EngineFacts:
        return self.pipeline.engine.facts

    def close(self) -> None:
        with self.driver.current("closing"):
            self.pipeline.close()
            self.kernels.close()


class TorchOnCard(CudaRunner):
    """The runtime with PyTorch as its engine: everything but TensorRT is what users run."""

    def __init__(self, network: Any, *, largest: int = 32, half: bool = False, name: str = "torch") -> None:
        preset = network.preset
        precision = "fp16" if half else "fp32"
        info = RunnerInfo(
            name, "torch-cuda", precision, preset.name, preset.skeleton, preset.short_side, max_batch=largest
        )
        super().__init__(info, Opening(Path(name), "torch", lambda: None))
        self._network, self._largest, self._half = network, largest, half

    def _open(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        joints = self.info.skeleton.num_joints
        engine = TorchEngine(self._network, self.info.name, joints, self._largest, self._half)
        session: Any = TorchSession(engine)
        self._session = session
        self._collector = ThreadPoolExecutor(max_workers=1)


def engine_here(
    target: str, folder: Path, *, precision: str = "fp32", max_batch: int = 8, checkpoint: str = "default"
) -> Path | str:
    """A bundle built for this card in a process of its own, or why there is none: a library may abort on a card.

    Raises:
        GateFailedError: it was built and differs from its graph; that is a finding, no refusal.
    """
    if not installed(target):
        return f"{TARGETS[target]} is not installed"
    words = ["build", checkpoint, "--target", target, "--precision", precision, "--max-batch", str(max_batch)]
    command = [sys.executable, "-c", "from hhrnet_deploy.cli.app import main; main()", *words, "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return folder
    if done.returncode == GateFailedError.exit_code:
        raise GateFailedError(done.stderr[-2000:])
    return f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}"
