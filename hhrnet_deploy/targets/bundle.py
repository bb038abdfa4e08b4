"""Engine bundles: a directory that is written whole or not at all, and checked whenever it is opened."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hhrnet_deploy.errors import BundleError, InputError
from hhrnet_deploy.files import sha256_of
from hhrnet_deploy.targets.manifest import SCHEMA_VERSION, FileEntry, Manifest, digest_of
from hhrnet_deploy.targets.target import Layer, Target

MANIFEST, LAYERS = "manifest.json", "layers.json"
_ELSEWHERE = "Give another folder with -o."


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: where it is and what its manifest says."""

    folder: Path
    manifest: Manifest


def is_bundle(path: str | Path) -> bool:
    """Whether there is a directory with a manifest; says nothing about its state."""
    return (Path(path) / MANIFEST).is_file()


def check_replaceable(path: str | Path) -> None:
    """Refuse to write a bundle over anything but a bundle or an empty directory.

    A bundle holds what its manifest lists and nothing else: other programs call their files ``manifest.json``, too,
    and somebody may have put a file of his own into a bundle.

    Raises:
        InputError: ``path`` is something else.
    """
    final = Path(path)
    if not final.exists():
        return
    if not final.is_dir():
        raise InputError(f"{final} exists and is a file; it is not replaced.", hint=_ELSEWHERE)
    foreign = sorted({item.name for item in final.iterdir()} - _listed(final))
    if foreign:
        raise InputError(
            f"{final} exists and holds {foreign[0]}, which is no part of an engine bundle; it is not replaced.",
            hint=_ELSEWHERE,
        )


def _listed(folder: Path) -> set[str]:
    """Names of the files that a bundle in ``folder`` consists of; none when there is no manifest of this project."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if not isinstance(manifest, dict) or not {"schema_version", "digest"} <= manifest.keys():
        return set()
    files = manifest.get("files")
    return {MANIFEST, *files} if isinstance(files, dict) else set()


@contextmanager
def writing_bundle(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary sibling of ``path``; put it in its place only if the block succeeds.

    An existing bundle is replaced; on any error, Ctrl-C or a full disk included, it stays as it was.

    Raises:
        InputError: ``path`` exists and is neither a bundle nor an empty directory.
    """
    final = Path(path).resolve()
    check_replaceable(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    temporary = final.with_name(f".{final.name}.{mark}.part")
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        _swap(temporary, final, final.with_name(f".{final.name}.{mark}.old"))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_layers(folder: Path, layers: tuple[Layer, ...]) -> None:
    """Write ``layers.json``: name, type and precision of every layer."""
    text = json.dumps([layer.model_dump(exclude_defaults=True) for layer in layers], indent=1)
    (folder / LAYERS).write_text(text + "\n", encoding="utf-8")


def read_layers(bundle: Bundle) -> list[Layer]:
    """The layers of a checked bundle."""
    return [Layer.model_validate(item) for item in json.loads((bundle.folder / LAYERS).read_text(encoding="utf-8"))]


def file_entries(folder: Path, names: tuple[str, ...]) -> dict[str, FileEntry]:
    """Hash and size of files in ``folder``, for the manifest."""
    return {
        name: FileEntry(sha256=sha256_of(folder / name), bytes=(folder / name).stat().st_size) for name in sorted(names)
    }


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write ``manifest.json``, the last file of a bundle, and return the manifest with its digest."""
    sealed = manifest.sealed()
    (folder / MANIFEST).write_text(sealed.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return sealed


def read_bundle(path: str | Path) -> Bundle:
    """Read the manifest and check every file against it.

    Raises:
        BundleError: no bundle, a manifest of another schema or edited, a file missing, truncated or edited. The hint
            is the command that builds it again, where the manifest still says so.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"There is no engine bundle {folder}.", hint="Build one: hhrnet build -o engines/NAME")
    manifest = _read_manifest(folder)
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry, manifest)
    return Bundle(folder, manifest)


def check_runs_here(bundle: Bundle, target: Target) -> None:
    """Compare tool, target and device with what is installed.

    Raises:
        BundleError: the bundle was built by other versions or for another device; lists each and how to rebuild.
    """
    manifest = bundle.manifest
    missing = sorted({*target.needed_files, LAYERS} - manifest.files.keys())
    if missing:
        raise _broken(f"Engine bundle {bundle.folder} does not list {', '.join(missing)}.", manifest.rebuild)
    version, device = target.version(), target.device()
    checks = (
        ("hhrnet-deploy", manifest.tool_version, tool_version(), manifest.tool_version == tool_version()),
        (
            *(target.name, manifest.target_version, version),
            target.opens_version(manifest.target_version, version, manifest.hints),
        ),
        ("device", manifest.device, device, target.runs_on(manifest.device, device)),
    )
    different = [f"{what} {built} (here: {here})" for what, built, here, fits in checks if not fits]
    if different:
        raise _broken(f"Engine bundle {bundle.folder} was built with {', '.join(different)}.", manifest.rebuild)


def tool_version() -> str:
    """Version of this program; ``uninstalled`` when it runs from a folder that was never installed."""
    try:
        return version("hhrnet-deploy")
    except PackageNotFoundError:
        return "uninstalled"


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not an engine bundle: it has no {MANIFEST}.", hint="Build one: hhrnet build -o engines/NAME"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _broken(f"{path} is damaged: {error}.", None) from error
    rebuild = document.get("rebuild") if isinstance(document, dict) else None
    _check_schema(path, document, rebuild)
    if document.get("digest") != digest_of(document):
        raise _broken(f"{path} was edited: its digest does not match its content.", rebuild)
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "manifest"
        raise _broken(f"{path} is not valid: {where}: {first['msg']}.", rebuild) from error


def _check_schema(path: Path, document: Any, rebuild: str | None) -> None:
    found = document.get("schema_version") if isinstance(document, dict) else None
    if found != SCHEMA_VERSION:
        raise _broken(
            f"{path} has schema version {found!r}; this hhrnet-deploy ({tool_version()}) reads version "
            f"{SCHEMA_VERSION}.",
            rebuild,
        )


def _check_file(path: Path, entry: FileEntry, manifest: Manifest) -> None:
    if not path.is_file():
        raise _broken(f"Engine bundle {path.parent} is incomplete: {path.name} is missing.", manifest.rebuild)
    size = path.stat().st_size
    if size < entry.bytes:
        raise _broken(f"{path} is truncated: {size} bytes of {entry.bytes}.", manifest.rebuild)
    if size > entry.bytes or sha256_of(path) != entry.sha256:
        raise _broken(f"{path} was edited: its SHA-256 is not the one in {MANIFEST}.", manifest.rebuild)


def _broken(fact: str, rebuild: Any) -> BundleError:
    command = rebuild if isinstance(rebuild, str) and rebuild else "hhrnet build"
    return BundleError(fact, hint=f"Build it again: {command}")


def _sync(folder: Path) -> None:
    """Have the file contents on the disk before the folder gets its name."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _swap(new: Path, final: Path, aside: Path) -> None:
    """Rename ``new`` to ``final``; what was there is put back if that fails."""
    if not final.exists():
        os.rename(new, final)
        return
    os.rename(final, aside)
    try:
        os.rename(new, final)
    except BaseException:
        os.rename(aside, final)
        raise
    shutil.rmtree(aside, ignore_errors=True)
