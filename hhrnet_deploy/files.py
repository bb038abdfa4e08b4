"""Writing files so that an interruption never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hhrnet_deploy.errors import InputError

_CHUNK = 1 << 20
_MOST_LINKS = 40  # as the kernel follows at most
_STEM_BYTES = 120  # of a file's own name in the name of its temporary sibling


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary sibling of ``path``; rename it onto ``path`` only if the block succeeds.

    The sibling keeps the suffix of ``path``, because several libraries choose the format by it. On any error the
    sibling is removed and an existing ``path`` stays as it was. A symbolic link stays one: the file behind it is
    replaced. A device, a pipe or an open file's name in ``/proc`` (``/dev/stdout``) cannot be replaced: what was
    written is copied into it at the end.

    Raises:
        IsADirectoryError: ``path`` is a folder.
    """
    if _is_stream(Path(path)):
        with _copied_into(Path(path)) as temporary:
            yield temporary
        return
    final = Path(os.path.realpath(path))
    if final.is_dir():
        raise IsADirectoryError(errno.EISDIR, "A file cannot replace the folder", str(path))
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_of(final)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def require_folder(path: str | os.PathLike[str], option: str = "--output") -> None:
    """Say before any work that a folder cannot be made, or written into, at ``path``.

    Raises:
        InputError: it, or a folder above it, is a file.
    """
    place = Path(path)
    nearest = next(each for each in (place, *place.absolute().parents) if os.path.lexists(each))
    if not nearest.is_dir():
        what = f"The output folder {place} is a file." if nearest == place else f"{nearest} is a file, not a folder."
        raise InputError(what, hint=f"Give another folder with {option}.")


def _is_stream(path: Path) -> bool:
    """Whether ``path`` is a device, pipe or socket, or leads through ``/proc`` to what a process has open."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _leads_through_proc(path)


def _leads_through_proc(path: Path) -> bool:
    for _ in range(_MOST_LINKS):
        if Path(os.path.realpath(path.parent)).is_relative_to("/proc"):
            return True
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return False


@contextmanager
def _copied_into(stream: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hhrnet-") as folder:
        temporary = Path(folder) / f"part{stream.suffix}"
        yield temporary
        # Appending: standard output may be a file that others write to as well.
        with temporary.open("rb") as written, stream.open("ab") as target:
            shutil.copyfileobj(written, target)


PARTS = f".*.{'[0-9a-f]' * 8}.part*"
"""Matches the names of `part_of` in a folder."""


def part_of(path: Path) -> Path:
    """A name for a sibling of ``path`` that is being written.

    Never longer than the 255 bytes of file systems, and valid UTF-8, whatever the name of ``path`` is.
    """
    stem = os.fsencode(path.stem)[:_STEM_BYTES].decode(errors="ignore")
    return path.with_name(f".{stem}.{secrets.token_hex(4)}.part{path.suffix}")


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold an exclusive lock on a file, made when needed; the system frees it when the process ends, however it ends.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is False.
        OSError: the file cannot be made.
    """
    import fcntl

    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised after, says that the disk or the quota is full.

    PyTorch's writer raises another error of its own when a write has failed.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data``, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as 64 hexadecimal digits, read in bounded memory."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
