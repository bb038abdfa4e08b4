"""TensorRT 10 and 11: engines for the NVIDIA card they are built on. Jetsons stay on 10."""

from __future__ import annotations

import re
from typing import ClassVar

from hhrnet_deploy.errors import HHRNetError, InputError
from hhrnet_deploy.targets.graph import Graph
from hhrnet_deploy.targets.target import Layer
from hhrnet_deploy.targets.trt_builder import Plan
from hhrnet_deploy.targets.trt_callbacks import Log, make_logger
from hhrnet_deploy.targets.trt_device import compute_capability
from hhrnet_deploy.targets.trt_layers import layers_of_inspector
from hhrnet_deploy.targets.trt_options import TensorRtOptions
from hhrnet_deploy.targets.trt_target import Cards, TrtTarget

_AMPERE = 80
_VERSION = re.compile(r"(\d+)\.(\d+)")


class TensorRt(TrtTarget):
    """``model.plan`` for the card that is installed, or for all like it."""

    name: ClassVar[str] = "tensorrt"
    module: ClassVar[str] = "tensorrt"

    def check_graph(self, graph: Graph) -> None:
        """Heads and people: the parser says which plugins it lacks."""

    def runs_on(self, built_for: str, here: str) -> bool:
        """The same compute capability, or any from 8.0 where the engine was built for those."""
        if not built_for.endswith("+"):
            return built_for == here
        return here.startswith("sm_") and int(here.removeprefix("sm_")) >= int(built_for[3:-1])

    def opens_version(self, built_with: str, here: str, hints: dict[str, str]) -> bool:
        """The same release; a version-compatible engine opens in every later one of the same major version."""
        if "version_compatible" not in hints:
            return built_with == here
        built, found = (_VERSION.match(text) for text in (built_with, here))
        if built is None or found is None:
            return False
        return built[1] == found[1] and int(found[2]) >= int(built[2])

    def _cards(self, options: TensorRtOptions) -> Cards:
        if options.compute_capabilities:
            raise InputError(
                "TensorRT builds for the card that is installed; --compute-capabilities was given.",
                hint="Use --hardware-compatible, or --target tensorrt-rtx, which builds for several cards.",
            )
        here = compute_capability()
        if here is None:
            raise HHRNetError(
                "TensorRT times its kernels on the card while it builds; no NVIDIA GPU is visible.",
                hint="Build on the machine that will run it, or use --target tensorrt-rtx, which needs no card.",
            )
        if options.hardware_compatible == "ampere+":
            if int(here.removeprefix("sm_")) < _AMPERE:
                raise InputError(f"--hardware-compatible ampere+ needs a card since sm_{_AMPERE}, this one is {here}.")
            return Cards((), f"sm_{_AMPERE}+")
        return Cards((), here)

    def _layers(self, plan: Plan) -> tuple[Layer, ...]:
        trt = self.load()
        log = Log()
        runtime = trt.Runtime(make_logger(trt, log))
        runtime.engine_host_code_allowed = True  # version-compatible plans bring a runtime of their own
        engine = runtime.deserialize_cuda_engine(plan.data)
        if engine is None:
            raise HHRNetError(f"TensorRT cannot read the engine it has built: {'; '.join(log.errors)}")
        inspector = engine.create_engine_inspector()
        return layers_of_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


TARGET = TensorRt()
