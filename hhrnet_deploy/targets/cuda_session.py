"""An engine that is open on the card: everything it needs, made in order and freed in the opposite one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hhrnet_deploy.config import DecodeConfig
from hhrnet_deploy.decode.kernel_files import fatbin_file
from hhrnet_deploy.errors import BundleError, HHRNetError
from hhrnet_deploy.targets.cuda_driver import Driver, Kernels, open_driver
from hhrnet_deploy.targets.cuda_errors import without_frames
from hhrnet_deploy.targets.cuda_facts import EngineFacts
from hhrnet_deploy.targets.cuda_pipeline import Pipeline
from hhrnet_deploy.targets.cuda_ready import missing_to_run
from hhrnet_deploy.targets.trt_engine import PlanEngine
from hhrnet_deploy.targets.trt_kernel_cache import KernelCache, identity_of


@dataclass(frozen=True)
class Opening:
    """How to open an engine.

    Attributes:
        plan: the file.
        module: ``tensorrt`` or ``tensorrt_rtx``.
        load: imports it.
        decode: the settings inside an engine whose outputs are people.
        host_code: the plan brings a runtime of its own.
        stripped: the plan has no weights.
        kernel_cache: the file of TensorRT-RTX's compiled kernels; None for TensorRT.
    """

    plan: Path
    module: str
    load: Callable[[], Any]
    decode: DecodeConfig | None = None
    host_code: bool = False
    stripped: bool = False
    kernel_cache: Path | None = None


class Session:
    """Engine, kernels and pipeline on one card."""

    def __init__(self, opening: Opening) -> None:
        """Open all of it.

        Raises:
            HHRNetError: no card, or a package or the kernels are missing; names the command that adds them.
            BundleError: TensorRT does not take the plan.
            CudaError: the card failed.
        """
        name = opening.plan.parent.name
        missing = missing_to_run(opening.module)
        if missing is not None:
            raise HHRNetError(f"{name} cannot run here: {missing.fact}.", hint=missing.remedy)
        if opening.stripped:
            raise BundleError(
                f"{name} was built with --strip: it has no weights, and this runtime does not put them in.",
                hint="Build it without --strip.",
            )
        trt = opening.load()
        self.driver = open_driver()
        self._engine: PlanEngine | None = None
        self._kernels: Kernels | None = None
        self.pipeline: Pipeline
        fatbin = fatbin_file()
        with without_frames(), self.driver.current(f"opening {name}"):
            try:
                self._kernels = self.driver.kernels(fatbin)
                self._engine = PlanEngine(
                    trt,
                    opening.plan,
                    decode=opening.decode,
                    host_code=opening.host_code,
                    cache=self._cache(trt, opening),
                )
                self.pipeline = Pipeline(self.driver, self._engine, self._kernels)
            except BaseException:
                self._free()
                raise

    @property
    def facts(self) -> EngineFacts:
        """The engine as its tensors say."""
        return self.pipeline.engine.facts

    def close(self) -> None:
        """Free everything, after the batches in flight."""
        with without_frames(), self.driver.current("closing the engine"):
            try:
                self.pipeline.close()
                if self._engine is not None:
                    self._engine.save_kernels()
            finally:
                self._free()

    def _free(self) -> None:
        if self._engine is not None:
            self._engine.close()
        if self._kernels is not None:
            self._kernels.close()
        self._engine = self._kernels = None

    def _cache(self, trt: Any, opening: Opening) -> KernelCache | None:
        if opening.kernel_cache is None:
            return None
        cuda: Driver = self.driver
        identity = identity_of(trt.__version__, cuda.version(), cuda.device.name(), opening.plan)
        return KernelCache(opening.kernel_cache, identity)
