"""TensorRT-RTX: engines for RTX cards, built without one; the card compiles the last step when it opens them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.targets.cuda_session import Opening
from hhrnet_deploy.targets.graph import Graph
from hhrnet_deploy.targets.runner import RunnerInfo
from hhrnet_deploy.targets.target import Layer, RunOptions
from hhrnet_deploy.targets.trt_builder import Plan
from hhrnet_deploy.targets.trt_device import compute_capability
from hhrnet_deploy.targets.trt_kernel_cache import beside
from hhrnet_deploy.targets.trt_layers import layers_of_log
from hhrnet_deploy.targets.trt_options import TensorRtOptions
from hhrnet_deploy.targets.trt_target import Cards, TrtTarget

# Options that only TensorRT has: RTX picks kernels on the card that opens the engine.
_TENSORRT_ONLY = ("timing_cache", "hardware_compatible", "version_compatible")

# The oldest card in an engine that is built without one. Release 1.7 has no int8 convolutions for Turing (7.5), and an
# engine that includes Turing computes them in half precision on every card.
_SINCE = 80


class TensorRtRtx(TrtTarget):
    """``model.plan`` for one or several compute capabilities."""

    name: ClassVar[str] = "tensorrt-rtx"
    module: ClassVar[str] = "tensorrt_rtx"

    def check_graph(self, graph: Graph) -> None:
        """Refuse graphs that decode: TensorRT-RTX takes no plugins.

        Raises:
            InputError: people as outputs.
        """
        if graph.metadata.outputs == "people":
            raise InputError(
                f"{graph.path} decodes inside the graph; TensorRT-RTX takes no plugins.",
                hint="Build it with --target tensorrt, or export it without --decode plugin: people are found after "
                "the engine, on the same GPU.",
            )

    def runs_on(self, built_for: str, here: str) -> bool:
        """Whether the card is among those it was built for."""
        return here in built_for.split()

    def _opening(self, folder: Path, info: RunnerInfo, hints: dict[str, str], options: RunOptions) -> Opening:
        opening = super()._opening(folder, info, hints, options)
        return replace(opening, kernel_cache=beside(folder, options.cache_dir))

    def _cards(self, options: TensorRtOptions) -> Cards:
        given = options.model_dump(exclude_defaults=True)
        if refused := [name for name in _TENSORRT_ONLY if name in given]:
            raise InputError(
                f"TensorRT-RTX has no --{refused[0].replace('_', '-')}: it picks kernels on the card that opens the "
                "engine.",
                hint="Leave it out, name the cards with --compute-capabilities, or use --target tensorrt.",
            )
        if options.refit or options.strip:
            _check_refittable(options)
        known = _known(self.load().ComputeCapability)
        if options.compute_capabilities:
            return self._asked(options.compute_capabilities, known)
        here = compute_capability()
        if here is None:
            known = {device: name for device, name in known.items() if int(device[3:]) >= _SINCE}
            return Cards(tuple(known.values()), " ".join(known))
        return Cards((known.get(here, "CURRENT"),), here)

    def _asked(self, wanted: tuple[str, ...], known: dict[str, str]) -> Cards:
        devices = [f"sm_{text.replace('.', '')}" for text in wanted]
        for text, device in zip(wanted, devices, strict=True):
            if device not in known:
                raise InputError(
                    f"TensorRT-RTX {self.version()} does not build for compute capability {text}.",
                    hint=f"It builds for {', '.join(f'{name[3:-1]}.{name[-1]}' for name in known)}.",
                )
        return Cards(tuple(known[device] for device in devices), " ".join(devices))

    def _layers(self, plan: Plan) -> tuple[Layer, ...]:
        return layers_of_log(plan.log.layers)


def _check_refittable(options: TensorRtOptions) -> None:
    """Replaceable weights have TensorRT-RTX 1.7 compile kernels while it builds, for one card and with its driver."""
    option = "--refit" if options.refit else "--strip"
    if len(options.compute_capabilities) > 1:
        raise InputError(f"TensorRT-RTX builds {option} for one card at a time.", hint="Name one compute capability.")
    if compute_capability() is None:
        raise InputError(
            f"TensorRT-RTX compiles kernels on a card when {option} is given; no NVIDIA GPU is visible.",
            hint=f"Leave {option} out, or build where a card is.",
        )


def _known(members: object) -> dict[str, str]:
    """``sm_89`` -> ``SM89`` of every card this release builds for, oldest first."""
    numbers = sorted(int(name[2:]) for name in dir(members) if name.startswith("SM") and name[2:].isdigit())
    return {f"sm_{number}": f"SM{number}" for number in numbers}


TARGET = TensorRtRtx()
