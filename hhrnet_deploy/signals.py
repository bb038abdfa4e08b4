"""Child processes that Ctrl-C does not reach, and signals that a library handles too soon.

A terminal and torchrun signal whole process groups. A child that ignores the signal from its own code on is still open
to it while its interpreter starts and imports; the signal mask is inherited and holds from the first instruction.
"""

from __future__ import annotations

import signal
import threading
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


@contextmanager
def unhandled(number: signal.Signals) -> Iterator[None]:
    """Let the signal ``number`` do what it does by default; only the main thread can change that."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is None:
        yield
        return
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)
