"""The PyTorch module itself as a runner: the reference that engines are measured against."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hhrnet_deploy.heads import Heads
from hhrnet_deploy.targets.normalize import normalize
from hhrnet_deploy.targets.runner import Images, Runner, RunnerInfo

if TYPE_CHECKING:
    import torch

    from hhrnet_deploy.model.presets import Preset


class TorchRunner(Runner):
    """A network in PyTorch, float32; on a GPU without TF32, which would cost three digits.

    Args:
        network: float32 (N, 3, H, W) normalised to (coarse, fine); eval mode, device and memory format last while the
            runner is open.
        preset: what the network is.
        name: what reports call it.
        device: a torch device; default ``cuda`` where there is one, else ``cpu``.
    """

    def __init__(
        self, network: torch.nn.Module, preset: Preset, *, name: str = "checkpoint", device: str | None = None
    ) -> None:
        super().__init__(
            RunnerInfo(
                name=name,
                kind="checkpoint",
                target="torch",
                precision="fp32",
                preset=preset.name,
                skeleton=preset.skeleton,
                short_side=preset.short_side,
                input="float",
            )
        )
        self._network = network
        self._wanted = device
        self._device: torch.device | None = None
        self._before: tuple[torch.device, bool, torch.memory_format] | None = None

    def _open(self) -> None:
        import torch

        first = next(parameter for parameter in self._network.parameters() if parameter.ndim == 4)
        # A 1x1 kernel is both; the first convolution's is larger.
        last = first.is_contiguous(memory_format=torch.channels_last) and not first.is_contiguous()
        before = torch.channels_last if last else torch.contiguous_format
        self._before = first.device, self._network.training, before
        self._device = torch.device(self._wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network.to(self._device).eval()
        # channels_last runs the convolutions a fifth faster on CPUs.
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _close(self) -> None:
        if self._before is not None:
            device, training, memory_format = self._before
            self._network.to(device).train(training)
            self._network.to(memory_format=memory_format)  # type: ignore[call-overload]
        self._before = self._device = None

    def _run(self, images: Images) -> Heads:
        import torch

        with torch.inference_mode(), exact_convolutions:
            pixels = torch.from_numpy(normalize(images)).to(self._device, memory_format=torch.channels_last)
            coarse, fine = self._network(pixels)
            return Heads(*(head.float().contiguous().cpu().numpy() for head in (coarse, fine)))


class _ExactConvolutions:
    """``with exact_convolutions:`` runs cuDNN without TF32.

    PyTorch keeps this setting for the whole process: it is put back when the last thread has left.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        from torch.backends import cudnn

        with self._lock:
            if self._inside == 0:
                # What is not given here, flags() sets to its own defaults, cuDNN itself to off.
                kept = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
                self._restore.enter_context(cudnn.flags(**kept, allow_tf32=False))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore.close()


exact_convolutions = _ExactConvolutions()


def open_checkpoint(
    checkpoint: str | Path, preset: str | Path | Preset | None = None, *, device: str | None = None
) -> TorchRunner:
    """A runner of a checkpoint file, or of the model that ships (``"default"``).

    Raises:
        CheckpointError: the file is missing, unreadable or of another network than ``preset``.
    """
    from hhrnet_deploy.model.checkpoint import load_model

    network = load_model(preset, checkpoint)
    return TorchRunner(network, network.preset, name=Path(checkpoint).name, device=device)
