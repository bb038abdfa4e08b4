"""Recipes, specs and manifests: found by path or by bare name, in a checkout and installed alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hhrnet_deploy.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Kind:
    """One kind of data file: where it lies in a checkout and, with the same path, inside the installed package."""

    title: str
    folder: str
    suffix: str


RECIPE = Kind("recipe", "training/recipes", ".yaml")
SPEC = Kind("spec", "engines/specs", ".yaml")
CALIBRATION = Kind("calibration manifest", "calibration", ".json")


def folder_of(kind: Kind) -> Path:
    """The folder with the shipped files of ``kind``: the checkout's when there is one, else the package's."""
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / kind.folder).is_dir():
        return checkout / kind.folder
    return _PACKAGE / "resources" / kind.folder


def names(kind: Kind) -> list[str]:
    """Bare names of the shipped files of ``kind``, sorted."""
    return sorted(path.stem for path in folder_of(kind).glob(f"*{kind.suffix}"))


def find(kind: Kind, name_or_path: str | Path) -> Path:
    """The file meant by a path or a bare name.

    Raises:
        InputError: neither an existing path nor a shipped name; the message lists the names.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = folder_of(kind) / f"{name_or_path}{kind.suffix}"
    if path.name == str(name_or_path) and shipped.is_file():
        return shipped
    raise InputError(
        f"No {kind.title} {str(name_or_path)!r}: neither a file nor one that ships with hhrnet-deploy.",
        hint=f"Shipped: {', '.join(names(kind)) or 'none'}.",
    )
