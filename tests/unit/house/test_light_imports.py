"""`import hhrnet_deploy` and every `--help` stay light; the set of heavy packages is pinned here."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

HEAVY = ("torch", "openvino", "onnxruntime", "cv2", "onnx", "onnxsim", "tensorrt", "tensorrt_rtx", "pycuda", "av")

PROBE = """
import sys
{action}
heavy = sorted(set({heavy!r}) & {{name.split('.')[0] for name in sys.modules}})
assert not heavy, heavy
"""

HELP = """
from hhrnet_deploy.cli import app
sys.argv = {argv!r}
try:
    app.main()
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
"""


def _commands() -> list[list[str]]:
    """Every command and sub-command, read from the application itself."""
    from typer.main import get_command

    from hhrnet_deploy.cli.app import app

    def walk(command: object, path: list[str]) -> list[list[str]]:
        children = getattr(command, "commands", {})
        return [path, *(found for name, child in children.items() for found in walk(child, [*path, name]))]

    return walk(get_command(app), [])


def _run(action: str) -> subprocess.CompletedProcess[str]:
    code = PROBE.format(action=action, heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = _run("import hhrnet_deploy")
    assert done.returncode == 0, done.stderr


def test_help_pages_load_nothing_heavy() -> None:
    pages = "\n".join(HELP.format(argv=["hhrnet", *command, "--help"]) for command in _commands())
    done = _run(pages)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_explains_itself(command: list[str]) -> None:
    from typer.main import get_command

    from hhrnet_deploy.cli.app import app

    node: Any = get_command(app)
    for name in command:
        node = node.commands[name]
    assert node.help
