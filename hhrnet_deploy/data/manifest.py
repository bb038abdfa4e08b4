"""Manifests: small committed files that name a set of images exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hhrnet_deploy.config import PlainName
from hhrnet_deploy.errors import InputError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SyntheticManifest(BaseModel):
    """A set that the generator draws again anywhere.

    Attributes:
        generator, generator_version: which program; another version is refused.
        seed, images, split: its arguments.
        annotations_sha256: :func:`hhrnet_deploy.data.synth_writer.content_hash` of the annotations.
        pixels_sha256: SHA-256 over the SHA-256 digests of the images' RGB bytes, in order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["synthetic"]
    name: PlainName
    description: str = ""
    generator: str
    generator_version: int
    seed: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=1)]
    split: PlainName
    annotations_sha256: Sha256
    pixels_sha256: Sha256


class ImageEntry(BaseModel):
    """One image file of a real set: its id in the annotations (None for a plain folder), its name and its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: int | None = None
    file_name: str
    sha256: Sha256


class ImagesManifest(BaseModel):
    """A choice of real images, which stay where they are.

    Attributes:
        source: what the images are part of, for example ``coco``.
        split: split of the dataset, or None for a plain folder.
        chosen: how they were chosen, in words.
        seed: the seed of the choice, where chance had a part.
        images: the images, in order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["images"]
    name: PlainName
    description: str = ""
    source: str
    split: str | None = None
    chosen: str
    seed: int | None = None
    images: Annotated[tuple[ImageEntry, ...], Field(min_length=1)]


Manifest = Annotated[SyntheticManifest | ImagesManifest, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[SyntheticManifest | ImagesManifest] = TypeAdapter(Manifest)


def read_manifest(path: str | Path) -> SyntheticManifest | ImagesManifest:
    """Read and check a manifest file.

    Raises:
        InputError: it cannot be read, is no JSON, or a field is missing, unknown or wrong.
    """
    try:
        return _ADAPTER.validate_python(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"Manifest {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"Manifest {path} is not JSON: {error}.") from error
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}" for item in error.errors()
        )
        raise InputError(
            f"Manifest {path} is not valid: {details}.", hint="calibration/README.md describes the fields."
        ) from error


def manifest_text(manifest: SyntheticManifest | ImagesManifest) -> str:
    """The manifest as it is committed: indented JSON with a final newline."""
    return manifest.model_dump_json(indent=2, exclude_none=True) + "\n"
