"""How the training set reaches the loading processes."""

from __future__ import annotations

import mmap
import pickle
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any

from hhrnet_deploy.train.samples import TrainingSet


class Handover:
    """A training set that spawned processes unpickle from a file which they share.

    A fresh interpreter takes seconds until it reads what it is to do, and the pipe to it holds 64 KiB. A larger set in
    the pipe would make the starting process wait for each child before it starts the next.

    Args:
        samples: the set; the file lies in the folder for temporary files, has no name and goes with its last user.

    Raises:
        OSError: that folder is full.
    """

    def __init__(self, samples: TrainingSet) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        pickle.dump(samples, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._file.flush()

    def __reduce__(self) -> tuple[Any, ...]:
        return _take, (DupFd(self._file.fileno()),)


def _take(duplicate: Any) -> TrainingSet:
    # Mapped, not read: all children share one position in the file.
    with open(duplicate.detach(), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        samples: TrainingSet = pickle.loads(data)
    return samples
