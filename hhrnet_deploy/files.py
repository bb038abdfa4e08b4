"""Writing files so that an interruption never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 1 << 20
_STEM_BYTES = 120  # of a file's own name in the name of its temporary sibling


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary sibling of ``path``; rename it onto ``path`` only if the block succeeds.

    The sibling keeps the suffix of ``path``, because several libraries choose the format by it. On any error the
    sibling is removed and an existing ``path`` stays as it was.

    Raises:
        IsADirectoryError: ``path`` is a folder.
    """
    final = Path(path)
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
