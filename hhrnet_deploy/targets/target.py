"""What every target offers: building a model into its own format, checking it, running it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.targets.graph import Graph
from hhrnet_deploy.targets.runner import Runner, RunnerInfo
from hhrnet_deploy.targets.trt_options import Profile, TensorRtOptions


class Layer(BaseModel):
    """One layer of a built engine, as ``layers.json`` lists them.

    Attributes:
        name: as the target calls it.
        type: kind of the layer, in the target's words.
        precision: the type it computes in, for example ``f32``, ``bf16``, ``i8``.
        inputs, outputs: types of the tensors that go in and come out, where the target tells.
        nodes: names of the ONNX nodes it was made of, where the target tells.
        work: multiply-adds for one image of the ONNX nodes that it computes, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    type: str
    precision: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    work: dict[str, int] = {}


@dataclass(frozen=True)
class Built:
    """What `Target.build` wrote into the folder it was given.

    Attributes:
        files: names of the files, relative to the folder.
        hints: run-time settings that belong to the engine; set when it is opened, and read back.
        layers: what runs, and in which precision.
        profiles: the input shapes it was optimised for, where the target has such.
        device: what it runs on; None where that is the device it was built on.
    """

    files: tuple[str, ...]
    hints: dict[str, str] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    profiles: tuple[Profile, ...] = ()
    device: str | None = None


@dataclass(frozen=True)
class BuildSettings:
    """What a build may need beside graph and precision.

    Attributes:
        tensorrt: of TensorRT and TensorRT-RTX; other targets have no such settings.
        report: called now and then with the share that is done, 0 to 1, and what is being done.
    """

    tensorrt: TensorRtOptions = field(default_factory=TensorRtOptions)
    report: Callable[[float, str], None] = lambda share, phase: None


@dataclass(frozen=True)
class RunOptions:
    """How to run an engine on this machine; nothing here changes what it computes.

    Attributes:
        threads: processor threads; None takes the target's default (all cores).
        shape_cache: how many sizes of a dynamic engine may get a compiled model of their own, the ones used last;
            0 runs all of them through the dynamic one. Whether it is faster depends on the library's release.
        cache_dir: where the target may keep compiled models between runs.
    """

    threads: int | None = None
    shape_cache: int = 0
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads has to be at least 1, got {self.threads}.")
        if self.shape_cache < 0:
            raise InputError(f"shape_cache has to be 0 or more, got {self.shape_cache}.")


class Target(ABC):
    """One inference library. Subclasses are siblings: none knows another.

    Attributes:
        name: as in ``--target``.
        precisions: what it can build.
        needed_files: the files without which a bundle of this target cannot run.
        slow_to_build: a build takes long enough for a progress bar, and reports to one.
        takes_tensorrt_options: `TensorRtOptions` mean something to it.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    needed_files: ClassVar[tuple[str, ...]]
    slow_to_build: ClassVar[bool] = False
    takes_tensorrt_options: ClassVar[bool] = False

    @abstractmethod
    def version(self) -> str:
        """Version of the installed library; engines are opened by the version that built them.

        Raises:
            MissingDependencyError: it is not installed.
        """

    @abstractmethod
    def device(self) -> str:
        """What an engine built here runs on: ``CPU``, or the compute capability."""

    @abstractmethod
    def build(self, graph: Graph, folder: Path, precision: str, settings: BuildSettings) -> Built:
        """Write the engine of ``graph`` into ``folder``; ``precision`` is one of `precisions`."""

    @abstractmethod
    def runner(self, folder: Path, info: RunnerInfo, hints: dict[str, str], options: RunOptions) -> Runner:
        """A runner of the engine in ``folder``; loads nothing yet."""

    def check_ready(self, options: TensorRtOptions) -> None:
        """Refuse options and surroundings in which a build would fail at the end.

        Raises:
            MissingDependencyError: the library is not installed.
            InputError: an option that the target, or the card here, cannot do.
        """
        self.version()

    def cannot_run_here(self) -> str | None:
        """Why an engine that was built here cannot run here; None where it can."""
        return None

    def runs_on(self, built_for: str, here: str) -> bool:
        """Whether an engine for the device ``built_for`` runs on the device ``here``."""
        return built_for == here

    def opens_version(self, built_with: str, here: str, hints: dict[str, str]) -> bool:
        """Whether the release ``here`` opens an engine of the release ``built_with``."""
        return built_with == here

    def check_precision(self, precision: str) -> None:
        """Refuse a precision that this target cannot build.

        Raises:
            InputError: with those it can.
        """
        if precision not in self.precisions:
            raise InputError(
                f"The target {self.name} cannot build {precision}.", hint=f"It builds {', '.join(self.precisions)}."
            )

    def check_graph(self, graph: Graph) -> None:
        """Refuse a graph that this target cannot run.

        Raises:
            InputError: people as outputs, which need TensorRT's plugins, unless a subclass can.
        """
        if graph.metadata.outputs == "people":
            raise InputError(
                f"{graph.path} decodes inside the graph with TensorRT plugins; the target {self.name} cannot run it.",
                hint="Build it with --target tensorrt, or export it without --decode plugin.",
            )
