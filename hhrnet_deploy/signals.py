"""Child processes that Ctrl-C does not reach.

A terminal and torchrun signal whole process groups. A child that ignores the signal from its own code on is still open
to it while its interpreter starts and imports; the signal mask is inherited and holds from the first instruction.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def children_spared(*numbers: signal.Signals) -> Iterator[None]:
    """Start child processes inside: for the rest of their lives they do not see the signals ``numbers``.

    The mask is that of the calling thread: what reaches this process meanwhile waits for the end of the block, unless
    another thread takes it.
    """
    # multiprocessing's first child brings this helper along, whose start would open the mask of this thread again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
