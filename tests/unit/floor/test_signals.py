"""Children that Ctrl-C does not reach, from their first instruction on; handlers left out for a while."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from hhrnet_deploy.signals import children_spared, unhandled

_OWN_MASK = "import signal; print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"


def _mask_of_child() -> set[int]:
    answer = subprocess.run([sys.executable, "-S", "-c", _OWN_MASK], capture_output=True, text=True, check=True).stdout
    return {int(number) for number in answer.split()}


def _is_held(number: signal.Signals) -> bool:
    return number in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_child_started_inside_holds_the_signals_and_this_process_does_not() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with children_spared(signal.SIGINT, signal.SIGTERM):
        inside = _mask_of_child()
    assert inside == _mask_of_child() | {signal.SIGINT, signal.SIGTERM}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_the_first_child_of_multiprocessing_holds_them_too() -> None:
    """In a fresh process: its first spawn starts the resource tracker, which opens the mask of the caller."""
    code = f"""
import multiprocessing, signal
from hhrnet_deploy.signals import children_spared, unhandled
from {__name__} import _is_held
if __name__ == "__main__":
    with children_spared(signal.SIGINT):
        pool = multiprocessing.get_context("spawn").Pool(1)
    print(pool.apply(_is_held, (signal.SIGINT,)), pool.apply(_is_held, (signal.SIGTERM,)))
    pool.terminate()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_an_error_inside_opens_the_mask_again() -> None:
    try:
        with children_spared(signal.SIGINT):
            raise OSError
    except OSError:
        pass
    assert not _is_held(signal.SIGINT)


def test_a_handler_is_left_out_and_put_back() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, _frame: calls.append(number))
    try:
        mine = signal.getsignal(signal.SIGCHLD)
        with unhandled(signal.SIGCHLD):
            signal.raise_signal(signal.SIGCHLD)
            assert calls == []
        assert signal.getsignal(signal.SIGCHLD) is mine
        signal.raise_signal(signal.SIGCHLD)
        assert calls == [signal.SIGCHLD]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_another_thread_leaves_the_handlers_alone() -> None:
    def enter() -> None:
        with unhandled(signal.SIGCHLD):
            seen.append(signal.getsignal(signal.SIGCHLD))

    seen: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGCHLD)]
