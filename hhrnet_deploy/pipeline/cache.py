"""Stages whose results are kept under the hash of everything they depend on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import PARTS, locked, require_folder, sha256_of, write_text
from hhrnet_deploy.targets.bundle import tool_version

FOLDER = ".cache"
_PACKAGE = Path(__file__).resolve().parents[1]
_SOURCES = (".py", ".so", ".html", ".css")


class StageRecord(BaseModel):
    """What is kept of a stage.

    Attributes:
        key: SHA-256 of ``inputs``, the stage's name and the tool.
        inputs: hashes and options, as they were.
        outputs: SHA-256 of every file the stage wrote, by its path under the output folder.
        result: plain data that the later stages need.
        seconds: how long the stage took.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    inputs: dict[str, Any]
    outputs: dict[str, str]
    result: Any
    seconds: float


@dataclass(frozen=True)
class StageRun:
    """A finished stage; ``cached`` when nothing had to be done."""

    name: str
    cached: bool
    record: StageRecord

    @property
    def result(self) -> Any:
        """Plain data of the stage."""
        return self.record.result

    @property
    def key(self) -> str:
        """SHA-256 of everything the stage depends on."""
        return self.record.key


class StageCache:
    """The stages of one output folder; use as a context manager, which keeps a second run out.

    A stage is taken from the cache when its key is the same and every file it wrote is there with its hash. The record
    is written last, so a stage that was killed is done again. One record is kept per stage: the outputs in the folder
    are always those of the last run.

    Args:
        root: the output folder; made when needed.

    Raises:
        InputError: on enter, when another process is at work in the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / FOLDER
        self.runs: list[StageRun] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        require_folder(self.root)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._stack.enter_context(locked(self.folder / "lock", wait=False))
        except BlockingIOError as error:
            raise InputError(
                f"Another hhrnet compile is at work in {self.root}.",
                hint="Wait for it, or give another folder with -o.",
            ) from error
        # What a killed run was writing; behind the lock nobody else is.
        for left in self.root.glob(PARTS):
            if left.is_file():
                left.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def find(self, name: str, inputs: Mapping[str, Any]) -> StageRun | None:
        """The stage as it was done before, None when it has to be done (again)."""
        record = self._read(name)
        if record is None or record.key != stage_key(name, inputs) or not self._unchanged(record):
            return None
        return self._remember(StageRun(name, True, record))

    def run(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[], Any], outputs: Sequence[Path] = ()
    ) -> StageRun:
        """The stage from the cache, or done now.

        Args:
            name: of the stage.
            inputs: plain data: hashes of files, options, versions; everything the result depends on but the tool.
            work: does the stage and returns plain data.
            outputs: files and folders under the output folder that ``work`` writes.
        """
        found = self.find(name, inputs)
        if found is not None:
            return found
        started = time.perf_counter()
        result = work()
        record = StageRecord(
            key=stage_key(name, inputs),
            inputs=json.loads(json.dumps(inputs)),
            outputs={str(path.relative_to(self.root)): sha256_of(path) for path in _files(outputs)},
            result=json.loads(json.dumps(result)),
            seconds=round(time.perf_counter() - started, 2),
        )
        write_text(self._path(name), record.model_dump_json(indent=1) + "\n")
        return self._remember(StageRun(name, False, record))

    def _remember(self, run: StageRun) -> StageRun:
        self.runs.append(run)
        return run

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, name: str) -> StageRecord | None:
        """A record that cannot be read is as good as none: the stage is done again."""
        try:
            return StageRecord.model_validate_json(self._path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            return None

    def _unchanged(self, record: StageRecord) -> bool:
        return all(
            (self.root / path).is_file() and sha256_of(self.root / path) == digest
            for path, digest in record.outputs.items()
        )


def stage_key(name: str, inputs: Mapping[str, Any]) -> str:
    """SHA-256 of a stage's name, inputs and tool, whatever the order of the inputs."""
    return digest_of({"stage": name, "tool": tool_identity(), "inputs": inputs})


def digest_of(document: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def tool_identity() -> str:
    """Version and content of this package: another program may give another result."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in _SOURCES and ".mypy_cache" not in path.parts:
            digest.update(f"{path.relative_to(_PACKAGE)} {sha256_of(path)}\n".encode())
    return f"{tool_version()} {digest.hexdigest()[:16]}"


def _files(outputs: Sequence[Path]) -> list[Path]:
    found = [file for path in outputs for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [file for file in found if file.is_file()]
