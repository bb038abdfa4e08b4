"""Children that Ctrl-C does not reach, from their first instruction on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from hhrnet_deploy.signals import children_spared

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
from hhrnet_deploy.signals import children_spared
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
