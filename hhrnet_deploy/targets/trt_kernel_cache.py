"""TensorRT-RTX compiles its last step on the card; what it compiled is kept in a file beside the bundle."""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

from hhrnet_deploy.files import sha256_of, write_bytes

_MAGIC = b"hhrnet kernel cache 1\n"
_DIGEST = 32
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")  # bundle.py: writing_bundle


class KernelCache:
    """The runtime cache of one engine on one card.

    A file of another release, driver, card or plan, or a damaged one, is not used and is replaced.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """Nothing is read yet.

        Args:
            path: the file.
            identity: what the kernels depend on, see `identity_of`.
        """
        self.path = path
        self._key = hashlib.sha256(identity.encode()).digest()
        self._stored = b""
        self._store: Any = None

    def load(self, engine: Any) -> Any:
        """The ``IRuntimeConfig`` with which contexts of ``engine`` are made.

        Kernels for a new shape are compiled before it first runs. By default TensorRT-RTX runs others until a thread of
        its own has compiled them: the same image could then have other bits a moment later.
        """
        running = engine.create_runtime_config()
        strategy = type(running.dynamic_shapes_kernel_specialization_strategy)
        running.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        store = running.create_runtime_cache()
        self._stored = self._read()
        if self._stored and not store.deserialize(self._stored):
            self._stored = b""
            store = running.create_runtime_cache()  # one that refused may hold a part of it
        running.set_runtime_cache(store)
        self._store = store
        return running

    def save(self) -> None:
        """Write what is new; a folder that cannot be written to costs the next start its time, and is said once."""
        store = self._store
        if store is None:
            return
        written = store.serialize()
        data = b"" if written is None else bytes(written)
        if not data or data == self._stored:
            return
        try:
            write_bytes(self.path, _MAGIC + self._key + hashlib.sha256(data).digest() + data)
            self._stored = data
        except OSError as error:
            warnings.warn(
                f"TensorRT-RTX's compiled kernels cannot be kept in {self.path} ({error.strerror}): every start "
                "compiles them again. Make that folder writable, or name another: RunOptions(cache_dir=...).",
                stacklevel=2,
            )

    def close(self) -> None:
        """Free TensorRT's object."""
        self._store = None

    def _read(self) -> bytes:
        try:
            content = self.path.read_bytes()
        except OSError:
            return b""
        head = len(_MAGIC)
        key, digest, data = content[head : head + _DIGEST], content[head + _DIGEST : head + 2 * _DIGEST], b""
        if content.startswith(_MAGIC) and key == self._key:
            data = content[head + 2 * _DIGEST :]
        return data if hashlib.sha256(data).digest() == digest else b""


def beside(folder: Path, cache_dir: Path | None) -> Path:
    """Where the kernels of the bundle ``folder`` are kept: ``NAME.kernels`` beside it, or in ``cache_dir``.

    A bundle that is being written has its final name already.
    """
    resolved = folder.resolve()
    unfinished = _UNFINISHED.fullmatch(resolved.name)
    return (cache_dir or resolved.parent) / f"{unfinished[1] if unfinished else resolved.name}.kernels"


def identity_of(release: str, driver: int, card: str, plan: Path) -> str:
    """What compiled kernels depend on: TensorRT-RTX, the driver, the card and the plan."""
    return "\n".join((release, str(driver), card, sha256_of(plan)))
