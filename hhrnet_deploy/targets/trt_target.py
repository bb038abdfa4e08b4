"""What TensorRT and TensorRT-RTX have in common as targets."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hhrnet_deploy.errors import HHRNetError, InputError, MissingDependencyError
from hhrnet_deploy.lazy import require
from hhrnet_deploy.targets.cuda_ready import missing_to_run
from hhrnet_deploy.targets.cuda_runner import CudaRunner
from hhrnet_deploy.targets.cuda_session import Opening
from hhrnet_deploy.targets.graph import Graph
from hhrnet_deploy.targets.runner import Runner, RunnerInfo
from hhrnet_deploy.targets.target import BuildSettings, Built, Layer, RunOptions, Target
from hhrnet_deploy.targets.trt_builder import Plan, Request, build_plan
from hhrnet_deploy.targets.trt_device import compute_capability
from hhrnet_deploy.targets.trt_options import TensorRtOptions, plan_profiles

PLAN = "model.plan"
NO_GPU = "no GPU"


@dataclass(frozen=True)
class Cards:
    """The cards a plan is for.

    Attributes:
        names: members of ``ComputeCapability`` (TensorRT-RTX); empty for the card that is installed.
        device: the same for the manifest, ``sm_86 sm_89`` and the like.
    """

    names: tuple[str, ...]
    device: str


class TrtTarget(Target):
    """A target of the TensorRT family: builds ``model.plan`` with one builder.

    Attributes:
        module: the Python module.
        extra: what of this distribution installs it.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    needed_files: ClassVar[tuple[str, ...]] = (PLAN,)
    slow_to_build: ClassVar[bool] = True
    takes_tensorrt_options: ClassVar[bool] = True
    module: ClassVar[str]
    extra: ClassVar[str]

    @abstractmethod
    def _cards(self, options: TensorRtOptions) -> Cards:
        """What to build for.

        Raises:
            InputError: an option that only the sibling has, or a card that cannot be built for.
        """

    @abstractmethod
    def _layers(self, plan: Plan) -> tuple[Layer, ...]:
        """What runs."""

    def load(self) -> Any:
        """The module.

        Raises:
            MissingDependencyError: it is not installed, or its libraries are not.
        """
        try:
            return require(self.module, purpose=f"the target {self.name}")
        except MissingDependencyError as error:
            raise MissingDependencyError(error.fact, hint=f"{error.hint}\n  {self._without()}") from error
        except OSError as error:
            raise MissingDependencyError(
                f"{self.module} is installed, its libraries cannot be loaded: {error}.", hint=self._without()
            ) from error

    def _without(self) -> str:
        return "Without it: --target openvino and --target onnxruntime build and run on any CPU."

    def version(self) -> str:
        """The release."""
        return str(self.load().__version__)

    def device(self) -> str:
        """Compute capability of the card that is installed, ``sm_89`` and the like, or ``no GPU``."""
        return compute_capability() or NO_GPU

    def check_ready(self, options: TensorRtOptions) -> None:
        """Load the library and look at the card."""
        self.load()
        self._cards(options)

    def cannot_run_here(self) -> str | None:
        """Running needs a card, pycuda and the compiled kernels."""
        missing = missing_to_run(self.module)
        return None if missing is None else missing.fact

    def build(self, graph: Graph, folder: Path, precision: str, settings: BuildSettings) -> Built:
        """Build the plan of a typed graph."""
        trt = self.load()
        options = settings.tensorrt
        cards = self._cards(options)
        self._check_typed(graph, precision)
        profiles = plan_profiles(graph, options)
        plan = build_plan(trt, Request(graph, profiles, options, cards.names, settings.report))
        layers = self._layers(plan)
        self._check_computes_int8(precision, layers, cards)
        (folder / PLAN).write_bytes(plan.data)
        return Built((PLAN,), self._hints(options), layers, profiles, cards.device)

    def runner(self, folder: Path, info: RunnerInfo, hints: dict[str, str], options: RunOptions) -> Runner:
        """A runner of the plan in ``folder``."""
        return CudaRunner(info, self._opening(folder, info, hints, options))

    def _opening(self, folder: Path, info: RunnerInfo, hints: dict[str, str], options: RunOptions) -> Opening:
        return Opening(
            plan=folder / PLAN,
            module=self.module,
            load=self.load,
            decode=info.decode,
            host_code="version_compatible" in hints,
            stripped="stripped" in hints,
        )

    def _check_typed(self, graph: Graph, precision: str) -> None:
        if graph.metadata.precision != precision:
            raise InputError(
                f"{graph.path} is typed {graph.metadata.precision}, {precision} was asked for; TensorRT takes the "
                "precision from the graph.",
                hint="`hhrnet build CHECKPOINT --precision ...` types it.",
            )

    def _check_computes_int8(self, precision: str, layers: tuple[Layer, ...], cards: Cards) -> None:
        """An int8 graph that the library computes in wider types is slower than a float16 one: no silent fallback."""
        if precision == "int8" and layers and not any(layer.precision == "int8" for layer in layers):
            raise HHRNetError(
                f"{self.module} {self.version()} computes no layer of this int8 graph in int8 for {cards.device}.",
                hint="TensorRT-RTX has int8 convolutions since compute capability 8.0: leave older cards out, build "
                "with --precision fp16, or use --target tensorrt.",
            )

    def _hints(self, options: TensorRtOptions) -> dict[str, str]:
        named = {"version_compatible": options.version_compatible, "stripped": options.strip}
        return {key: "yes" for key, value in named.items() if value}
