"""What the command line makes of errors, as docs/troubleshooting.md has it."""

from __future__ import annotations

import errno

import pytest
import torch

from hhrnet_deploy.cli import app
from hhrnet_deploy.errors import GateFailedError, InputError


def _fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr(app, "app", failing)
    app.main()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("a fact", hint="a remedy"), 1, "error: a fact\n  a remedy\n"),
        (GateFailedError("too far"), 3, "error: too far\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.onnx"), 1, "error: The disk is full (x.onnx).\n  Free"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "error: Permission denied (x).\n"),
        (MemoryError("Unable to allocate 2 GiB"), 1, "error: Memory is full: Unable to allocate 2 GiB.\n  Use smaller"),
        (MemoryError(), 1, "error: Memory is full: no more could be had.\n"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "error: Memory is full: CUDA out of memory.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_a_user_can_mend_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    monkeypatch.delenv("HHRNET_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stopped:
        _fail(monkeypatch, error)
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (code, "")
    assert printed.err.startswith(said)


def test_a_bug_keeps_its_traceback_and_so_does_everything_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HHRNET_DEBUG", raising=False)
    with pytest.raises(ZeroDivisionError):
        _fail(monkeypatch, ZeroDivisionError())
    monkeypatch.setenv("HHRNET_DEBUG", "1")
    with pytest.raises(InputError):
        _fail(monkeypatch, InputError("a fact"))
